//! Groups, changes, files, devices and blocks from the command line, as scripts use them: every command, and what it prints.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Steps;
use super::commands::Quipu;
use crate::gateway::Gateway;
use crate::programs;

/// Exit code of what is refused.
const REFUSED: i32 = 1;
/// Bytes of the file that travels, and how many of them are there already in one case.
const FILE_BYTES: usize = 300_000;
const THERE_BYTES: usize = 120_000;

/// Who takes part.
struct People {
    ana: Quipu,
    ben: Quipu,
    cy: Quipu,
}

/// The whole story.
pub(crate) fn run(folder: &Path, steps: &mut Steps) -> Result<()> {
    let mut gateway = Gateway::new(&programs::beside("quipu-gateway")?, folder)?;
    gateway.start()?;
    gateway.wait_ready()?;
    let person = |name| Quipu::registered(&gateway, folder, name);
    let people = People {
        ana: person("ana")?,
        ben: person("ben")?,
        cy: person("cy")?,
    };
    let group = groups(&people)?;
    steps.passed("group: create, invite, join, leave, role, title, members, info; invitations");
    changes(&people, &group)?;
    steps.passed(
        "send --reply-to, edit, versions, react, delete, timer: in the history as documented",
    );
    files(&people, &group, folder)?;
    steps.passed(
        "upload sends a message, download resumes and is the same file, strangers get nothing",
    );
    let second = Quipu::new(&gateway, folder, "ana-2")?;
    devices(&people.ana, &second)?;
    steps.passed("devices: list, rename, revoke; a revoked one is out");
    blocks(&people, &group)?;
    steps.passed("block, unblock, report, privacy, conversations");
    gateway.stop()?;
    gateway.verify()?;
    Ok(())
}

/// The lines of JSON that a command prints.
fn lines(who: &Quipu, arguments: &[&str]) -> Result<Vec<Value>> {
    let output = who.good(arguments, "")?;
    let read = |line: &str| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"));
    output.lines().map(read).collect()
}

/// The one line that a command prints.
pub(super) fn line(who: &Quipu, arguments: &[&str]) -> Result<Value> {
    let mut lines = lines(who, arguments)?;
    ensure!(lines.len() == 1, "{} lines from {arguments:?}", lines.len());
    lines.pop().context("one line")
}

/// A change that must be done, and say so.
fn done(who: &Quipu, arguments: &[&str], name: &str) -> Result<Value> {
    let line = line(who, arguments)?;
    ensure!(line["done"] == name, "{arguments:?} printed {line}");
    Ok(line)
}

/// A command that must be refused with words.
pub(super) fn refused(who: &Quipu, arguments: &[&str]) -> Result<()> {
    let ended = who.run(arguments, "")?;
    ensure!(
        ended.code == REFUSED && !ended.errors.is_empty() && ended.output.is_empty(),
        "{arguments:?} ended with {}, printed `{}` and said `{}`",
        ended.code,
        ended.output,
        ended.errors
    );
    Ok(())
}

/// Compares some fields of a line.
pub(super) fn has(line: &Value, fields: &Value) -> Result<()> {
    let fields = fields.as_object().context("an object")?;
    for (name, value) in fields {
        ensure!(line[name] == *value, "{name} is not {value} in {line}");
    }
    Ok(())
}

fn groups(People { ana, ben, cy }: &People) -> Result<String> {
    let create = [
        "group",
        "create",
        "Ayllu",
        "--topic",
        "knots",
        "--history",
        "--invite",
        "ben",
        "--json",
    ];
    let made = done(ana, &create, "group create")?;
    let id = made["conversation"].as_str().context("an id")?.to_owned();
    ensure!(id.len() == 32, "the group's id is {id}");

    let invited = line(ben, &["invitations", "--json"])?;
    let expected = json!({"type": "invited", "conversation": id, "by": "ana", "title": "Ayllu"});
    has(&invited, &expected)?;
    refused(cy, &["group", "join", &id])?;
    done(
        ana,
        &["group", "invite", &id, "cy", "--json"],
        "group invite",
    )?;
    ensure!(lines(cy, &["invitations", "--json"])?.len() == 1);
    done(cy, &["group", "leave", &id, "--json"], "group leave")?;
    ensure!(lines(cy, &["invitations", "--json"])?.is_empty());
    done(ben, &["group", "join", &id, "--json"], "group join")?;
    ensure!(lines(ben, &["invitations", "--json"])?.is_empty());
    refused(ben, &["group", "title", &id, "Mine"])?;
    done(
        ana,
        &["group", "role", &id, "ben", "admin", "--json"],
        "group role",
    )?;
    done(
        ben,
        &["group", "title", &id, "Ayllu of the knots", "--json"],
        "group title",
    )?;
    done(
        ana,
        &["group", "topic", &id, "cords", "--json"],
        "group topic",
    )?;

    let members = lines(ana, &["group", "members", &id, "--json"])?;
    let expected = [
        json!({"user": "ana", "role": "owner", "invited": false}),
        json!({"user": "ben", "role": "admin", "invited": false}),
    ];
    ensure!(members == expected, "the members are {members:?}");
    let info = line(ben, &["group", "info", &id, "--json"])?;
    let expected = json!({
        "title": "Ayllu of the knots", "topic": "cords", "role": "admin", "members": 2, "open": false,
        "history_from_start": true,
    });
    has(&info, &expected)?;
    refused(cy, &["group", "info", &id])?;
    Ok(id)
}

