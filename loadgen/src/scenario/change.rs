//! Makes a scenario larger, smaller, faster or shorter, and divides it among generator processes.

use std::time::Duration;

use super::graph::GROUP_MIN;
use super::{Kind, Mode, Scenario, Sizes};
use crate::seed::{Purpose, Seed};

/// What the command line changes in any scenario.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Changes {
    /// Devices in all, in place of the scenario's; populations and pairs keep their proportions
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<u64>,
    /// Messages a second in the busiest phase; the others keep their proportion to it
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<f64>,
    /// Seconds of all phases with a stated time together; ramp, storm and drain end when they are done
    #[arg(long, value_name = "S")]
    pub(crate) seconds: Option<f64>,
    /// From which every choice follows
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Share of those who talk that send receipts, from 0 (off) to 1
    #[arg(long, value_name = "SHARE")]
    pub(crate) receipts: Option<f64>,
    /// Share of the messages that are edited, from 0 to 1
    #[arg(long, value_name = "SHARE")]
    pub(crate) edits: Option<f64>,
    /// Share of the messages that bring a file, from 0 to 1
    #[arg(long, value_name = "SHARE")]
    pub(crate) media: Option<f64>,
}

impl Scenario {
    /// Applies them, and says what is wrong with the outcome.
    pub(crate) fn change(&mut self, changes: &Changes) -> anyhow::Result<()> {
        if let Some(connections) = changes.connections {
            self.resize(connections);
        }
        if let Some(rate) = changes.rate {
            anyhow::ensure!(rate.is_finite() && rate > 0.0, "--rate is a number above 0");
            self.speed_up(rate);
        }
        if let Some(seconds) = changes.seconds {
            anyhow::ensure!(
                (0.1..=1e6).contains(&seconds),
                "--seconds is between 0.1 and a million"
            );
            self.stretch(seconds);
        }
        if let Some(seed) = changes.seed {
            self.seed = seed;
        }
        self.set_extras(changes)?;
        self.check()
    }

    /// Applies what is said of receipts, edits and files.
    fn set_extras(&mut self, changes: &Changes) -> anyhow::Result<()> {
        let extras = &mut self.extras;
        for (name, share, place) in [
            ("receipts", changes.receipts, &mut extras.receipts),
            ("edits", changes.edits, &mut extras.edits),
            ("media", changes.media, &mut extras.media),
        ] {
            let Some(share) = share else { continue };
            anyhow::ensure!(
                (0.0..=1.0).contains(&share),
                "--{name} is a share between 0 and 1, as in 0.05"
            );
            *place = share;
        }
        Ok(())
    }

    /// Part number `part` of `parts`, for one generator process: whole pairs and whole groups, its share of every rate, a seed
    /// of its own.
    pub(crate) fn part(&self, part: u64, parts: u64) -> Self {
        let share = |count: u64| count * (part + 1) / parts - count * part / parts;
        let mut scenario = self.clone();
        let pairs = share(self.graph.pairs);
        scenario.graph.pairs = pairs;
        let all = self.group_sizes();
        let own = sizes_of_part(&all, part, parts);
        let (of_all, of_own) = (all.iter().sum::<u64>(), own.iter().sum::<u64>());
        for (number, population) in scenario.populations.iter_mut().enumerate() {
            // Those of the pairs first, so that a pair stays whole, then the groups, then a share of the rest.
            let (mut talk, mut here) = (0, 0);
            if number == self.graph.population {
                talk += 2 * self.graph.pairs;
                here += 2 * pairs;
            }
            if self.graph.groups.as_ref().map(|groups| groups.population) == Some(number) {
                talk += of_all;
                here += of_own;
            }
            population.clients = here + share(population.clients - talk);
        }
        let fraction = |own: u64, all: u64| own as f64 / all.max(1) as f64;
        let to_groups = match &self.graph.groups {
            Some(_) if of_all == 0 => 0.0,
            Some(groups) => groups.share,
            None => 0.0,
        };
        let groups_rate = to_groups * fraction(of_own, of_all);
        let factor = match self.conversations() {
            0 => 1.0 / parts as f64,
            _ => groups_rate + (1.0 - to_groups) * fraction(pairs, self.graph.pairs),
        };
        if let Some(groups) = &mut scenario.graph.groups {
            groups.sizes = Sizes::Listed(own);
            groups.share = match pairs {
                0 => 1.0,
                _ => groups_rate / factor.max(f64::MIN_POSITIVE),
            };
            if pairs == 0 {
                scenario.graph.population = groups.population;
            }
        }
        for phase in &mut scenario.phases {
            match &mut phase.kind {
                Kind::Ramp {
                    rate, handshakes, ..
                } => {
                    *rate = rate.map(|rate| rate / parts as f64);
                    *handshakes = (*handshakes).div_ceil(parts as usize);
                }
                Kind::Open { handshakes } => {
                    *handshakes = (*handshakes).div_ceil(parts as usize);
                }
                Kind::Hold
                | Kind::Rate
                | Kind::Storm(_)
                | Kind::Migrate { .. }
                | Kind::SlowReader { .. }
                | Kind::Drain => {}
            }
        }
        scenario.multiply_rates(factor);
        // A TOML file holds 63 bits.
        scenario.seed = Seed(self.seed).bits(Purpose::Process, parts, part) >> 1;
        scenario
    }

