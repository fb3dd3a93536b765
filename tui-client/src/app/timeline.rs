//! The open conversation: a window of its history, the messages that are still on their way, and where the reader is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use quipu_protocol::event::{Changed, ChangedKind, Content, Message, MessageState, Reaction};
use quipu_protocol::id::{ConversationId, MessageId, Seq, TimestampMs, UserId};

use super::wish::{Target, What, Wish, WishId};
use super::{EchoId, Page, Scroll};
use crate::{text, words};

/// Messages kept in the window. Above it those farthest from the reader are dropped; scrolling there loads them again.
pub(crate) const WINDOW_MESSAGES_MAX: usize = 2_000;
/// Cells that a sender's name may take.
const NAME_COLUMNS_MAX: usize = 14;

/// A message with a place in the conversation.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The name its sender gave it.
    pub(crate) id: MessageId,
    /// Who sent it.
    pub(crate) from: UserId,
    /// When, by the reader's clock.
    pub(crate) at: DateTime,
    /// What it says.
    pub(crate) body: Body,
    /// Which message it answers.
    pub(crate) reply_to: Option<Seq>,
    /// Whether it is a note or gone: nobody's own words.
    pub(crate) quiet: bool,
    state: MessageState,
    content: Content,
    wanted: Wanted,
}

/// What is to become of a message, as far as the reader has asked for it and it is not done.
#[derive(Debug, Clone, Default)]
struct Wanted {
    words: Option<String>,
    goes: bool,
    /// Signs of the reader.
    signs: Vec<(Reaction, bool)>,
}

impl Wanted {
    fn add(&mut self, me: UserId, what: &What) {
        match what {
            What::Edit(words) => self.words = Some(words.clone()),
            What::Delete => self.goes = true,
            What::React { emoji, on } => {
                let emoji = emoji.clone();
                self.signs.push((Reaction { user: me, emoji }, *on));
            }
        }
    }

    fn is_nothing(&self) -> bool {
        self.words.is_none() && !self.goes && self.signs.is_empty()
    }
}

impl Entry {
    fn new(message: &Message, zone: &TimeZone) -> Self {
        let mut entry = Self {
            id: message.id,
            from: message.from,
            at: local_ms(message.sent_at, zone),
            body: Body::new(""),
            reply_to: None,
            quiet: false,
            state: message.state.as_deref().cloned().unwrap_or_default(),
            content: message.content.clone(),
            wanted: Wanted::default(),
        };
        entry.say();
        entry
    }

    /// Whether something that is to be done to it waits.
    pub(crate) fn waits(&self) -> bool {
        !self.wanted.is_nothing()
    }

    /// What it is to become from now on.
    fn want(&mut self, wanted: Wanted) {
        if wanted.is_nothing() && self.wanted.is_nothing() {
            return;
        }
        self.wanted = wanted;
        self.say();
    }

    /// Lays out what it says, or is to say.
    fn say(&mut self) {
        let content = &self.content;
        self.quiet = matches!(content, Content::Note(_) | Content::Gone(_));
        self.body = match content {
            Content::Note(note) => Body::new(&format!("{} {}", self.from, words::note(note))),
            Content::Gone(_) => Body::new(&words::said(content)),
            Content::Text(_) | Content::Rich(_) => match &self.wanted.words {
                Some(words) => Body::new(words),
                None => Body::new(&words::said(content)),
            },
        };
        self.reply_to = match content {
            Content::Rich(rich) => rich.reply_to,
            Content::Text(_) | Content::Note(_) | Content::Gone(_) => None,
        };
    }

    fn change(&mut self, changed: &Changed) {
        if changed.version <= self.state.version {
            return;
        }
        self.state.version = changed.version;
        match (&changed.kind, changed.by) {
            (ChangedKind::Edited(content), _) => {
                self.content = content.clone();
                self.say();
                self.state.edited_at = Some(changed.at);
            }
            (ChangedKind::Gone(gone), _) => {
                self.content = Content::Gone(*gone);
                self.say();
                self.state.reactions.clear();
                self.state.edited_at = None;
            }
            (ChangedKind::Reacted { emoji, on }, Some(user)) => {
                let reaction = Reaction {
                    user,
                    emoji: emoji.clone(),
                };
                self.state.reactions.retain(|known| *known != reaction);
                if *on {
                    self.state.reactions.push(reaction);
                    self.state.reactions.sort_unstable();
                }
            }
            (ChangedKind::Reacted { .. }, None) => {}
        }
    }

