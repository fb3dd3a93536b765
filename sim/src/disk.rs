//! A client's data folder: what the SDK's cache keeps, in transactions, and what a loss of power takes back.

use std::collections::{BTreeMap, VecDeque};

use quipu_protocol::credentials::{Resume, Token};
use quipu_protocol::event::{
    Change, Changed, Content, Event, EventBody, Message, Note as Happened, Notice,
};
use quipu_protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, Cursor, DeviceId, MessageId, Seq, TimestampMs, UserId,
};
use quipu_protocol::query::Changes;
use quipu_protocol::session::{ChangeMark, Positions, Settled, Unanswered, Waiting};
use quipu_protocol::welcome::Welcome;

use crate::checker::{AskNo, Kept, Note};
use crate::names::Names;
use crate::sabotage::Sabotage;

/// Client seqs that are reserved with one synced write; fewer than the SDK's, so that it happens often.
const CLIENT_SEQ_RESERVE: u64 = 8;
/// Changes remembered of messages that are not here; fewer than the SDK's, so that some are forgotten.
const AHEAD_CHANGES_MAX: usize = 16;

/// One message that this device wrote and that is not in its timeline yet.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) note: Note,
    pub(crate) id: MessageId,
    pub(crate) conversation: ConversationId,
    pub(crate) peer: Option<UserId>,
    pub(crate) text: String,
    pub(crate) client_seq: ClientSeq,
    pub(crate) state: OutgoingState,
}

/// One change of a message that is not answered.
#[derive(Debug, Clone)]
struct Pending {
    number: AskNo,
    client_seq: ClientSeq,
    change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutgoingState {
    Queued,
    Acked,
    Refused,
}

#[derive(Debug, Clone, Default)]
struct Conversation {
    opened: bool,
    head: Option<Seq>,
    wanted: Positions,
    own: Positions,
    /// The user is a member, as far as this device knows; of a direct one it is not kept.
    inside: bool,
    /// The user was in this group and is not any more.
    gone: bool,
    /// Its messages come as notices.
    pulled: bool,
    /// Which of its changes are in all that is here.
    mark: ChangeMark,
    /// What is below is not for the user to read.
    floor: u64,
    /// Its history has not been read to the end since the events began anew.
    unread: bool,
    /// It was in the list that was taken then, or its history is read for another reason.
    listed: bool,
    /// It was not, so that its entry is still to be asked for.
    entry_due: bool,
}

/// Who the device is, and where it stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) token: Token,
    pub(crate) resume: Resume,
}

/// The tables.
#[derive(Debug, Clone, Default)]
struct Tables {
    session: Option<Session>,
    client_seq_free: u64,
    outbox: Vec<Outgoing>,
    changes: Vec<Pending>,
    conversations: BTreeMap<ConversationId, Conversation>,
    messages: BTreeMap<(ConversationId, Seq), Kept>,
    /// How often the timeline was dropped, and its entries since.
    dropped: usize,
    shown: usize,
    /// Events began in the middle of the inbox, and the list of conversations has not been taken since.
    list_due: bool,
    /// Events began in the middle of the inbox.
    begins_late: bool,
}

/// The folder.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    tables: Tables,
    /// What a loss of power leaves.
    synced: Tables,
    /// In memory only: the next client seq to give out.
    next_client_seq: u64,
    sabotage: Option<Sabotage>,
    /// In memory only: conversations that turned out to have a history that is to be read.
    found: Vec<ConversationId>,
    /// In memory only: the newest changes of messages that were not here when they came, and how many were forgotten.
    ahead: VecDeque<Changed>,
    forgotten: u64,
}

/// How far conversations are known to be read.
pub(crate) type Marks = Vec<(ConversationId, u64)>;

/// What a device tells its owner after a transaction.
#[derive(Debug)]
pub(crate) enum Told {
    Acked { note: Note, seq: Seq },
    Refused { note: Note, why: String },
    Shown(Event),
}

impl Conversation {
    /// The user is not in the group any more, and nobody takes reports.
    fn leave(&mut self) {
        self.gone = true;
        self.wanted = self.own;
    }

