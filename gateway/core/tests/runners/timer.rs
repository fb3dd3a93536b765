//! `set NAME MS`: sets or moves a deadline; `now MS`: what comes due.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quipu_core::timer::{Timers, Token};

pub(crate) struct Clock {
    start: Instant,
    timers: Timers,
    latest: BTreeMap<String, Token>,
    names: BTreeMap<Token, String>,
}

impl Default for Clock {
    #[allow(
        clippy::disallowed_methods,
        reason = "an Instant has no other origin; only differences are used"
    )]
    fn default() -> Self {
        Self {
            start: Instant::now(),
            timers: Timers::new(4),
            latest: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }
}

impl crate::Machine for Clock {
    fn run(&mut self, instruction: &str) -> Result<Vec<String>, String> {
        let words: Vec<&str> = instruction.split_whitespace().collect();
        let at = |ms: &str| -> Result<Instant, String> {
            let ms = ms.parse().map_err(|_| format!("{ms} is no number"))?;
            Ok(self.start + Duration::from_millis(ms))
        };
        let mut followed = Vec::new();
        match words[..] {
            ["set", name, ms] => match self.timers.set(at(ms)?) {
                Ok(token) => {
                    self.latest.insert(name.to_owned(), token);
                    self.names.insert(token, name.to_owned());
                }
                Err(full) => followed.push(format!("refused: {full}")),
            },
            ["now", ms] => {
                let now = at(ms)?;
                while let Some(token) = self.timers.pop_due(now) {
                    let name = &self.names[&token];
                    let stale = self.latest[name] != token;
                    followed.push(format!("{name}{}", if stale { " (stale)" } else { "" }));
                }
            }
            _ => return Err("not an instruction".to_owned()),
        }
        followed.push(match self.timers.next_due() {
            Some(due) => format!("next due at {}", (due - self.start).as_millis()),
            None => "nothing waits".to_owned(),
        });
        Ok(followed)
    }
}