fn changes(People { ana, ben, cy }: &People, id: &str) -> Result<()> {
    let sent = line(ana, &["send", id, "first", "--json"])?;
    let seq = sent["seq"].as_u64().context("a seq")?;
    let first = seq.to_string();
    let answer = [
        "send",
        id,
        "second",
        "--reply-to",
        &first,
        "--mention",
        "ana",
        "--json",
    ];
    has(
        &line(ben, &answer)?,
        &json!({"conversation": id, "seq": seq + 1}),
    )?;
    refused(cy, &["send", id, "let me in"])?;
    has(
        &done(
            ana,
            &["edit", id, &first, "first, mended", "--json"],
            "edit",
        )?,
        &json!({"seq": seq}),
    )?;
    refused(ben, &["edit", id, &first, "not mine"])?;
    let versions = lines(ben, &["versions", id, &first, "--json"])?;
    ensure!(
        versions == [json!({"version": 0, "text": "first"})],
        "{versions:?}"
    );
    for sign in ["👍", "🎉"] {
        done(ben, &["react", id, &first, sign, "--json"], "react")?;
    }
    done(
        ben,
        &["react", id, &first, "🎉", "--off", "--json"],
        "react",
    )?;
    let third = line(ben, &["send", id, "third", "--json"])?["seq"].to_string();
    // Admins may delete what members said, so the owner may.
    done(ana, &["delete", id, &third, "--json"], "delete")?;
    done(ana, &["delete", id, &third, "--json"], "delete")?;
    refused(ben, &["react", id, &third, "👍"])?;
    done(ana, &["timer", id, "1h", "--json"], "timer")?;
    line(ana, &["send", id, "soon over", "--json"])?;
    done(ana, &["timer", id, "off", "--json"], "timer")?;

    for who in [ana, ben] {
        let history = lines(who, &["history", id, "--json"])?;
        let at = |seq: u64| {
            let mut found = history.iter();
            found
                .find(|line| line["seq"] == seq)
                .with_context(|| format!("{seq} is not in the history"))
        };
        let expected =
            json!({"text": "first, mended", "reactions": [{"user": "ben", "emoji": "👍"}]});
        has(at(seq)?, &expected)?;
        ensure!(at(seq)?["edited_at"].is_string(), "{}", at(seq)?);
        let expected = json!({"text": "second", "reply_to": seq, "mentions": ["ana"]});
        has(at(seq + 1)?, &expected)?;
        has(at(seq + 2)?, &json!({"text": "", "deleted": "deleted"}))?;
        has(
            at(seq + 3)?,
            &json!({"note": {"what": "timer", "keep_ms": 3_600_000}}),
        )?;
        has(at(seq + 4)?, &json!({"text": "soon over"}))?;
        ensure!(at(seq + 4)?["expires_at"].is_string(), "{}", at(seq + 4)?);
        has(
            at(1)?,
            &json!({"type": "note", "note": {"what": "created", "title": "Ayllu"}}),
        )?;
    }
    Ok(())
}