    /// What stands below it, ready to be drawn: that it was edited, and its reactions with their counts; empty if nothing.
    pub(crate) fn below(&self) -> String {
        let mut signs: BTreeSet<&Reaction> = self.state.reactions.iter().collect();
        for (sign, on) in &self.wanted.signs {
            match on {
                true => signs.insert(sign),
                false => signs.remove(sign),
            };
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reaction in signs {
            *counts.entry(&reaction.emoji).or_default() += 1;
        }
        let mut parts: Vec<String> = counts
            .into_iter()
            .map(|(emoji, count)| format!("{} {count}", text::display(&text::single_line(emoji))))
            .collect();
        if self.wanted.goes && !self.quiet {
            parts.push("(to be deleted)".into());
        } else if self.wanted.words.is_some() && !self.quiet {
            parts.push("(to be edited)".into());
        } else if self.state.edited_at.is_some() && !self.quiet {
            parts.push("(edited)".into());
        }
        parts.join("  ")
    }
}

/// A message of this device that has no place in the conversation yet.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    /// The screen's own name for it, until the outbox has given it one.
    pub(crate) echo: Option<EchoId>,
    /// The outbox's name.
    pub(crate) id: Option<MessageId>,
    /// When it was written, by the reader's clock.
    pub(crate) at: DateTime,
    /// What it says.
    pub(crate) body: Body,
    /// Why it will never be sent; `None` while it waits.
    pub(crate) failed: Option<String>,
    /// What was written, whatever it is to say since.
    written: String,
}

impl Pending {
    /// Shows what is to become of it.
    fn want(&mut self, wanted: &Wanted) {
        let words = wanted.words.as_ref().unwrap_or(&self.written);
        let shown = match wanted.goes {
            true => format!("{words} (to be deleted)"),
            false => words.clone(),
        };
        if self.body.text() != shown {
            self.body = Body::new(&shown);
        }
    }
}

/// A message of the outbox, as the runtime tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Its name, the same once it is in the history.
    pub(crate) id: MessageId,
    /// Where it goes.
    pub(crate) conversation: ConversationId,
    /// What it says.
    pub(crate) text: String,
    /// When it was queued.
    pub(crate) queued_at: TimestampMs,
    /// Why it was refused, if it was.
    pub(crate) refused: Option<String>,
}

/// A text and its rows at the width they were last asked for.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    text: String,
    columns: usize,
    rows: Vec<Range<usize>>,
}

impl Body {
    fn new(raw: &str) -> Self {
        Self {
            text: text::lines(raw).collect::<Vec<_>>().join("\n"),
            columns: 0,
            rows: Vec::new(),
        }
    }

    /// All of it, as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// One row, safe to draw.
    pub(crate) fn row(&self, row: usize) -> String {
        self.rows
            .get(row)
            .map(|range| text::display(self.text[range.clone()].trim_end()))
            .unwrap_or_default()
    }

    fn layout(&mut self, columns: usize) -> usize {
        if self.columns != columns {
            self.columns = columns;
            self.rows.clear();
            let mut start = 0;
            for line in self.text.split('\n') {
                self.rows.extend(
                    text::wrap(line, columns)
                        .into_iter()
                        .map(|row| start + row.start..start + row.end),
                );
                start += line.len() + 1;
            }
        }
        self.rows.len()
    }
}

/// How the width of the timeline is shared out, in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Columns {
    /// Blank at the left.
    pub(crate) margin: usize,
    /// The time and the gap behind it; 0: not shown.
    pub(crate) time: usize,
    /// The sender's name; 0: not shown.
    pub(crate) name: usize,
    /// The text.
    pub(crate) text: usize,
    /// The delivery mark and the gaps around it; 0: not shown.
    pub(crate) mark: usize,
}

