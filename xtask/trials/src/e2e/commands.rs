//! The contract of `quipu` without the screen: what scripts may rely on.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Steps;
use crate::gateway::Gateway;
use crate::programs;

/// Exit code of `send` when the gateway is away and the message is kept.
const QUEUED: i32 = 75;
/// What each line of `listen --json` and `history --json` has at least.
const KEYS: [&str; 6] = ["conversation", "from", "id", "sent_at", "seq", "text"];

/// `quipu` with one data folder.
pub(crate) struct Quipu {
    program: PathBuf,
    server: String,
    data: PathBuf,
}

/// How a run of it ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Quipu {
    /// An account of its own in a folder of its own.
    pub(crate) fn new(gateway: &Gateway, folder: &Path, name: &str) -> Result<Self> {
        Ok(Self {
            program: programs::beside("quipu")?,
            server: gateway.address().to_string(),
            data: folder.join(name),
        })
    }

    /// The same, with an account of this name.
    pub(crate) fn registered(gateway: &Gateway, folder: &Path, name: &str) -> Result<Self> {
        let quipu = Self::new(gateway, folder, name)?;
        quipu.good(&["register", name, "--password-stdin"], "correct horse\n")?;
        Ok(quipu)
    }

    /// The program, and the arguments that every run of it has.
    pub(crate) fn screen(&self) -> Result<(&Path, [&str; 4])> {
        let data = self.data.to_str().context("a path in UTF-8")?;
        Ok((&self.program, ["--server", &self.server, "--data", data]))
    }

    /// Starts a command, with pipes for what it reads and says.
    pub(crate) fn start(&self, arguments: &[&str]) -> Result<Child> {
        Command::new(&self.program)
            .arg("--server")
            .arg(&self.server)
            .arg("--data")
            .arg(&self.data)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Result<Ended> {
        let mut child = self.start(arguments)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that reads nothing may have closed it already.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output()?;
        Ok(Ended {
            code: output.status.code().unwrap_or(-1),
            output: String::from_utf8(output.stdout)?,
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must end well, and gives its standard output.
    pub(crate) fn good(&self, arguments: &[&str], input: &str) -> Result<String> {
        let ended = self.run(arguments, input)?;
        ensure!(
            ended.code == 0,
            "quipu {} ended with {}: {}",
            arguments.join(" "),
            ended.code,
            ended.errors
        );
        Ok(ended.output)
    }

    /// Runs a command whose output is one JSON object a line, and gives (seq, from, text) of the messages, each with the documented
    /// keys. Who types, comes and goes is a matter of timing.
    pub(crate) fn messages(&self, arguments: &[&str]) -> Result<Vec<(u64, String, String)>> {
        let output = self.good(arguments, "")?;
        let ephemeral = [r#"{"type":"typing","#, r#"{"type":"presence","#];
        let lasts = |line: &&str| !ephemeral.iter().any(|of| line.starts_with(of));
        output.lines().filter(lasts).map(message).collect()
    }
}

/// Checks one line against the documented schema.
fn message(line: &str) -> Result<(u64, String, String)> {
    let object: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
    let keys: BTreeSet<&str> = object
        .as_object()
        .with_context(|| format!("not an object: {line}"))?
        .keys()
        .map(String::as_str)
        .collect();
    // SCHEMA.md: fields are only ever added.
    ensure!(
        keys.is_superset(&BTreeSet::from(KEYS)),
        "not all of {KEYS:?}: {line}"
    );
    let text = |key: &str| {
        object[key]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("{key} is not a text: {line}"))
    };
    ensure!(text("id")?.len() == 32, "the id is not 32 digits: {line}");
    ensure!(
        text("conversation")?.len() == 32,
        "the conversation is not 32 digits: {line}"
    );
    let seq = object["seq"]
        .as_u64()
        .with_context(|| format!("seq is not a number: {line}"))?;
    Ok((seq, text("from")?, text("text")?))
}

/// What carol wrote, as dave and the history must show it.
fn from_carol(first: u64, texts: &[&str]) -> Vec<(u64, String, String)> {
    (first..)
        .zip(texts)
        .map(|(seq, text)| (seq, "carol".to_owned(), (*text).to_owned()))
        .collect()
}

/// The whole contract, in the order in which a person would meet it.
pub(crate) fn run(folder: &Path, steps: &mut Steps) -> Result<()> {
    let mut gateway = Gateway::new(&programs::beside("quipu-gateway")?, folder)?;
    gateway.start()?;
    gateway.wait_ready()?;
    let carol = Quipu::new(&gateway, folder, "carol")?;
    let dave = Quipu::new(&gateway, folder, "dave")?;

    accounts(&gateway, folder, &carol, &dave)?;
    steps.passed("register and login: a password from standard input, refusals with an exit code");
    sending(&carol, &dave)?;
    steps.passed("send: prints the seq, exit code 0 once acked, `-` reads one message a line");
    listening(&carol, &dave)?;
    steps.passed("listen and history: documented JSON, resume, replay");

    gateway.kill()?;
    for text in ["while away 1", "while away 2"] {
        let ended = carol.run(&["send", "dave", text], "")?;
        ensure!(
            ended.code == QUEUED,
            "send without a gateway ended with {}: {}",
            ended.code,
            ended.errors
        );
    }
    gateway.start()?;
    gateway.wait_ready()?;
    let seq = carol.good(&["send", "dave", "back again"], "")?;
    ensure!(
        seq == "8\n",
        "the third after the gateway is back got seq {seq}"
    );
    let heard = dave.messages(&["listen", "--json", "--count", "3", "--timeout", "30"])?;
    let expected = from_carol(6, &["while away 1", "while away 2", "back again"]);
    ensure!(heard == expected, "dave heard {heard:?}");
    steps.passed("send without a gateway: exit code 75, kept, and sent in order when it is back");

    let history = dave.messages(&["history", "carol", "--json"])?;
    let seqs: Vec<u64> = history.iter().map(|(seq, _, _)| *seq).collect();
    ensure!(seqs == [1, 2, 3, 4, 5, 6, 7, 8], "the history has {seqs:?}");
    gateway.stop()?;
    gateway.verify()?;
    steps.passed("the gateway stops on SIGTERM, and verify finds its folder consistent");
    Ok(())
}

fn accounts(gateway: &Gateway, folder: &Path, carol: &Quipu, dave: &Quipu) -> Result<()> {
    carol.good(
        &["register", "carol", "--password-stdin"],
        "correct horse\n",
    )?;
    dave.good(
        &["register", "dave", "--password-stdin"],
        "battery staple\n",
    )?;
    let other = Quipu::new(gateway, folder, "other")?;
    for (arguments, password) in [
        (["register", "carol", "--password-stdin"], "another one\n"),
        (["login", "carol", "--password-stdin"], "wrong horse\n"),
        (["login", "nobody", "--password-stdin"], "correct horse\n"),
    ] {
        let ended = other.run(&arguments, password)?;
        ensure!(
            ended.code != 0 && ended.code != QUEUED && !ended.errors.is_empty(),
            "quipu {} ended with {} and said `{}`",
            arguments.join(" "),
            ended.code,
            ended.errors
        );
    }
    other.good(&["login", "carol", "--password-stdin"], "correct horse\n")?;
    Ok(())
}

fn sending(carol: &Quipu, dave: &Quipu) -> Result<()> {
    for (text, expected) in [("one", "1\n"), ("two", "2\n")] {
        let seq = carol.good(&["send", "dave", text], "")?;
        ensure!(seq == expected, "`{text}` got seq {seq}");
    }
    let seqs = carol.good(&["send", "dave", "-"], "three\nfour\n")?;
    ensure!(seqs == "3\n4\n", "two lines got {seqs}");
    let ended = dave.run(&["send", "nobody-at-all", "x"], "")?;
    ensure!(
        ended.code != 0 && ended.code != QUEUED,
        "a message to nobody ended with {}",
        ended.code
    );
    Ok(())
}

fn listening(carol: &Quipu, dave: &Quipu) -> Result<()> {
    let four = from_carol(1, &["one", "two", "three", "four"]);
    let heard = dave.messages(&["listen", "--json", "--count", "4", "--timeout", "30"])?;
    ensure!(heard == four, "dave heard {heard:?}");
    carol.good(&["send", "dave", "five"], "")?;
    let heard = dave.messages(&["listen", "--json", "--count", "1", "--timeout", "30"])?;
    ensure!(
        heard == from_carol(5, &["five"]),
        "resumed, dave heard {heard:?}"
    );

    let five = from_carol(1, &["one", "two", "three", "four", "five"]);
    let again = [
        "listen",
        "--json",
        "--from-start",
        "--count",
        "5",
        "--timeout",
        "30",
    ];
    let heard = dave.messages(&again)?;
    ensure!(heard == five, "from the start, dave heard {heard:?}");
    for (who, name) in [(dave, "carol"), (carol, "dave")] {
        let history = who.messages(&["history", name, "--json"])?;
        ensure!(history == five, "the history with {name} has {history:?}");
    }
    Ok(())
}
