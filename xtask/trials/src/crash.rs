//! Kills the gateway with SIGKILL in a loop while users write to each other, and judges from outside.
//!
//! They write to each other and in groups that some of them join and leave, change what they wrote, and send files. One group is
//! too large for inboxes: its messages come as notices, and what was missed is read from the history.
//! The last line is `crash: kills=200 acked=... lost=0 doubled=0 reordered=0 ...`; the exit code is 0 only if all is as promised.

mod ledger;
mod people;
mod person;
mod sabotage;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::ledger::{Missing, Verdict};
use self::person::{Person, Phase, SharedLedger, lock};
use self::sabotage::Sabotage;
use crate::gateway::Gateway;
use crate::programs;

/// Longest time between a ready gateway and its death, in milliseconds.
const LIFE_MS_MAX: u64 = 900;
/// One life in this many ends before the gateway is ready: while it replays its log.
const EARLY_DEATH_ONE_IN: u32 = 8;
/// Longest such life, in milliseconds.
const EARLY_DEATH_MS_MAX: u64 = 150;
/// How long nothing may happen, with a healthy gateway and something missing, before we stop waiting for it.
const STANDSTILL: Duration = Duration::from_secs(20);
/// Pause between two looks at the ledger.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Every second kill waits for an upload to be in its middle, so long at most.
const MIDWAY_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two looks at that.
const LOOK_MIDWAY_EVERY: Duration = Duration::from_millis(2);
/// Runs with as many kills prove nothing about uploads unless one was cut.
const KILLS_FOR_A_CUT: u32 = 5;

/// How hard to try.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// How often.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Repeats the load and the plan of kills of an earlier run. Random unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Users, each writing to some of the others; at least 2. Half of them have data folders and restart their clients.
    #[arg(long, default_value_t = 8)]
    users: u16,
    /// Groups, beside one of everybody that is pulled; of every second one some users join and leave it all the time.
    #[arg(long, default_value_t = 2)]
    groups: usize,
    /// Spoils the run, to show that the judge notices: the exit code must not be 0.
    #[arg(long, hide = true)]
    sabotage: Option<Sabotage>,
}

/// Runs the trial and prints its verdict.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!(
        "crash: seed {seed}, {} kills, {} users",
        arguments.kills, arguments.users
    );
    let folder = match tempfile::Builder::new().prefix("quipu-crash-").tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("crash: no temporary folder: {error}");
            return ExitCode::FAILURE;
        }
    };
    let verdict = kill_and_judge(arguments, seed, folder.path()).unwrap_or_else(|error| {
        let mut verdict = Verdict::default();
        verdict.wrong(format!("{error:#}"));
        verdict
    });
    for complaint in verdict.complaints() {
        println!("crash: {complaint}");
    }
    if !verdict.is_good() && arguments.sabotage.is_none() {
        println!(
            "crash: FAILED with seed {seed}; its folder stays at {}",
            folder.keep().display()
        );
    }
    println!("crash: kills={} {verdict}", arguments.kills);
    if verdict.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[tokio::main]
async fn kill_and_judge(arguments: &Arguments, seed: u64, folder: &Path) -> Result<Verdict> {
    ensure!(arguments.users >= 2, "--users is at least 2");
    let mut gateway = Gateway::new(&programs::beside("quipu-gateway")?, folder)?;
    // A group keeps the limit that it was made with: one of them is pulled.
    gateway.set_fan_out_max(Some(usize::from(arguments.users) - 1));
    gateway.start()?;
    gateway.wait_ready()?;

    let ledger = SharedLedger::default();
    let mut people = people::people(arguments, seed, folder, &gateway, &ledger)?;
    let (phase, watched) = watch::channel(Phase::Typing);
    let mut clients = Vec::new();
    for person in &people {
        clients.push(person.register().await?);
    }
    people::make_pulled_group(&mut people, &clients, &ledger).await?;
    gateway.stop().context("stop the gateway")?;
    gateway.set_fan_out_max(None);
    gateway.start()?;
    gateway.wait_ready()?;
    for client in &clients {
        client.online().await?;
    }
    people::make_groups(arguments.groups, &mut people, &clients, &ledger).await?;
    let mut lives = JoinSet::new();
    for (person, client) in people.iter().zip(clients) {
        lives.spawn(person.clone().live(client, watched.clone()));
    }

    let killing = kill_in_a_loop(&mut gateway, arguments, seed, &ledger);
    tokio::select! {
        killed = killing => killed?,
        // Nobody leaves before the end: this is a failure of the SDK or the gateway.
        Some(left) = lives.join_next() => left.context("a person panicked")?.context("a person gave up")?,
    }
    gateway.start()?;
    gateway.wait_ready()?;
    phase.send_replace(Phase::Reading);
    wait_until_all_is_seen(&ledger, &mut lives).await?;
    look_with_fresh_devices(&people, &ledger, &mut lives).await?;
    phase.send_replace(Phase::Over);
    while let Some(left) = lives.join_next().await {
        left.context("a person panicked")?
            .context("a person gave up")?;
    }
    gateway.stop().context("stop the gateway")?;

    let mut ledger = std::mem::take(&mut *lock(&ledger));
    if let Some(sabotage) = arguments.sabotage {
        sabotage.spoil(&mut ledger);
    }
    let mut verdict = ledger.judge();
    if arguments.kills >= KILLS_FOR_A_CUT && verdict.resumed + verdict.files_lost == 0 {
        verdict.wrong("no kill cut an upload: the run proves nothing about them".to_owned());
    }
    if arguments.kills >= KILLS_FOR_A_CUT && verdict.noticed == 0 {
        verdict.wrong(
            "no notice came: the run proves nothing about groups that are pulled".to_owned(),
        );
    }
    if verdict.acked < arguments.kills as usize {
        verdict
            .wrong("fewer messages were acked than kills made: the run proves nothing".to_owned());
    }
    if let Err(error) = gateway.verify() {
        verdict.wrong(format!("{error:#}"));
    }
    Ok(verdict)
}