fn files(People { ana, ben, cy }: &People, id: &str, folder: &Path) -> Result<()> {
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
    let original = folder.join("knots.bin");
    std::fs::write(&original, &bytes)?;
    let original = text(&original)?;

    let upload = [
        "upload",
        &original,
        "--to",
        id,
        "--text",
        "look",
        "--json",
        "--progress",
    ];
    let told = lines(ana, &upload)?;
    let (progress, file) = told.split_at(told.len().saturating_sub(1));
    let whole = json!({"done": FILE_BYTES, "total": FILE_BYTES});
    ensure!(
        progress.last() == Some(&whole),
        "the progress was {progress:?}"
    );
    let file = file.first().context("a line")?;
    let expected =
        json!({"conversation": id, "size": FILE_BYTES, "name": "knots.bin", "moved": FILE_BYTES});
    has(file, &expected)?;
    let hash = file["hash"].as_str().context("a hash")?;
    let history = lines(ben, &["history", id, "--json"])?;
    let shown = history.last().context("a message")?;
    has(
        shown,
        &json!({"seq": file["seq"], "id": file["id"], "from": "ana", "text": "look"}),
    )?;
    has(
        &shown["attachments"][0],
        &json!({"hash": hash, "size": FILE_BYTES, "name": "knots.bin"}),
    )?;
    // Once more it costs nothing, and says how far it is where people look.
    let again = ana.run(
        &[
            "upload",
            &original,
            "--to",
            id,
            "--no-message",
            "--progress",
        ],
        "",
    )?;
    ensure!(
        again.code == 0 && again.output == format!("{hash}\n") && again.errors.contains("100 %"),
        "once more: {}, `{}`, `{}`",
        again.code,
        again.output,
        again.errors
    );

    for (name, there) in [("whole.bin", 0), ("rest.bin", THERE_BYTES)] {
        let got = folder.join(name);
        if there > 0 {
            let part = folder.join(format!("{name}.{}.part", &hash[..8]));
            std::fs::write(part, &bytes[..there])?;
        }
        let got_text = text(&got)?;
        let came = line(ben, &["download", id, hash, &got_text, "--json"])?;
        has(
            &came,
            &json!({"hash": hash, "size": FILE_BYTES, "moved": FILE_BYTES - there}),
        )?;
        ensure!(std::fs::read(&got)? == bytes, "{name} is another file");
    }
    let stolen = text(&folder.join("stolen.bin"))?;
    refused(cy, &["download", id, hash, &stolen])?;
    refused(cy, &["upload", &original, "--to", id])?;
    // A direct conversation is made for a file as for a word.
    let direct = line(ana, &["upload", &original, "--to", "cy", "--json"])?;
    has(&direct, &json!({"seq": 1}))?;
    let got = text(&folder.join("direct.bin"))?;
    cy.good(&["download", "ana", hash, &got], "")?;
    ensure!(std::fs::read(&got)? == bytes, "direct.bin is another file");
    Ok(())
}

fn devices(ana: &Quipu, second: &Quipu) -> Result<()> {
    second.good(&["login", "ana", "--password-stdin"], "correct horse\n")?;
    let list = lines(ana, &["devices", "--json"])?;
    ensure!(list.len() == 2, "the devices are {list:?}");
    let this: Vec<bool> = list.iter().map(|device| device["this"] == true).collect();
    ensure!(this.iter().filter(|this| **this).count() == 1, "{list:?}");
    let other = list.iter().find(|device| device["this"] == false);
    let other = other.context("another device")?["device"].as_str();
    let other = other.context("its id")?;
    done(
        ana,
        &["devices", "rename", other, "tablet", "--json"],
        "devices rename",
    )?;
    let list = lines(second, &["devices", "list", "--json"])?;
    let tablet = list.iter().find(|device| device["this"] == true);
    has(
        tablet.context("itself")?,
        &json!({"label": "tablet", "connected": true}),
    )?;
    done(
        ana,
        &["devices", "revoke", other, "--json"],
        "devices revoke",
    )?;
    refused(second, &["conversations"])?;
    ensure!(lines(ana, &["devices", "--json"])?.len() == 1);
    Ok(())
}

fn blocks(People { ana, ben, cy }: &People, id: &str) -> Result<()> {
    ben.good(&["send", "cy", "hello"], "")?;
    done(ben, &["block", "cy", "--json"], "block")?;
    refused(cy, &["send", "ben", "are you there?"])?;
    has(
        &line(ben, &["privacy", "--json"])?,
        &json!({"blocked": ["cy"], "hide_read": false}),
    )?;
    done(ben, &["unblock", "cy", "--json"], "unblock")?;
    cy.good(&["send", "ben", "are you there?"], "")?;
    done(ben, &["privacy", "--hide-read", "on", "--json"], "privacy")?;
    has(
        &line(ben, &["privacy", "--json"])?,
        &json!({"blocked": [], "hide_read": true}),
    )?;
    done(ben, &["report", "cy", "1", "rude", "--json"], "report")?;
    let list = lines(ana, &["conversations", "--json"])?;
    let group = list.iter().find(|line| line["conversation"] == id);
    has(
        group.context("the group")?,
        &json!({"role": "owner", "members": 2}),
    )?;
    ensure!(list.iter().any(|line| line["peer"] == "cy"), "{list:?}");
    Ok(())
}
