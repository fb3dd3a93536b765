//! Who may import whom: between crates by their manifests, inside the gateway by its paths.

use std::collections::BTreeSet;

use crate::source::Source;

/// A crate of the workspace and what it may depend on.
struct Crate {
    manifest: &'static str,
    /// Crates of the workspace, in normal dependencies.
    ours: &'static [&'static str],
    /// Crates of the workspace, in development dependencies besides.
    ours_in_tests: &'static [&'static str],
    /// The only other normal dependencies, for crates that must stay free of I/O; `None`: any.
    others: Option<&'static [&'static str]>,
}

/// The arrows of ARCHITECTURE.md.
const CRATES: &[Crate] = &[
    Crate {
        manifest: "protocol/Cargo.toml",
        ours: &[],
        ours_in_tests: &[],
        others: Some(&["bytes", "prost", "sha2", "siphasher", "thiserror"]),
    },
    Crate {
        manifest: "gateway/core/Cargo.toml",
        ours: &["quipu-protocol"],
        ours_in_tests: &[],
        others: Some(&["bytes", "prost", "siphasher", "thiserror"]),
    },
    Crate {
        manifest: "gateway/Cargo.toml",
        ours: &["quipu-core", "quipu-protocol"],
        ours_in_tests: &["quipu-client"],
        others: None,
    },
    Crate {
        manifest: "client/Cargo.toml",
        ours: &["quipu-protocol"],
        ours_in_tests: &["quipu-gateway"],
        others: None,
    },
    Crate {
        manifest: "tui-client/Cargo.toml",
        ours: &["quipu-client", "quipu-protocol"],
        ours_in_tests: &["quipu-gateway"],
        others: None,
    },
    Crate {
        manifest: "loadgen/Cargo.toml",
        ours: &["quipu-protocol"],
        ours_in_tests: &["quipu-gateway"],
        others: None,
    },
    Crate {
        manifest: "conformance/Cargo.toml",
        ours: &["quipu-protocol"],
        ours_in_tests: &["quipu-gateway"],
        others: None,
    },
    Crate {
        manifest: "fuzz/Cargo.toml",
        ours: &["quipu-core", "quipu-gateway", "quipu-protocol"],
        ours_in_tests: &[],
        others: None,
    },
    Crate {
        manifest: "sim/Cargo.toml",
        ours: &["quipu-core", "quipu-protocol"],
        ours_in_tests: &[],
        others: None,
    },
    Crate {
        manifest: "xtask/trials/Cargo.toml",
        ours: &["quipu-client"],
        ours_in_tests: &[],
        others: None,
    },
    Crate {
        manifest: "xtask/Cargo.toml",
        ours: &[],
        ours_in_tests: &[],
        others: None,
    },
];

/// Complains about dependencies that point upwards, and about crates that the table does not know.
pub(crate) fn check_manifests(manifests: &[(String, String)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in manifests {
        let manifest: toml::Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                complaints.push(format!("{path}: {error}"));
                continue;
            }
        };
        let Some(rule) = CRATES.iter().find(|rule| rule.manifest == path) else {
            complaints.push(format!(
                "{path}: a crate that the table in tidy/crates.rs does not know: say there what it may depend on"
            ));
            continue;
        };
        for name in names(&manifest, "dependencies") {
            let allowed = match (is_ours(&name), rule.others) {
                (true, _) => rule.ours.contains(&name.as_str()),
                (false, Some(others)) => others.contains(&name.as_str()),
                (false, None) => true,
            };
            if !allowed {
                complaints.push(format!(
                    "{path}: `{name}` points the wrong way: see \"Who may import whom\" in ARCHITECTURE.md"
                ));
            }
        }
        for name in names(&manifest, "dev-dependencies") {
            if is_ours(&name)
                && !rule.ours.contains(&name.as_str())
                && !rule.ours_in_tests.contains(&name.as_str())
            {
                complaints.push(format!(
                    "{path}: tests here may not use `{name}`: see \"Who may import whom\" in ARCHITECTURE.md"
                ));
            }
        }
    }
    complaints
}

fn is_ours(name: &str) -> bool {
    name == "xtask" || name.starts_with("quipu-")
}

fn names(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    manifest
        .get(section)
        .and_then(toml::Value::as_table)
        .map(|table| table.keys().cloned().collect())
        .unwrap_or_default()
}

/// Files of the gateway, and words that their code never says.
const LAYERS: &[(&str, &[&str], &str)] = &[
    (
        "gateway/src/edge",
        &["fjall", "raft_engine", "crate::store::", "crate::processor"],
        "the edge never touches a store or a processor; they meet at the registry, the router and the queries",
    ),
    (
        "gateway/src/processor",
        &["quinn", "crate::edge"],
        "processors never touch QUIC; they meet the edge at the registry",
    ),
    (
        "gateway/src/store",
        &["quinn", "crate::edge", "crate::registry", "raft_engine"],
        "a store knows rows and nothing else",
    ),
    (
        "gateway/src/log",
        &["quinn", "crate::edge", "crate::registry", "fjall"],
        "a log knows payloads and nothing else",
    ),
];

/// Complains about files of the gateway that reach across or up.
pub(crate) fn check_layers(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (prefix, words, reason) in LAYERS {
        if !source.path.starts_with(prefix) {
            continue;
        }
        for word in *words {
            for at in source.find(word) {
                if !source.is_test(at) {
                    complaints.push(format!(
                        "{}:{}: `{word}` does not belong here: {reason}",
                        source.path,
                        source.line(at)
                    ));
                }
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::{check_layers, check_manifests};
    use crate::source::Source;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        check_manifests(&[(path.to_owned(), text.to_owned())])
    }

    #[test]
    fn arrows_that_point_up_are_seen() {
        for (path, text) in [
            ("protocol/Cargo.toml", "[dependencies]\ntokio = \"1\""),
            (
                "gateway/core/Cargo.toml",
                "[dependencies]\nquinn.workspace = true",
            ),
            (
                "client/Cargo.toml",
                "[dependencies]\nquipu-gateway.workspace = true",
            ),
            (
                "protocol/Cargo.toml",
                "[dev-dependencies]\nquipu-client.workspace = true",
            ),
            ("new/Cargo.toml", "[dependencies]"),
            ("client/Cargo.toml", "[dependencies"),
        ] {
            assert_eq!(complaints(path, text).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn arrows_that_point_down_are_not() {
        for (path, text) in [
            (
                "client/Cargo.toml",
                "[dependencies]\nquipu-protocol.workspace = true",
            ),
            (
                "client/Cargo.toml",
                "[dev-dependencies]\nquipu-gateway.workspace = true",
            ),
            (
                "protocol/Cargo.toml",
                "[dev-dependencies]\nproptest.workspace = true",
            ),
        ] {
            assert_eq!(complaints(path, text), Vec::<String>::new());
        }
    }

    #[test]
    fn a_layer_that_reaches_across_is_seen() {
        let source = Source::new("gateway/src/edge/connection.rs", "use fjall::Keyspace;");
        assert_eq!(check_layers(&source).len(), 1);
        let source = Source::new("gateway/src/processor.rs", "let c: quinn::Connection;");
        assert_eq!(check_layers(&source).len(), 1);
        let source = Source::new("gateway/src/store/fjall.rs", "use fjall::Keyspace;");
        assert!(check_layers(&source).is_empty());
    }
}
