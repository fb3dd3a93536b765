//! Reads a scenario from TOML and says what is wrong with it.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use quipu_protocol::limits::TEXT_BYTES_MAX;

use super::value::{Section, nearest};
use super::{
    CLIENTS_MAX, Extras, How, Kind, Mode, Network, PHASES_MAX, Phase, Population, Scenario, Storm,
    Traffic, graph,
};
use crate::pacer::Arrival;
use crate::payload::TEXT_BYTES_MIN;

/// Where a file says nothing.
const LATE_AFTER: Duration = Duration::from_secs(30);
const RAMP_MAX: Duration = Duration::from_secs(600);
const OPEN_MAX: Duration = Duration::from_secs(120);
const STORM_MAX: Duration = Duration::from_secs(90);
const DRAIN_MAX: Duration = Duration::from_secs(30);
const HANDSHAKES: u64 = 128;
const BYTES: (usize, usize) = (120, 120);
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Largest file of a scenario, which a process holds in memory while it is on its way.
const MEDIA_BYTES_MAX: usize = 16 << 20;

/// Phases of a scenario.
const KINDS: [&str; 8] = [
    "ramp",
    "open",
    "hold",
    "rate",
    "storm",
    "migrate",
    "slow_reader",
    "drain",
];

impl Scenario {
    /// Reads the text of a scenario file. `name` is used where the file gives none.
    pub(crate) fn read(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut file = Section::new("the scenario", text.parse()?);
        let populations = populations(&mut file)?;
        let graph = graph::graph(&mut file, &populations)?;
        let (server, tokens) = target(&mut file)?;
        let mut scenario = Self {
            name: file.text("name")?.unwrap_or_else(|| name.to_owned()),
            about: file.text("about")?.unwrap_or_default(),
            seed: file.count("seed")?.unwrap_or(1),
            late_after: file.duration("late_after")?.unwrap_or(LATE_AFTER),
            server,
            tokens,
            network: network(&mut file)?,
            extras: extras(&mut file)?,
            phases: file
                .sections("phase")?
                .into_iter()
                .map(|section| phase(section, &populations))
                .collect::<anyhow::Result<_>>()?,
            populations,
            graph,
        };
        file.finish()?;
        if scenario
            .phases
            .last()
            .is_none_or(|last| last.kind != Kind::Drain)
        {
            scenario.phases.push(Phase {
                name: "drain".to_owned(),
                length: DRAIN_MAX,
                traffic: None,
                kind: Kind::Drain,
            });
        }
        scenario.check()?;
        Ok(scenario)
    }

    /// What no single value shows.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let clients = self.clients();
        ensure!(
            (1..=CLIENTS_MAX).contains(&clients),
            "a scenario has between 1 and {CLIENTS_MAX} clients, this one has {clients}"
        );
        ensure!(
            self.phases.len() <= PHASES_MAX,
            "a scenario has at most {PHASES_MAX} phases"
        );
        self.check_graph()?;
        let mut closed = false;
        for phase in &self.phases {
            match phase.traffic.as_ref().map(|traffic| &traffic.mode) {
                Some(Mode::Closed { .. }) => closed = true,
                Some(Mode::OpenShare { .. }) => ensure!(
                    closed,
                    "{}: `of_closed` is a share of what an earlier closed loop gave, and there is none",
                    phase.name
                ),
                Some(Mode::Open { .. }) | None => {}
            }
        }
        let starts = self
            .phases
            .iter()
            .find(|phase| !matches!(phase.kind, Kind::Open { .. }));
        ensure!(
            matches!(starts.map(|phase| &phase.kind), Some(Kind::Ramp { .. })),
            "the first phase is a ramp, behind an open at the most: before it nobody is connected"
        );
        ensure!(
            self.phases
                .iter()
                .any(|phase| matches!(phase.kind, Kind::Ramp { share, .. } if share == 1.0)),
            "some ramp connects everybody (share = \"100%\"): who never comes can verify nothing"
        );
        Ok(())
    }
}

fn target(file: &mut Section) -> anyhow::Result<(Option<String>, Option<std::path::PathBuf>)> {
    let Some(mut section) = file.section("target")? else {
        return Ok((None, None));
    };
    let (server, tokens) = (section.text("server")?, section.text("tokens")?);
    section.finish()?;
    ensure!(
        server.is_some() == tokens.is_some(),
        "[target] has both server and tokens, or neither"
    );
    Ok((server, tokens.map(Into::into)))
}

