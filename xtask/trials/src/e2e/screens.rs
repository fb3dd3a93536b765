//! Two people in two terminals: first words, a killed client, a killed gateway, marks, order.

use std::path::Path;

use anyhow::{Result, ensure};

use super::Steps;
use super::commands::Quipu;
use super::terminals::{Screen, Terminals};
use crate::gateway::Gateway;
use crate::programs;

const PASSWORD: &str = "correct horse";
/// Marks beside one's own messages, as the help explains them.
const QUEUED: &str = "⋯";
const ACKED: &str = "✓";
const READ: &str = "read";

/// The whole scenario.
pub(crate) fn run(folder: &Path, steps: &mut Steps) -> Result<()> {
    let mut gateway = Gateway::new(&programs::beside("quipu-gateway")?, folder)?;
    gateway.start()?;
    gateway.wait_ready()?;
    let terminals = Terminals::new(folder)?;
    let people = ["alice", "bob"].map(|name| Quipu::new(&gateway, folder, name));
    let [alices, bobs] = people;
    let (alices, bobs) = (alices?, bobs?);

    let alice = open(&terminals, "alice", &alices)?;
    let bob = open(&terminals, "bob", &bobs)?;
    for (screen, name) in [(&alice, "alice"), (&bob, "bob")] {
        register(screen, name)?;
    }
    steps.passed("two people register on the screen");

    alice.press(&["C-k"])?;
    alice.wait_for("Open a conversation")?;
    alice.write("bob")?;
    alice.wait_for("Write to bob")?;
    alice.press(&["Enter"])?;
    alice.wait_for("Beginning of your conversation with bob")?;
    alice.enter("a1 hello bob")?;
    bob.wait_for("a1 hello bob")?;
    wait_mark(&alice, "a1 hello bob", READ)?;
    bob.enter("b1 hello alice")?;
    alice.wait_for("b1 hello alice")?;
    wait_mark(&bob, "b1 hello alice", READ)?;
    steps.passed("the first words arrive on both sides and are marked as read");

    bob.kill()?;
    for text in ["a2 are you there", "a3 anybody"] {
        alice.enter(text)?;
        wait_mark(&alice, text, ACKED)?;
    }
    let bob = open(&terminals, "bob", &bobs)?;
    bob.wait_for("a3 anybody")?;
    for text in ["a2 are you there", "a3 anybody"] {
        wait_mark(&alice, text, READ)?;
    }
    in_order(
        &bob,
        &[
            "a1 hello bob",
            "b1 hello alice",
            "a2 are you there",
            "a3 anybody",
        ],
    )?;
    steps.passed("a client killed with SIGKILL comes back to everything it missed, once, in order");

    gateway.kill()?;
    for text in ["a4 into the dark", "a5 still dark", "a6 and again"] {
        alice.enter(text)?;
        wait_mark(&alice, text, QUEUED)?;
    }
    bob.enter("b2 dark here too")?;
    wait_mark(&bob, "b2 dark here too", QUEUED)?;
    alice.wait_for("offline")?;
    gateway.start()?;
    gateway.wait_ready()?;
    for text in ["a4 into the dark", "a5 still dark", "a6 and again"] {
        wait_mark(&alice, text, READ)?;
    }
    wait_mark(&bob, "b2 dark here too", READ)?;
    for screen in [&alice, &bob] {
        in_order(
            screen,
            &[
                "a3 anybody",
                "a4 into the dark",
                "a5 still dark",
                "a6 and again",
            ],
        )?;
        in_order(screen, &["a3 anybody", "b2 dark here too"])?;
    }
    steps.passed("a gateway killed with SIGKILL: what was typed meanwhile is marked as queued, then goes out in order");

    for screen in [alice, bob] {
        screen.press(&["C-q"])?;
        let code = screen.wait_end()?;
        ensure!(code == 0, "quipu left with {code}:\n{}", screen.text()?);
        screen.close()?;
    }
    same_everywhere(&alices, &bobs)?;
    steps.passed(
        "both caches and the gateway's history have the same eight messages, once, in one order",
    );

    gateway.stop()?;
    gateway.verify()
}

fn open<'a>(terminals: &'a Terminals, name: &str, quipu: &Quipu) -> Result<Screen<'a>> {
    let (program, arguments) = quipu.screen()?;
    terminals.open(name, program, &arguments)
}

fn register(screen: &Screen<'_>, name: &str) -> Result<()> {
    screen.wait_for("Quipu: a new account")?;
    for field in [name, PASSWORD, PASSWORD] {
        screen.enter(field)?;
    }
    screen.wait_for(&format!("Others reach you as {name}."))?;
    screen.wait_for("online")
}

/// Waits until the row that holds a message ends with a mark.
fn wait_mark(screen: &Screen<'_>, text: &str, mark: &str) -> Result<()> {
    screen.wait(&format!("`{text}` with the mark {mark}"), |shown| {
        shown
            .lines()
            .filter(|line| line.contains(text))
            .any(|line| line.split_whitespace().next_back() == Some(mark))
            .then_some(())
    })
}

/// Each text is to be seen once, one below the other.
fn in_order(screen: &Screen<'_>, texts: &[&str]) -> Result<()> {
    let shown = screen.text()?;
    let mut last = 0;
    for text in texts {
        let found: Vec<usize> = shown.match_indices(text).map(|(at, _)| at).collect();
        ensure!(
            found.len() == 1,
            "`{text}` is shown {} times:\n{shown}",
            found.len()
        );
        ensure!(
            found[0] >= last,
            "`{text}` is shown above its place:\n{shown}"
        );
        last = found[0];
    }
    Ok(())
}

/// What each cache received and what the gateway keeps: seqs 1 to 8, the same words under each.
fn same_everywhere(alices: &Quipu, bobs: &Quipu) -> Result<()> {
    let history = alices.messages(&["history", "bob", "--json"])?;
    let seqs: Vec<u64> = history.iter().map(|(seq, _, _)| *seq).collect();
    ensure!(
        seqs == [1, 2, 3, 4, 5, 6, 7, 8],
        "alice's history has {history:?}"
    );
    let others = bobs.messages(&["history", "alice", "--json"])?;
    ensure!(others == history, "bob's history differs: {others:?}");
    let replay = [
        "listen",
        "--json",
        "--from-start",
        "--count",
        "8",
        "--timeout",
        "30",
    ];
    for quipu in [alices, bobs] {
        let heard = quipu.messages(&replay)?;
        ensure!(
            heard == history,
            "a replay differs from the history: {heard:?}"
        );
    }
    for (name, expected) in [("alice", 6), ("bob", 2)] {
        let mut own: Vec<&str> = history
            .iter()
            .filter(|(_, from, _)| from == name)
            .map(|(_, _, text)| text.as_str())
            .collect();
        ensure!(
            own.len() == expected,
            "{name} is in the history {} times",
            own.len()
        );
        ensure!(
            own.is_sorted(),
            "{name}'s messages are out of order: {own:?}"
        );
        own.dedup();
        ensure!(
            own.len() == expected,
            "{name}'s messages are doubled: {own:?}"
        );
    }
    Ok(())
}
