//! Makes a scenario larger, smaller, faster or shorter, and divides it among generator processes.

use std::time::Duration;

use super::{Kind, Mode, Scenario};
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
        self.check()
    }

    /// Part number `part` of `parts`, for one generator process: whole pairs, a share of every rate, a seed of its own.
    pub(crate) fn part(&self, part: u64, parts: u64) -> Self {
        let share = |count: u64| count * (part + 1) / parts - count * part / parts;
        let mut scenario = self.clone();
        scenario.graph.pairs = share(self.graph.pairs);
        for (number, population) in scenario.populations.iter_mut().enumerate() {
            // Those of the pairs first, so that a pair stays whole, then a share of the rest.
            let in_pairs = match number == self.graph.population {
                true => self.graph.pairs,
                false => 0,
            };
            population.clients = 2 * share(in_pairs) + share(population.clients - 2 * in_pairs);
        }
        let factor = 1.0 / parts as f64;
        for phase in &mut scenario.phases {
            if let Kind::Ramp {
                rate, handshakes, ..
            } = &mut phase.kind
            {
                *rate = rate.map(|rate| rate * factor);
                *handshakes = (*handshakes).div_ceil(parts as usize);
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
        let talkers = &mut self.populations[self.graph.population];
        talkers.clients = talkers.clients.max(2 * self.graph.pairs);
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
            Kind::Ramp { .. } | Kind::Storm(_) | Kind::Drain => false,
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
                | Kind::Hold
                | Kind::Rate
                | Kind::Migrate { .. }
                | Kind::Drain => {}
            }
        }
    }
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
                };
                scenario.change(&changes).unwrap();
                assert_eq!(scenario.clients(), connections, "{name}");
                assert_eq!(scenario.seed, 9);
                let again = Scenario::read("x", &scenario.to_toml()).unwrap();
                assert_eq!(again, scenario);
            }
        }
    }

    #[test]
    fn the_parts_make_the_whole() {
        let whole = builtin("mixed-100k").unwrap();
        for parts in 1..6 {
            let all: Vec<_> = (0..parts).map(|part| whole.part(part, parts)).collect();
            let sum = |of: fn(&Scenario) -> u64| all.iter().map(of).sum::<u64>();
            assert_eq!(sum(Scenario::clients), whole.clients());
            assert_eq!(sum(|one| one.graph.pairs), whole.graph.pairs);
            for one in &all {
                one.check().unwrap();
                assert_eq!(Scenario::read("x", &one.to_toml()).unwrap(), *one);
            }
            let seeds: std::collections::BTreeSet<_> = all.iter().map(|one| one.seed).collect();
            assert_eq!(seeds.len() as u64, parts);
        }
    }
}