fn populations(file: &mut Section) -> anyhow::Result<Vec<Population>> {
    let mut populations: Vec<Population> = Vec::new();
    for mut section in file.sections("population")? {
        let name = section.text("name")?.context("a population has a name")?;
        let clients = section
            .count("clients")?
            .with_context(|| format!("population {name} has no `clients`"))?;
        section.finish()?;
        ensure!(
            populations.iter().all(|other| other.name != name),
            "two populations are called {name}"
        );
        ensure!(clients <= CLIENTS_MAX, "population {name} is too large");
        populations.push(Population { name, clients });
    }
    ensure!(!populations.is_empty(), "there is no [[population]]");
    Ok(populations)
}

pub(super) fn population(
    section: &mut Section,
    populations: &[Population],
) -> anyhow::Result<Option<usize>> {
    let name = section.text("population")?;
    name.map(|name| number_of(&name, populations, section.name()))
        .transpose()
}

/// The number of the population of that name, wanted in that section.
pub(super) fn number_of(
    name: &str,
    populations: &[Population],
    section: &str,
) -> anyhow::Result<usize> {
    let known = || populations.iter().map(|one| one.name.as_str());
    let found = known().position(|one| one == name);
    let hint =
        nearest(name, known()).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    found.with_context(|| format!("no population `{name}`, in {section}{hint}"))
}

fn extras(file: &mut Section) -> anyhow::Result<Extras> {
    let mut extras = Extras::default();
    let Some(mut section) = file.section("traffic")? else {
        return Ok(extras);
    };
    extras.receipts = section.share("receipts")?.unwrap_or(extras.receipts);
    extras.edits = section.share("edits")?.unwrap_or(extras.edits);
    extras.media = section.share("media")?.unwrap_or(extras.media);
    extras.media_bytes = section.sizes("media_bytes")?.unwrap_or(extras.media_bytes);
    section.finish()?;
    ensure!(
        1 <= extras.media_bytes.0 && extras.media_bytes.1 <= MEDIA_BYTES_MAX,
        "media_bytes is between 1 and {MEDIA_BYTES_MAX}"
    );
    Ok(extras)
}

fn network(file: &mut Section) -> anyhow::Result<Network> {
    let Some(mut section) = file.section("network")? else {
        return Ok(Network::default());
    };
    let network = Network {
        loss: section.share("loss")?.unwrap_or_default(),
        delay: section.duration("delay")?.unwrap_or_default(),
        jitter: section.duration("jitter")?.unwrap_or_default(),
    };
    section.finish()?;
    ensure!(network.loss < 1.0, "a network that loses all is none");
    Ok(network)
}

fn phase(mut section: Section, populations: &[Population]) -> anyhow::Result<Phase> {
    let place = section.name().to_owned();
    let kind_name = section
        .text("kind")?
        .with_context(|| format!("{place} has no `kind`"))?;
    let name = section.text("name")?.unwrap_or_else(|| kind_name.clone());
    let kind = kind(&kind_name, &mut section, populations)?;
    let length = section.duration("for")?;
    let traffic = match kind {
        Kind::Ramp { .. } | Kind::Open { .. } | Kind::Drain => None,
        Kind::Hold
        | Kind::Rate
        | Kind::Storm(_)
        | Kind::Migrate { .. }
        | Kind::SlowReader { .. } => traffic(&mut section).with_context(|| place.clone())?,
    };
    section.finish()?;
    let length = match (&kind, length) {
        (_, Some(length)) => length,
        (Kind::Ramp { .. }, None) => RAMP_MAX,
        (Kind::Open { .. }, None) => OPEN_MAX,
        (Kind::Storm(_), None) => STORM_MAX,
        (Kind::Drain, None) => DRAIN_MAX,
        (Kind::Hold | Kind::Rate | Kind::Migrate { .. } | Kind::SlowReader { .. }, None) => {
            bail!("{place} ({kind_name}) has no `for`, as in for = \"30s\"")
        }
    };
    ensure!(!length.is_zero(), "{place}: `for` is longer than nothing");
    ensure!(
        kind != Kind::Rate || traffic.is_some(),
        "{place} (rate) has no `rate`, as in rate = \"1000/s\""
    );
    Ok(Phase {
        name,
        length,
        traffic,
        kind,
    })
}

