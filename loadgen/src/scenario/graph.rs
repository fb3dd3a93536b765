//! Who talks to whom: pairs, groups whose sizes follow a distribution, or both.

use anyhow::{Context as _, bail, ensure};
use quipu_protocol::limits::GROUP_MEMBERS_MAX;

use super::value::Section;
use super::{Population, Scenario, read};
use crate::seed::{Purpose, Seed};

/// Members of the smallest group.
pub(super) const GROUP_MIN: u64 = 2;
/// Members of a group that write, at the most: each member keeps track of every one of them.
const SPEAKERS_MAX: u64 = 256;
/// Where a file says nothing.
const SPEAKERS: u64 = 16;
const EXPONENT: f64 = 1.5;
const SHARE: f64 = 0.5;

/// Conversations. Pair `p` are devices `2p` and `2p + 1` of their population; the groups take the devices of theirs one after the
/// other, behind the pairs if these are of the same population. Whoever is in none is idle.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Graph {
    /// Number of the population that talks in pairs.
    pub(crate) population: usize,
    /// How many pairs of it.
    pub(crate) pairs: u64,
    /// Groups, if there are any.
    pub(crate) groups: Option<Groups>,
}

/// Groups that fill a population.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Groups {
    /// Which population.
    pub(crate) population: usize,
    /// How large they are.
    pub(crate) sizes: Sizes,
    /// Members of each that write, at the most.
    pub(crate) speakers: u64,
    /// Share of the messages that go to groups; 1 where there are no pairs.
    pub(crate) share: f64,
}

/// How large groups are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sizes {
    /// All alike.
    Fixed(u64),
    /// From the first to the last, each as likely.
    Uniform(u64, u64),
    /// From the first to the last, a size `k` with a likelihood of `k^-exponent`: many small ones and a few large ones.
    Zipf { from: u64, to: u64, exponent: f64 },
    /// Exactly these.
    Listed(Vec<u64>),
}

impl Sizes {
    /// Draws groups until `clients` devices are used up. What is left over in the end and is no group is idle.
    fn draw(&self, seed: Seed, clients: u64) -> Vec<u64> {
        let mut left = clients;
        let table = self.cumulated();
        let mut sizes = Vec::new();
        while left >= GROUP_MIN {
            let index = sizes.len() as u64;
            let size = match self {
                Self::Fixed(size) => *size,
                Self::Uniform(from, to) => {
                    from + seed.below(Purpose::GroupSize, 0, index, to - from + 1)
                }
                Self::Zipf { from, .. } => {
                    let most = table.last().copied().unwrap_or_default();
                    let drawn = seed.unit(Purpose::GroupSize, 0, index) * most;
                    let at = table.partition_point(|sum| *sum <= drawn);
                    from + (at.min(table.len() - 1)) as u64
                }
                Self::Listed(sizes) => match sizes.get(index as usize) {
                    Some(size) => *size,
                    None => break,
                },
            };
            sizes.push(size.min(left));
            left -= size.min(left);
        }
        sizes
    }

    /// Sums of the likelihoods of a heavy-tailed distribution, from the smallest size on.
    fn cumulated(&self) -> Vec<f64> {
        let Self::Zipf { from, to, exponent } = self else {
            return Vec::new();
        };
        let sizes = *from..=*to;
        let mut sum = 0.0;
        sizes
            .map(|size| {
                sum += (size as f64).powf(-exponent);
                sum
            })
            .collect()
    }
}

impl Scenario {
    /// How large each group is, in the order of their devices. A function of the scenario and its seed.
    pub(crate) fn group_sizes(&self) -> Vec<u64> {
        let Some(groups) = &self.graph.groups else {
            return Vec::new();
        };
        groups.sizes.draw(Seed(self.seed), self.clients_in_groups())
    }

    /// Devices of the groups' population that are in no pair.
    pub(super) fn clients_in_groups(&self) -> u64 {
        let Some(groups) = &self.graph.groups else {
            return 0;
        };
        let clients = self.populations[groups.population].clients;
        match groups.population == self.graph.population {
            true => clients.saturating_sub(2 * self.graph.pairs),
            false => clients,
        }
    }

    /// The first device of the first group.
    pub(crate) fn first_of_groups(&self) -> usize {
        let Some(groups) = &self.graph.groups else {
            return 0;
        };
        let clients = self.populations[groups.population].clients;
        let before = clients - self.clients_in_groups();
        self.devices(groups.population).start + before as usize
    }

    /// How many conversations there are: pairs first, then groups.
    pub(crate) fn conversations(&self) -> u64 {
        self.graph.pairs + self.group_sizes().len() as u64
    }

    /// What no single value of the graph shows.
    pub(super) fn check_graph(&self) -> anyhow::Result<()> {
        let talkers = &self.populations[self.graph.population];
        ensure!(
            self.graph.pairs * 2 <= talkers.clients,
            "{} pairs need {} clients, and population {} has {}",
            self.graph.pairs,
            self.graph.pairs * 2,
            talkers.name,
            talkers.clients
        );
        if let Some(Groups {
            sizes: Sizes::Listed(sizes),
            ..
        }) = &self.graph.groups
        {
            let all: u64 = sizes.iter().sum();
            ensure!(
                all <= self.clients_in_groups(),
                "groups of {all} members need as many clients that are in no pair, and there are {}",
                self.clients_in_groups()
            );
        }
        ensure!(
            !self.talks() || self.conversations() > 0,
            "there are messages to send and nobody to send them to; set pairs in [graph], or kind = \"groups\""
        );
        Ok(())
    }
}

