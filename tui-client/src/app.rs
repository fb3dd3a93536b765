//! All of the screen's state, and `update(event) -> effects`; knows neither terminal nor network.

pub(crate) mod areas;
mod command;
pub(crate) mod composer;
pub(crate) mod conversations;
mod field;
pub(crate) mod form;
pub(crate) mod slash;
pub(crate) mod switcher;
pub(crate) mod timeline;
pub(crate) mod wish;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use quipu_protocol::event::{Change, Changed, Invitation, Message, Privacy, Receipt};
use quipu_protocol::id::{ConversationId, MessageId, Seq, UserId};
use quipu_protocol::limits::TEXT_BYTES_MAX;
use quipu_protocol::query::PresenceEntry;

use self::areas::Areas;
pub(crate) use self::command::{Command, Edit, Go, Mode, Scroll};
use self::composer::{COMPOSER_BYTES_MAX, Composer, ComposerRows, TooLong};
use self::conversations::{Conversation, Conversations};
use self::form::{Form, Secret};
use self::slash::{Hide, Slash};
use self::switcher::{Choice, Switcher};
use self::timeline::{EntryRef, Timeline, Waiting};
use self::wish::{Target, What, Wish, WishId, WishNews};

/// The screen's own number for a message until the outbox has named it, and for a change until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EchoId(pub(crate) u64);

/// Which messages of a conversation to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// The last ones, and what waits in the outbox.
    Latest,
    /// The last ones below this seq.
    Before(Seq),
    /// The first ones above this seq.
    After(Seq),
}

/// What a loaded page holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    /// Ascending.
    pub(crate) messages: Vec<Message>,
    /// The gateway has nothing beyond them that the reader may see.
    pub(crate) ends: bool,
    /// What waits in the outbox; only with the latest page.
    pub(crate) waiting: Vec<Waiting>,
    /// What is to be done to messages, and what of it was refused; only with the latest page.
    pub(crate) wishes: Vec<Wish>,
}

/// Whether there is a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Connection {
    /// Being tried.
    Connecting,
    /// WELCOME has come.
    Online,
    /// None, and why.
    Offline {
        /// In words.
        reason: String,
        /// Whether the client tries again by itself.
        retries: bool,
    },
}

/// Everything that can happen to the screen.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A bound key.
    Command(Command),
    /// Text from the clipboard.
    Paste(String),
    /// The terminal has another size.
    Resize {
        /// Cells across.
        columns: u16,
        /// Cells down.
        rows: u16,
    },
    /// The terminal got or lost the focus.
    Focus(bool),
    /// What time it is.
    Clock(Timestamp),
    /// There is an account now.
    SignedIn(UserId),
    /// Registering or logging in did not work.
    SignInFailed(String),
    /// The connection changed.
    Connection(Connection),
    /// The whole conversation list, from the cache.
    Conversations(Vec<Conversation>),
    /// An asked-for page, or why it does not come.
    Page {
        /// Of which conversation.
        conversation: ConversationId,
        /// Which.
        page: Page,
        /// Its messages.
        result: Result<Loaded, String>,
    },
    /// A message got its place.
    Message(Message),
    /// The outbox took a message of this screen.
    Named {
        /// Which.
        echo: EchoId,
        /// Its name from now on.
        id: MessageId,
    },
    /// The outbox did not take it.
    SendFailed {
        /// Which.
        echo: EchoId,
        /// In words.
        reason: String,
    },
    /// The gateway refused a message for good.
    Refused {
        /// Of which conversation.
        conversation: ConversationId,
        /// Which.
        id: MessageId,
        /// In words.
        reason: String,
    },
    /// A member's position moved.
    Receipt(Receipt),
    /// Something happened to what the reader wants done to a message.
    Wish(WishNews),
    /// A change was made; what it changed comes by itself.
    ChangeDone(EchoId),
    /// A change was not made, and why.
    ChangeFailed(EchoId, String),
    /// A group of this title is there.
    GroupMade(EchoId, ConversationId, String),
    /// What others may learn of the reader.
    Privacy(EchoId, Privacy),
    /// The cache has asked the gateway which invitations there are.
    InvitationsAsked,
    /// Something happened to a message.
    Changed(Box<Changed>),
    /// Somebody wants the reader in a group.
    Invited(Invitation),
    /// Messages came that were missing.
    CaughtUp(ConversationId),
    /// Somebody types in a conversation, or (false) no longer does.
    Typing(ConversationId, UserId, bool),
    /// Something else is known of whether somebody is here.
    Presence(PresenceEntry),
    /// What is shown may be stale: everything is loaded again.
    Stale,
}