impl Columns {
    /// Shares out `width`; names take what the longest of them needs.
    fn new(width: usize, longest_name: usize) -> Self {
        let (margin, time, name_max, mark) = match width {
            0..16 => (0, 0, 0, 0),
            16..40 => (1, 0, 8, 6),
            40..60 => (1, 7, 8, 6),
            _ => (1, 7, NAME_COLUMNS_MAX, 6),
        };
        let name = longest_name.min(name_max);
        let gap = if name > 0 { 2 } else { 0 };
        let text = width
            .saturating_sub(margin + time + name + gap + mark)
            .max(1);
        Self {
            margin,
            time,
            name,
            text,
            mark,
        }
    }

    /// Cells before the text.
    pub(crate) fn indent(&self) -> usize {
        self.margin + self.time + self.name + if self.name > 0 { 2 } else { 0 }
    }
}

/// Orders rows and names them, so that a place survives new rows around it: the seq they belong to, then their order within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey(u64, usize);

/// Where the seqs of pending messages begin: above all others.
const PENDING_KEYS: u64 = 1 << 63;

/// One drawn row of the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    key: RowKey,
    /// What it shows.
    pub(crate) kind: RowKind,
}

/// What a row shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowKind {
    /// Above the oldest loaded message.
    Top,
    /// A new day begins.
    Day(Date),
    /// So many messages are missing here.
    Gap(u64),
    /// The reader has not seen what follows.
    Unread,
    /// A part of a message.
    Text {
        /// Of which one.
        entry: EntryRef,
        /// Which of its rows.
        row: usize,
        /// Whether the sender's name goes before it.
        named: bool,
        /// Whether it is the message's last row.
        last: bool,
    },
    /// What a message answers, above it.
    Quote(Seq),
    /// A note or what is gone: the n-th row of it.
    Quiet(Seq, usize),
    /// What stands below a message: reactions, and that it was edited.
    Below(Seq),
    /// Why a pending message will not be sent.
    Failure(usize),
    /// Why what was wanted of a message will not be done.
    Refused(WishId),
}

/// One message of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryRef {
    /// One with a place.
    Placed(Seq),
    /// The n-th of those without.
    Pending(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the newest message; new ones move the view.
    Bottom,
    /// This row is at the top of the view, whatever comes below.
    At(RowKey),
}

/// The open conversation.
#[derive(Debug)]
pub(crate) struct Timeline {
    me: UserId,
    zone: TimeZone,
    messages: BTreeMap<Seq, Entry>,
    pending: Vec<Pending>,
    /// What is to be done to messages, and what of it was refused, in the order in which it was asked for.
    wishes: Vec<Wish>,
    /// Those that ended before the list of them came.
    ended: Vec<(WishId, Option<String>)>,
    /// What follows this seq was unread when the reader came; `Some(0)`: everything.
    unread_after: Option<u64>,
    /// The window does not reach to the newest message: those that arrive do not belong into it.
    detached: bool,
    /// The page that was asked for.
    loading: Option<Page>,
    /// Why the last one did not come.
    pub(crate) load_error: Option<String>,
    opened: bool,
    /// The first message that the reader may see, as far as is known.
    beginning: Seq,
    place: Place,
    /// The last message when the reader left the bottom.
    left_at: Option<Seq>,
    columns: Columns,
    rows: Vec<Row>,
}

impl Timeline {
    /// An empty window; the newest page must be asked for. `read` is the reader's position if something is unread.
    pub(crate) fn new(me: UserId, zone: TimeZone, unread_after: Option<u64>) -> Self {
        Self {
            me,
            zone,
            messages: BTreeMap::new(),
            pending: Vec::new(),
            wishes: Vec::new(),
            ended: Vec::new(),
            unread_after,
            detached: false,
            loading: None,
            load_error: None,
            opened: false,
            beginning: Seq::FIRST,
            place: Place::Bottom,
            left_at: None,
            columns: Columns::default(),
            rows: Vec::new(),
        }
    }

    /// Every row, from the oldest.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How the width is shared out.
    pub(crate) fn columns(&self) -> Columns {
        self.columns
    }

    /// The rows in a view of that height.
    pub(crate) fn visible(&self, height: usize) -> Range<usize> {
        let last_start = self.rows.len().saturating_sub(height);
        let start = match self.place {
            Place::Bottom => last_start,
            Place::At(key) => self
                .rows
                .partition_point(|row| row.key < key)
                .min(last_start),
        };
        start..(start + height).min(self.rows.len())
    }

