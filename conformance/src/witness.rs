//! Two users who chat while others misbehave: proof that nobody else is harmed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quipu_protocol::id::ConversationId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::session::{Session, text};
use crate::suite::Context;

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(50);
/// A message that takes longer than this was held up by somebody else. Generous, because the gateway under test may be a
/// debug build that shares two processors with the suite.
const DELIVERY_MAX: Duration = Duration::from_secs(5);

/// What the witness saw.
#[derive(Debug, Clone, Copy)]
pub struct Testimony {
    /// Messages sent, acked, received and acked.
    pub messages: u64,
    /// The slowest of them, from send to delivery.
    pub slowest: Duration,
}

/// A running conversation.
#[derive(Debug)]
pub struct Witness {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<Testimony>>,
}

impl Witness {
    /// Registers two users and lets them talk.
    pub async fn start(context: &Context) -> anyhow::Result<Self> {
        let (a, b, conversation) = context.pair().await.context(
            "register the witnesses; registration must be open on the gateway under test",
        )?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(chat(a, b, conversation, stopped));
        Ok(Self { stop, task })
    }

    /// Ends the conversation; an error says what went wrong in it.
    pub async fn stop(self) -> anyhow::Result<Testimony> {
        // The receiver lives in the task, which may have failed already; then its error is the answer.
        let _ = self.stop.send(true);
        self.task.await?
    }
}

async fn chat(
    mut a: Session,
    mut b: Session,
    conversation: ConversationId,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<Testimony> {
    let mut seen = Testimony {
        messages: 0,
        slowest: Duration::ZERO,
    };
    while !*stopped.borrow() {
        let number = seen.messages + 1;
        let said = format!("witness {number}");
        let began = Instant::now();
        let acked = a.say(&conversation, &said).await?;
        let (inbox_seq, received) = b.message().await?;
        let took = began.elapsed();
        ensure!(
            acked.seq == number && received.seq == number && text(&received) == said,
            "message {number} came as {received:?}, its ack as {acked:?}"
        );
        ensure!(
            took <= DELIVERY_MAX,
            "message {number} took {} ms",
            took.as_millis()
        );
        a.ack(inbox_seq).await?;
        b.ack(inbox_seq).await?;
        seen.messages = number;
        seen.slowest = seen.slowest.max(took);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(seen)
}
