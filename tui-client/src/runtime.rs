//! The screen's loop: terminal and SDK events in, effects out, at most 30 frames a second.

mod changes;
mod convert;
mod load;
mod wishes;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, bail};
use crossterm::event::{Event as TerminalEvent, EventStream as TerminalEvents};
use futures_util::StreamExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use quipu_client::{ChangeId, Client, Config, Error, Target};
use quipu_protocol::event::Rich;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use self::convert::{connection_event, from_client, summary};
use crate::app::{App, Effect, Event};
use crate::cli::Cli;
use crate::keymap;
use crate::terminal::{self, Screen};

/// Shortest time between two frames. What happens in between is drawn together, and the last change is always drawn.
const FRAME: Duration = Duration::from_millis(33);
/// How often the clock is looked at: the day separators depend on it.
const CLOCK: Duration = Duration::from_secs(20);
/// How long the goodbye to the gateway may take.
const CLOSE: Duration = Duration::from_secs(2);
/// Questions to the cache or the gateway that may be open at once: a register or log-in, the list, and pages. At the limit the
/// oldest pages are given up.
const ASKED_MAX: usize = 16;

/// Runs the screen until the user leaves or a signal ends it.
pub(crate) async fn run(cli: &Cli) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        bail!("the screen needs a terminal; `quipu --help` lists the commands without it");
    }
    let config = Config {
        presence: true,
        ..cli.config()?
    };
    let server = config.server.clone();
    let client = Client::open(config).await?;
    let me = client.account().await?.map(|account| account.user);
    let size = crossterm::terminal::size().context("ask the terminal for its size")?;
    let app = App::new(me, server, TimeZone::system(), Timestamp::now(), size);
    let mut running = Runtime {
        app,
        client: client.clone(),
        asked: JoinSet::new(),
        list_asked: false,
        list_stale: me.is_some(),
        redraw: false,
        quit: false,
    };
    let screen = Screen::take().context("prepare the terminal")?;
    let ended = running.run(screen).await;
    // The terminal is given back by now; everything that matters is in the data folder.
    let _ = timeout(CLOSE, client.close()).await;
    ended
}

struct Runtime {
    app: App,
    client: Client,
    /// Answers on their way.
    asked: JoinSet<Event>,
    /// Whether the conversation list is being read.
    list_asked: bool,
    /// Whether it must be read again.
    list_stale: bool,
    redraw: bool,
    quit: bool,
}

impl Runtime {
    async fn run(&mut self, mut screen: Screen) -> anyhow::Result<()> {
        let mut keys = TerminalEvents::new();
        let mut events = self.client.events();
        let mut connection = self.client.connection();
        connection.mark_changed();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut clock = interval(CLOCK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_frame = Instant::now();
        let mut drawn = false;
        while !self.quit {
            self.ask_for_list();
            tokio::select! {
                key = keys.next() => match key {
                    Some(key) => self.terminal_event(key.context("read the terminal")?).await,
                    None => break,
                },
                event = events.next() => match event {
                    Some(event) => {
                        if let Some(event) = from_client(event) {
                            self.take(event).await;
                        }
                    }
                    None => break,
                },
                Ok(()) = connection.changed() => {
                    let event = connection_event(&connection.borrow_and_update());
                    self.take(event).await;
                }
                Some(answer) = self.asked.join_next() => self.answer(answer).await,
                _ = clock.tick() => self.take(Event::Clock(Timestamp::now())).await,
                () = terminal::panicked() => bail!("a part of the program failed, as said above; nothing that was queued is lost"),
                _ = terminate.recv() => break,
                _ = hang_up.recv() => break,
                () = sleep_until(next_frame), if !drawn => {
                    if std::mem::take(&mut self.redraw) {
                        screen.clear()?;
                    }
                    screen.draw(&self.app).context("draw")?;
                    next_frame = Instant::now() + FRAME;
                    drawn = true;
                    continue;
                }
            }
            drawn = false;
        }
        Ok(())
    }

    async fn terminal_event(&mut self, event: TerminalEvent) {
        let event = match event {
            TerminalEvent::Key(key) => match keymap::command(self.app.mode(), key) {
                Some(command) => Event::Command(command),
                None => return,
            },
            TerminalEvent::Paste(text) => Event::Paste(text),
            TerminalEvent::Resize(columns, rows) => Event::Resize { columns, rows },
            TerminalEvent::FocusGained => Event::Focus(true),
            TerminalEvent::FocusLost => Event::Focus(false),
            TerminalEvent::Mouse(_) => return,
        };
        self.take(event).await;
    }

    async fn answer(&mut self, answer: Result<Event, tokio::task::JoinError>) {
        // One that failed was given up: a panic has ended the process already.
        if let Ok(event) = answer {
            if matches!(event, Event::Conversations(_)) {
                self.list_asked = false;
            }
            self.take(event).await;
        }
    }

    /// Feeds the app and does what it asks for, until it asks for nothing more.
    async fn take(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.app.update(event) {
                events.extend(self.perform(effect).await);
            }
        }
    }