fn kind(name: &str, section: &mut Section, populations: &[Population]) -> anyhow::Result<Kind> {
    Ok(match name {
        "ramp" => Kind::Ramp {
            share: section.share("share")?.unwrap_or(1.0),
            rate: section.rate("rate")?.filter(|rate| *rate > 0.0),
            handshakes: section.count("handshakes")?.unwrap_or(HANDSHAKES).max(1) as usize,
        },
        "open" => Kind::Open {
            handshakes: section.count("handshakes")?.unwrap_or(HANDSHAKES).max(1) as usize,
        },
        "hold" => Kind::Hold,
        "rate" => Kind::Rate,
        "storm" => Kind::Storm(storm(section, populations)?),
        "migrate" => Kind::Migrate {
            fraction: section.share("fraction")?.unwrap_or(1.0),
        },
        "slow_reader" => Kind::SlowReader {
            fraction: section.share("fraction")?.unwrap_or(0.01),
            pause: section
                .duration("pause")?
                .with_context(|| format!("{} has no `pause`", section.name()))?,
            population: population(section, populations)?,
        },
        "drain" => Kind::Drain,
        other => match nearest(other, KINDS) {
            Some(near) => bail!("no phase is called `{other}`; did you mean `{near}`?"),
            None => bail!(
                "no phase is called `{other}`; there are {}",
                KINDS.join(", ")
            ),
        },
    })
}

fn storm(section: &mut Section, populations: &[Population]) -> anyhow::Result<Storm> {
    let how = match section.text("how")?.as_deref() {
        None | Some("close") => How::Close,
        Some("silent") => How::Silent,
        Some("kill") => How::Kill,
        Some(other) => bail!(
            "how = \"{other}\" in {}: there are silent, close and kill",
            section.name()
        ),
    };
    let storm = Storm {
        how,
        drop: section.share("drop")?.unwrap_or(1.0),
        population: population(section, populations)?,
        within: section.duration("within")?.unwrap_or_default(),
        away: section.duration("away")?.unwrap_or_default(),
        down: section.duration("down")?.unwrap_or_default(),
        backoff: section.durations("backoff")?.unwrap_or(BACKOFF),
    };
    ensure!(
        how == How::Close || storm.population.is_none(),
        "{}: only how = \"close\" takes a population; silent takes whole sockets, kill everybody",
        section.name()
    );
    ensure!(
        how != How::Kill || storm.drop == 1.0,
        "{}: a gateway that is killed drops everybody; leave `drop` out",
        section.name()
    );
    ensure!(
        how == How::Kill || storm.down.is_zero(),
        "{}: `down` goes with how = \"kill\"",
        section.name()
    );
    Ok(storm)
}

fn traffic(section: &mut Section) -> anyhow::Result<Option<Traffic>> {
    let rate = section.rate("rate")?;
    let of_closed = section.share("of_closed")?;
    let (from, to) = (section.rate("from")?, section.rate("to")?);
    let arrival = match section.text("arrival")?.as_deref() {
        None | Some("constant") => Arrival::Constant,
        Some("poisson") => Arrival::Poisson,
        Some(other) => bail!("arrival = \"{other}\": there are constant and poisson"),
    };
    let bytes = section.sizes("bytes")?.unwrap_or(BYTES);
    ensure!(
        TEXT_BYTES_MIN <= bytes.0 && bytes.1 <= TEXT_BYTES_MAX,
        "bytes is between {TEXT_BYTES_MIN} and {TEXT_BYTES_MAX}"
    );
    let outstanding = section.count("outstanding")?;
    let mode = match section.text("mode")?.as_deref() {
        None | Some("open") => {
            ensure!(
                outstanding.is_none(),
                "`outstanding` goes with mode = \"closed\""
            );
            match (rate, from, to, of_closed) {
                (None, None, None, None) => return Ok(None),
                (Some(rate), None, None, None) => open((rate, rate), arrival),
                (None, Some(from), Some(to), None) => open((from, to), arrival),
                (None, None, None, Some(share)) => Mode::OpenShare { share, arrival },
                _ => bail!("give `rate`, or `from` and `to`, or `of_closed`"),
            }
        }
        Some("closed") => {
            ensure!(
                rate.or(from).or(to).or(of_closed).is_none(),
                "a closed loop has no rate; leave it out"
            );
            Mode::Closed {
                outstanding: outstanding.unwrap_or(1).clamp(1, 64) as usize,
            }
        }
        Some(other) => bail!("mode = \"{other}\": there are open and closed"),
    };
    Ok(Some(Traffic { mode, bytes }))
}