/// Reads `[graph]`; without it nobody talks.
pub(super) fn graph(file: &mut Section, populations: &[Population]) -> anyhow::Result<Graph> {
    let Some(mut section) = file.section("graph")? else {
        return Ok(Graph {
            population: 0,
            pairs: 0,
            groups: None,
        });
    };
    let kind = section.text("kind")?.unwrap_or_else(|| "direct".to_owned());
    let (has_pairs, has_groups) = match kind.as_str() {
        "direct" => (true, false),
        "groups" => (false, true),
        "mixed" => (true, true),
        other => bail!("[graph] kind = \"{other}\": there are direct, groups and mixed"),
    };
    let population = read::population(&mut section, populations)?.unwrap_or(0);
    let groups = match has_groups {
        true => Some(groups(&mut section, populations, population, has_pairs)?),
        false => None,
    };
    let pairs = match (has_pairs, has_groups) {
        (true, true) => section
            .count("pairs")?
            .context("[graph] kind = \"mixed\" says how many `pairs` there are")?,
        (true, false) => section
            .count("pairs")?
            .unwrap_or(populations[population].clients / 2),
        (false, _) => 0,
    };
    section.finish()?;
    Ok(Graph {
        population,
        pairs,
        groups,
    })
}

fn groups(
    section: &mut Section,
    populations: &[Population],
    population: usize,
    mixed: bool,
) -> anyhow::Result<Groups> {
    let speakers = section.count("speakers")?.unwrap_or(SPEAKERS);
    ensure!(
        (1..=SPEAKERS_MAX).contains(&speakers),
        "speakers is between 1 and {SPEAKERS_MAX}"
    );
    let (mut of_groups, mut share) = (population, 1.0);
    if mixed {
        of_groups = match section.text("group_population")? {
            Some(name) => read::number_of(&name, populations, section.name())?,
            None => population,
        };
        share = section.share("group_share")?.unwrap_or(SHARE);
    }
    Ok(Groups {
        population: of_groups,
        sizes: sizes(section)?,
        speakers,
        share,
    })
}

fn sizes(section: &mut Section) -> anyhow::Result<Sizes> {
    let distribution = section.text("distribution")?;
    let exponent = section.number("exponent")?;
    let listed = section.counts("sizes")?;
    let size = section.sizes("size")?;
    let within = |size: u64| {
        ensure!(
            (GROUP_MIN..=GROUP_MEMBERS_MAX as u64).contains(&size),
            "a group has between {GROUP_MIN} and {GROUP_MEMBERS_MAX} members, not {size}"
        );
        Ok(())
    };
    if let Some(listed) = listed {
        ensure!(
            size.is_none() && distribution.is_none() && exponent.is_none(),
            "[graph] has either `sizes`, which lists them, or `size`"
        );
        listed.iter().try_for_each(|size| within(*size))?;
        return Ok(Sizes::Listed(listed));
    }
    let size =
        size.context("[graph] with groups says their `size`, as in size = 8 or \"3..50\"")?;
    let (from, to) = (size.0 as u64, size.1 as u64);
    within(from)?;
    within(to)?;
    ensure!(
        exponent.is_none() || distribution.as_deref() == Some("zipf"),
        "`exponent` goes with distribution = \"zipf\""
    );
    Ok(match distribution.as_deref() {
        None | Some("uniform") if from == to => Sizes::Fixed(from),
        None | Some("uniform") => Sizes::Uniform(from, to),
        Some("zipf") => {
            let exponent = exponent.unwrap_or(EXPONENT);
            ensure!(
                (0.1..=10.0).contains(&exponent),
                "exponent is between 0.1 and 10"
            );
            Sizes::Zipf { from, to, exponent }
        }
        Some(other) => bail!("distribution = \"{other}\": there are uniform and zipf"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed(3);

    #[test]
    fn groups_fill_their_population_and_follow_the_seed() {
        for sizes in [
            Sizes::Fixed(7),
            Sizes::Uniform(2, 30),
            Sizes::Zipf {
                from: 3,
                to: 256,
                exponent: 1.5,
            },
        ] {
            let drawn = sizes.draw(SEED, 2_000);
            let all: u64 = drawn.iter().sum();
            assert!((1_999..=2_000).contains(&all), "{sizes:?}: {all}");
            assert_eq!(drawn, sizes.draw(SEED, 2_000));
            assert!(drawn.iter().all(|size| (2..=256).contains(size)));
            if sizes != Sizes::Fixed(7) {
                assert_ne!(drawn, sizes.draw(Seed(4), 2_000));
            }
        }
        assert!(Sizes::Fixed(7).draw(SEED, 1).is_empty());
        assert_eq!(Sizes::Fixed(7).draw(SEED, 15), [7, 7]);
        assert_eq!(Sizes::Listed(vec![4, 9]).draw(SEED, 100), [4, 9]);
    }

    #[test]
    fn a_heavy_tail_has_many_small_groups_and_some_large_ones() {
        let zipf = Sizes::Zipf {
            from: 2,
            to: 500,
            exponent: 1.5,
        };
        let drawn = zipf.draw(SEED, 50_000);
        let small = drawn.iter().filter(|size| **size < 10).count();
        let large = drawn.iter().filter(|size| **size > 100).count();
        assert!(small * 2 > drawn.len(), "{small} of {}", drawn.len());
        assert!(large > 20, "{large} of {}", drawn.len());
    }
}