    /// A message with a place.
    pub(crate) fn entry(&self, seq: Seq) -> Option<&Entry> {
        self.messages.get(&seq)
    }

    /// A message without.
    pub(crate) fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Seq of the last message in the window.
    pub(crate) fn last_seq(&self) -> Option<Seq> {
        self.messages.last_key_value().map(|(seq, _)| *seq)
    }

    /// Whether the newest message is in view.
    pub(crate) fn at_bottom(&self) -> bool {
        self.place == Place::Bottom && !self.detached
    }

    /// Seq of the last message when the reader scrolled away from the bottom.
    pub(crate) fn left_at(&self) -> Option<Seq> {
        match self.place {
            Place::Bottom if !self.detached => None,
            Place::Bottom | Place::At(_) => self.left_at,
        }
    }

    /// Whether the first message that the reader may see is in the window, or there is none at all.
    pub(crate) fn complete(&self) -> bool {
        self.opened
            && self
                .messages
                .first_key_value()
                .is_none_or(|(seq, _)| *seq <= self.beginning)
    }

    /// Whether messages before the first one in the window are not for the reader to see.
    pub(crate) fn is_from_joining(&self) -> bool {
        self.complete() && self.beginning > Seq::FIRST
    }

    /// Whether a page is on its way.
    pub(crate) fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Notes that a page is asked for; false if one already is.
    pub(crate) fn ask(&mut self, page: Page) -> bool {
        if self.loading.is_some() {
            return false;
        }
        self.loading = Some(page);
        self.load_error = None;
        true
    }

    /// Where to load from, given where the reader is: older messages near the top, newer ones at the end of a detached window.
    pub(crate) fn wanted(&self, height: usize) -> Option<Page> {
        if !self.opened || self.loading.is_some() || self.load_error.is_some() {
            return None;
        }
        let first = *self.messages.first_key_value()?.0;
        if self.detached && self.visible(height).end == self.rows.len() {
            return self.last_seq().map(Page::After);
        }
        let near_top = self.place != Place::Bottom || self.rows.len() <= height;
        (near_top && first > self.beginning && self.visible(height).start < height.max(1))
            .then_some(Page::Before(first))
    }

    /// Takes a page that was asked for; the reader stays where they are.
    pub(crate) fn page(&mut self, page: Page, messages: &[Message], waiting: &[Waiting]) {
        if self.loading == Some(page) {
            self.loading = None;
        }
        match page {
            Page::Latest => {
                if self.detached {
                    self.messages.clear();
                    self.detached = false;
                }
                self.opened = true;
            }
            Page::Before(_) | Page::After(_) => {}
        }
        // The row above the oldest message stays the first: who looks at it is to stay with the message below it.
        if let Place::At(RowKey(0, _)) = self.place
            && let Some((first, _)) = self.messages.first_key_value()
        {
            self.place = Place::At(RowKey(first.get(), 0));
        }
        for message in messages {
            self.place_message(message);
        }
        for waiting in waiting {
            self.waiting(waiting);
        }
        let drop_newest = matches!(page, Page::Before(_));
        self.trim(drop_newest);
    }

    /// The gateway has nothing beyond this page, which was taken.
    pub(crate) fn ends(&mut self, page: Page) {
        match page {
            Page::Before(_) => {
                if let Some((first, _)) = self.messages.first_key_value() {
                    self.beginning = *first;
                }
            }
            // What is said to be there and has not come is asked for when the reader moves.
            Page::After(last) if self.detached && self.last_seq() == Some(last) => {
                self.page_failed(page, "the gateway does not have them yet".into());
            }
            Page::After(_) | Page::Latest => {}
        }
    }

    /// The window has caught up with the newest message.
    pub(crate) fn attach(&mut self, head: Option<Seq>) {
        if self.detached && self.last_seq() >= head {
            self.detached = false;
        }
    }

    /// The page that was asked for will not come.
    pub(crate) fn page_failed(&mut self, page: Page, reason: String) {
        if self.loading == Some(page) {
            self.loading = None;
        }
        self.load_error = Some(reason);
    }

