//! One of several generator processes: plays its part of a scenario, and says how it goes on standard output.

use std::io::BufRead as _;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};

use crate::conductor::{Agent, Conductor};
use crate::engine::{self, Job};
use crate::gateway;
use crate::measure::Board;
use crate::scenario::Scenario;
use crate::stop::Stop;
use crate::talk::{Said, Told, Work};
use crate::verify::RunId;

/// The coordinator answers each step once, and a process waits at one.
const GO_MAX: usize = 1;

/// Does what the first line of standard input says, and ends. Must run in a `LocalSet`.
pub(crate) async fn work() -> anyhow::Result<()> {
    let (go, stop) = (mpsc::channel(GO_MAX), Stop::default());
    let (give, work) = oneshot::channel();
    let seen = stop.clone();
    std::thread::Builder::new()
        .name("orders".to_owned())
        .spawn(move || listen(give, &go.0, &seen))?;
    let work = work.await.context("the coordinator said nothing")?;
    let measured = engine::run(job(work, go.1, stop)?).await?;
    Said::Done(Box::new(measured)).say();
    Ok(())
}

fn job(work: Work, go: mpsc::Receiver<()>, stop: Stop) -> anyhow::Result<Job> {
    let scenario = Scenario::read("part", &work.scenario)?;
    let clients = scenario.clients() as usize;
    let mut accounts = gateway::read_tokens(&work.tokens)?;
    anyhow::ensure!(
        accounts.len() >= work.first_account + clients,
        "{} has too few accounts",
        work.tokens.display()
    );
    accounts.drain(..work.first_account);
    accounts.truncate(clients);
    // The others' are not held for the length of the run.
    accounts.shrink_to_fit();
    let go = tokio::sync::Mutex::new(go);
    Ok(Job {
        scenario,
        run: RunId {
            number: work.number,
            first_pair: work.first_pair,
        },
        address: work.address,
        accounts,
        conductor: Conductor::Agent(Agent { go }),
        board: Board::default(),
        stop,
    })
}

/// Hears what the coordinator says, until it is gone: then there is nobody to measure for.
fn listen(give: oneshot::Sender<Work>, go: &mpsc::Sender<()>, stop: &Stop) {
    let mut give = Some(give);
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Told::Work(work)) => {
                let _ = give.take().map(|give| give.send(*work));
            }
            Ok(Told::Go) => {
                if go.blocking_send(()).is_err() {
                    return;
                }
            }
            Ok(Told::Stop) => stop.set(),
            Err(error) => {
                eprintln!("the coordinator said what nobody understands: {error}");
                break;
            }
        }
    }
    stop.set();
}
