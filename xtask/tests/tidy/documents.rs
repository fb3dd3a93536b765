//! The documents: links that lead somewhere, no folder of one machine, and the pages that must be there.

/// Files that a newcomer, a packager or a lawyer looks for.
const EXPECTED: &[&str] = &[
    ".ci/run",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "deny.toml",
];

/// Complains about pages that are missing.
pub(crate) fn check_presence(paths: &[String]) -> Vec<String> {
    EXPECTED
        .iter()
        .filter(|expected| !paths.iter().any(|path| path == *expected))
        .map(|expected| format!("{expected} is missing"))
        .collect()
}

/// Complains about absolute paths that exist on one machine only.
pub(crate) fn check_paths(path: &str, text: &str) -> Vec<String> {
    // Built here, so that this file does not name them.
    let banned = ["work", "root", "home", "Users"].map(|folder| format!("/{folder}/"));
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for folder in &banned {
            let absolute = line.match_indices(folder.as_str()).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|c| !(c.is_alphanumeric() || "._-/}>)~*".contains(c)))
            });
            if absolute {
                complaints.push(format!(
                    "{path}:{}: {folder} is a folder of one machine: write a path from the workspace's root",
                    index + 1
                ));
            }
        }
    }
    complaints
}

/// Complains about links of a Markdown page to files and headings that are not there.
pub(crate) fn check_links(
    path: &str,
    text: &str,
    exists: impl Fn(&str) -> bool,
    text_of: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for (line, target) in links(text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        let file = if file.is_empty() {
            path.to_owned()
        } else {
            resolve(path, file)
        };
        if !exists(&file) {
            complaints.push(format!("{path}:{line}: the link to {target} leads nowhere"));
        } else if !heading.is_empty() {
            let page = if file == path {
                Some(text.to_owned())
            } else {
                text_of(&file)
            };
            let found = page.is_some_and(|page| anchors(&page).any(|anchor| anchor == heading));
            if !found {
                complaints.push(format!("{path}:{line}: {file} has no heading #{heading}"));
            }
        }
    }
    complaints
}

/// The targets of `[text](target)` outside code, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (line, content) in prose(text) {
        let mut code = false;
        let mut at = 0;
        while at < content.len() {
            let rest = &content[at..];
            if rest.starts_with('`') {
                code = !code;
            } else if !code
                && let Some(target) = rest.strip_prefix("](")
                && let Some(end) = target.find(')')
            {
                let target = target[..end].split_whitespace().next().unwrap_or_default();
                found.push((line, target));
            }
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

/// Lines outside fenced code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((index + 1, line))
    })
}

/// The anchors that a page's headings make.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            line.trim_start_matches('#')
                .trim()
                .chars()
                .filter_map(|c| match c {
                    ' ' => Some('-'),
                    '-' | '_' => Some(c),
                    c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
                    _ => None,
                })
                .collect()
        })
}

/// A target relative to a page, as a path from the root.
fn resolve(page: &str, target: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::{check_links, check_paths, check_presence};

    fn link_complaints(text: &str) -> Vec<String> {
        check_links(
            "docs/a.md",
            text,
            |path| path == "docs/b.md" || path == "docs/a.md",
            |_| Some("# The first, part".to_owned()),
        )
    }

    #[test]
    fn dead_links_are_seen() {
        for text in [
            "[x](missing.md)",
            "[x](../b.md)",
            "[x](b.md#the-second)",
            "[x](#nowhere)",
        ] {
            assert_eq!(link_complaints(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn live_links_are_not() {
        for text in [
            "[x](b.md) [y](../docs/b.md)",
            "[x](b.md#the-first-part)",
            "[x](https://example.org/missing)",
            "`[x](missing.md)`",
            "```\n[x](missing.md)\n```",
            "# Here\n[x](#here)",
        ] {
            assert_eq!(link_complaints(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn machine_paths_are_seen() {
        let folder = |name: &str| format!("see /{name}/x for it");
        assert_eq!(check_paths("a.md", &folder("home")).len(), 1);
        assert_eq!(check_paths("a.md", &folder("work")).len(), 1);
        assert!(check_paths("a.md", &folder("tmp")).is_empty());
        assert!(check_paths("a.md", "https://example.org/home/x").is_empty());
    }

    #[test]
    fn missing_pages_are_seen() {
        assert!(
            check_presence(&["README.md".to_owned()])
                .contains(&"CHANGELOG.md is missing".to_owned())
        );
    }
}
