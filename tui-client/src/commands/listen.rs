//! `listen`: print the inbox, each message once, also across restarts, and what happens beside messages.

use std::io::{self, Write};

use quipu_client::{Account, Arrival, Client, ConnectionState, Error};
use quipu_protocol::id::Cursor;
use tokio::time::{Instant, sleep_until};

use super::beside::Beside;
use super::{Ended, complain, gave_up, signed_in, write_message};
use crate::cli::ListenArgs;

/// Under which name the data folder keeps what was printed.
const PRINTED: &str = "printed";

/// Prints until `--count`, `--timeout`, a closed pipe or a signal ends it.
///
/// The place is stored after the lines were flushed: a kill between the two prints at most one batch again, none is left out.
pub(super) async fn run(client: &Client, arguments: &ListenArgs) -> anyhow::Result<Ended> {
    // Before anything is waited for: what happens beside messages is heard from here on.
    let events = client.events();
    let account = signed_in(client).await?;
    let deadline = arguments.timeout.map(|timeout| Instant::now() + timeout);
    let printed = client.bookmark(PRINTED).await?.unwrap_or(Cursor::START);
    let start = if arguments.from_start {
        Cursor::START
    } else {
        printed
    };
    let mut tail = client.tail(start);
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut connection = client.connection();
    let mut trouble = client.connection();
    let mut beside = Beside::new(events, start);
    let mut stored = printed;
    while left > 0 {
        let batch = tokio::select! {
            biased;
            batch = tail.next() => batch?,
            line = beside.next(), if arguments.json => {
                match line {
                    Some(line) if write_line(&line.bytes)? => left -= u64::from(line.counts),
                    Some(_) => return Ok(Ended::Done),
                    None => return Err(Error::Closed.into()),
                }
                continue;
            }
            reason = gave_up(&mut connection) => return Err(reason),
            () = report(&mut trouble) => continue,
            () = until(deadline) => break,
        };
        // A life of the inbox that began anew counts from 1 again.
        if batch
            .first()
            .is_some_and(|first| first.inbox_seq.cursor() <= stored)
            && !arguments.from_start
        {
            stored = Cursor::START;
        }
        let Some(last) = print(&batch, &account, arguments, &mut left)? else {
            return Ok(Ended::Done);
        };
        beside.reached(last);
        if last > stored {
            client.set_bookmark(PRINTED, last).await?;
            stored = last;
        }
    }
    Ok(Ended::Done)
}

/// Writes a finished line; false if nobody reads any more.
fn write_line(line: &[u8]) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(line).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Prints what of a batch is wanted and flushes it. Gives the place of the last one looked at; `None` if nobody reads any more.
fn print(
    batch: &[Arrival],
    account: &Account,
    arguments: &ListenArgs,
    left: &mut u64,
) -> io::Result<Option<Cursor>> {
    let mut out = io::stdout().lock();
    let mut last = Cursor::START;
    let mut write = || -> io::Result<()> {
        for arrival in batch {
            if *left == 0 {
                break;
            }
            last = arrival.inbox_seq.cursor();
            let message = &arrival.message;
            let own = message.from == account.user && message.from_device == account.device;
            if own && !arguments.own && !arguments.from_start {
                continue;
            }
            write_message(&mut out, message, arguments.json)?;
            *left -= 1;
        }
        out.flush()
    };
    match write() {
        Ok(()) => Ok(Some(last)),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for the next change of the connection and says if the gateway is away.
async fn report(connection: &mut tokio::sync::watch::Receiver<ConnectionState>) {
    if connection.changed().await.is_err() {
        // The client is closed, which the tail tells.
        std::future::pending::<()>().await;
    }
    if let ConnectionState::Offline {
        reason,
        retry_at: Some(_),
    } = &*connection.borrow_and_update()
    {
        complain(&format!("{reason}; trying again"));
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