    /// A message has just got its place.
    pub(crate) fn message(&mut self, message: &Message) {
        if self.detached {
            self.settle(message.id);
            return;
        }
        self.place_message(message);
        self.trim(false);
    }

    /// Something happened to a message.
    pub(crate) fn changed(&mut self, changed: &Changed) {
        if let Some(entry) = self.messages.get_mut(&changed.seq) {
            entry.change(changed);
        }
    }

    /// The last message of the reader that says something and is not to go, sent or not.
    pub(crate) fn last_own(&self) -> Option<Target> {
        let goes = |target| self.wanted_of(target).goes;
        let mut pending = self.pending.iter().rev();
        let queued = pending.find_map(|pending| {
            let target = Target::Queued(pending.id?);
            (pending.failed.is_none() && !goes(target)).then_some(target)
        });
        let mut newest = self.messages.iter().rev();
        let placed = || {
            newest.find_map(|(seq, entry)| {
                let is_own = entry.from == self.me && !entry.quiet && !entry.wanted.goes;
                is_own.then_some(Target::Placed(*seq))
            })
        };
        queued.or_else(placed)
    }

    /// The last message of somebody else that says something.
    pub(crate) fn last_of_others(&self) -> Option<(Seq, &Entry)> {
        let mut newest = self.messages.iter().rev();
        newest
            .find(|(_, entry)| !entry.quiet && entry.from != self.me)
            .map(|(seq, entry)| (*seq, entry))
    }

    /// Takes what the outbox has of wishes, once. What ended meanwhile is among them still.
    pub(crate) fn wishes(&mut self, wishes: Vec<Wish>) {
        if self.opened {
            return;
        }
        for wish in wishes {
            self.wish(wish);
        }
        for (id, refused) in std::mem::take(&mut self.ended) {
            self.wish_ended(id, refused.as_deref());
        }
    }

    /// Shows what is to be done to a message.
    pub(crate) fn wish(&mut self, wish: Wish) {
        if self.wishes.iter().all(|known| known.id != wish.id) {
            let target = wish.target;
            self.wishes.push(wish);
            self.show_wanted(target);
        }
    }

    /// A wish is fulfilled, or refused.
    pub(crate) fn wish_ended(&mut self, id: WishId, refused: Option<&str>) {
        if !self.opened && self.ended.len() < ENDED_EARLY_MAX {
            self.ended.push((id, refused.map(str::to_owned)));
        }
        let Some(at) = self.wishes.iter().position(|wish| wish.id == id) else {
            return;
        };
        let target = self.wishes[at].target;
        match refused {
            Some(_) => self.wishes[at].refused = refused.map(str::to_owned),
            None => drop(self.wishes.remove(at)),
        }
        self.show_wanted(target);
    }

    /// Takes the last refused wish out.
    pub(crate) fn take_refused(&mut self) -> Option<Wish> {
        let mut wishes = self.wishes.iter();
        let last = wishes.rposition(|wish| wish.refused.is_some())?;
        Some(self.wishes.remove(last))
    }

    /// Why something that was wanted of a message will not be done, in one line.
    pub(crate) fn refused(&self, id: WishId) -> Option<String> {
        let wish = self.wishes.iter().find(|wish| wish.id == id)?;
        let why = text::single_line(wish.refused.as_deref()?);
        Some(format!(
            "{} (Esc takes it back): {why}",
            wish.what.refused()
        ))
    }

    /// A message of the outbox that nobody has seen is changed there.
    pub(crate) fn change_pending(&mut self, target: Target, what: &What) {
        let Target::Queued(id) = target else { return };
        match what {
            What::Edit(words) => {
                let mut pending = self.pending.iter_mut();
                if let Some(pending) = pending.find(|pending| pending.id == Some(id)) {
                    pending.written.clone_from(words);
                }
                self.show_wanted(target);
            }
            What::Delete => self.settle(id),
            What::React { .. } => {}
        }
    }

