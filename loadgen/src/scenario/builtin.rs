//! The canonical scenarios, compiled in.

use anyhow::{Context as _, bail};

use super::Scenario;
use super::value::nearest;

const FILES: [(&str, &str); 10] = [
    ("smoke", include_str!("../../scenarios/smoke.toml")),
    ("idle-100k", include_str!("../../scenarios/idle-100k.toml")),
    (
        "direct-messages",
        include_str!("../../scenarios/direct-messages.toml"),
    ),
    (
        "reconnect-storm",
        include_str!("../../scenarios/reconnect-storm.toml"),
    ),
    ("migrate", include_str!("../../scenarios/migrate.toml")),
    ("backlog", include_str!("../../scenarios/backlog.toml")),
    (
        "mixed-100k",
        include_str!("../../scenarios/mixed-100k.toml"),
    ),
    ("groups", include_str!("../../scenarios/groups.toml")),
    ("big-group", include_str!("../../scenarios/big-group.toml")),
    ("loss", include_str!("../../scenarios/loss.toml")),
];

/// Names of the scenarios, the one for zero arguments first.
pub(crate) const NAMES: [&str; FILES.len()] = {
    let mut names = [""; FILES.len()];
    let mut at = 0;
    while at < FILES.len() {
        names[at] = FILES[at].0;
        at += 1;
    }
    names
};

/// The scenario of that name.
pub(crate) fn builtin(name: &str) -> anyhow::Result<Scenario> {
    match FILES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Scenario::read(name, text).with_context(|| format!("scenario {name}")),
        None => match nearest(name, NAMES) {
            Some(near) => bail!("there is no scenario `{name}`; did you mean `{near}`?"),
            None => bail!(
                "there is no scenario `{name}`; there are {}, or give a path that ends in .toml",
                NAMES.join(", ")
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_there_and_bear_their_names() {
        for name in NAMES {
            let scenario = builtin(name).unwrap();
            assert_eq!(scenario.name, name);
            assert!(!scenario.about.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_wrong_name_is_answered() {
        let said = |name| format!("{:#}", builtin(name).unwrap_err());
        assert!(said("smok").contains("did you mean `smoke`?"));
        assert!(said("everything").contains("mixed-100k"));
    }
}