    /// Keeps what a note says of the group as a whole.
    fn note(&mut self, session: &Session, message: &Message) {
        let Content::Note(note) = &message.content else {
            return;
        };
        let own = message.from == session.user;
        match &**note {
            Happened::Created(_) | Happened::Joined if own => {
                self.inside = true;
                self.gone = false;
            }
            Happened::Left if own => self.leave(),
            Happened::Removed(user) if *user == session.user => self.leave(),
            Happened::Pulled => self.pulled = true,
            Happened::Created(_)
            | Happened::Joined
            | Happened::Left
            | Happened::Removed(_)
            | Happened::Invited(_)
            | Happened::Role(..)
            | Happened::Title(_)
            | Happened::Topic(_)
            | Happened::Timer(_) => {}
        }
    }
}

impl Disk {
    pub(crate) fn new(sabotage: Option<Sabotage>) -> Self {
        Self {
            tables: Tables::default(),
            synced: Tables::default(),
            next_client_seq: 1,
            sabotage,
            found: Vec::new(),
            ahead: VecDeque::new(),
            forgotten: 0,
        }
    }

    pub(crate) fn session(&self) -> Option<Session> {
        self.tables.session
    }

    /// The process died: what is in memory is gone, every transaction is there.
    pub(crate) fn reopen(&mut self) {
        self.next_client_seq = self.tables.client_seq_free.max(1);
        self.ahead.clear();
        if self.sabotage == Some(Sabotage::LoseChanges) {
            self.tables.changes.clear();
        }
    }

    /// The machine lost power: only what was synced is there. Says which timeline it has now and how long it is, what still
    /// waits, and what is known to be read.
    pub(crate) fn lose_power(&mut self) -> ((usize, usize), Vec<Note>, Marks) {
        self.tables = self.synced.clone();
        self.reopen();
        let tables = &self.tables;
        let queued = |out: &&Outgoing| out.state == OutgoingState::Queued;
        let waiting = tables.outbox.iter().filter(queued);
        let waiting = waiting.map(|out| out.note).collect();
        let read = |row: &Conversation| row.wanted.read.map_or(0, Seq::get);
        let read = tables
            .conversations
            .iter()
            .map(|(id, row)| (*id, read(row)));
        ((tables.dropped, tables.shown), waiting, read.collect())
    }

    /// Everything so far is on the disk: a synced write, or a checkpoint that the database makes now and then.
    pub(crate) fn sync(&mut self) {
        self.synced = self.tables.clone();
    }

    /// Takes over what WELCOME said. True: the timeline was dropped.
    pub(crate) fn welcome(&mut self, welcome: &Welcome) -> bool {
        let resume = Resume {
            life: welcome.life,
            cursor: welcome.cursor,
        };
        match (&mut self.tables.session, welcome.token) {
            (Some(session), None) => {
                if welcome.resumed && session.resume == resume {
                    return false;
                }
                if session.resume.life != resume.life {
                    // Their seqs are those of other messages.
                    self.tables.changes.clear();
                }
                session.resume = resume;
                self.tables.conversations.clear();
                self.tables.messages.clear();
                self.ahead.clear();
                self.tables
                    .outbox
                    .retain(|out| out.state != OutgoingState::Acked);
                self.tables.dropped += 1;
                self.tables.shown = 0;
                self.begin_at(resume.cursor);
                true
            }
            (session, Some(token)) => {
                *session = Some(Session {
                    user: welcome.user,
                    device: welcome.device,
                    token,
                    resume,
                });
                self.tables.client_seq_free = 1;
                self.begin_at(resume.cursor);
                self.next_client_seq = 1;
                self.sync();
                false
            }
            (None, None) => false,
        }
    }

    fn begin_at(&mut self, cursor: Cursor) {
        self.tables.begins_late = cursor > Cursor::START;
        self.tables.list_due = self.tables.begins_late;
    }

    /// Conversations whose history is to be read since the last transaction.
    pub(crate) fn take_found(&mut self) -> Vec<ConversationId> {
        std::mem::take(&mut self.found)
    }

    /// Puts a message into the outbox.
    pub(crate) fn enqueue(
        &mut self,
        note: Note,
        id: MessageId,
        (conversation, peer): (ConversationId, Option<UserId>),
        text: String,
    ) -> Waiting {
        let client_seq = self.take_client_seq();
        let row = self.tables.conversations.entry(conversation).or_default();
        // A group cannot be opened: whoever is not in it is told so.
        let opened = row.opened || conversation.is_group();
        self.tables.outbox.push(Outgoing {
            note,
            id,
            conversation,
            peer,
            text: text.clone(),
            client_seq,
            state: OutgoingState::Queued,
        });
        Waiting {
            conversation,
            peer,
            opened,
            client_seq,
            id,
            content: Content::Text(text),
        }
    }