    /// Does one thing. What only touches the data folder is done at once, in order; the rest answers later.
    async fn perform(&mut self, effect: Effect) -> Option<Event> {
        let client = self.client.clone();
        match effect {
            Effect::Register { name, password } => {
                self.ask(
                    async move { signed_in(client.register(name.as_str(), &password.0).await) },
                );
            }
            Effect::LogIn { name, password } => {
                self.ask(async move { signed_in(client.login(name.as_str(), &password.0).await) });
            }
            Effect::Send {
                echo,
                conversation,
                peer,
                text,
                reply_to,
            } => {
                let target = peer.map_or(Target::Conversation(conversation), Target::User);
                let rich = |text| Rich {
                    text,
                    reply_to,
                    ..Rich::default()
                };
                let sent = match reply_to {
                    Some(_) => client.send_rich(target, rich(text)).await,
                    None => client.send(target, text).await,
                };
                return Some(match sent {
                    Ok(queued) => Event::Named {
                        echo,
                        id: queued.id,
                    },
                    Err(error) => Event::SendFailed {
                        echo,
                        reason: error.to_string(),
                    },
                });
            }
            Effect::Wish(asked, conversation, target, what) => {
                return Some(wishes::wish(&client, asked, conversation, (target, what)).await);
            }
            Effect::ForgetWish(id) => {
                if let Err(error) = client.forget_change(ChangeId(id.0)).await {
                    tracing::warn!(%error, "forget a refused change");
                }
            }
            Effect::Change(asked, change) => self.ask(changes::change(client, asked, change)),
            Effect::MakeGroup(asked, title) => {
                self.ask(changes::make_group(client, asked, title));
            }
            Effect::Privacy(asked, hide) => self.ask(changes::privacy(client, asked, hide)),
            Effect::AskInvitations => self.ask(changes::ask_invitations(client)),
            Effect::Load { conversation, page } => {
                self.ask(async move {
                    let result = load::page(&client, conversation, page)
                        .await
                        .map_err(|error| error.to_string());
                    Event::Page {
                        conversation,
                        page,
                        result,
                    }
                });
            }
            Effect::Refresh => self.list_stale = true,
            Effect::MarkRead { conversation, seq } => {
                if let Err(error) = client.mark_read(conversation, seq).await {
                    // The position is reported again with the next message that is read.
                    tracing::warn!(%error, "mark read");
                }
            }
            Effect::Typing(conversation) => client.typing(conversation),
            Effect::StoppedTyping(conversation) => client.stopped_typing(conversation),
            Effect::Forget(id) => {
                if let Err(error) = client.forget(id).await {
                    tracing::warn!(%error, "forget a refused message");
                }
                self.list_stale = true;
            }
            Effect::Redraw => self.redraw = true,
            Effect::Quit => self.quit = true,
        }
        None
    }

    fn ask(&mut self, question: impl Future<Output = Event> + Send + 'static) {
        if self.asked.len() >= ASKED_MAX {
            self.asked.abort_all();
            self.list_asked = false;
            self.list_stale = true;
        }
        self.asked.spawn(question);
    }

    /// Reads the conversation list if it is stale: one reading at a time, however much has changed meanwhile.
    fn ask_for_list(&mut self) {
        if !self.list_stale || self.list_asked {
            return;
        }
        self.list_stale = false;
        self.list_asked = true;
        let client = self.client.clone();
        self.ask(async move {
            match client.conversations().await {
                Ok(all) => {
                    let row = |line| summary(line, |peer| client.presence(peer));
                    Event::Conversations(all.into_iter().map(row).collect())
                }
                Err(error) => {
                    tracing::warn!(%error, "read the conversation list");
                    Event::Conversations(Vec::new())
                }
            }
        });
    }
}

fn signed_in(result: Result<quipu_client::Account, Error>) -> Event {
    match result {
        Ok(account) => Event::SignedIn(account.user),
        Err(error) => Event::SignInFailed(error.to_string()),
    }
}
