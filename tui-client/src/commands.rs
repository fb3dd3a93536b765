//! The commands without the screen, and what their ends mean.

mod account;
mod ask;
mod beside;
mod changes;
mod groups;
mod history;
mod listen;
mod lists;
mod rich;
mod send;
mod stdin;
mod transfer;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use quipu_client::{Client, Config, ConnectionState, Error};
use quipu_protocol::event::Message;
use quipu_protocol::id::UserId;
use tokio::sync::watch;

use crate::cli::{Cli, Command};
use crate::{json, text, words};

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything is done.
    Done,
    /// Something was refused, and was said.
    Refused,
    /// The gateway is away.
    Away,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Done => Self::SUCCESS,
            Ended::Refused => Self::FAILURE,
            // EX_TEMPFAIL of sysexits.h.
            Ended::Away => Self::from(75),
        }
    }
}

/// Runs a command to its end.
pub(crate) async fn run(cli: &Cli, command: &Command) -> anyhow::Result<Ended> {
    let config = Config {
        // It costs questions to the gateway, and only these lines tell of it.
        presence: matches!(command, Command::Listen(listen) if listen.json),
        ..cli.config()?
    };
    let client = Client::open(config).await?;
    let ended = match command {
        Command::Register { account, .. } => account::register(&client, account).await,
        Command::Login(arguments) => account::login(&client, arguments).await,
        Command::Send(arguments) => send::run(&client, arguments).await,
        Command::Listen(arguments) => listen::run(&client, arguments).await,
        Command::History(arguments) => history::run(&client, arguments).await,
        Command::Upload(arguments) => transfer::upload(&client, arguments).await,
        Command::Download(arguments) => transfer::download(&client, arguments).await,
        Command::Conversations(ask) => lists::conversations(&client, *ask).await,
        Command::Invitations(ask) => lists::invitations(&client, *ask).await,
        Command::Group(command) => {
            signed_in(&client).await?;
            groups::run(&client, command).await
        }
        Command::Edit(arguments) => changes::edit(&client, arguments).await,
        Command::Delete(message) => changes::delete(&client, message).await,
        Command::React(arguments) => changes::react(&client, arguments).await,
        Command::Versions(message) => lists::versions(&client, message).await,
        Command::Timer(arguments) => changes::timer(&client, arguments).await,
        Command::Devices(arguments) => changes::devices(&client, arguments).await,
        Command::Block(arguments) => changes::block(&client, arguments, true).await,
        Command::Unblock(arguments) => changes::block(&client, arguments, false).await,
        Command::Report(arguments) => changes::report(&client, arguments).await,
        Command::Presence(arguments) => lists::presence(&client, arguments).await,
        Command::Privacy(arguments) => changes::privacy(&client, arguments).await,
    };
    client.close().await;
    ended
}

/// The account of the data folder, or what to do without one.
async fn signed_in(client: &Client) -> anyhow::Result<quipu_client::Account> {
    client.account().await?.context(
        "this data folder has no account: run `quipu register NAME --password-stdin` or `quipu login NAME --password-stdin` first, \
         or name another folder with --data",
    )
}

/// Waits for a state of the connection that will not change by itself, and gives its reason.
async fn gave_up(connection: &mut watch::Receiver<ConnectionState>) -> anyhow::Error {
    let state = connection
        .wait_for(|state| matches!(state, ConnectionState::Offline { retry_at: None, .. }))
        .await;
    match state.as_deref() {
        Ok(ConnectionState::Offline { reason, .. }) => anyhow::anyhow!("{reason}"),
        Ok(ConnectionState::Online { .. } | ConnectionState::Connecting) | Err(_) => {
            Error::Closed.into()
        }
    }
}

/// Why there is no connection, in words.
fn why(connection: &watch::Receiver<ConnectionState>) -> String {
    match &*connection.borrow() {
        ConnectionState::Offline { reason, .. } => reason.to_string(),
        ConnectionState::Connecting => "the gateway does not answer".into(),
        ConnectionState::Online { .. } => "the gateway did not answer in time".into(),
    }
}

/// Says on standard error what is wrong: one line, with nothing in it that the terminal would obey, since a part of it may
/// come from a gateway.
pub(crate) fn complain(words: &str) {
    eprintln!("quipu: {}", text::display(&text::single_line(words)));
}

/// Writes a message as one JSON line, or for people: with the day, each further line indented.
fn write_message(out: &mut impl Write, message: &Message, as_json: bool) -> io::Result<()> {
    if as_json {
        return write_json(out, &json::MessageLine::new(message));
    }
    let said = words::said(&message.content);
    let with = message
        .to
        .map_or_else(String::new, |to: UserId| format!(" > {to}"));
    let at = json::rfc3339(message.sent_at);
    for (number, line) in text::lines(&said).enumerate() {
        let line = text::display(line);
        if number == 0 {
            writeln!(out, "{at}  {}{with}: {line}", message.from)?;
        } else {
            writeln!(out, "    {line}")?;
        }
    }
    Ok(())
}

/// Writes one line of JSON.
fn write_json(out: &mut impl Write, line: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
