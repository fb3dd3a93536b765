//! Files from the command line, as people meet trouble: killed in the middle, refused, changed, in the way.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Steps;
use super::commands::Quipu;
use super::story::{has, line};
use crate::gateway::Gateway;
use crate::programs;

/// Exit codes of what is refused, and of what may be tried again later.
const REFUSED: i32 = 1;
const LATER: i32 = 75;
/// Bytes of the file that is interrupted: some seconds, and many pieces.
const FILE_BYTES: u64 = 48 << 20;
/// Bytes after which it is.
const INTERRUPTED_AFTER: u64 = 4 << 20;
/// What may travel twice: what was under way, and what was not on disk yet.
const AGAIN_BYTES_MAX: u64 = 2 << 20;

/// Who takes part, and where their files are.
struct People<'a> {
    ana: Quipu,
    ben: Quipu,
    folder: &'a Path,
}

/// The whole of it.
pub(crate) fn run(folder: &Path, steps: &mut Steps) -> Result<()> {
    let mut gateway = Gateway::new(&programs::beside("quipu-gateway")?, folder)?;
    gateway.start()?;
    gateway.wait_ready()?;
    let person = |name| Quipu::registered(&gateway, folder, name);
    let people = People {
        ana: person("ana")?,
        ben: person("ben")?,
        folder,
    };
    people.ana.good(&["send", "ben", "hello"], "")?;
    killed_clients(&people)?;
    steps
        .passed("upload and download killed with SIGKILL: the next run goes on where they stopped");
    killed_gateway(&people, &mut gateway)?;
    steps.passed(
        "the gateway killed under an upload and a download: the same runs bring them to their ends",
    );
    names(&people)?;
    steps.passed(
        "odd names, a file that changed between two tries, a picture with its small picture",
    );
    in_the_way(&people)?;
    steps.passed("empty, missing, folder, pipe, a target that is there: refused at once, in words");
    gateway.stop()?;
    gateway.set("QUIPU_MEDIA_MAX_SIZE", "1MiB");
    gateway.set("QUIPU_MEDIA_TYPES", "image/*");
    gateway.start()?;
    gateway.wait_ready()?;
    refusals(&people)?;
    steps.passed("too large, of a wrong type, unknown, strangers: refused with the reason");
    gateway.stop()?;
    gateway.verify()?;
    away(&people)?;
    steps.passed("without a gateway: exit code 75, and nothing is left in the way of the next try");
    Ok(())
}

