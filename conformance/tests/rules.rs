//! Every rule of SPEC.md has a case, or a written reason for having none.

use std::collections::{BTreeMap, BTreeSet};

const SPEC: &str = include_str!("../../protocol/SPEC.md");
const UNCHECKED: &str = include_str!("../unchecked.toml");

/// The names of rules: in bold where they are stated.
fn stated() -> BTreeSet<&'static str> {
    SPEC.split("**")
        .filter(|piece| {
            let digits = piece
                .strip_prefix("QP-")
                .and_then(|rest| rest.split_once('-'));
            digits.is_some_and(|(_, number)| number.parse::<u32>().is_ok())
        })
        .collect()
}

#[test]
fn every_rule_has_a_case_or_a_reason() {
    let stated = stated();
    assert!(
        stated.len() > 50,
        "SPEC.md states its rules in another form now"
    );
    let unchecked: BTreeMap<String, String> = toml::from_str(UNCHECKED).unwrap();
    let mut checked = BTreeSet::new();
    for case in quipu_conformance::cases::all() {
        assert!(!case.rules.is_empty(), "{} names no rule", case.name);
        for rule in case.rules {
            assert!(
                stated.contains(rule),
                "{} names {rule}, which SPEC.md does not state",
                case.name
            );
            checked.insert(*rule);
        }
    }
    for (rule, reason) in &unchecked {
        assert!(
            stated.contains(rule.as_str()),
            "unchecked.toml names {rule}, which SPEC.md does not state"
        );
        assert!(
            !checked.contains(rule.as_str()),
            "{rule} has a case; drop it from unchecked.toml"
        );
        assert!(!reason.trim().is_empty(), "{rule} needs a reason");
    }
    for rule in stated {
        assert!(
            checked.contains(rule) || unchecked.contains_key(rule),
            "{rule} has neither a case nor a reason in unchecked.toml"
        );
    }
}
