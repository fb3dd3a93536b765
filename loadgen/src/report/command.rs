//! The commands that read reports: show, check, compare, and the list of metrics.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::compare::{Comparison, Percent};
use super::gate::Gate;
use super::model::Report;
use super::{compare, html, markdown, metrics, text};

/// Reports could not be compared: another machine or another configuration.
const EXIT_NOT_COMPARABLE: u8 = 3;
/// A gate was missed.
const EXIT_GATE_MISSED: u8 = 1;

/// What a report can be shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For a terminal
    Text,
    /// For a pull request
    Markdown,
    /// One page with charts, without anything from elsewhere
    Html,
    /// As it was stored
    Json,
}

/// Shows a stored report; with gates, judges it by them.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A report, as `--json` wrote it
    file: PathBuf,
    /// As what
    #[arg(long = "as", value_enum, default_value_t = Form::Text)]
    form: Form,
    /// Write it to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Judge by this gate instead of the run's own, such as 'p99_deliver<10ms'; more than one may be given
    #[arg(long, value_name = "GATE")]
    gate: Vec<Gate>,
    /// Put the transport's ceiling beside the run's numbers: what `quipu-loadgen ceiling` printed on this machine
    #[arg(long, value_name = "FILE")]
    ceiling: Option<PathBuf>,
}

impl Show {
    /// Does it and says the exit code: that of the run.
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let mut report = read(&self.file)?;
        if !self.gate.is_empty() {
            report.judge(&self.gate);
        }
        if let Some(path) = &self.ceiling {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("read {}", path.display()))?;
            serde_json::from_str(&text)
                .context("not JSON")
                .and_then(|ceiling| report.set_ceiling(&ceiling))
                .with_context(|| format!("read {}", path.display()))?;
        }
        let shown = match self.form {
            Form::Text => text::render(&report),
            Form::Markdown => markdown::render(&report),
            Form::Html => html::report(&report),
            Form::Json => report.to_json(),
        };
        write(self.output.as_deref(), &shown)?;
        Ok(report.verdict.outcome.exit_code())
    }
}

/// Compares runs before a change with runs after it.
///
/// Exit code 0: nothing is worse than the gate allows. 1: something is. 2: a run had faults or was invalid. 3: the runs are not
/// comparable.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// A report before the change and one after it
    #[arg(num_args = 2, value_names = ["BASE", "NEW"], required_unless_present_all = ["base", "new"])]
    files: Vec<PathBuf>,
    /// Several reports before the change; five or more give an interval that means something
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "new", conflicts_with = "files")]
    base: Vec<PathBuf>,
    /// Several reports after it
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "base", conflicts_with = "files")]
    new: Vec<PathBuf>,
    /// How much worse a metric may be, such as 5%
    #[arg(long, value_name = "PERCENT")]
    gate: Option<Percent>,
    /// Judge only this metric by the gate; more than one may be given. Without it: all that have a better direction
    #[arg(long, value_name = "NAME", requires = "gate", value_parser = known_metric)]
    metric: Vec<String>,
    /// Compare although machine or configuration differ
    #[arg(long)]
    force: bool,
    /// As what
    #[arg(long = "as", value_enum, default_value_t = Form::Text)]
    form: Form,
    /// Also write a page with both runs' charts over each other
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn known_metric(name: &str) -> Result<String, String> {
    match metrics::definition(name) {
        Some(known) => Ok(known.name),
        None => Err(format!(
            "there is no metric {name:?}; `quipu-loadgen metrics` lists them all"
        )),
    }
}

impl Compare {
    /// Does it and says the exit code.
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let (base, new) = match self.files.as_slice() {
            [base, new] => (vec![base.clone()], vec![new.clone()]),
            _ => (self.base.clone(), self.new.clone()),
        };
        let base = read_all(&base)?;
        let new = read_all(&new)?;
        let differences = compare::differences(&base, &new);
        if !differences.is_empty() && !self.force {
            eprintln!("These runs are not comparable (--force compares them all the same):");
            for difference in differences {
                eprintln!("  {difference}");
            }
            return Ok(EXIT_NOT_COMPARABLE);
        }
        let comparison = Comparison::of(&base, &new, self.gate, &self.metric, differences);
        let shown = match self.form {
            Form::Text => comparison.text(),
            Form::Markdown => comparison.markdown(),
            Form::Html => html::comparison(&comparison, &base, &new),
            Form::Json => comparison.json(),
        };
        write(None, &shown)?;
        if let Some(path) = &self.html {
            write(Some(path), &html::comparison(&comparison, &base, &new))?;
        }
        Ok(comparison.exit_code(EXIT_GATE_MISSED))
    }
}