/// Writes a file that is like no other of another seed.
fn write(folder: &Path, name: &str, length: u64, seed: u32) -> Result<(PathBuf, Vec<u8>)> {
    let mut state = seed;
    let byte = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let bytes: Vec<u8> = (0..length).map(byte).collect();
    let path = folder.join(name);
    std::fs::write(&path, &bytes)?;
    Ok((path, bytes))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// Waits until a transfer that was started with `--json --progress` is in its middle.
fn in_the_middle(child: &mut Child) -> Result<BufReader<std::process::ChildStdout>> {
    let mut told = BufReader::new(child.stdout.take().context("a pipe")?);
    loop {
        let mut line = String::new();
        ensure!(told.read_line(&mut line)? > 0, "it ended before its middle");
        let line: Value = serde_json::from_str(&line)?;
        let done = line["done"].as_u64();
        let done = done.with_context(|| format!("it was over before its middle: {line}"))?;
        if done >= INTERRUPTED_AFTER {
            ensure!(done < FILE_BYTES, "it is over");
            return Ok(told);
        }
    }
}

/// Starts a transfer, kills it in its middle, and runs it again; gives the last line of that.
fn kill_and_run_again(who: &Quipu, arguments: &[&str]) -> Result<Value> {
    let mut child = who.start(arguments)?;
    let told = in_the_middle(&mut child)?;
    child.kill()?;
    child.wait()?;
    drop(told);
    let output = who.good(arguments, "")?;
    let first = output.lines().next().context("progress")?;
    let first: Value = serde_json::from_str(first)?;
    let from = first["done"].as_u64().context("progress")?;
    ensure!(
        from + AGAIN_BYTES_MAX >= INTERRUPTED_AFTER,
        "it went on from {from}"
    );
    let last = output.lines().last().context("a line")?;
    let last: Value = serde_json::from_str(last)?;
    has(
        &last,
        &json!({"size": FILE_BYTES, "moved": FILE_BYTES - from}),
    )?;
    Ok(last)
}

fn killed_clients(People { ana, ben, folder }: &People<'_>) -> Result<()> {
    let (path, bytes) = write(folder, "film.bin", FILE_BYTES, 1)?;
    let upload = [
        "upload",
        text(&path)?,
        "--to",
        "ben",
        "--json",
        "--progress",
    ];
    let file = kill_and_run_again(ana, &upload)?;
    let hash = file["hash"].as_str().context("a hash")?;
    let got = folder.join("got.bin");
    let download = ["download", "ana", hash, text(&got)?, "--json", "--progress"];
    kill_and_run_again(ben, &download)?;
    ensure!(std::fs::read(&got)? == bytes, "got.bin is another file");
    std::fs::remove_file(&got)?;
    std::fs::remove_file(&path)?;
    Ok(())
}

fn killed_gateway(people: &People<'_>, gateway: &mut Gateway) -> Result<()> {
    let People { ana, ben, folder } = people;
    let (path, bytes) = write(folder, "film-2.bin", FILE_BYTES, 2)?;
    // A start in a debug build may take longer than a person would wait.
    let rest = ["--json", "--progress", "--wait", "60"];
    let upload = [&["upload", text(&path)?, "--to", "ben"][..], &rest].concat();
    let file = outlives(ana, &upload, gateway)?;
    let hash = file["hash"].as_str().context("a hash")?;
    let got = folder.join("got-2.bin");
    let download = [&["download", "ana", hash, text(&got)?][..], &rest].concat();
    outlives(ben, &download, gateway)?;
    ensure!(std::fs::read(&got)? == bytes, "got-2.bin is another file");
    std::fs::remove_file(&got)?;
    std::fs::remove_file(&path)?;
    Ok(())
}

/// Starts a transfer, kills the gateway in its middle and starts it again; gives the last line of the transfer.
fn outlives(who: &Quipu, arguments: &[&str], gateway: &mut Gateway) -> Result<Value> {
    let mut child = who.start(arguments)?;
    let told = in_the_middle(&mut child)?;
    gateway.kill()?;
    gateway.start()?;
    gateway.wait_ready()?;
    let mut last = String::new();
    for line in told.lines() {
        last = line?;
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "it ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let last: Value = serde_json::from_str(&last)?;
    has(&last, &json!({"size": FILE_BYTES}))?;
    let moved = last["moved"].as_u64().context("what moved")?;
    ensure!(
        (FILE_BYTES..=FILE_BYTES + AGAIN_BYTES_MAX).contains(&moved),
        "{moved} bytes travelled"
    );
    Ok(last)
}

fn names(People { ana, ben, folder }: &People<'_>) -> Result<()> {
    for (name, shown) in [
        (
            " -- knots & cords; 'quoted' $HOME ☃.txt",
            "-- knots & cords; 'quoted' $HOME ☃.txt",
        ),
        ("two\nlines\u{1b}[2J.txt", "twolines[2J.txt"),
        (".hidden", "hidden"),
    ] {
        let (path, bytes) = write(folder, name, 1000, name.len() as u32)?;
        let file = line(ana, &["upload", text(&path)?, "--to", "ben", "--json"])?;
        has(&file, &json!({"name": shown, "size": 1000}))?;
        let hash = file["hash"].as_str().context("a hash")?;
        let got = folder.join(format!("{name} (got)"));
        let came = line(ben, &["download", "ana", hash, text(&got)?, "--json"])?;
        has(&came, &json!({"name": text(&got)?}))?;
        ensure!(std::fs::read(&got)? == bytes, "{name:?} is another file");
    }

    // What was begun with other bytes is another file, and does not come into this one.
    let (path, _) = write(folder, "draft.bin", FILE_BYTES, 3)?;
    let upload = [
        "upload",
        text(&path)?,
        "--to",
        "ben",
        "--json",
        "--progress",
    ];
    let mut child = ana.start(&upload)?;
    in_the_middle(&mut child)?;
    child.kill()?;
    child.wait()?;
    let (path, bytes) = write(folder, "draft.bin", 100_000, 4)?;
    let file = line(ana, &["upload", text(&path)?, "--to", "ben", "--json"])?;
    has(&file, &json!({"size": 100_000, "moved": 100_000}))?;
    let hash = file["hash"].as_str().context("a hash")?;
    let got = folder.join("draft-got.bin");
    line(ben, &["download", "ana", hash, text(&got)?, "--json"])?;
    ensure!(
        std::fs::read(&got)? == bytes,
        "draft-got.bin is another file"
    );

    let picture = folder.join("cat.png");
    std::fs::write(&picture, PICTURE)?;
    let file = line(ana, &["upload", text(&picture)?, "--to", "ben", "--json"])?;
    has(&file, &json!({"type": "image/png", "size": PICTURE.len()}))?;
    let history = ben.good(&["history", "ana", "--json"], "")?;
    let shown: Value = serde_json::from_str(history.lines().last().context("a message")?)?;
    has(
        &shown["attachments"][0],
        &json!({"name": "cat.png", "media_type": "image/png", "width": 1, "height": 1}),
    )
}

/// The smallest picture: one pixel.
const PICTURE: &[u8] = &[
    0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, b'I', b'H', b'D', b'R', 0, 0, 0,
    1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 0x3a, 0x7e, 0x9b, 0x55, 0, 0, 0, 0x0a, b'I', b'D', b'A', b'T',
    0x78, 0x9c, 0x63, 0x60, 0, 0, 0, 2, 0, 1, 0x48, 0xaf, 0xa4, 0x71, 0, 0, 0, 0, b'I', b'E', b'N',
    b'D', 0xae, 0x42, 0x60, 0x82,
];

/// A command that must fail with this code, and name all of these on one line of standard error.
fn fails(who: &Quipu, arguments: &[&str], code: i32, named: &[&str]) -> Result<()> {
    let ended = who.run(arguments, "")?;
    let is_told = ended.errors.lines().count() == 1 && ended.errors.starts_with("quipu: ");
    ensure!(
        ended.code == code && ended.output.is_empty() && is_told,
        "{arguments:?} ended with {}, printed `{}` and said `{}`",
        ended.code,
        ended.output,
        ended.errors
    );
    for word in named {
        ensure!(
            ended.errors.contains(word),
            "{arguments:?} said `{}`, without {word}",
            ended.errors
        );
    }
    Ok(())
}

fn in_the_way(People { ana, ben, folder }: &People<'_>) -> Result<()> {
    let upload = |path: &Path, named: &[&str]| {
        fails(ana, &["upload", text(path)?, "--to", "ben"], REFUSED, named)
    };
    let (empty, _) = write(folder, "empty.bin", 0, 0)?;
    upload(&empty, &["empty.bin", "is empty"])?;
    upload(
        &folder.join("nothing.bin"),
        &["nothing.bin", "No such file"],
    )?;
    upload(folder, &["is a folder"])?;
    let pipe = folder.join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    upload(&pipe, &["pipe", "is not a file"])?;

    let hash = "ab".repeat(32);
    let download = |path: &Path, named: &[&str]| {
        fails(
            ben,
            &["download", "ana", &hash, text(path)?],
            REFUSED,
            named,
        )
    };
    let (there, bytes) = write(folder, "there.bin", 10, 5)?;
    download(&there, &["there.bin", "is there already"])?;
    ensure!(std::fs::read(&there)? == bytes, "there.bin was touched");
    download(folder, &["is a folder"])?;
    download(&folder.join("no/such.bin"), &["there is no folder", "/no"])?;
    Ok(())
}

fn refusals(People { ana, ben, folder }: &People<'_>) -> Result<()> {
    let upload = |path: &Path, to: &str, named: &[&str]| {
        fails(ana, &["upload", text(path)?, "--to", to], REFUSED, named)
    };
    let (large, _) = write(folder, "large.png", (1 << 20) + 1, 6)?;
    upload(&large, "ben", &["TOO_LARGE", "1048576 bytes"])?;
    let (words, _) = write(folder, "words.txt", 100, 7)?;
    upload(&words, "ben", &["INVALID", "text/plain"])?;
    upload(&words, "nobody-at-all", &["UNKNOWN_USER", "nobody-at-all"])?;
    upload(&words, &"cd".repeat(16), &["INVALID", "text/plain"])?;
    let (picture, _) = write(folder, "a.png", 100, 8)?;
    upload(&picture, &"cd".repeat(16), &["UNKNOWN_CONVERSATION"])?;
    let unknown = "ab".repeat(32);
    let nothing = folder.join("nothing.bin");
    let arguments = ["download", "ana", &unknown, text(&nothing)?];
    fails(ben, &arguments, REFUSED, &["UNKNOWN_MEDIA", "no such file"])?;
    let stranger = ["download", "nobody-at-all", &unknown, text(&nothing)?];
    fails(ben, &stranger, REFUSED, &["UNKNOWN_CONVERSATION"])?;
    // What was never begun leaves nothing.
    left_over(folder)
}

fn away(People { ana, ben, folder }: &People<'_>) -> Result<()> {
    let path = folder.join("words.txt");
    let upload = ["upload", text(&path)?, "--to", "ben", "--wait", "0.5"];
    fails(ana, &upload, LATER, &["the gateway is away"])?;
    let unknown = "ab".repeat(32);
    let nothing = folder.join("nothing.bin");
    let download = [
        "download",
        "ana",
        &unknown,
        text(&nothing)?,
        "--wait",
        "0.5",
    ];
    fails(ben, &download, LATER, &["the gateway is away"])?;
    left_over(folder)
}

/// No part of a download lies about.
fn left_over(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let is_part = Path::new(&name)
            .extension()
            .is_some_and(|end| end == "part");
        ensure!(!is_part, "{} is left", name.to_string_lossy());
    }
    Ok(())
}