    fn resize(&mut self, connections: u64) {
        let before = self.clients().max(1);
        let scaled =
            |count: u64| (u128::from(count) * u128::from(connections) / u128::from(before)) as u64;
        self.graph.pairs = match self.graph.pairs {
            0 => 0,
            pairs => scaled(pairs).max(1),
        };
        for population in &mut self.populations {
            population.clients = scaled(population.clients);
        }
        let mut least = 2 * self.graph.pairs;
        if self.graph.pairs == 0 && self.graph.groups.is_some() {
            // Without pairs the talkers are those of the groups.
            least = GROUP_MIN;
        }
        let talkers = &mut self.populations[self.graph.population];
        talkers.clients = talkers.clients.max(least);
        // Rounding and the pair that there must be: the others make room, and the talkers take what is left over.
        let mut excess = self.clients().saturating_sub(connections);
        for (number, population) in self.populations.iter_mut().enumerate() {
            if number != self.graph.population {
                let cut = excess.min(population.clients);
                population.clients -= cut;
                excess -= cut;
            }
        }
        let missing = connections.saturating_sub(self.clients());
        self.populations[self.graph.population].clients += missing;
    }

    fn speed_up(&mut self, rate: f64) {
        let busiest = self
            .phases
            .iter()
            .filter_map(|phase| match phase.traffic.as_ref()?.mode {
                Mode::Open { rates, .. } => Some(rates.0.max(rates.1)),
                Mode::OpenShare { .. } | Mode::Closed { .. } => None,
            })
            .fold(0.0, f64::max);
        if busiest > 0.0 {
            self.multiply_rates(rate / busiest);
        }
    }

    fn multiply_rates(&mut self, factor: f64) {
        for phase in &mut self.phases {
            if let Some(traffic) = &mut phase.traffic
                && let Mode::Open { rates, .. } = &mut traffic.mode
            {
                *rates = (rates.0 * factor, rates.1 * factor);
            }
        }
    }

    fn stretch(&mut self, seconds: f64) {
        let timed = |kind: &Kind| match kind {
            Kind::Hold | Kind::Rate | Kind::Migrate { .. } | Kind::SlowReader { .. } => true,
            Kind::Ramp { .. } | Kind::Open { .. } | Kind::Storm(_) | Kind::Drain => false,
        };
        let before: Duration = self
            .phases
            .iter()
            .filter(|phase| timed(&phase.kind))
            .map(|phase| phase.length)
            .sum();
        if before.is_zero() {
            return;
        }
        let factor = seconds / before.as_secs_f64();
        // To the millisecond, which is what a scenario file can say.
        let scaled = |time: Duration| {
            Duration::from_millis((time.as_secs_f64() * factor * 1_000.0).round() as u64)
        };
        for phase in &mut self.phases {
            if timed(&phase.kind) {
                phase.length = scaled(phase.length).max(Duration::from_millis(1));
            }
            match &mut phase.kind {
                Kind::SlowReader { pause, .. } => *pause = scaled(*pause),
                Kind::Storm(storm) => storm.away = scaled(storm.away),
                Kind::Ramp { .. }
                | Kind::Open { .. }
                | Kind::Hold
                | Kind::Rate
                | Kind::Migrate { .. }
                | Kind::Drain => {}
            }
        }
    }
}