/// What the screen asks of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Make an account.
    Register {
        /// Its name.
        name: UserId,
        /// Its password.
        password: Secret,
    },
    /// Use an account.
    LogIn {
        /// Its name.
        name: UserId,
        /// Its password.
        password: Secret,
    },
    /// Put a message into the outbox. Answered by `Named` or `SendFailed`.
    Send {
        /// The screen's name for it.
        echo: EchoId,
        /// Where to.
        conversation: ConversationId,
        /// The other member of a direct conversation.
        peer: Option<UserId>,
        /// What it says.
        text: String,
        /// Which message it answers.
        reply_to: Option<Seq>,
    },
    /// Have something done to a message of a conversation. Answered by `Wish` or `ChangeFailed`.
    Wish(EchoId, ConversationId, Target, What),
    /// Drop a refused wish from the outbox.
    ForgetWish(WishId),
    /// Ask the gateway for a change. Answered by `ChangeDone` or `ChangeFailed`.
    Change(EchoId, Box<Change>),
    /// Make a group. Answered by `GroupMade` or `ChangeFailed`.
    MakeGroup(EchoId, String),
    /// Ask what others may learn of the reader, after changing one of it if that is given. Answered by `Privacy` or
    /// `ChangeFailed`.
    Privacy(EchoId, Option<Hide>),
    /// Ask the gateway which invitations there are: another device may have answered some. Answered by `InvitationsAsked`.
    AskInvitations,
    /// Load messages. Answered by `Page`.
    Load {
        /// Of which conversation.
        conversation: ConversationId,
        /// Which.
        page: Page,
    },
    /// Load the conversation list. Answered by `Conversations`.
    Refresh,
    /// Everything up to here was read.
    MarkRead {
        /// In which conversation.
        conversation: ConversationId,
        /// Up to which message.
        seq: Seq,
    },
    /// Say that the reader writes there; comes with every key.
    Typing(ConversationId),
    /// Say that the reader no longer writes there.
    StoppedTyping(ConversationId),
    /// Drop a refused message from the outbox.
    Forget(MessageId),
    /// Draw the whole screen anew.
    Redraw,
    /// Leave.
    Quit,
}

/// How far an own message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// In the outbox.
    Queued,
    /// Durable, ordered and in the history.
    Acked,
    /// On a device of the peer.
    Delivered,
    /// Read by the peer.
    Read,
    /// Refused.
    Failed,
}

/// The conversation on the screen.
#[derive(Debug)]
pub(crate) struct Open {
    /// Which.
    pub(crate) id: ConversationId,
    /// Its messages.
    pub(crate) timeline: Timeline,
}

/// The screen.
#[derive(Debug)]
pub(crate) struct App {
    /// Whose; `None` while the form is shown.
    pub(crate) me: Option<UserId>,
    /// `HOST:PORT` of the gateway, for the form.
    pub(crate) server: String,
    /// The form of the first start.
    pub(crate) form: Form,
    /// Whether there is a gateway.
    pub(crate) connection: Connection,
    /// The list.
    pub(crate) conversations: Conversations,
    /// The conversation on the screen.
    pub(crate) open: Option<Open>,
    /// The switcher, while it is open.
    pub(crate) switcher: Option<Switcher>,
    /// First row of the help, while it is open.
    pub(crate) help: Option<u16>,
    /// Something that the last command could not do.
    pub(crate) notice: Option<String>,
    /// The time zone that times are shown in.
    pub(crate) zone: TimeZone,
    /// What time it is.
    pub(crate) now: Timestamp,
    typing: BTreeSet<(ConversationId, UserId)>,
    drafts: BTreeMap<ConversationId, Composer>,
    /// Lines that asked for changes and have no answer yet, to be given back if they are refused.
    asked: BTreeMap<EchoId, Asked>,
    blank: Composer,
    focused: bool,
    columns: u16,
    rows: u16,
    next_echo: u64,
}

