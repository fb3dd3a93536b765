//! Writes a scenario as TOML, so that a report can hold what was really run and anybody can run it again.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Kind, Mode, Phase, Scenario, Sizes, Storm, Traffic};
use crate::pacer::Arrival;

impl Scenario {
    /// A file that reads back as this scenario.
    pub(crate) fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!("name = {}", quoted(&self.name)));
        line(format!("about = {}", quoted(&self.about)));
        line(format!("seed = {}", self.seed));
        line(format!("late_after = {}", time(self.late_after)));
        if let (Some(server), Some(tokens)) = (&self.server, &self.tokens) {
            let tokens = quoted(&tokens.to_string_lossy());
            line(format!(
                "\n[target]\nserver = {}\ntokens = {tokens}",
                quoted(server)
            ));
        }
        for population in &self.populations {
            let name = quoted(&population.name);
            line(format!(
                "\n[[population]]\nname = {name}\nclients = {}",
                population.clients
            ));
        }
        line(self.graph_lines());
        let extras = &self.extras;
        line(format!(
            "\n[traffic]\nreceipts = {:?}\nedits = {:?}\nmedia = {:?}\nmedia_bytes = \"{}..{}\"",
            extras.receipts, extras.edits, extras.media, extras.media_bytes.0, extras.media_bytes.1
        ));
        if !self.network.is_perfect() {
            let network = &self.network;
            line(format!(
                "\n[network]\nloss = {:?}\ndelay = {}\njitter = {}",
                network.loss,
                time(network.delay),
                time(network.jitter)
            ));
        }
        for phase in &self.phases {
            line(format!("\n[[phase]]\n{}", self.phase(phase)));
        }
        out
    }

    fn graph_lines(&self) -> String {
        let graph = &self.graph;
        let name = |population: usize| quoted(&self.populations[population].name);
        let population = name(graph.population);
        let Some(groups) = &graph.groups else {
            return format!(
                "\n[graph]\nkind = \"direct\"\npopulation = {population}\npairs = {}",
                graph.pairs
            );
        };
        let mut out = match graph.pairs {
            0 => format!(
                "\n[graph]\nkind = \"groups\"\npopulation = {}",
                name(groups.population)
            ),
            pairs => format!(
                "\n[graph]\nkind = \"mixed\"\npopulation = {population}\npairs = {pairs}\ngroup_population = {}\n\
                 group_share = {:?}",
                name(groups.population),
                groups.share
            ),
        };
        // Writing to a String cannot fail.
        let _ = write!(out, "\nspeakers = {}\n", groups.speakers);
        let _ = match &groups.sizes {
            Sizes::Fixed(size) => write!(out, "size = {size}"),
            Sizes::Uniform(from, to) => write!(out, "size = \"{from}..{to}\""),
            Sizes::Zipf { from, to, exponent } => write!(
                out,
                "size = \"{from}..{to}\"\ndistribution = \"zipf\"\nexponent = {exponent:?}"
            ),
            Sizes::Listed(sizes) => write!(out, "sizes = {sizes:?}"),
        };
        out
    }

    fn phase(&self, phase: &Phase) -> String {
        let mut out = format!(
            "kind = \"{}\"\nname = {}\nfor = {}",
            phase.kind.name(),
            quoted(&phase.name),
            time(phase.length)
        );
        let mut line = |text: String| {
            out.push('\n');
            out.push_str(&text);
        };
        let population = |number: &Option<usize>| {
            number.map(|number| format!("population = {}", quoted(&self.populations[number].name)))
        };
        match &phase.kind {
            Kind::Ramp {
                share,
                rate,
                handshakes,
            } => {
                line(format!("share = {share:?}"));
                line(format!("handshakes = {handshakes}"));
                if let Some(rate) = rate {
                    line(format!("rate = {rate:?}"));
                }
            }
            Kind::Open { handshakes } => line(format!("handshakes = {handshakes}")),
            Kind::Hold | Kind::Rate | Kind::Drain => {}
            Kind::Storm(storm) => {
                storm_lines(storm).into_iter().for_each(&mut line);
                population(&storm.population)
                    .into_iter()
                    .for_each(&mut line);
            }
            Kind::Migrate { fraction } => line(format!("fraction = {fraction:?}")),
            Kind::SlowReader {
                fraction,
                pause,
                population: of,
            } => {
                line(format!("fraction = {fraction:?}"));
                line(format!("pause = {}", time(*pause)));
                population(of).into_iter().for_each(&mut line);
            }
        }
        if let Some(traffic) = &phase.traffic {
            line(traffic_lines(traffic));
        }
        out
    }
}

fn storm_lines(storm: &Storm) -> Vec<String> {
    let (from, to) = storm.backoff;
    let mut lines = vec![
        format!("how = \"{}\"", storm.how.name()),
        format!("drop = {:?}", storm.drop),
        format!("within = {}", time(storm.within)),
        format!("away = {}", time(storm.away)),
        format!("backoff = \"{}..{}\"", plain(from), plain(to)),
    ];
    if !storm.down.is_zero() {
        lines.push(format!("down = {}", time(storm.down)));
    }
    lines
}

fn traffic_lines(traffic: &Traffic) -> String {
    let mut out = format!("bytes = \"{}..{}\"", traffic.bytes.0, traffic.bytes.1);
    // Writing to a String cannot fail.
    let _ = match traffic.mode {
        Mode::Open { rates, arrival } => write!(
            out,
            "\nfrom = {:?}\nto = {:?}\narrival = \"{}\"",
            rates.0,
            rates.1,
            spread(arrival)
        ),
        Mode::OpenShare { share, arrival } => write!(
            out,
            "\nof_closed = {share:?}\narrival = \"{}\"",
            spread(arrival)
        ),
        Mode::Closed { outstanding } => {
            write!(out, "\nmode = \"closed\"\noutstanding = {outstanding}")
        }
    };
    out
}

fn spread(arrival: Arrival) -> &'static str {
    match arrival {
        Arrival::Constant => "constant",
        Arrival::Poisson => "poisson",
    }
}

fn time(duration: Duration) -> String {
    format!("\"{}\"", plain(duration))
}

fn plain(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        nanos if nanos % 1_000_000 == 0 => format!("{}ms", duration.as_millis()),
        _ => format!("{}ms", duration.as_secs_f64() * 1_000.0),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::{NAMES, builtin};
    use super::*;

    #[test]
    fn every_scenario_reads_back() {
        for name in NAMES {
            let scenario = builtin(name).unwrap();
            let text = scenario.to_toml();
            assert_eq!(Scenario::read("x", &text).unwrap(), scenario, "{text}");
        }
    }
}
