//! Calls that have a better substitute, and calls that need a reason beside them.

use crate::source::Source;

/// Where a rule looks.
struct Rule {
    /// The call, as it is written.
    call: &'static str,
    /// Path prefixes; empty: everywhere.
    within: &'static [&'static str],
    /// Parts of paths where it is allowed.
    except: &'static [&'static str],
    /// Whether test code may use it.
    tests_may: bool,
    /// What to write instead, and why.
    instead: &'static str,
}

const LIBRARIES: &[&str] = &[
    "protocol/src/",
    "gateway/core/src/",
    "gateway/src/",
    "client/src/",
];
const DETERMINISTIC: &[&str] = &["protocol/src/", "gateway/core/src/"];

const RULES: &[Rule] = &[
    Rule {
        call: "unbounded_channel",
        within: &[],
        except: &[],
        tests_may: true,
        instead: "`mpsc::channel(NAME_MAX)`: every queue has a named bound and a behaviour at the bound",
    },
    Rule {
        call: "mpsc::channel()",
        within: &[],
        except: &[],
        tests_may: true,
        instead: "`mpsc::sync_channel(NAME_MAX)`: every queue has a named bound and a behaviour at the bound",
    },
    Rule {
        call: ".unwrap()",
        within: LIBRARIES,
        except: &[],
        tests_may: true,
        instead: "an error for what a peer, a disk or a user can cause, else `expect` with the reason why it holds",
    },
    Rule {
        call: "println!",
        within: LIBRARIES,
        except: &["gateway/src/main.rs"],
        tests_may: true,
        instead: "`tracing` for events, or a return value that `main` prints: a library does not own the terminal",
    },
    Rule {
        call: "process::exit",
        within: &[],
        except: &["main.rs"],
        tests_may: true,
        instead: "a returned error or ExitCode: only `main` ends a process, after everything was dropped",
    },
    Rule {
        call: "Instant::now",
        within: DETERMINISTIC,
        except: &[],
        tests_may: true,
        instead: "an argument `now: Instant`: one seed must replay everything",
    },
    Rule {
        call: "SystemTime",
        within: DETERMINISTIC,
        except: &[],
        tests_may: true,
        instead: "an argument `TimestampMs`: one seed must replay everything",
    },
    Rule {
        call: "HashMap",
        within: DETERMINISTIC,
        except: &[],
        tests_may: true,
        instead: "`BTreeMap`: nothing here may depend on the order of hashes",
    },
    Rule {
        call: "HashSet",
        within: DETERMINISTIC,
        except: &[],
        tests_may: true,
        instead: "`BTreeSet`: nothing here may depend on the order of hashes",
    },
    Rule {
        call: "danger_accept_invalid",
        within: &[],
        except: &[],
        tests_may: false,
        instead: "a pinned certificate: a connection that trusts anyone is worse than none",
    },
];

/// Complains about each banned call in a file.
pub(crate) fn check(source: &Source) -> Vec<String> {
    // This file names them all.
    if source.path.ends_with("tidy/words.rs") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for rule in RULES {
        let looked_at = rule.within.is_empty()
            || rule
                .within
                .iter()
                .any(|start| source.path.starts_with(start));
        if !looked_at || rule.except.iter().any(|part| source.path.contains(part)) {
            continue;
        }
        for at in source.find(rule.call) {
            if rule.tests_may && source.is_test(at) {
                continue;
            }
            complaints.push(format!(
                "{}:{}: instead of `{}` use {}",
                source.path,
                source.line(at),
                rule.call,
                rule.instead
            ));
        }
    }
    complaints
}

/// Complains about sleeps in tests without a comment, and ignored tests without a reason.
pub(crate) fn check_reasons(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for at in source.find("sleep(") {
        if source.is_test(at) && !source.has_reason(at) {
            complaints.push(format!(
                "{}:{}: wait for a condition; where a poll needs a sleep, say why in a comment on the line above",
                source.path,
                source.line(at)
            ));
        }
    }
    for at in source.find("#[ignore]") {
        complaints.push(format!(
            "{}:{}: write `#[ignore = \"the reason, and how to run it\"]`",
            source.path,
            source.line(at)
        ));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::{check, check_reasons};
    use crate::source::Source;

    fn complaints(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn banned_calls_are_seen() {
        for (path, text) in [
            (
                "loadgen/src/a.rs",
                "let (a, b) = mpsc::unbounded_channel();",
            ),
            (
                "tui-client/src/a.rs",
                "let (a, b) = std::sync::mpsc::channel();",
            ),
            ("client/src/a.rs", "let x = y.unwrap();"),
            ("gateway/src/a.rs", "eprintln!(\"x\");"),
            ("gateway/src/a.rs", "std::process::exit(1)"),
            ("protocol/src/a.rs", "let t = Instant::now();"),
            ("gateway/core/src/a.rs", "use std::collections::HashMap;"),
        ] {
            assert_eq!(complaints(path, text), 1, "{path}: {text}");
        }
    }

    #[test]
    fn allowed_calls_are_not() {
        for (path, text) in [
            (
                "client/src/a.rs",
                "#[cfg(test)] mod tests { fn a() { b.unwrap() } }",
            ),
            (
                "client/src/a.rs",
                "// never .unwrap() here\nlet a = \".unwrap()\";",
            ),
            ("client/tests/a.rs", "a.unwrap()"),
            (
                "gateway/src/main.rs",
                "println!(\"ready\"); std::process::exit(1)",
            ),
            ("gateway/src/a.rs", "let t = Instant::now();"),
            ("client/src/a.rs", "a.unwrap_or_default()"),
        ] {
            assert_eq!(complaints(path, text), 0, "{path}: {text}");
        }
    }

    #[test]
    fn a_sleep_without_a_reason_is_seen() {
        let count = |path, text| check_reasons(&Source::new(path, text)).len();
        assert_eq!(count("a/tests/b.rs", "fn c() {\n    sleep(d);\n}"), 1);
        assert_eq!(
            count("a/tests/b.rs", "fn c() {\n    // A poll.\n    sleep(d);\n}"),
            0
        );
        assert_eq!(count("a/src/b.rs", "fn c() {\n    sleep(d);\n}"), 0);
    }

    #[test]
    fn an_ignored_test_without_a_reason_is_seen() {
        let count = |text| check_reasons(&Source::new("a/src/b.rs", text)).len();
        assert_eq!(count("#[ignore]\nfn c() {}"), 1);
        assert_eq!(
            count("#[ignore = \"slow: run with --ignored\"]\nfn c() {}"),
            0
        );
    }
}
