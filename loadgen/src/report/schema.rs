//! The committed JSON schema is held against reports, by a checker of the part of JSON Schema that it uses.

use serde_json::Value;

use super::model::{JSON_SCHEMA, Report, SCHEMA};
use super::sample;

/// Keywords that say nothing about values.
const WORDS: [&str; 4] = ["$schema", "$defs", "title", "description"];

/// Complaints about `value`, each with its path.
fn check(root: &Value, schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    let keywords = schema.as_object().expect("a schema is an object");
    for (keyword, rule) in keywords {
        let complaint =
            match keyword.as_str() {
                word if WORDS.contains(&word) => None,
                "type" => (!is_of_type(rule, value)).then(|| format!("is no {rule}")),
                "const" => (value != rule).then(|| format!("is not {rule}")),
                "enum" => (!rule.as_array().unwrap().contains(value))
                    .then(|| format!("is none of {rule}")),
                "minimum" => value
                    .as_f64()
                    .filter(|number| *number < rule.as_f64().unwrap())
                    .map(|_| format!("is below {rule}")),
                "pattern" => (!matches(rule.as_str().unwrap(), value))
                    .then(|| format!("does not match {rule}")),
                "required" => {
                    let absent = |name: &&Value| value.get(name.as_str().unwrap()).is_none();
                    rule.as_array()
                        .unwrap()
                        .iter()
                        .find(absent)
                        .map(|name| format!("lacks {name}"))
                }
                "$ref" => {
                    let target = root.pointer(rule.as_str().unwrap().trim_start_matches('#'));
                    out.extend(check(
                        root,
                        target.expect("a reference that exists"),
                        value,
                        path,
                    ));
                    None
                }
                "anyOf" => {
                    let fits = |one: &Value| check(root, one, value, path).is_empty();
                    (!rule.as_array().unwrap().iter().any(fits))
                        .then(|| "fits no alternative".to_owned())
                }
                "items" => {
                    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                        out.extend(check(root, rule, item, &format!("{path}[{at}]")));
                    }
                    None
                }
                // Together, since the second means "besides those of the first".
                "properties" | "additionalProperties" => {
                    out.extend(check_members(root, keywords, keyword, value, path));
                    None
                }
                unknown => panic!("the checker does not know the keyword {unknown}"),
            };
        out.extend(complaint.map(|complaint| format!("{path} {complaint}")));
    }
    out
}

fn check_members(
    root: &Value,
    keywords: &serde_json::Map<String, Value>,
    keyword: &str,
    value: &Value,
    path: &str,
) -> Vec<String> {
    let named = keywords.get("properties").and_then(Value::as_object);
    let mut out = Vec::new();
    for (name, member) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let known = named.and_then(|named| named.get(name));
        match (keyword, known, &keywords[keyword]) {
            ("properties", Some(rule), _) => out.extend(check(root, rule, member, &path)),
            ("additionalProperties", None, Value::Bool(false)) => {
                out.push(format!("{path} is not in the schema"));
            }
            ("additionalProperties", None, rule) => out.extend(check(root, rule, member, &path)),
            _ => {}
        }
    }
    out
}

fn is_of_type(rule: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    };
    match rule {
        Value::Array(all) => all.iter().any(is),
        one => is(one),
    }
}

/// The two patterns that the schema uses.
fn matches(pattern: &str, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    match pattern {
        "^HIST" => text.starts_with("HIST"),
        "^[0-9]+$" => !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()),
        other => panic!("the checker does not know the pattern {other}"),
    }
}

fn complaints(report: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(JSON_SCHEMA).unwrap();
    check(&schema, &schema, report, "report")
}

/// A report with something in every place.
fn full() -> Value {
    let mut report = sample::report();
    report.ceiling.insert("login_rate".to_owned(), 1.0);
    report.verdict.invalid.push("for the test".to_owned());
    report.finish(&["p99_deliver<1ms".parse().unwrap()]);
    serde_json::from_str(&report.to_json()).unwrap()
}

#[test]
fn a_report_is_as_its_schema_says() {
    assert_eq!(complaints(&full()), Vec::<String>::new());
    let schema: Value = serde_json::from_str(JSON_SCHEMA).unwrap();
    assert_eq!(schema["properties"]["schema"]["const"], SCHEMA);
}

#[test]
fn what_is_not_is_found() {
    type Edit = fn(&mut Value);
    let edits: [(Edit, &str); 9] = [
        (
            |r| r["extra"] = 1.into(),
            "report.extra is not in the schema",
        ),
        (|r| r["schema"] = "other".into(), "report.schema is not"),
        (
            |r| r["run"]["seed"] = "x".into(),
            "report.run.seed does not match",
        ),
        (
            |r| r["run"]["ended"] = "x".into(),
            "report.run.ended is none of",
        ),
        (
            |r| r["phases"][1]["sent"] = (-1).into(),
            "report.phases[1].sent is below 0",
        ),
        (
            |r| r["phases"][1]["sent"] = 1.5.into(),
            "report.phases[1].sent is no",
        ),
        (
            |r| r["phases"][2]["storm"]["back"] = "x".into(),
            "report.phases[2].storm fits no",
        ),
        (|r| r["failures"]["x"] = 1.into(), "report.failures.x is no"),
        (
            |r| drop(r["totals"].as_object_mut().unwrap().remove("acked")),
            "report.totals lacks",
        ),
    ];
    for (edit, expected) in edits {
        let mut report = full();
        edit(&mut report);
        let found = complaints(&report);
        assert!(
            found.iter().any(|one| one.starts_with(expected)),
            "{expected}: {found:?}"
        );
    }
}

#[test]
fn the_schema_describes_nothing_that_no_report_has() {
    let schema: Value = serde_json::from_str(JSON_SCHEMA).unwrap();
    let text = full().to_string();
    let mut named = Vec::new();
    names(&schema, &mut named);
    assert!(named.len() > 80, "{named:?}");
    for name in named {
        assert!(
            text.contains(&format!("\"{name}\":")),
            "no report has {name}"
        );
    }
}

fn names(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(members) => {
            for (name, member) in members {
                if name == "properties" {
                    out.extend(member.as_object().unwrap().keys().cloned());
                }
                names(member, out);
            }
        }
        Value::Array(all) => all.iter().for_each(|one| names(one, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_report_survives_its_file() {
    let report = sample::report();
    assert_eq!(Report::parse(&report.to_json()).unwrap(), report);
}

#[test]
fn files_that_are_no_reports_are_refused_with_the_reason() {
    let other = full()
        .to_string()
        .replace(SCHEMA, "quipu-loadgen/report/99");
    for (text, complaint) in [
        ("", "not JSON"),
        ("{}", "does not say \"schema\""),
        (other.as_str(), "use the program that wrote it"),
        (
            r#"{"schema":"quipu-loadgen/report/1"}"#,
            "not as its schema says",
        ),
    ] {
        let error = Report::parse(text).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
}

/// Metrics by which gates go must be in the JSON under the same name.
#[test]
fn every_metric_is_in_a_report_of_a_run_that_has_everything() {
    let json = full();
    let mut absent: Vec<String> = super::metrics::definitions()
        .into_iter()
        .map(|definition| definition.name)
        .filter(|name| json["metrics"].get(name).is_none())
        .collect();
    // The last two of the sample's thousand did not come back.
    absent.retain(|name| name != "back_100");
    assert_eq!(absent, Vec::<String>::new());
    let stored = sample::report();
    assert_eq!(super::metrics::of_run(&stored), stored.metrics);
}