fn open(rates: (f64, f64), arrival: Arrival) -> Mode {
    Mode::Open { rates, arrival }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        seed = 3
        [[population]]
        name = "talkers"
        clients = 10
        [graph]
        pairs = 5
        [network]
        loss = "1%"
        delay = "20ms"
        [[phase]]
        kind = "ramp"
        [[phase]]
        kind = "rate"
        for = "10s"
        from = "10/s"
        to = "1k/s"
        arrival = "poisson"
        bytes = "64..512"
        [[phase]]
        kind = "storm"
        how = "close"
        drop = "50%"
        population = "talkers"
        rate = 5
    "#;

    fn refusal(from: &str, to: &str) -> String {
        assert!(SMALL.contains(from), "{from}");
        let text = SMALL.replacen(from, to, 1);
        format!("{:#}", Scenario::read("x", &text).expect_err(to))
    }

    #[test]
    fn reads_what_it_says() {
        let scenario = Scenario::read("small", SMALL).unwrap();
        assert_eq!((scenario.name.as_str(), scenario.seed), ("small", 3));
        assert_eq!(scenario.network.delay, Duration::from_millis(20));
        let kinds: Vec<_> = scenario.phases.iter().map(|one| one.kind.name()).collect();
        assert_eq!(kinds, ["ramp", "rate", "storm", "drain"]);
        let traffic = scenario.phases[1].traffic.as_ref().unwrap();
        assert_eq!(traffic.bytes, (64, 512));
        let Mode::Open { rates, arrival } = traffic.mode else {
            panic!("{traffic:?}");
        };
        assert_eq!((rates, arrival), ((10.0, 1_000.0), Arrival::Poisson));
    }

    #[test]
    fn says_what_is_wrong() {
        for (from, to, message) in [
            ("clients = 10", "client = 10", "has no `clients`"),
            (
                "arrival =",
                "arival =",
                "unknown key `arival` in [[phase]] number 2; did you mean `arrival`?",
            ),
            ("\"storm\"", "\"strom\"", "did you mean `storm`?"),
            ("pairs = 5", "pairs = 6", "6 pairs need 12 clients"),
            ("pairs = 5", "kind = \"groups\"", "says their `size`"),
            (
                "pairs = 5",
                "kind = \"groups\"\nsize = 1",
                "between 2 and 10000 members, not 1",
            ),
            (
                "pairs = 5",
                "kind = \"groups\"\nsize = 3\nexponent = 2",
                "goes with distribution",
            ),
            (
                "pairs = 5",
                "kind = \"groups\"\nsizes = [6, 5]",
                "groups of 11 members",
            ),
            (
                "pairs = 5",
                "kind = \"mixed\"\nsize = 3",
                "says how many `pairs`",
            ),
            (
                "pairs = 5",
                "[traffic]\nedit = \"5%\"",
                "did you mean `edits`?",
            ),
            (
                "kind = \"ramp\"",
                "kind = \"ramp\"\nshare = \"50%\"",
                "some ramp connects everybody",
            ),
            (
                "\"talkers\"\n        rate",
                "\"talker\"\n        rate",
                "did you mean `talkers`?",
            ),
            ("for = \"10s\"", "for = \"10\"", "expected a duration"),
            ("for = \"10s\"", "", "has no `for`"),
            ("loss = \"1%\"", "los = \"1%\"", "did you mean `loss`?"),
            ("bytes = \"64..512\"", "bytes = 10", "bytes is between"),
            ("rate = 5", "of_closed = \"50%\"", "and there is none"),
            (
                "rate = 5",
                "rate = 5\nof_closed = \"50%\"",
                "or `of_closed`",
            ),
            (
                "how = \"close\"",
                "how = \"silent\"",
                "only how = \"close\" takes a population",
            ),
            (
                "kind = \"ramp\"",
                "kind = \"hold\"\nfor = \"1s\"",
                "the first phase is a ramp",
            ),
        ] {
            let refusal = refusal(from, to);
            assert!(
                refusal.contains(message),
                "{refusal}\ndoes not say: {message}"
            );
        }
    }
}