    /// A number for a message or a change.
    pub(crate) fn take_client_seq(&mut self) -> ClientSeq {
        if self.next_client_seq >= self.tables.client_seq_free {
            self.tables.client_seq_free = self.next_client_seq + 1 + CLIENT_SEQ_RESERVE;
            if self.sabotage != Some(Sabotage::ReuseClientSeq) {
                self.sync();
            }
        }
        let client_seq = ClientSeq::new(self.next_client_seq).unwrap_or(ClientSeq::FIRST);
        self.next_client_seq += 1;
        client_seq
    }

    /// Everything that the gateway has not answered, in the order in which it was written.
    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        let queued = self
            .tables
            .outbox
            .iter()
            .filter(|out| out.state == OutgoingState::Queued);
        queued
            .map(|out| Waiting {
                conversation: out.conversation,
                peer: out.peer,
                opened: out.conversation.is_group()
                    || self
                        .tables
                        .conversations
                        .get(&out.conversation)
                        .is_some_and(|row| row.opened),
                client_seq: out.client_seq,
                id: out.id,
                content: Content::Text(out.text.clone()),
            })
            .collect()
    }

    /// Gives every message that waits for a conversation a new client seq, in their order.
    pub(crate) fn renumber(&mut self, conversation: ConversationId) -> Vec<(MessageId, ClientSeq)> {
        let of =
            |out: &Outgoing| out.conversation == conversation && out.state == OutgoingState::Queued;
        let waiting: Vec<usize> = (0..self.tables.outbox.len())
            .filter(|at| of(&self.tables.outbox[*at]))
            .collect();
        let mut renumbered = Vec::with_capacity(waiting.len());
        for at in waiting {
            let client_seq = self.take_client_seq();
            self.tables.outbox[at].client_seq = client_seq;
            renumbered.push((self.tables.outbox[at].id, client_seq));
        }
        self.sync();
        renumbered
    }

    /// Puts a change of a message into the outbox.
    pub(crate) fn keep_change(&mut self, number: AskNo, change: Change) -> Unanswered {
        let client_seq = self.take_client_seq();
        self.tables.changes.push(Pending {
            number,
            client_seq,
            change: change.clone(),
        });
        Unanswered {
            client_seq,
            change,
            kept: true,
        }
    }

    /// Changes that are not answered, in the order of their numbers.
    pub(crate) fn waiting_changes(&self) -> Vec<Unanswered> {
        let mut waiting: Vec<Unanswered> = self
            .tables
            .changes
            .iter()
            .map(|pending| Unanswered {
                client_seq: pending.client_seq,
                change: pending.change.clone(),
                kept: true,
            })
            .collect();
        waiting.sort_by_key(|one| one.client_seq);
        waiting
    }

    /// The same as those who asked know them.
    pub(crate) fn asks(&self) -> Vec<AskNo> {
        let pending = self.tables.changes.iter();
        pending.map(|pending| pending.number).collect()
    }

    /// Gives changes new client seqs: old and new ones.
    pub(crate) fn renumber_changes(&mut self, stale: &[ClientSeq]) -> Vec<(ClientSeq, ClientSeq)> {
        let mut renumbered = Vec::with_capacity(stale.len());
        for old in stale {
            let new = self.take_client_seq();
            let mut pending = self.tables.changes.iter_mut();
            if let Some(pending) = pending.find(|pending| pending.client_seq == *old) {
                pending.client_seq = new;
                renumbered.push((*old, new));
            }
        }
        self.sync();
        renumbered
    }

    /// A change is answered and leaves the outbox. Says who asked for it.
    pub(crate) fn change_ended(&mut self, client_seq: ClientSeq) -> Option<AskNo> {
        let changes = &mut self.tables.changes;
        let at = changes
            .iter()
            .position(|one| one.client_seq == client_seq)?;
        Some(changes.remove(at).number)
    }

    /// Raises what the user has read of a conversation. Says what to report, if that is news.
    pub(crate) fn mark_read(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
    ) -> Option<Positions> {
        let row = self.tables.conversations.get_mut(&conversation)?;
        let seq = Some(seq).min(row.head);
        if seq <= row.wanted.read.max(row.own.read) {
            return None;
        }
        row.wanted.raise(Positions {
            delivered: seq,
            read: seq,
        });
        Some(row.wanted)
    }

    /// Positions that the gateway has not confirmed.
    pub(crate) fn unreported(&self) -> Vec<(ConversationId, Positions)> {
        let rows = self.tables.conversations.iter();
        rows.filter(|(_, row)| {
            // Of a group that the user has left nobody takes a report.
            !row.gone
                && (row.wanted.delivered > row.own.delivered || row.wanted.read > row.own.read)
        })
        .map(|(id, row)| (*id, row.wanted))
        .collect()
    }

    /// Writes what has come in one transaction. Says what to show, what to report, and the cursor that is kept.
    pub(crate) fn apply(
        &mut self,
        names: &Names,
        events: Vec<Event>,
        settled: Vec<Settled>,
    ) -> (Vec<Told>, Vec<(ConversationId, Positions)>, Cursor) {
        let mut told = Vec::new();
        for settled in settled {
            self.settle(settled, &mut told);
        }
        let refused = told.iter().any(|told| matches!(told, Told::Refused { .. }));
        if refused && self.sabotage != Some(Sabotage::ForgetRefusals) {
            // Its owner may write it again, so that it must not go out after all.
            self.sync();
        }
        let Some(session) = self.tables.session else {
            return (told, Vec::new(), Cursor::START);
        };
        let mut cursor = session.resume.cursor;
        let mut raised: BTreeMap<ConversationId, Positions> = BTreeMap::new();
        if self.sabotage == Some(Sabotage::CursorBeforeEvents) {
            // Two transactions where there must be one: a loss of power may come in between.
            let last = events.last().map(|event| event.inbox_seq.cursor());
            if let (Some(session), Some(last)) = (&mut self.tables.session, last) {
                session.resume.cursor = last;
            }
            self.sync();
        }
        for event in events {
            if event.inbox_seq.cursor() <= cursor {
                continue;
            }
            cursor = event.inbox_seq.cursor();
            match &event.body {
                EventBody::Message(message) => {
                    self.keep_message(&session, message, &mut raised, &mut told);
                    self.insert(names, message);
                }
                EventBody::Receipt(receipt) => {
                    if receipt.user == session.user {
                        let row = self.tables.conversations.entry(receipt.conversation);
                        row.or_default().own.raise(Positions {
                            delivered: receipt.delivered,
                            read: receipt.read,
                        });
                    }
                }
                EventBody::Changed(changed) => {
                    let place = (changed.conversation, changed.seq);
                    match self.tables.messages.get_mut(&place) {
                        Some(kept) => names.change(kept, changed),
                        None => self.hold(changed),
                    }
                }
                EventBody::Invitation(_) => {}
            }
            self.tables.shown += 1;
            told.push(Told::Shown(event));
        }
        if let Some(session) = &mut self.tables.session {
            session.resume.cursor = cursor;
        }
        (told, raised.into_iter().collect(), cursor)
    }

    fn settle(&mut self, settled: Settled, told: &mut Vec<Told>) {
        match settled {
            Settled::Accepted {
                conversation,
                client_seq,
                seq,
            } => {
                for out in self.queued(conversation, Some(client_seq)) {
                    out.state = OutgoingState::Acked;
                    told.push(Told::Acked {
                        note: out.note,
                        seq,
                    });
                }
            }
            Settled::Refused {
                conversation,
                client_seq,
                rejection,
            } => {
                for out in self.queued(conversation, client_seq) {
                    out.state = OutgoingState::Refused;
                    told.push(Told::Refused {
                        note: out.note,
                        why: rejection.code.name().to_owned(),
                    });
                }
            }
            Settled::Opened {
                conversation, head, ..
            } => {
                let row = self.tables.conversations.entry(conversation).or_default();
                row.opened = true;
                row.head = row.head.max(head);
            }
        }
    }

    fn queued(
        &mut self,
        conversation: ConversationId,
        client_seq: Option<ClientSeq>,
    ) -> impl Iterator<Item = &mut Outgoing> {
        self.tables.outbox.iter_mut().filter(move |out| {
            out.conversation == conversation
                && client_seq.is_none_or(|client_seq| out.client_seq == client_seq)
                && out.state == OutgoingState::Queued
        })
    }

    fn keep_message(
        &mut self,
        session: &Session,
        message: &Message,
        raised: &mut BTreeMap<ConversationId, Positions>,
        told: &mut Vec<Told>,
    ) {
        let row = self
            .tables
            .conversations
            .entry(message.conversation)
            .or_default();
        // One that moved within the list while it was taken may have been missed there.
        let is_new = self.tables.begins_late && !row.listed;
        if is_new && self.sabotage != Some(Sabotage::HalfResync) {
            row.listed = true;
            row.entry_due = true;
            row.unread = true;
            self.found.push(message.conversation);
        }
        row.opened = true;
        row.head = row.head.max(Some(message.seq));
        row.note(session, message);
        let enters = message.from == session.user
            && message.content == Content::Note(Box::new(Happened::Joined));
        if enters {
            // It may be pulled, so that nothing more comes of it here.
            self.found.push(message.conversation);
        }
        if message.content == Content::Note(Box::new(Happened::Pulled)) {
            // What came after it was told to those who were connected.
            row.mark.keep(ChangeNumber::START, false);
            self.found.push(message.conversation);
        }
        if message.from != session.user && !row.gone {
            row.wanted.raise(Positions {
                delivered: Some(message.seq),
                read: None,
            });
            raised
                .entry(message.conversation)
                .or_default()
                .raise(Positions {
                    delivered: Some(message.seq),
                    read: None,
                });
        }
        self.answered(session, message, told);
    }

    /// A message of this very device that has come waits no longer, and may be its own first answer.
    fn answered(&mut self, session: &Session, message: &Message, told: &mut Vec<Told>) {
        if message.from == session.user && message.from_device == session.device {
            let sent = self
                .tables
                .outbox
                .iter()
                .position(|out| out.id == message.id);
            if let Some(at) = sent {
                let out = self.tables.outbox.remove(at);
                if out.state != OutgoingState::Acked {
                    told.push(Told::Acked {
                        note: out.note,
                        seq: message.seq,
                    });
                }
            }
        }
    }

    fn insert(&mut self, names: &Names, message: &Message) {
        let place = (message.conversation, message.seq);
        let kept = || names.kept(message, TimestampMs(0));
        self.tables.messages.entry(place).or_insert_with(kept);
    }

    /// Applies the change of a notice, unless one of the same message is still to come or was dropped.
    fn noticed_change(&mut self, names: &Names, changed: &Changed, number: ChangeNumber) {
        let place = (changed.conversation, changed.seq);
        let follows = match self.tables.messages.get_mut(&place) {
            Some(kept) if changed.version > kept.version + 1 => false,
            Some(kept) => {
                names.change(kept, changed);
                true
            }
            None => {
                self.hold(changed);
                true
            }
        };
        if let Some(row) = self.tables.conversations.get_mut(&changed.conversation) {
            match follows {
                true => row.mark.change(number),
                false => row.mark.hear(number),
            }
        }
    }

    /// Takes a notice. Says what was settled by it, and whether messages are missing in front of it.
    pub(crate) fn notice(&mut self, names: &Names, notice: &Notice) -> (Vec<Told>, bool) {
        let mut told = Vec::new();
        let (Some(session), Notice::Message(message, as_of)) = (self.tables.session, notice) else {
            if let Notice::Changed(changed, number) = notice {
                self.noticed_change(names, changed, *number);
            }
            return (told, false);
        };
        let conversation = message.conversation;
        let behind = self.lacks_before(conversation, message.seq);
        let is_new = !self.has(conversation, message.seq.get());
        let alone = self.is_empty(conversation);
        let row = self.tables.conversations.entry(conversation).or_default();
        row.pulled = true;
        row.opened = true;
        row.head = row.head.max(Some(message.seq));
        row.note(&session, message);
        match is_new {
            true => row.mark.keep(*as_of, alone),
            false => row.mark.hear(*as_of),
        }
        self.answered(&session, message, &mut told);
        self.insert(names, message);
        (told, behind)
    }

    fn lacks_before(&self, conversation: ConversationId, seq: Seq) -> bool {
        let before = Seq::new(seq.get() - 1).ok();
        before.is_some_and(|before| !self.tables.messages.contains_key(&(conversation, before)))
    }

    /// Takes what the list says of a conversation. From where on its history has to be read.
    pub(crate) fn listed(
        &mut self,
        conversation: ConversationId,
        pulled: bool,
        (head, own): (Option<Seq>, Positions),
    ) -> Option<u64> {
        let row = self.tables.conversations.entry(conversation).or_default();
        row.inside = true;
        row.opened = true;
        row.pulled |= pulled;
        row.head = row.head.max(head);
        row.own.raise(own);
        row.listed = true;
        row.entry_due = false;
        let anew = self.tables.list_due && self.sabotage != Some(Sabotage::HalfResync);
        row.unread |= anew;
        match (anew, pulled) {
            (true, _) => Some(1),
            // What became of the messages that are here is asked for by the number of the last change.
            (false, true) => self.lacks(conversation, head),
            (false, false) => None,
        }
    }

    /// The first message that is not here of those that the user may read, up to a head or to what is known of it.
    pub(crate) fn lacks(&self, conversation: ConversationId, head: Option<Seq>) -> Option<u64> {
        let first = self.first_missing(conversation);
        let head = head.max(self.head(conversation)).map_or(0, Seq::get);
        (first <= head).then_some(first)
    }

    /// The first message that is not here of those that the user may read, whether it is there yet or not.
    pub(crate) fn first_missing(&self, conversation: ConversationId) -> u64 {
        let row = self.tables.conversations.get(&conversation);
        let floor = row.map_or(1, |row| row.floor.max(1));
        (floor..)
            .find(|seq| !self.has(conversation, *seq))
            .unwrap_or(floor)
    }

    /// A page that was asked for from `first` on begins with `found`: what is between is not for the user to read.
    pub(crate) fn begins(&mut self, conversation: ConversationId, (first, found): (u64, u64)) {
        if let Some(row) = self.tables.conversations.get_mut(&conversation)
            && found > first
        {
            row.floor = row.floor.max(found);
        }
    }

    /// Which changes of a group are here.
    pub(crate) fn mark(&self, conversation: ConversationId) -> ChangeMark {
        let row = self.tables.conversations.get(&conversation);
        row.map_or_else(ChangeMark::default, |row| row.mark)
    }

    /// The gateway says which change is the last.
    pub(crate) fn hear(&mut self, conversation: ConversationId, last: ChangeNumber) {
        let alone = self.is_empty(conversation);
        if let Some(row) = self.tables.conversations.get_mut(&conversation) {
            // Nothing is here that could lack a change.
            match alone || self.sabotage == Some(Sabotage::ForgetMark) {
                true => row.mark.keep(last, true),
                false => row.mark.hear(last),
            }
        }
    }

    fn is_empty(&self, conversation: ConversationId) -> bool {
        let all = (conversation, Seq::FIRST)..;
        let mut rows = self.tables.messages.range(all);
        rows.next().is_none_or(|((of, _), _)| *of != conversation)
    }

    /// Applies what was changed in a group after a number, to what is here.
    pub(crate) fn take_changes(
        &mut self,
        names: &Names,
        conversation: ConversationId,
        (after, page): (ChangeNumber, &Changes),
    ) {
        for changed in &page.messages {
            let place = (conversation, changed.message.seq);
            let new = names.kept(&changed.message, TimestampMs(0));
            if let Some(kept) = self.tables.messages.get_mut(&place)
                && kept.version < new.version
            {
                *kept = new;
            }
        }
        if let Some(row) = self.tables.conversations.get_mut(&conversation) {
            row.mark.catch_up(after, page.through);
            // All of it is read again.
            row.unread |= page.too_old;
        }
    }

    /// Whether the list of conversations has to be taken, because events began in the middle of the inbox.
    pub(crate) fn list_due(&self) -> bool {
        self.tables.list_due
    }

    /// The whole list is here.
    pub(crate) fn list_is_taken(&mut self) {
        self.tables.list_due = false;
    }

    /// Conversations whose history is still to be read.
    pub(crate) fn unread(&self) -> Vec<ConversationId> {
        let rows = self.tables.conversations.iter();
        rows.filter_map(|(id, row)| row.unread.then_some(*id))
            .collect()
    }

    /// Conversations whose entry of the list is still to be asked for.
    pub(crate) fn entries_due(&self) -> Vec<ConversationId> {
        let rows = self.tables.conversations.iter();
        rows.filter_map(|(id, row)| row.entry_due.then_some(*id))
            .collect()
    }

    /// Whether it is one of these.
    pub(crate) fn is_entry_due(&self, conversation: &ConversationId) -> bool {
        let row = self.tables.conversations.get(conversation);
        row.is_some_and(|row| row.entry_due)
    }

    /// The history was read to its end, or may not be read.
    pub(crate) fn is_read(&mut self, conversation: ConversationId) {
        if let Some(row) = self.tables.conversations.get_mut(&conversation) {
            row.unread = false;
        }
    }

    /// A page that is under way may bring the message as it was before.
    fn hold(&mut self, changed: &Changed) {
        if self.ahead.len() >= AHEAD_CHANGES_MAX {
            self.ahead.pop_front();
            self.forgotten += 1;
        }
        self.ahead.push_back(changed.clone());
    }

    /// How many changes of messages that are not here were forgotten.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Keeps a page of history, with the changes that overtook it. Says from which seq on it has to be asked for again, because
    /// not all of them are here; `forgotten`: what [`forgotten`](Self::forgotten) said when it was asked for.
    pub(crate) fn keep_history(
        &mut self,
        names: &Names,
        messages: &[Message],
        (forgotten, as_of): (u64, ChangeNumber),
    ) -> (Vec<Told>, Option<Seq>) {
        let mut told = Vec::new();
        let Some(session) = self.tables.session else {
            return (told, None);
        };
        let first = messages.first().filter(|_| forgotten != self.forgotten);
        let mut again = first.map(|message| message.seq);
        self.mark_page(messages, as_of);
        for message in messages {
            let new = names.kept(message, TimestampMs(0));
            let place = (message.conversation, message.seq);
            let kept = self.tables.messages.entry(place);
            let kept = kept.or_insert_with(|| new.clone());
            if kept.version < new.version {
                *kept = new;
            }
            let of = |changed: &&Changed| (changed.conversation, changed.seq) == place;
            for changed in self.ahead.iter().filter(of) {
                if changed.version > kept.version + 1 {
                    again = again.or(Some(message.seq));
                    break;
                }
                names.change(kept, changed);
            }
            self.answered(&session, message, &mut told);
        }
        (told, again)
    }

    /// Notes which changes the messages of a page have for sure, before they are kept.
    fn mark_page(&mut self, messages: &[Message], as_of: ChangeNumber) {
        let Some(first) = messages.first() else {
            return;
        };
        let mut seqs = messages.iter().map(|message| message.seq.get());
        let is_new = seqs.any(|seq| !self.has(first.conversation, seq));
        let alone = self.is_empty(first.conversation);
        let row = self.tables.conversations.entry(first.conversation);
        let mark = &mut row.or_default().mark;
        match (is_new, self.sabotage) {
            (_, Some(Sabotage::ForgetMark)) => mark.keep(as_of, true),
            (true, _) => mark.keep(as_of, alone),
            (false, _) => mark.hear(as_of),
        }
    }

    /// What there is, in the words of the checker.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&(ConversationId, Seq), &Kept)> {
        self.tables.messages.iter()
    }

    /// Whether the user has left a group, as far as this device knows. Who has joined may not have heard of it.
    pub(crate) fn has_left(&self, group: &ConversationId) -> bool {
        let row = self.tables.conversations.get(group);
        row.is_some_and(|row| row.gone)
    }

    /// Whether the user is in a group, as far as this device knows.
    pub(crate) fn is_inside(&self, group: &ConversationId) -> bool {
        let row = self.tables.conversations.get(group);
        row.is_some_and(|row| row.inside && !row.gone)
    }

    /// The groups whose messages come as notices.
    pub(crate) fn pulled(&self) -> Vec<ConversationId> {
        let rows = self.tables.conversations.iter();
        let pulled = rows.filter(|(_, row)| row.pulled && !row.gone);
        pulled.map(|(id, _)| *id).collect()
    }

    /// Whether a message is here.
    pub(crate) fn has(&self, conversation: ConversationId, seq: u64) -> bool {
        let seq = Seq::new(seq).ok();
        seq.is_some_and(|seq| self.tables.messages.contains_key(&(conversation, seq)))
    }

    /// The head of a conversation, as far as this device knows.
    pub(crate) fn head(&self, conversation: ConversationId) -> Option<Seq> {
        self.tables.conversations.get(&conversation)?.head
    }
}