    /// What is to become of a message.
    fn wanted_of(&self, target: Target) -> Wanted {
        // A message that has its place is still known by its name to what was wanted before.
        let name = match target {
            Target::Placed(seq) => self.messages.get(&seq).map(|entry| entry.id),
            Target::Queued(id) => Some(id),
        };
        let is_about = |wish: &&Wish| match wish.target {
            Target::Queued(id) => Some(id) == name,
            placed @ Target::Placed(_) => placed == target,
        };
        let mut wanted = Wanted::default();
        let waiting = self.wishes.iter().filter(|wish| wish.refused.is_none());
        for wish in waiting.filter(is_about) {
            wanted.add(self.me, &wish.what);
        }
        wanted
    }

    fn show_wanted(&mut self, target: Target) {
        match target {
            Target::Placed(seq) => {
                let wanted = self.wanted_of(target);
                if let Some(entry) = self.messages.get_mut(&seq) {
                    entry.want(wanted);
                }
            }
            Target::Queued(id) => {
                let wanted = self.wanted_of(target);
                let mut pending = self.pending.iter_mut();
                if let Some(pending) = pending.find(|pending| pending.id == Some(id)) {
                    pending.want(&wanted);
                }
                let mut newest = self.messages.values_mut().rev();
                if let Some(entry) = newest.find(|entry| entry.id == id) {
                    entry.want(wanted);
                }
            }
        }
    }

    /// What a message answers in one line, ready to be drawn.
    pub(crate) fn quote(&self, seq: Seq) -> String {
        let to = self.messages.get(&seq).and_then(|entry| entry.reply_to);
        match to.and_then(|to| self.messages.get(&to)) {
            Some(entry) if entry.quiet => format!("┃ {}", text::single_line(entry.body.text())),
            Some(entry) => {
                let said = text::single_line(entry.body.text());
                format!(
                    "┃ {}: {}",
                    self.shown_name(&entry.from),
                    text::display(&said)
                )
            }
            None => "┃ an earlier message".into(),
        }
    }

    /// Shows a message at once, before the outbox has it.
    pub(crate) fn echo(&mut self, echo: EchoId, written: &str, now: Timestamp) {
        self.pending.push(Pending {
            echo: Some(echo),
            id: None,
            at: local(now, &self.zone),
            body: Body::new(written),
            failed: None,
            written: written.to_owned(),
        });
        self.unread_after = None;
        self.place = Place::Bottom;
    }

    /// The outbox has given an echo its name. If the message has its place already, the echo goes.
    pub(crate) fn named(&mut self, echo: EchoId, id: MessageId) {
        let known = self.messages.values().rev().any(|entry| entry.id == id)
            || self.pending.iter().any(|pending| pending.id == Some(id));
        if known {
            self.pending.retain(|pending| pending.echo != Some(echo));
        } else if let Some(pending) = self
            .pending
            .iter_mut()
            .find(|pending| pending.echo == Some(echo))
        {
            pending.id = Some(id);
            pending.echo = None;
        }
    }

