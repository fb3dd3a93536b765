//! `send`: into the outbox first, then wait for the acks, in order.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use quipu_client::{Client, Error, LocalMessage};
use quipu_protocol::event::Rich;
use quipu_protocol::id::{MessageId, Seq};
use tokio::time::timeout;

use super::rich;
use super::stdin::{self, Line};
use super::{Ended, complain, gave_up, signed_in, why, write_json};
use crate::cli::{Place, SendArgs};
use crate::json::SentLine;

/// Messages of standard input that wait for their acks at once. At the limit reading waits.
const UNACKED_MAX: usize = 256;

/// Sends one message, or one for each line of standard input.
pub(super) async fn run(client: &Client, arguments: &SendArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let mut sending = Sending {
        client,
        arguments,
        unacked: VecDeque::new(),
        refused: false,
    };
    let rich = rich::content(client, arguments, me).await?;
    if rich.is_some() || sending.text() != "-" {
        match rich {
            Some(rich::Found::Rich(rich)) => sending.queue_rich(rich).await?,
            Some(rich::Found::Away) => return Ok(Ended::Away),
            None => {
                let text = sending.text().to_owned();
                sending.queue(vec![Line { number: 1, text }]).await?;
            }
        }
        return sending.finish().await;
    }
    let mut lines = stdin::lines();
    let mut read = Vec::new();
    let mut failed = None;
    // Whole bunches are queued in one write; their acks are waited for only when there are many, and at the end.
    while lines.recv_many(&mut read, UNACKED_MAX / 4).await > 0 {
        let mut bunch = Vec::new();
        for line in read.drain(..) {
            match line {
                Ok(line) => bunch.push(line),
                Err(error) => failed = Some(error),
            }
        }
        sending.queue(bunch).await?;
        let ended = sending.wait(UNACKED_MAX / 2).await?;
        if ended != Ended::Done {
            return Ok(ended);
        }
    }
    let ended = sending.finish().await?;
    match failed {
        Some(error) => Err(error).context("standard input"),
        None => Ok(ended),
    }
}

/// Sends one message for another command and waits for its ack; `Err` says how that command ends, and why was said.
pub(super) async fn one(
    client: &Client,
    place: Place,
    rich: Rich,
    wait: Duration,
) -> anyhow::Result<Result<(Seq, MessageId), Ended>> {
    let queued = client.send_rich(place.target(), rich).await?;
    let mut connection = client.connection();
    let acked = tokio::select! {
        biased;
        acked = timeout(wait, client.wait_acked(queued.id)) => acked,
        reason = gave_up(&mut connection) => {
            return Err(reason.context("1 message is kept in the outbox"));
        }
    };
    match acked {
        Ok(Ok(seq)) => Ok(Ok((seq, queued.id))),
        Ok(Err(Error::Refused(refusal))) => {
            complain(&format!(
                "the message was refused ({}): {}",
                refusal.code, refusal.reason
            ));
            client.forget(queued.id).await?;
            Ok(Err(Ended::Refused))
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            complain(&format!(
                "1 message is queued, the gateway is away: {}",
                why(&connection)
            ));
            Ok(Err(Ended::Away))
        }
    }
}

struct Sending<'a> {
    client: &'a Client,
    arguments: &'a SendArgs,
    unacked: VecDeque<(u64, LocalMessage)>,
    refused: bool,
}

impl Sending<'_> {
    async fn queue(&mut self, lines: Vec<Line>) -> anyhow::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let (numbers, texts): (Vec<u64>, Vec<String>) = lines
            .into_iter()
            .map(|line| (line.number, line.text))
            .unzip();
        let queued = self
            .client
            .send_batch(self.arguments.place.target(), texts)
            .await?;
        self.unacked.extend(numbers.into_iter().zip(queued));
        Ok(())
    }

    /// What to send, or `-`.
    fn text(&self) -> &str {
        self.arguments.text.as_deref().unwrap_or_default()
    }

    async fn queue_rich(&mut self, rich: Rich) -> anyhow::Result<()> {
        let target = self.arguments.place.target();
        let queued = self.client.send_rich(target, rich).await?;
        self.unacked.push_back((1, queued));
        Ok(())
    }

    async fn finish(&mut self) -> anyhow::Result<Ended> {
        let ended = self.wait(0).await?;
        Ok(if ended == Ended::Done && self.refused {
            Ended::Refused
        } else {
            ended
        })
    }

    /// Prints acks until at most `left` messages have none.
    async fn wait(&mut self, left: usize) -> anyhow::Result<Ended> {
        let mut connection = self.client.connection();
        while self.unacked.len() > left {
            let Some((number, message)) = self.unacked.front() else {
                break;
            };
            let acked = tokio::select! {
                biased;
                acked = timeout(self.arguments.wait, self.client.wait_acked(message.id)) => acked,
                reason = gave_up(&mut connection) => {
                    return Err(reason.context(format!("{} kept in the outbox", messages(self.unacked.len()))));
                }
            };
            match acked {
                Ok(Ok(seq)) => {
                    let mut out = io::stdout().lock();
                    if self.arguments.json {
                        write_json(
                            &mut out,
                            &SentLine::new(message.conversation, seq, message.id),
                        )?;
                    } else {
                        writeln!(out, "{seq}")?;
                    }
                    out.flush()?;
                }
                Ok(Err(Error::Refused(refusal))) => {
                    let line = if self.text() == "-" {
                        format!("line {number}: ")
                    } else {
                        String::new()
                    };
                    complain(&format!(
                        "{line}the message was refused ({}): {}",
                        refusal.code, refusal.reason
                    ));
                    self.client.forget(message.id).await?;
                    self.refused = true;
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {
                    complain(&format!(
                        "{} queued, the gateway is away: {}",
                        messages(self.unacked.len()),
                        why(&connection)
                    ));
                    return Ok(Ended::Away);
                }
            }
            self.unacked.pop_front();
        }
        Ok(Ended::Done)
    }
}

fn messages(count: usize) -> String {
    if count == 1 {
        "1 message is".into()
    } else {
        format!("{count} messages are")
    }
}
