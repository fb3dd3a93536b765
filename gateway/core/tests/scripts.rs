//! Golden scripts over the machines: a line that begins with `>` is an instruction, the lines after it are what follows.
//!
//! `QUIPU_BLESS=1 cargo test -p quipu-core --test scripts` writes what follows now; review the difference like code.

mod runners;
mod support;

use std::fmt::Write;
use std::path::Path;

/// One kind of script: the state that its instructions change.
trait Machine: Default {
    /// Carries out one instruction and says what followed, one line each.
    fn run(&mut self, instruction: &str) -> Result<Vec<String>, String>;
}

#[test]
fn shard_scripts() {
    check::<runners::shard::Cluster>("shard");
}

#[test]
fn delivery_scripts() {
    check::<runners::delivery::Session>("delivery");
}

fn check<M: Machine>(folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/scripts")
        .join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {}", folder.display());
    let bless = std::env::var_os("QUIPU_BLESS").is_some();
    let mut differing = String::new();
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        let played = play::<M>(&script).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if played == script {
            continue;
        }
        if bless {
            std::fs::write(&path, played).unwrap();
            continue;
        }
        let line = script
            .lines()
            .zip(played.lines())
            .take_while(|(a, b)| a == b)
            .count();
        writeln!(
            differing,
            "{}:{}\n  script: {}\n  played: {}",
            path.display(),
            line + 1,
            script.lines().nth(line).unwrap_or("(end)"),
            played.lines().nth(line).unwrap_or("(end)"),
        )
        .unwrap();
    }
    assert!(
        differing.is_empty(),
        "scripts play differently:\n{differing}"
    );
}

/// Plays the instructions of a script; comments, blank lines and instructions stay where they are.
fn play<M: Machine>(script: &str) -> Result<String, String> {
    let mut machine = M::default();
    let mut played = String::new();
    for line in script.lines() {
        if let Some(instruction) = line.strip_prefix("> ") {
            played.push_str(line);
            played.push('\n');
            let followed = machine
                .run(instruction)
                .map_err(|e| format!("`{instruction}`: {e}"))?;
            for line in followed {
                writeln!(played, "  {line}").unwrap();
            }
        } else if line.is_empty() || line.starts_with('#') {
            played.push_str(line);
            played.push('\n');
        }
    }
    Ok(played)
}
