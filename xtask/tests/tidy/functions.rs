//! How long functions get: a ratchet that only tightens.

use crate::source::{Source, end_of_block};

/// Lines of a function, signature and braces included, above which it needs a place in `LONG`.
const LINES_MAX: usize = 100;

/// Functions that are longer, as (file, function, why it is not cut). An entry that no longer matches fails.
const LONG: &[(&str, &str, &str)] = &[];

/// Complains about long functions, and about entries of `LONG` that are not needed any more.
pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    check_against(sources, LONG)
}

fn check_against(sources: &[Source], long: &[(&str, &str, &str)]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut used = vec![false; long.len()];
    for source in sources {
        for function in functions(source) {
            if function.lines <= LINES_MAX {
                continue;
            }
            let entry = long
                .iter()
                .position(|(path, name, _)| *path == source.path && *name == function.name);
            match entry {
                Some(index) => used[index] = true,
                None => complaints.push(format!(
                    "{}:{}: `{}` has {} lines; find its natural cut (near 70), or list it in LONG with the reason",
                    source.path, function.line, function.name, function.lines
                )),
            }
        }
    }
    for (entry, used) in long.iter().zip(used) {
        if !used {
            complaints.push(format!(
                "{}: `{}` is not long any more: remove it from LONG",
                entry.0, entry.1
            ));
        }
    }
    complaints
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

fn functions(source: &Source) -> Vec<Function> {
    let code = &source.code;
    source
        .find("fn ")
        .into_iter()
        .filter(|at| *at == 0 || !is_word(code.as_bytes()[at - 1]))
        .filter_map(|at| {
            let rest = &code[at + 3..];
            let name: String = rest
                .bytes()
                .take_while(|byte| is_word(*byte))
                .map(char::from)
                .collect();
            if name.is_empty() {
                return None;
            }
            // A body opens before anything ends the item; `[u8; 4]` in a signature does not end it.
            let mut depth = 0i32;
            let open = rest.bytes().position(|byte| {
                match byte {
                    b'(' | b'[' => depth += 1,
                    b')' | b']' => depth -= 1,
                    _ => {}
                }
                depth == 0 && matches!(byte, b'{' | b';')
            })?;
            if rest.as_bytes()[open] == b';' {
                return None;
            }
            let end = end_of_block(code, at + 3 + open);
            Some(Function {
                name,
                line: source.line(at),
                lines: code[at..end].matches('\n').count() + 1,
            })
        })
        .collect()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::check_against;
    use crate::source::Source;

    fn long_function(lines: usize) -> Source {
        let body = "    step();\n".repeat(lines - 2);
        Source::new(
            "a/src/b.rs",
            &format!("fn short(x: [u8; 4]) {{ }}\npub fn endless(x: [u8; 4]) {{\n{body}}}\n"),
        )
    }

    #[test]
    fn a_long_function_is_seen() {
        let complaints = check_against(&[long_function(101)], &[]);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].starts_with("a/src/b.rs:2: `endless` has 101 lines"));
        assert!(check_against(&[long_function(100)], &[]).is_empty());
    }

    #[test]
    fn a_listed_function_passes_until_it_is_short() {
        let long = [("a/src/b.rs", "endless", "a table")];
        assert!(check_against(&[long_function(101)], &long).is_empty());
        assert_eq!(check_against(&[long_function(50)], &long).len(), 1);
    }
}