    /// The outbox did not take an echo, or the gateway refused a message.
    pub(crate) fn failed(&mut self, which: impl Fn(&Pending) -> bool, reason: &str) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| which(pending)) {
            pending.failed = Some(reason.to_owned());
        }
    }

    /// Takes the last message out that will not be sent.
    pub(crate) fn take_failed(&mut self) -> Option<Pending> {
        let last = self
            .pending
            .iter()
            .rposition(|pending| pending.failed.is_some())?;
        Some(self.pending.remove(last))
    }

    /// Shows a message of the outbox that the screen did not write itself.
    pub(crate) fn waiting(&mut self, waiting: &Waiting) {
        if self
            .messages
            .values()
            .rev()
            .any(|entry| entry.id == waiting.id)
        {
            return;
        }
        if let Some(known) = self
            .pending
            .iter_mut()
            .find(|pending| pending.id == Some(waiting.id))
        {
            known.failed.clone_from(&waiting.refused);
            return;
        }
        self.pending.push(Pending {
            echo: None,
            id: Some(waiting.id),
            at: local_ms(waiting.queued_at, &self.zone),
            body: Body::new(&waiting.text),
            failed: waiting.refused.clone(),
            written: waiting.text.clone(),
        });
        self.show_wanted(Target::Queued(waiting.id));
    }

    /// Removes the line above the unread messages.
    pub(crate) fn clear_unread(&mut self) {
        self.unread_after = None;
    }

    /// Draws the line above what follows `read`, if there is none yet.
    pub(crate) fn mark_unread_after(&mut self, read: u64) {
        self.unread_after.get_or_insert(read);
    }

    /// Moves the view. True if the newest page must be asked for, because the window does not reach there.
    pub(crate) fn scroll(&mut self, scroll: Scroll, height: usize) -> bool {
        let start = self.visible(height).start;
        let page = height.saturating_sub(1).max(1);
        let half = (height / 2).max(1);
        self.load_error = None;
        let target = match scroll {
            Scroll::LineUp => start.saturating_sub(1),
            Scroll::LineDown => start + 1,
            Scroll::HalfPageUp => start.saturating_sub(half),
            Scroll::HalfPageDown => start + half,
            Scroll::PageUp => start.saturating_sub(page),
            Scroll::PageDown => start + page,
            Scroll::Oldest => 0,
            Scroll::Newest => {
                self.place = Place::Bottom;
                return self.detached;
            }
        };
        self.go_to(target, height);
        false
    }

    /// Puts the line above the unread messages at the top of the view if they do not fit into it.
    pub(crate) fn show_unread(&mut self, height: usize) {
        if let Some(line) = self.rows.iter().position(|row| row.kind == RowKind::Unread)
            && line < self.visible(height).start
        {
            self.go_to(line, height);
        }
    }

    /// Lays the rows out anew for a width.
    pub(crate) fn layout(&mut self, width: usize) {
        let longest = self
            .messages
            .values()
            .map(|entry| self.shown_name(&entry.from).len())
            .max()
            .unwrap_or(0)
            .max(if self.pending.is_empty() {
                0
            } else {
                YOU.len()
            });
        let columns = Columns::new(width, longest);
        self.columns = columns;
        let mut rows = Rows {
            rows: vec![Row {
                key: RowKey(0, 0),
                kind: RowKind::Top,
            }],
            unread: self.unread_after,
            ..Rows::default()
        };
        let mut refused: BTreeMap<u64, Vec<WishId>> = BTreeMap::new();
        for wish in self.wishes.iter().filter(|wish| wish.refused.is_some()) {
            let key = match wish.target {
                Target::Placed(seq) => Some(seq.get()),
                Target::Queued(id) => key_of(&self.messages, &self.pending, id),
            };
            refused
                .entry(key.unwrap_or(u64::MAX))
                .or_default()
                .push(wish.id);
        }
        for (seq, entry) in &mut self.messages {
            rows.before(
                seq.get(),
                entry.at.date(),
                Some(entry.from),
                entry.from == self.me,
            );
            if entry.quiet {
                for row in 0..entry.body.layout(columns.text) {
                    rows.push(seq.get(), RowKind::Quiet(*seq, row));
                }
                // Whoever goes on is named again.
                rows.from = None;
                rows.refused(seq.get(), &refused);
                continue;
            }
            if entry.reply_to.is_some() {
                rows.named = true;
                rows.push(seq.get(), RowKind::Quote(*seq));
            }
            rows.message(
                seq.get(),
                EntryRef::Placed(*seq),
                entry.body.layout(columns.text),
            );
            if !entry.below().is_empty() {
                rows.push(seq.get(), RowKind::Below(*seq));
            }
            rows.refused(seq.get(), &refused);
        }
        for (index, pending) in self.pending.iter_mut().enumerate() {
            let key = PENDING_KEYS + index as u64;
            rows.before(key, pending.at.date(), Some(self.me), true);
            rows.message(
                key,
                EntryRef::Pending(index),
                pending.body.layout(columns.text),
            );
            if pending.failed.is_some() {
                rows.push(key, RowKind::Failure(index));
            }
            rows.refused(key, &refused);
        }
        self.rows = rows.rows;
    }

    /// What a sender is called in the timeline.
    pub(crate) fn shown_name<'a>(&self, user: &'a UserId) -> &'a str {
        if *user == self.me { YOU } else { user.as_str() }
    }

    fn go_to(&mut self, row: usize, height: usize) {
        let last_start = self.rows.len().saturating_sub(height);
        if self.place == Place::Bottom && !self.detached {
            self.left_at = self.last_seq();
        }
        self.place = match self.rows.get(row) {
            Some(at) if row < last_start => Place::At(at.key),
            Some(_) | None => Place::Bottom,
        };
    }

    fn place_message(&mut self, message: &Message) {
        self.settle(message.id);
        let version = message.state.as_ref().map_or(0, |state| state.version);
        let known = self.messages.get(&message.seq);
        if known.is_none_or(|known| known.state.version < version) {
            let entry = Entry::new(message, &self.zone);
            self.messages.insert(message.seq, entry);
            self.show_wanted(Target::Placed(message.seq));
        }
    }

    /// A message has its place now: it is no longer pending.
    fn settle(&mut self, id: MessageId) {
        self.pending.retain(|pending| pending.id != Some(id));
    }

    fn trim(&mut self, drop_newest: bool) {
        while self.messages.len() > WINDOW_MESSAGES_MAX {
            if drop_newest {
                self.messages.pop_last();
                self.detached = true;
            } else {
                self.messages.pop_first();
            }
        }
    }
}

