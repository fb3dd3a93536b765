//! Whether runs may be compared: the same machine, settings and configuration, and only the program under test another.

use serde_json::Value;

use crate::report::environment::Environment;
use crate::report::model::Report;

/// Parts of a configuration in which repeated runs may differ.
const FREE: [&str; 1] = ["seed"];
/// Memory that a kernel update may take away or give back without its being another machine, in percent.
const MEMORY_TOLERANCE_PERCENT: u64 = 2;

/// Everything in which any of the runs differs from the first: a sentence each.
pub(crate) fn differences(base: &[Report], new: &[Report]) -> Vec<String> {
    let mut all = Vec::new();
    let Some(first) = base.first() else {
        return all;
    };
    for other in base.iter().chain(new).skip(1) {
        environments(&first.environment, &other.environment, &mut all);
        configurations(
            "configuration",
            &first.configuration,
            &other.configuration,
            &mut all,
        );
        if first.run.scenario != other.run.scenario {
            all.push(line("scenario", &first.run.scenario, &other.run.scenario));
        }
    }
    all.sort();
    all.dedup();
    all
}

fn line(what: &str, one: &str, other: &str) -> String {
    format!("{what}: {one} and {other}")
}

/// Versions and the git revision are what a comparison is about, and may differ.
fn environments(one: &Environment, other: &Environment, out: &mut Vec<String>) {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let number = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    for (what, a, b) in [
        ("kernel", one.kernel.clone(), other.kernel.clone()),
        ("processor", one.cpu_model.clone(), other.cpu_model.clone()),
        ("cores", one.cores.to_string(), other.cores.to_string()),
        (
            "governor",
            text(&one.cpu_governor),
            text(&other.cpu_governor),
        ),
        (
            "open files",
            number(one.open_files_max),
            number(other.open_files_max),
        ),
        (
            "optimised build",
            one.optimised.to_string(),
            other.optimised.to_string(),
        ),
        (
            "gateway on this machine",
            one.gateway_is_local.to_string(),
            other.gateway_is_local.to_string(),
        ),
    ] {
        if a != b {
            out.push(line(what, &a, &b));
        }
    }
    let apart = one.memory_bytes.abs_diff(other.memory_bytes);
    if apart * 100 > one.memory_bytes.max(other.memory_bytes) * MEMORY_TOLERANCE_PERCENT {
        out.push(line(
            "memory in bytes",
            &one.memory_bytes.to_string(),
            &other.memory_bytes.to_string(),
        ));
    }
    for name in one.sysctls.keys().chain(other.sysctls.keys()) {
        let (a, b) = (one.sysctls.get(name), other.sysctls.get(name));
        if a != b {
            out.push(line(name, &text(&a.cloned()), &text(&b.cloned())));
        }
    }
}

/// Walks two configurations and names each leaf that differs.
fn configurations(path: &str, one: &Value, other: &Value, out: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                if FREE.contains(&key.as_str()) {
                    continue;
                }
                let absent = Value::Null;
                configurations(
                    &format!("{path}.{key}"),
                    a.get(key).unwrap_or(&absent),
                    b.get(key).unwrap_or(&absent),
                    out,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                configurations(&format!("{path}[{at}]"), a, b, out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(line(path, &a.to_string(), &b.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn between(change: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut other = sample::report();
        change(&mut other);
        differences(&[sample::report()], &[other])
    }

    #[test]
    fn another_machine_is_seen() {
        assert_eq!(between(|_| {}), Vec::<String>::new());
        let found = between(|other| other.environment.cores = 64);
        assert_eq!(found, ["cores: 2 and 64"]);
        let found = between(|other| {
            let sysctls = &mut other.environment.sysctls;
            sysctls.insert("net.core.rmem_max".to_owned(), "8388608".to_owned());
        });
        assert_eq!(found, ["net.core.rmem_max: 212992 and 8388608"]);
        assert_eq!(
            between(|other| other.environment.memory_bytes = 8 << 30).len(),
            1
        );
        assert_eq!(
            between(|other| other.environment.memory_bytes -= 1 << 20).len(),
            0
        );
        assert_eq!(
            between(|other| other.environment.optimised = false).len(),
            1
        );
    }

    #[test]
    fn another_configuration_is_seen_and_named() {
        let found = between(|other| {
            other.configuration =
                serde_json::json!({"name": "example", "seed": 7, "connections": 5, "x": [1]});
        });
        assert_eq!(
            found,
            [
                "configuration.connections: 1000 and 5",
                "configuration.x: null and [1]"
            ]
        );
    }

    #[test]
    fn another_program_and_seed_are_not() {
        let found = between(|other| {
            other.environment.git_revision = None;
            other.environment.versions.clear();
            other.run.seed = "43".to_owned();
            other.configuration["seed"] = 43.into();
        });
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn runs_of_one_side_are_held_against_each_other_too() {
        let mut odd = sample::report();
        odd.run.scenario = "other".to_owned();
        let found = differences(&[sample::report(), odd], &[sample::report()]);
        assert_eq!(found, ["scenario: example and other"]);
    }
}