/// What the gateway has is given to new devices, and shows what the first ones should have shown.
async fn look_with_fresh_devices(
    people: &[Person],
    ledger: &SharedLedger,
    lives: &mut JoinSet<Result<()>>,
) -> Result<()> {
    for person in people {
        person
            .look_at_own_groups()
            .await
            .with_context(|| format!("the groups of {}", person.user))?;
    }
    // Who came and went is known now, and so is what they have to be shown.
    wait_until_all_is_seen(ledger, lives).await?;
    for person in people {
        let expected = lock(ledger).shown_to(&person.user);
        person
            .look_with_a_fresh_device(expected)
            .await
            .with_context(|| format!("the fresh device of {}", person.user))?;
    }
    Ok(())
}

/// Kills the running gateway and starts it again, `kills` times; it is dead at the end.
async fn kill_in_a_loop(
    gateway: &mut Gateway,
    arguments: &Arguments,
    seed: u64,
    ledger: &SharedLedger,
) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    // Everybody registers undisturbed, so that every kill meets load.
    wait_for_acks(ledger, usize::from(arguments.users)).await?;
    let started = Instant::now();
    for kill in 1..=arguments.kills {
        let early = rng.random_ratio(1, EARLY_DEATH_ONE_IN) && kill > 1;
        if early {
            sleep(Duration::from_millis(
                rng.random_range(0..EARLY_DEATH_MS_MAX),
            ))
            .await;
        } else {
            tokio::task::block_in_place(|| gateway.wait_ready())?;
            sleep(Duration::from_millis(rng.random_range(0..LIFE_MS_MAX))).await;
            if kill % 2 == 1 {
                wait_for_an_upload(ledger).await;
            }
        }
        if arguments
            .sabotage
            .is_some_and(|sabotage| sabotage.needs_a_file(kill, arguments.kills))
        {
            wait_for_a_file(ledger).await?;
        }
        gateway.kill()?;
        if let Some(sabotage) = arguments.sabotage {
            sabotage.after_kill(kill, arguments.kills, &gateway.data())?;
        }
        if kill.is_multiple_of(20) {
            println!(
                "crash: {kill} kills in {} s, {} messages acked",
                started.elapsed().as_secs(),
                lock(ledger).acked_count()
            );
        }
        if kill < arguments.kills {
            gateway.start()?;
        }
    }
    Ok(())
}

/// Waits until a kill would cut an upload in its middle; if there is none for a while, for nothing.
async fn wait_for_an_upload(ledger: &SharedLedger) {
    let deadline = Instant::now() + MIDWAY_WITHIN;
    let waits = || {
        let files = &lock(ledger).files;
        files.goes_on() && !files.is_midway()
    };
    while Instant::now() < deadline && waits() {
        sleep(LOOK_MIDWAY_EVERY).await;
    }
}

async fn wait_for_a_file(ledger: &SharedLedger) -> Result<()> {
    let deadline = Instant::now() + STANDSTILL;
    while lock(ledger).files.count() == 0 {
        ensure!(Instant::now() < deadline, "no file is acked");
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn wait_for_acks(ledger: &SharedLedger, acks: usize) -> Result<()> {
    let deadline = Instant::now() + STANDSTILL;
    while lock(ledger).acked_count() < acks {
        ensure!(Instant::now() < deadline, "nothing is acked");
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Waits until every message typed is acked and was shown to whoever should see it, every change is answered and every file
/// has come. What is missing when nothing moves any more is the judge's to name; a person that gives up is an error.
async fn wait_until_all_is_seen(
    ledger: &SharedLedger,
    lives: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let mut last = None;
    let mut deadline = Instant::now();
    loop {
        if let Some(left) = lives.try_join_next() {
            left.context("a person panicked")?
                .context("a person gave up")?;
        }
        let missing = lock(ledger).missing();
        if missing == Missing::default() {
            return Ok(());
        }
        if last != Some(missing) {
            last = Some(missing);
            deadline = Instant::now() + STANDSTILL;
        }
        if Instant::now() >= deadline {
            println!("crash: nothing moves, and there is {missing:?}");
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}