/// The groups of one part: each goes, the largest first, to the part that has the fewest members so far.
fn sizes_of_part(sizes: &[u64], part: u64, parts: u64) -> Vec<u64> {
    let mut members = vec![0; parts as usize];
    let mut by_size: Vec<usize> = (0..sizes.len()).collect();
    by_size.sort_by_key(|at| (u64::MAX - sizes[*at], *at));
    let mut own = Vec::new();
    for at in by_size {
        let least = (0..members.len()).min_by_key(|part| members[*part]);
        let to = least.unwrap_or_default();
        members[to] += sizes[at];
        if to == part as usize {
            own.push(at);
        }
    }
    own.sort_unstable();
    own.into_iter().map(|at| sizes[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{NAMES, builtin};
    use super::*;

    #[test]
    fn every_scenario_can_be_small_and_short() {
        for name in NAMES {
            for connections in [2, 7, 40, 1_000] {
                let mut scenario = builtin(name).unwrap();
                let changes = Changes {
                    connections: Some(connections),
                    rate: Some(50.0),
                    seconds: Some(2.0),
                    seed: Some(9),
                    receipts: Some(0.5),
                    edits: None,
                    media: None,
                };
                scenario.change(&changes).unwrap();
                assert_eq!(scenario.clients(), connections, "{name}");
                assert_eq!(scenario.seed, 9);
                let again = Scenario::read("x", &scenario.to_toml()).unwrap();
                assert_eq!(again, scenario);
            }
        }
    }

    const MIXED: &str = r#"
        seed = 5
        [[population]]
        name = "people"
        clients = 1000
        [[population]]
        name = "idle"
        clients = 77
        [graph]
        kind = "mixed"
        pairs = 51
        size = "3..90"
        distribution = "zipf"
        group_share = "30%"
        [[phase]]
        kind = "ramp"
        [[phase]]
        kind = "rate"
        for = "1s"
        rate = 100
    "#;

    fn rate(scenario: &Scenario) -> f64 {
        let rates = scenario.phases.iter().filter_map(|phase| {
            let Mode::Open { rates, .. } = phase.traffic.as_ref()?.mode else {
                return None;
            };
            Some(rates.0)
        });
        rates.sum()
    }

    #[test]
    fn the_parts_make_the_whole() {
        let mixed = Scenario::read("mixed", MIXED).unwrap();
        for whole in ["mixed-100k", "groups"]
            .map(|name| builtin(name).unwrap())
            .iter()
            .chain([&mixed])
        {
            for parts in 1..6 {
                let all: Vec<_> = (0..parts).map(|part| whole.part(part, parts)).collect();
                let sum = |of: fn(&Scenario) -> u64| all.iter().map(of).sum::<u64>();
                assert_eq!(sum(Scenario::clients), whole.clients());
                assert_eq!(sum(|one| one.graph.pairs), whole.graph.pairs);
                let mut sizes: Vec<u64> = all.iter().flat_map(Scenario::group_sizes).collect();
                let mut wanted = whole.group_sizes();
                sizes.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(sizes, wanted, "no group is divided");
                let rates: f64 = all.iter().map(rate).sum();
                assert!((rates - rate(whole)).abs() < 1e-6, "{rates}");
                for one in &all {
                    one.check().unwrap();
                    assert_eq!(Scenario::read("x", &one.to_toml()).unwrap(), *one);
                }
                let seeds: std::collections::BTreeSet<_> = all.iter().map(|one| one.seed).collect();
                assert_eq!(seeds.len() as u64, parts);
            }
        }
    }

    #[test]
    fn a_group_that_cannot_be_divided_leaves_nothing_to_others() {
        assert_eq!(sizes_of_part(&[5, 100, 7], 0, 2), [100]);
        assert_eq!(sizes_of_part(&[5, 100, 7], 1, 2), [5, 7]);
        assert!(sizes_of_part(&[9], 1, 2).is_empty());
    }
}