/// A line that asked for something.
#[derive(Debug)]
struct Asked {
    /// Where it was written.
    conversation: ConversationId,
    line: String,
    /// It answers an invitation: by joining, or by declining.
    joins: Option<bool>,
}

impl App {
    /// A screen of the given size. `me` is the account of the data folder, if it has one.
    pub(crate) fn new(
        me: Option<UserId>,
        server: String,
        zone: TimeZone,
        now: Timestamp,
        size: (u16, u16),
    ) -> Self {
        Self {
            me,
            server,
            form: Form::default(),
            connection: Connection::Connecting,
            conversations: Conversations::default(),
            open: None,
            switcher: None,
            help: None,
            notice: None,
            zone,
            now,
            typing: BTreeSet::new(),
            drafts: BTreeMap::new(),
            asked: BTreeMap::new(),
            blank: Composer::default(),
            // A terminal that cannot report its focus is taken to have it.
            focused: true,
            columns: size.0,
            rows: size.1,
            next_echo: 0,
        }
    }

    /// Takes an event in and says what is to be done about it.
    pub(crate) fn update(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(event, &mut effects);
        self.settle(&mut effects);
        effects
    }

    /// Which keys count.
    pub(crate) fn mode(&self) -> Mode {
        if self.me.is_none() {
            Mode::Form
        } else if self.help.is_some() {
            Mode::Help
        } else if self.switcher.is_some() {
            Mode::List
        } else {
            Mode::Chat
        }
    }

    /// How the screen is shared out now.
    pub(crate) fn areas(&self) -> Areas {
        Areas::new(self.columns, self.rows, self.composer_rows().rows.len())
    }

    /// The message being written, as it is drawn.
    pub(crate) fn composer_rows(&self) -> ComposerRows {
        self.composer()
            .rows(usize::from(Areas::composer_columns(self.columns)))
    }

    /// The message being written.
    pub(crate) fn composer(&self) -> &Composer {
        self.open
            .as_ref()
            .and_then(|open| self.drafts.get(&open.id))
            .unwrap_or(&self.blank)
    }

    /// The line of the list that is on the screen.
    pub(crate) fn open_row(&self) -> Option<&Conversation> {
        self.conversations.get(&self.open.as_ref()?.id)
    }

    /// Who types in the conversation on the screen, by name.
    pub(crate) fn typists(&self) -> impl Iterator<Item = &UserId> {
        let open = self.open.as_ref().map(|open| open.id);
        let here = move |(conversation, _): &&(ConversationId, UserId)| Some(*conversation) == open;
        self.typing.iter().filter(here).map(|(_, user)| user)
    }

    /// Messages that arrived below the view since the reader scrolled away; `None` at the bottom.
    pub(crate) fn new_below(&self) -> Option<u64> {
        let open = self
            .open
            .as_ref()
            .filter(|open| !open.timeline.at_bottom())?;
        let head = self.open_row()?.head.map_or(0, Seq::get);
        Some(head.saturating_sub(open.timeline.left_at().map_or(head, Seq::get)))
    }

    /// How far a message has come; `None` for those of others.
    pub(crate) fn mark(&self, entry: EntryRef) -> Option<Mark> {
        let open = self.open.as_ref()?;
        match entry {
            EntryRef::Pending(index) => {
                let failed = open.timeline.pending().get(index)?.failed.is_some();
                Some(if failed { Mark::Failed } else { Mark::Queued })
            }
            EntryRef::Placed(seq) => {
                let entry = open.timeline.entry(seq)?;
                if entry.waits() {
                    return Some(Mark::Queued);
                }
                if Some(entry.from) != self.me {
                    return None;
                }
                let row = self.open_row()?;
                Some(if row.peer_read >= Some(seq) {
                    Mark::Read
                } else if row.peer_delivered >= Some(seq) {
                    Mark::Delivered
                } else {
                    Mark::Acked
                })
            }
        }
    }

