//! House rules as tests: what every file opens with, how long functions get, which calls have a better substitute.
//!
//! Each rule is a function from text to complaints, tested on small bad texts beside it; `main.rs` applies it to the tree.

mod crates;
mod documents;
mod functions;
mod source;
mod words;

use std::path::{Path, PathBuf};
use std::process::Command;

use source::Source;

/// The workspace's root folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

/// Every file of the project as (path from the root, text); files that are not text are left out.
///
/// Git knows which they are. A copy without git is walked instead.
fn files() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut paths: Vec<String> = match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .map(str::to_owned)
                .collect()
        }
        _ => {
            let mut paths = Vec::new();
            walk(&root(), &mut paths);
            paths
        }
    };
    paths.sort();
    paths
        .into_iter()
        .filter_map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).ok()?;
            Some((path, text))
        })
        .collect()
}

fn walk(folder: &Path, paths: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if !["target", ".git", "quipu-data"].contains(&name.to_string_lossy().as_ref()) {
                walk(&path, paths);
            }
        } else if let Ok(relative) = path.strip_prefix(root()) {
            paths.push(relative.to_string_lossy().into_owned());
        }
    }
}

/// Every Rust file that a person writes.
fn sources() -> Vec<Source> {
    let sources: Vec<Source> = files()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| Source::new(&path, &text))
        .filter(|source| !source.is_generated())
        .collect();
    assert!(sources.len() > 10, "the tree is there: {}", sources.len());
    sources
}

/// Fails with every complaint, one a line, each saying what to do.
fn judge(complaints: Vec<String>) {
    assert!(
        complaints.is_empty(),
        "\n\n{}\n\n{} to tidy up; CONTRIBUTING.md has the rules and their reasons.\n",
        complaints.join("\n"),
        complaints.len()
    );
}

#[test]
fn files_say_what_they_are_for() {
    judge(sources().iter().filter_map(source::check_opening).collect());
}

#[test]
fn functions_fit_a_screen() {
    judge(functions::check(&sources()));
}

#[test]
fn calls_with_a_better_substitute_are_not_used() {
    judge(sources().iter().flat_map(words::check).collect());
}

#[test]
fn sleeps_and_ignored_tests_give_a_reason() {
    judge(sources().iter().flat_map(words::check_reasons).collect());
}

#[test]
fn layers_import_downwards() {
    let mut complaints: Vec<String> = sources().iter().flat_map(crates::check_layers).collect();
    let manifests: Vec<(String, String)> = files()
        .into_iter()
        .filter(|(path, _)| path.ends_with("/Cargo.toml"))
        .collect();
    complaints.extend(crates::check_manifests(&manifests));
    judge(complaints);
}

#[test]
fn links_lead_somewhere() {
    let files = files();
    let exists = |path: &str| root().join(path).exists();
    let text_of = |path: &str| std::fs::read_to_string(root().join(path)).ok();
    judge(
        files
            .iter()
            .filter(|(path, _)| path.ends_with(".md"))
            .flat_map(|(path, text)| documents::check_links(path, text, exists, text_of))
            .collect(),
    );
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    judge(
        files()
            .iter()
            .flat_map(|(path, text)| documents::check_paths(path, text))
            .collect(),
    );
}

#[test]
fn the_documents_are_there() {
    let paths: Vec<String> = files().into_iter().map(|(path, _)| path).collect();
    judge(documents::check_presence(&paths));
}