/// The key of the rows of a message that this device sent.
fn key_of(messages: &BTreeMap<Seq, Entry>, pending: &[Pending], id: MessageId) -> Option<u64> {
    let placed = messages.iter().rev().find(|(_, entry)| entry.id == id);
    let placed = placed.map(|(seq, _)| seq.get());
    let waiting = || pending.iter().position(|pending| pending.id == Some(id));
    placed.or_else(|| waiting().map(|index| PENDING_KEYS + index as u64))
}

/// Wishes that end while the list of them is read; beyond, one that has ended is shown as waiting until the conversation is opened again.
const ENDED_EARLY_MAX: usize = 1_000;

/// What the reader is called in the timeline.
const YOU: &str = "you";

/// Rows being laid out, with what the next one depends on.
#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    unread: Option<u64>,
    day: Option<Date>,
    from: Option<UserId>,
    previous: Option<u64>,
    named: bool,
}

impl Rows {
    fn push(&mut self, seq: u64, kind: RowKind) {
        let order = match self.rows.last() {
            Some(last) if last.key.0 == seq => last.key.1 + 1,
            Some(_) | None => 0,
        };
        self.rows.push(Row {
            key: RowKey(seq, order),
            kind,
        });
    }

    /// What goes between the message before and this one.
    fn before(&mut self, seq: u64, day: Date, from: Option<UserId>, mine: bool) {
        let placed = seq < PENDING_KEYS;
        let gap = self
            .previous
            .filter(|_| placed)
            .map_or(0, |previous| seq.saturating_sub(previous + 1));
        let mut apart = false;
        if gap > 0 {
            self.push_before(seq, RowKind::Gap(gap), &mut apart);
        }
        if self.day != Some(day) {
            self.push_before(seq, RowKind::Day(day), &mut apart);
        }
        if placed && !mine && self.unread.is_some_and(|read| seq > read) {
            self.unread = None;
            self.push_before(seq, RowKind::Unread, &mut apart);
        }
        self.named = apart || self.from != from;
        self.day = Some(day);
        self.from = from;
        self.previous = placed.then_some(seq).or(self.previous);
    }

    fn push_before(&mut self, seq: u64, kind: RowKind, apart: &mut bool) {
        *apart = true;
        self.push(seq, kind);
    }

    /// Why what was wanted of a message will not be done.
    fn refused(&mut self, key: u64, refused: &BTreeMap<u64, Vec<WishId>>) {
        for wish in refused.get(&key).into_iter().flatten() {
            self.push(key, RowKind::Refused(*wish));
        }
    }

    fn message(&mut self, seq: u64, entry: EntryRef, rows: usize) {
        for row in 0..rows {
            let named = self.named && row == 0;
            self.push(
                seq,
                RowKind::Text {
                    entry,
                    row,
                    named,
                    last: row + 1 == rows,
                },
            );
        }
    }
}

fn local_ms(at: TimestampMs, zone: &TimeZone) -> DateTime {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    local(
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX),
        zone,
    )
}

fn local(at: Timestamp, zone: &TimeZone) -> DateTime {
    zone.to_datetime(at)
}