    fn take(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Command(command) => self.command(command, effects),
            Event::Paste(text) => self.paste(&text, effects),
            Event::Resize { columns, rows } => (self.columns, self.rows) = (columns, rows),
            Event::Focus(focused) => self.focused = focused,
            Event::Clock(now) => self.now = now,
            Event::SignedIn(me) => {
                self.me = Some(me);
                self.form = Form::default();
                effects.push(Effect::Refresh);
            }
            Event::SignInFailed(reason) => self.form.failed(reason),
            Event::Connection(connection) => self.connected(connection, effects),
            Event::InvitationsAsked => effects.push(Effect::Refresh),
            Event::Conversations(all) => {
                self.conversations.replace(all);
                self.leave_unknown(effects);
            }
            Event::Page {
                conversation,
                page,
                result,
            } => self.page(&conversation, page, result),
            Event::Message(message) => self.message(&message, effects),
            Event::Named { echo, id } => self.with_timeline(|timeline| timeline.named(echo, id)),
            Event::SendFailed { echo, reason } => {
                self.with_timeline(|timeline| {
                    timeline.failed(|pending| pending.echo == Some(echo), &reason)
                });
                self.notice = Some(reason);
            }
            Event::Refused {
                conversation,
                id,
                reason,
            } => {
                if self.is_open(&conversation) {
                    self.with_timeline(|timeline| {
                        timeline.failed(|pending| pending.id == Some(id), &reason)
                    });
                }
                effects.push(Effect::Refresh);
            }
            Event::Receipt(receipt) => {
                if let Some(me) = self.me
                    && self.conversations.receipt(me, &receipt)
                {
                    effects.push(Effect::Refresh);
                }
            }
            Event::Changed(changed) => {
                if self.is_open(&changed.conversation) {
                    self.with_timeline(|timeline| timeline.changed(&changed));
                }
                // The last message may say something else in the list now.
                effects.push(Effect::Refresh);
            }
            Event::Wish(news) => self.take_wish(news, effects),
            Event::ChangeDone(asked) => self.change_done(asked, effects),
            Event::Privacy(asked, privacy) => {
                self.asked.remove(&asked);
                self.notice = Some(slash::privacy_words(privacy));
            }
            Event::ChangeFailed(asked, reason) => self.give_back(asked, reason),
            Event::GroupMade(asked, id, title) => {
                self.asked.remove(&asked);
                self.conversations.entry(id, None).group = Some(title);
                self.open_other(id, effects);
            }
            Event::Invited(invitation) => {
                self.conversations.invited(&invitation);
                // A list that is being read may be from before.
                effects.push(Effect::Refresh);
            }
            Event::CaughtUp(conversation) => self.caught_up(conversation, effects),
            Event::Typing(conversation, user, on) => self.typist((conversation, user), on),
            Event::Presence(entry) => self.conversations.presence(&entry),
            Event::Stale => {
                // Who stopped may be among what was missed.
                self.typing.clear();
                effects.push(Effect::Refresh);
                if let Some(id) = self.open.as_ref().map(|open| open.id) {
                    self.open(id, effects);
                }
            }
        }
    }

    fn take_wish(&mut self, news: WishNews, effects: &mut Vec<Effect>) {
        match news {
            WishNews::Taken(asked, wish) => {
                self.asked.remove(&asked);
                self.with_timeline(|timeline| timeline.wish(wish));
            }
            WishNews::Made(asked, target, what) => {
                self.asked.remove(&asked);
                self.with_timeline(|timeline| timeline.change_pending(target, &what));
                effects.push(Effect::Refresh);
            }
            WishNews::Ended(conversation, id) => {
                if self.is_open(&conversation) {
                    self.with_timeline(|timeline| timeline.wish_ended(id, None));
                }
            }
            WishNews::Refused(conversation, id, reason) => {
                if self.is_open(&conversation) {
                    self.with_timeline(|timeline| timeline.wish_ended(id, Some(&reason)));
                }
                self.notice = Some(format!("Not done: {reason}"));
            }
        }
    }

    fn connected(&mut self, connection: Connection, effects: &mut Vec<Effect>) {
        self.connection = connection;
        let mut rows = self.conversations.iter();
        if self.connection == Connection::Online && rows.any(|row| row.invited_by.is_some()) {
            effects.push(Effect::AskInvitations);
        }
    }

    fn change_done(&mut self, asked: EchoId, effects: &mut Vec<Effect>) {
        if let Some(asked) = self.asked.remove(&asked)
            && let Some(joins) = asked.joins
        {
            self.conversations.answered(&asked.conversation, joins);
            self.leave_unknown(effects);
        }
        effects.push(Effect::Refresh);
    }

    fn caught_up(&mut self, conversation: ConversationId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Refresh);
        let open = self.open.as_mut().filter(|open| open.id == conversation);
        if open.is_some_and(|open| open.timeline.at_bottom() && open.timeline.ask(Page::Latest)) {
            effects.push(Effect::Load {
                conversation,
                page: Page::Latest,
            });
        }
    }

    /// A group that is on the screen and no longer in the list was an invitation that is declined: another takes its place.
    fn leave_unknown(&mut self, effects: &mut Vec<Effect>) {
        let is_known = |open: &Open| self.conversations.get(&open.id).is_some();
        if self.open.as_ref().is_some_and(|open| !is_known(open)) {
            self.open = None;
        }
        if self.open.is_none()
            && let Some(first) = self.conversations.at(0)
        {
            self.open(first, effects);
        }
    }

    fn typist(&mut self, who: (ConversationId, UserId), types: bool) {
        if types {
            self.typing.insert(who);
        } else {
            self.typing.remove(&who);
        }
    }

    /// What follows from any change: rows at the present width, pages to load, messages that are read now.
    fn settle(&mut self, effects: &mut Vec<Effect>) {
        let area = self.areas().timeline;
        let Some(open) = &mut self.open else { return };
        open.timeline.layout(usize::from(area.width));
        if let Some(page) = open.timeline.wanted(usize::from(area.height))
            && open.timeline.ask(page)
        {
            effects.push(Effect::Load {
                conversation: open.id,
                page,
            });
        }
        let Some(row) = self.conversations.get_mut(&open.id) else {
            return;
        };
        let seen = open
            .timeline
            .last_seq()
            .filter(|_| self.focused && self.help.is_none() && open.timeline.at_bottom());
        if let Some(seq) = seen
            && row.read < Some(seq)
        {
            // Own messages alone are no news to the gateway.
            if row.unread > 0 {
                effects.push(Effect::MarkRead {
                    conversation: open.id,
                    seq,
                });
            }
            row.read = Some(seq);
            row.unread = 0;
        }
    }

    fn command(&mut self, command: Command, effects: &mut Vec<Effect>) {
        self.notice = None;
        match self.mode() {
            Mode::Form => effects.extend(self.form.update(command)),
            Mode::Help => self.in_help(command, effects),
            Mode::List => self.in_switcher(command, effects),
            Mode::Chat | Mode::Any | Mode::Field => self.in_chat(command, effects),
        }
    }

    fn in_chat(&mut self, command: Command, effects: &mut Vec<Effect>) {
        match command {
            Command::Submit => self.submit(effects),
            Command::Edit(edit) => self.edit(edit, effects),
            Command::Scroll(scroll) => self.scroll(scroll, effects),
            Command::Either(scroll, _) if self.composer().is_empty() => {
                self.scroll(scroll, effects)
            }
            Command::Either(_, edit) => self.edit(edit, effects),
            Command::Go(go) => {
                let (back, unread) = match go {
                    Go::Next => (false, false),
                    Go::Previous => (true, false),
                    Go::NextUnread => (false, true),
                    Go::PreviousUnread => (true, true),
                };
                match self.conversations.neighbour(
                    self.open.as_ref().map(|open| &open.id),
                    back,
                    unread,
                ) {
                    Some(id) => self.open_other(id, effects),
                    None if unread => self.notice = Some("Nothing else is unread.".into()),
                    None => {}
                }
            }
            Command::Switcher => {
                self.switcher = self.me.map(|me| Switcher::new(me, &self.conversations))
            }
            Command::Cancel => {
                self.with_timeline(Timeline::clear_unread);
                self.take_back(effects);
                self.scroll(Scroll::Newest, effects);
            }
            Command::Interrupt if !self.composer().is_empty() => {
                if let Some(composer) = self.composer_mut() {
                    composer.clear();
                }
                self.say_typing(true, effects);
            }
            Command::Interrupt | Command::Quit => effects.push(Effect::Quit),
            Command::Help => self.help = Some(0),
            Command::Redraw => effects.push(Effect::Redraw),
            Command::NextItem | Command::PreviousItem | Command::SwitchForm => {}
        }
    }

    fn in_switcher(&mut self, command: Command, effects: &mut Vec<Effect>) {
        let (Some(switcher), Some(me)) = (&mut self.switcher, self.me) else {
            return;
        };
        match command {
            Command::Edit(edit) => switcher.edit(edit, me, &self.conversations),
            Command::NextItem => switcher.step(false),
            Command::PreviousItem => switcher.step(true),
            Command::Submit => {
                let chosen = switcher.chosen();
                let id = match chosen {
                    Some(Choice::Known(id)) => id,
                    Some(Choice::New(peer)) => {
                        let id = ConversationId::direct(&me, &peer);
                        self.conversations.entry(id, Some(peer));
                        id
                    }
                    None => return,
                };
                self.switcher = None;
                self.open_other(id, effects);
            }
            Command::Cancel | Command::Interrupt => self.switcher = None,
            Command::Help => self.help = Some(0),
            Command::Quit => effects.push(Effect::Quit),
            Command::Redraw => effects.push(Effect::Redraw),
            Command::Scroll(_)
            | Command::Either(..)
            | Command::Go(_)
            | Command::Switcher
            | Command::SwitchForm => {}
        }
    }

    fn in_help(&mut self, command: Command, effects: &mut Vec<Effect>) {
        let at = self.help.unwrap_or(0);
        let page = self.rows / 2;
        match command {
            Command::Scroll(Scroll::LineUp) => self.help = Some(at.saturating_sub(1)),
            Command::Scroll(Scroll::LineDown) => {
                self.help = Some(at.saturating_add(1).min(HELP_SCROLL_MAX))
            }
            Command::Scroll(Scroll::PageUp) => self.help = Some(at.saturating_sub(page)),
            Command::Scroll(Scroll::PageDown) => {
                self.help = Some(at.saturating_add(page).min(HELP_SCROLL_MAX))
            }
            Command::Cancel | Command::Help | Command::Interrupt => self.help = None,
            Command::Quit => effects.push(Effect::Quit),
            Command::Redraw => effects.push(Effect::Redraw),
            Command::Scroll(
                Scroll::HalfPageUp | Scroll::HalfPageDown | Scroll::Oldest | Scroll::Newest,
            )
            | Command::Submit
            | Command::Edit(_)
            | Command::Either(..)
            | Command::Go(_)
            | Command::NextItem
            | Command::PreviousItem
            | Command::Switcher
            | Command::SwitchForm => {}
        }
    }

    fn paste(&mut self, text: &str, effects: &mut Vec<Effect>) {
        self.notice = None;
        match self.mode() {
            Mode::Form => self.form.paste(text),
            Mode::List => {
                if let (Some(switcher), Some(me)) = (&mut self.switcher, self.me) {
                    switcher.paste(text, me, &self.conversations);
                }
            }
            Mode::Chat | Mode::Any | Mode::Field => {
                let result = self
                    .composer_mut()
                    .map_or(Ok(()), |composer| composer.insert(text));
                self.say_too_long(result);
                self.say_typing(false, effects);
            }
            Mode::Help => {}
        }
    }

    fn edit(&mut self, edit: Edit, effects: &mut Vec<Effect>) {
        let columns = usize::from(Areas::composer_columns(self.columns));
        let before = self.composer().len();
        match self.composer_mut() {
            Some(composer) => {
                let result = composer.edit(edit, columns);
                self.say_too_long(result);
                // Moving about in what is written is not writing.
                if self.composer().len() != before {
                    self.say_typing(before > 0, effects);
                }
            }
            None => {
                self.notice = Some("Nobody to write to yet: Ctrl-K opens a conversation.".into())
            }
        }
    }

    /// The composer holds something else than before: whoever reads it may be told. `was`: whether it held anything.
    fn say_typing(&self, was: bool, effects: &mut Vec<Effect>) {
        let Some(open) = &self.open else { return };
        let text = self.composer().text();
        // A command is nobody's business.
        if text.starts_with('/') {
            return;
        }
        match (text.is_empty(), was) {
            (false, _) => effects.push(Effect::Typing(open.id)),
            (true, true) => effects.push(Effect::StoppedTyping(open.id)),
            (true, false) => {}
        }
    }

    fn say_too_long(&mut self, result: Result<(), TooLong>) {
        if result == Err(TooLong) {
            self.notice = Some(format!(
                "Too long: the composer holds {} KiB.",
                COMPOSER_BYTES_MAX / 1024
            ));
        }
    }

    fn submit(&mut self, effects: &mut Vec<Effect>) {
        let (composer, now, echo) = (self.composer(), self.now, EchoId(self.next_echo));
        if composer.text().trim().is_empty() {
            return;
        }
        let text = composer.text().trim_end().to_owned();
        if text.len() > TEXT_BYTES_MAX {
            self.notice = Some(format!(
                "Not sent: {} bytes, a message has at most {TEXT_BYTES_MAX}. Shorten it or send it in parts.",
                text.len()
            ));
            return;
        }
        let Some(open) = &mut self.open else { return };
        let conversation = open.id;
        let (text, reply_to) = match slash::read(&text, open.id, &open.timeline) {
            Ok(Slash::Say(text, reply_to)) => (text, reply_to),
            Ok(Slash::Change(change)) => {
                let joins = matches!(*change, Change::Join(_));
                let answers = joins || matches!(*change, Change::Leave(_));
                let joins = answers.then_some(joins);
                effects.push(Effect::Change(echo, change));
                return self.wait_for_answer(echo, conversation, text, joins);
            }
            Ok(Slash::Wish(target, what)) => {
                effects.push(Effect::Wish(echo, conversation, target, what));
                return self.wait_for_answer(echo, conversation, text, None);
            }
            Ok(Slash::MakeGroup(title)) => {
                effects.push(Effect::MakeGroup(echo, title));
                return self.wait_for_answer(echo, conversation, text, None);
            }
            Ok(Slash::Privacy(hide)) => {
                effects.push(Effect::Privacy(echo, hide));
                return self.wait_for_answer(echo, conversation, text, None);
            }
            Err(reason) => {
                self.notice = Some(reason);
                return;
            }
        };
        self.next_echo += 1;
        let was_detached = !open.timeline.at_bottom();
        open.timeline.echo(echo, &text, now);
        let (conversation, peer) = (
            open.id,
            self.conversations.get(&open.id).and_then(|row| row.peer),
        );
        self.clear_composer();
        if let Some(row) = self.conversations.get_mut(&conversation) {
            row.waiting += 1;
        }
        effects.push(Effect::Send {
            echo,
            conversation,
            peer,
            text,
            reply_to,
        });
        if was_detached {
            self.scroll(Scroll::Newest, effects);
        }
    }

    /// The line leaves the composer, and comes back if what it asks for is refused.
    fn wait_for_answer(
        &mut self,
        asked: EchoId,
        conversation: ConversationId,
        line: String,
        joins: Option<bool>,
    ) {
        self.next_echo += 1;
        if self.asked.len() >= ASKED_LINES_MAX {
            self.asked.pop_first();
        }
        let waits = Asked {
            conversation,
            line,
            joins,
        };
        self.asked.insert(asked, waits);
        self.clear_composer();
    }

    /// What was asked for is refused: the line is written again, unless something else is by now.
    fn give_back(&mut self, asked: EchoId, reason: String) {
        self.notice = Some(reason);
        if let Some(asked) = self.asked.remove(&asked) {
            let draft = self.drafts.entry(asked.conversation).or_default();
            if draft.is_empty() {
                // It was in a composer before.
                let _ = draft.insert(&asked.line);
            }
        }
    }

    fn clear_composer(&mut self) {
        if let Some(composer) = self.composer_mut() {
            composer.take();
        }
    }

    fn scroll(&mut self, scroll: Scroll, effects: &mut Vec<Effect>) {
        let height = usize::from(self.areas().timeline.height);
        let Some(open) = &mut self.open else { return };
        if open.timeline.scroll(scroll, height) && open.timeline.ask(Page::Latest) {
            effects.push(Effect::Load {
                conversation: open.id,
                page: Page::Latest,
            });
        }
    }

    /// Puts the last refused message back into an empty composer.
    fn take_back(&mut self, effects: &mut Vec<Effect>) {
        if !self.composer().is_empty() {
            return;
        }
        let Some(open) = &mut self.open else { return };
        let words = if let Some(wish) = open.timeline.take_refused() {
            effects.push(Effect::ForgetWish(wish.id));
            wish.what.line()
        } else if let Some(refused) = open.timeline.take_failed() {
            effects.extend(refused.id.map(Effect::Forget));
            refused.body.text().to_owned()
        } else {
            return;
        };
        let result = self
            .composer_mut()
            .map_or(Ok(()), |composer| composer.insert(&words));
        self.say_too_long(result);
    }

    fn open_other(&mut self, id: ConversationId, effects: &mut Vec<Effect>) {
        if !self.is_open(&id) {
            self.open(id, effects);
        }
    }

    fn open(&mut self, id: ConversationId, effects: &mut Vec<Effect>) {
        let Some(me) = self.me else { return };
        self.drafts
            .retain(|other, draft| *other == id || !draft.is_empty());
        self.drafts.entry(id).or_default();
        let unread = self.conversations.get(&id).filter(|row| row.unread > 0);
        let unread_after = unread.map(|row| row.read.map_or(0, Seq::get));
        let mut timeline = Timeline::new(me, self.zone.clone(), unread_after);
        timeline.ask(Page::Latest);
        self.open = Some(Open { id, timeline });
        effects.push(Effect::Load {
            conversation: id,
            page: Page::Latest,
        });
    }

    fn page(&mut self, conversation: &ConversationId, page: Page, result: Result<Loaded, String>) {
        let area = self.areas().timeline;
        let head = self
            .conversations
            .get(conversation)
            .and_then(|row| row.head);
        let Some(open) = self.open.as_mut().filter(|open| open.id == *conversation) else {
            return;
        };
        match result {
            Ok(loaded) => {
                open.timeline.wishes(loaded.wishes);
                open.timeline.page(page, &loaded.messages, &loaded.waiting);
                open.timeline.attach(head);
                if loaded.ends {
                    open.timeline.ends(page);
                }
                if page == Page::Latest {
                    open.timeline.layout(usize::from(area.width));
                    open.timeline.show_unread(usize::from(area.height));
                }
            }
            Err(reason) => open.timeline.page_failed(page, reason),
        }
    }

    fn message(&mut self, message: &Message, effects: &mut Vec<Effect>) {
        let Some(me) = self.me else { return };
        let known_before = self
            .conversations
            .get(&message.conversation)
            .map(|row| row.read.map_or(0, Seq::get));
        let new = self.conversations.message(me, message);
        if message.from == me {
            // Only the cache knows how many of the outbox are left.
            effects.push(Effect::Refresh);
        }
        let away = !self.focused;
        if let Some(open) = self
            .open
            .as_mut()
            .filter(|open| open.id == message.conversation)
        {
            if new && message.from != me && (away || !open.timeline.at_bottom()) {
                open.timeline.mark_unread_after(known_before.unwrap_or(0));
            }
            open.timeline.message(message);
        } else if self.open.is_none() {
            self.open(message.conversation, effects);
        }
    }

    fn is_open(&self, id: &ConversationId) -> bool {
        self.open.as_ref().is_some_and(|open| open.id == *id)
    }

    fn with_timeline(&mut self, change: impl FnOnce(&mut Timeline)) {
        if let Some(open) = &mut self.open {
            change(&mut open.timeline);
        }
    }

    fn composer_mut(&mut self) -> Option<&mut Composer> {
        let open = self.open.as_ref()?;
        Some(self.drafts.entry(open.id).or_default())
    }
}

/// Lines without an answer that are remembered; beyond, the oldest is not given back when it is refused.
const ASKED_LINES_MAX: usize = 64;

/// Farthest row that the help scrolls to; more than it has.
const HELP_SCROLL_MAX: u16 = 200;