/// All metrics with their units, as a Markdown table.
pub(crate) fn list_metrics() -> String {
    let mut out =
        String::from("| metric | unit | better | of a phase too | what |\n|---|---|---|---|---|\n");
    for definition in metrics::definitions() {
        let better = match definition.better {
            metrics::Better::Lower => "lower",
            metrics::Better::Higher => "higher",
            metrics::Better::Neither => "",
        };
        out.push_str(&format!(
            "| `{}` | {} | {better} | {} | {} |\n",
            definition.name,
            definition.unit.symbol(),
            if definition.of_phases() { "yes" } else { "" },
            definition.what
        ));
    }
    out
}

fn read_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Report>> {
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Report::parse(&text).with_context(|| format!("read {}", path.display()))
}

/// Writes to a file, or to standard output.
pub(crate) fn write(path: Option<&Path>, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match path {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
        }
        None => {
            let mut out = std::io::stdout().lock();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                // Whoever reads us may have seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                other => other.context("write to standard output"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::report::sample;

    #[derive(Parser)]
    enum Command {
        Show(Show),
        Compare(Compare),
    }

    /// Runs a command line on files in a folder of its own: `a` is the sample, `b` the same twice as slow, `c` of another machine,
    /// `d` with a fault. Says the exit code.
    fn run(line: &str) -> anyhow::Result<u8> {
        let folder = tempfile::tempdir()?;
        let mut other_machine = sample::report();
        other_machine.environment.cores = 64;
        let mut faulty = sample::report();
        faulty.verdict.faults.insert("lost".to_owned(), 1);
        faulty.finish(&[]);
        let reports = [
            ("a", sample::report()),
            ("b", sample::scaled(2)),
            ("c", other_machine),
            ("d", faulty),
        ];
        for (name, report) in reports {
            std::fs::write(folder.path().join(name), report.to_json())?;
        }
        let words = line.split(' ').map(|word| match word.strip_prefix('@') {
            Some(file) => folder.path().join(file).display().to_string(),
            None => word.to_owned(),
        });
        match Command::try_parse_from(std::iter::once("test".to_owned()).chain(words))? {
            Command::Show(show) => show.run(),
            Command::Compare(compare) => compare.run(),
        }
    }

    #[test]
    fn exit_codes_say_what_came_of_it() {
        for (line, code) in [
            ("show @a -o @out", 0),
            ("show @a -o @out --as html --gate p99_deliver<10ms", 0),
            ("show @a -o @out --as markdown --gate p99_deliver<1us", 1),
            ("show @d -o @out --as json", 2),
            ("compare @a @a --gate 5%", 0),
            ("compare @a @b", 0),
            ("compare @a @b --gate 5%", 1),
            ("compare @a @b --gate 5% --metric login_rate", 0),
            ("compare @b @a --gate 5% --html @out", 0),
            ("compare @a @c", 3),
            ("compare @a @c --force --as json", 0),
            ("compare @a @d --gate 5% --as html", 2),
            (
                "compare --base @a @a --new @b @b @b --gate 5% --as markdown",
                1,
            ),
        ] {
            assert_eq!(run(line).unwrap(), code, "{line}");
        }
    }

    #[test]
    fn wrong_lines_are_refused_with_the_reason() {
        for (line, complaint) in [
            ("show @none", "read "),
            ("show @a --ceiling @b", "quipu-loadgen ceiling"),
            (
                "show @a --gate p99_delivery<1ms",
                "did you mean p99_deliver?",
            ),
            ("compare @a", "2 values"),
            ("compare --base @a", "--new"),
            ("compare @a @b --gate 5", "write it as 5%"),
            (
                "compare @a @b --gate 5% --metric speed",
                "there is no metric",
            ),
            ("compare @a @b --metric p99_deliver", "--gate"),
        ] {
            let error = format!("{:#}", run(line).unwrap_err());
            assert!(error.contains(complaint), "{line}: {error}");
        }
    }

    #[test]
    fn the_list_of_metrics_is_up_to_date() {
        let listed = include_str!("../../schema/metrics.md");
        assert!(
            listed.ends_with(&list_metrics()),
            "put what `quipu-loadgen metrics` prints at the end of loadgen/schema/metrics.md"
        );
    }
}
