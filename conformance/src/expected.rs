//! The verdict that each case must have, with a reason for every one that is not `pass`.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::suite::{Case, Outcome, Profile, WITNESS};

/// The verdicts that hold for this repository's gateway.
pub const OURS: &str = include_str!("../expected.toml");

/// What must come out of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Pass,
    /// It is not run, for this reason.
    Skip(String),
    /// It fails today, for this reason; when it passes, the entry is stale.
    Fail(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Word(String),
    WithReason { verdict: String, reason: String },
}

/// Case name to verdict.
#[derive(Debug, Clone)]
pub struct Expected(BTreeMap<String, Verdict>);

impl Expected {
    /// Reads the file. Refuses entries without a case, cases without an entry, and skips without a reason.
    pub fn read(text: &str, cases: &[Case]) -> anyhow::Result<Self> {
        let entries: BTreeMap<String, Entry> = toml::from_str(text)?;
        let mut verdicts = BTreeMap::new();
        for (name, entry) in entries {
            let known = name == WITNESS || cases.iter().any(|case| case.name == name);
            ensure!(known, "{name} is expected, but there is no such case");
            let verdict = verdict(entry).with_context(|| format!("expected verdict of {name}"))?;
            verdicts.insert(name, verdict);
        }
        for name in cases.iter().map(|case| case.name).chain([WITNESS]) {
            ensure!(verdicts.contains_key(name), "no expected verdict of {name}");
        }
        Ok(Self(verdicts))
    }

    /// The same for a gateway of this profile: cases that need another one are skipped.
    pub fn of_profile(mut self, profile: Profile, cases: &[Case]) -> Self {
        let reason = match profile {
            Profile::Any => {
                "needs a gateway with small limits: start it with conformance/small-limits.toml, pass --small-limits"
            }
            Profile::SmallLimits => {
                "needs a gateway with ordinary limits: run it without --small-limits"
            }
        };
        for case in cases.iter().filter(|case| case.profile != profile) {
            let skip = Verdict::Skip(reason.to_owned());
            self.0.insert(case.name.to_owned(), skip);
        }
        self
    }

    /// The verdict of a case.
    pub fn of(&self, name: &str) -> &Verdict {
        // `read` made sure that every case has one.
        self.0.get(name).unwrap_or(&Verdict::Pass)
    }

    /// Whether the case is to be run at all.
    pub fn runs(&self, case: &Case) -> bool {
        !matches!(self.of(case.name), Verdict::Skip(_))
    }

    /// Why this outcome is not what was expected; `None`: it is.
    pub fn surprise(&self, outcome: &Outcome) -> Option<String> {
        match (self.of(outcome.name), &outcome.result) {
            (Verdict::Pass, Ok(())) | (Verdict::Fail(_), Err(_)) => None,
            (Verdict::Pass, Err(error)) => Some(error.clone()),
            (Verdict::Fail(reason), Ok(())) => Some(format!(
                "passes now; drop its entry in expected.toml, which says: {reason}"
            )),
            (Verdict::Skip(reason), _) => Some(format!("was run although skipped: {reason}")),
        }
    }
}

fn verdict(entry: Entry) -> anyhow::Result<Verdict> {
    let (word, reason) = match entry {
        Entry::Word(word) => (word, String::new()),
        Entry::WithReason { verdict, reason } => (verdict, reason),
    };
    let with_reason = |make: fn(String) -> Verdict| {
        ensure!(!reason.trim().is_empty(), "\"{word}\" needs a reason");
        Ok(make(reason.clone()))
    };
    match word.as_str() {
        "pass" => Ok(Verdict::Pass),
        "skip" => with_reason(Verdict::Skip),
        "fail" => with_reason(Verdict::Fail),
        other => bail!("a verdict is pass, skip or fail, not \"{other}\""),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cases;

    fn outcome(name: &'static str, result: Result<(), String>) -> Outcome {
        Outcome {
            name,
            rules: &[],
            result,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn our_own_file_is_in_step_with_the_cases() {
        Expected::read(OURS, cases::all()).unwrap();
    }

    #[test]
    fn stale_missing_and_unexplained_entries_are_refused() {
        let refused = |text: &str| Expected::read(text, &[]).unwrap_err();
        let witness = format!("\"{WITNESS}\" = \"pass\"\n");
        assert!(Expected::read(&witness, &[]).is_ok());
        refused("");
        refused(&format!("{witness}\"no/such-case\" = \"pass\"\n"));
        refused(&format!("\"{WITNESS}\" = \"skip\"\n"));
        refused(&format!(
            "\"{WITNESS}\" = {{ verdict = \"skip\", reason = \" \" }}\n"
        ));
        refused(&format!("\"{WITNESS}\" = \"maybe\"\n"));
    }

    #[test]
    fn a_surprise_either_way() {
        let failing = format!("\"{WITNESS}\" = {{ verdict = \"fail\", reason = \"known\" }}\n");
        let failing = Expected::read(&failing, &[]).unwrap();
        assert!(failing.surprise(&outcome(WITNESS, Ok(()))).is_some());
        assert!(
            failing
                .surprise(&outcome(WITNESS, Err(String::new())))
                .is_none()
        );
        let passing = Expected::read(&format!("\"{WITNESS}\" = \"pass\"\n"), &[]).unwrap();
        assert!(passing.surprise(&outcome(WITNESS, Ok(()))).is_none());
        assert!(
            passing
                .surprise(&outcome(WITNESS, Err(String::new())))
                .is_some()
        );
    }
}
