//! The conversation list: who with, how much is unread, and an order that never changes under the reader's eyes.

use std::collections::{BTreeMap, BTreeSet};

use quipu_protocol::event::{Content, Invitation, Message, Note, Receipt};
use quipu_protocol::id::{ConversationId, Seq, TimestampMs, UserId};
use quipu_protocol::query::PresenceEntry;

use crate::{text, words};

/// One conversation as the list knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// Which.
    pub(crate) id: ConversationId,
    /// The other member of a direct one.
    pub(crate) peer: Option<UserId>,
    /// The title of a group, once it is known.
    pub(crate) group: Option<String>,
    /// Who invites the user into it, while that is not answered.
    pub(crate) invited_by: Option<UserId>,
    /// Seq of the last message that is known to exist.
    pub(crate) head: Option<Seq>,
    /// When that was sent; `None` if it is not known or there is none.
    pub(crate) last_at: Option<TimestampMs>,
    /// Beginning of the last message, in one line.
    pub(crate) preview: String,
    /// Messages of others behind the read position.
    pub(crate) unread: u64,
    /// This user's read position.
    pub(crate) read: Option<Seq>,
    /// The peer has everything up to here.
    pub(crate) peer_delivered: Option<Seq>,
    /// The peer has read everything up to here.
    pub(crate) peer_read: Option<Seq>,
    /// Messages of this device that the gateway has not acked.
    pub(crate) waiting: u64,
    /// Whether the peer is here, or when that was; `None`: not known.
    pub(crate) presence: Option<Presence>,
}

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// A device of theirs is connected.
    Here,
    /// None is, since then.
    Seen(TimestampMs),
}

impl Presence {
    /// What a gateway told; `None`: it told nothing.
    pub(crate) fn told(entry: &PresenceEntry) -> Option<Self> {
        match entry.here {
            true => Some(Self::Here),
            false => entry.seen_at.map(Self::Seen),
        }
    }
}

/// Characters of a message that the list keeps.
const PREVIEW_CHARS: usize = 80;

impl Conversation {
    /// A conversation of which nothing is known yet.
    pub(crate) fn new(id: ConversationId, peer: Option<UserId>) -> Self {
        Self {
            id,
            peer,
            group: None,
            invited_by: None,
            head: None,
            last_at: None,
            preview: String::new(),
            unread: 0,
            read: None,
            peer_delivered: None,
            peer_read: None,
            waiting: 0,
            presence: None,
        }
    }

    /// What it is called: the peer, a group's title, or the start of the id of a group that has not said it.
    pub(crate) fn title(&self) -> String {
        match (&self.peer, &self.group) {
            (Some(peer), _) => peer.to_string(),
            (None, Some(title)) => text::display(&text::single_line(title)),
            (None, None) => format!("group {}", &self.id.to_string()[..8]),
        }
    }

    /// Takes over the last message.
    pub(crate) fn set_last(&mut self, message: &Message) {
        if let Content::Note(note) = &message.content
            && let Note::Created(title) | Note::Title(title) = &**note
        {
            self.group = Some(title.clone());
        }
        let said = words::said(&message.content);
        self.preview = text::single_line(&said)
            .chars()
            .take(PREVIEW_CHARS)
            .collect();
        self.last_at = Some(message.sent_at);
    }
}

/// Every known conversation, in the order of the list.
#[derive(Debug, Default)]
pub(crate) struct Conversations {
    order: Vec<ConversationId>,
    by_id: BTreeMap<ConversationId, Conversation>,
}

impl Conversations {
    /// Takes the whole list from the cache: the latest conversation first the first time; later the order stays and new ones go
    /// to the end. A group that was known by its invitation alone goes when that is answered.
    pub(crate) fn replace(&mut self, mut all: Vec<Conversation>) {
        let listed: BTreeSet<ConversationId> = all.iter().map(|row| row.id).collect();
        self.by_id
            .retain(|id, row| row.invited_by.is_none() || listed.contains(id));
        self.order.retain(|id| self.by_id.contains_key(id));
        all.sort_by_key(|conversation| std::cmp::Reverse(conversation.last_at));
        for conversation in all {
            self.upsert(conversation);
        }
    }

    /// Adds a conversation at the end of the list, or brings a known one up to date in its place.
    pub(crate) fn upsert(&mut self, mut conversation: Conversation) {
        let id = conversation.id;
        if let Some(known) = self.by_id.get(&id) {
            conversation.group = conversation.group.or_else(|| known.group.clone());
        }
        if self.by_id.insert(id, conversation).is_none() {
            self.order.push(id);
        }
    }

    /// One of them.
    pub(crate) fn get(&self, id: &ConversationId) -> Option<&Conversation> {
        self.by_id.get(id)
    }

    /// One of them, to be changed.
    pub(crate) fn get_mut(&mut self, id: &ConversationId) -> Option<&mut Conversation> {
        self.by_id.get_mut(id)
    }

    /// One of them, added if it was unknown.
    pub(crate) fn entry(&mut self, id: ConversationId, peer: Option<UserId>) -> &mut Conversation {
        let order = &mut self.order;
        self.by_id.entry(id).or_insert_with(|| {
            order.push(id);
            Conversation::new(id, peer)
        })
    }

    /// Somebody wants the user in a group: it is a line of the list.
    pub(crate) fn invited(&mut self, invitation: &Invitation) {
        let row = self.entry(invitation.conversation, None);
        row.group = Some(invitation.title.clone());
        row.invited_by = Some(invitation.by);
    }

    /// The user has answered an invitation: by joining, or else there is nothing left of it but what was known before.
    pub(crate) fn answered(&mut self, id: &ConversationId, joined: bool) {
        let Some(row) = self.by_id.get_mut(id) else {
            return;
        };
        let was_invited = row.invited_by.take().is_some();
        if was_invited && !joined && row.head.is_none() {
            self.by_id.remove(id);
            self.order.retain(|other| other != id);
        }
    }

    /// In the order of the list.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Conversation> {
        self.order.iter().filter_map(|id| self.by_id.get(id))
    }

    /// Place in the list.
    pub(crate) fn position(&self, id: &ConversationId) -> Option<usize> {
        self.order.iter().position(|other| other == id)
    }

    /// The one at a place.
    pub(crate) fn at(&self, position: usize) -> Option<ConversationId> {
        self.order.get(position).copied()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Counts a message that has just arrived. Whether it was new to the list.
    pub(crate) fn message(&mut self, me: UserId, message: &Message) -> bool {
        let peer = match message.to {
            Some(to) if message.from == me => Some(to),
            Some(_) => Some(message.from),
            None => None,
        };
        let row = self.entry(message.conversation, peer);
        row.peer = row.peer.or(peer);
        if row.head >= Some(message.seq) {
            return false;
        }
        row.head = Some(message.seq);
        row.set_last(message);
        let note = matches!(message.content, Content::Note(_));
        if message.from == me && note {
            row.invited_by = None;
        }
        if message.from != me && !note && row.read < Some(message.seq) {
            row.unread += 1;
        }
        true
    }

    /// Takes over a position of a member. True if the unread count must be asked for: this user has read on another device, but
    /// not everything.
    pub(crate) fn receipt(&mut self, me: UserId, receipt: &Receipt) -> bool {
        let Some(row) = self.by_id.get_mut(&receipt.conversation) else {
            return false;
        };
        if receipt.user != me {
            // One member of a group is not all of them.
            if row.peer != Some(receipt.user) {
                return false;
            }
            row.peer_read = row.peer_read.max(receipt.read);
            row.peer_delivered = row.peer_delivered.max(receipt.delivered).max(row.peer_read);
            return false;
        }
        if receipt.read <= row.read {
            return false;
        }
        row.read = receipt.read;
        if row.read >= row.head {
            row.unread = 0;
        }
        row.unread > 0
    }

    /// Takes over what is told of a peer.
    pub(crate) fn presence(&mut self, entry: &PresenceEntry) {
        let mut rows = self.by_id.values_mut();
        if let Some(row) = rows.find(|row| row.peer == Some(entry.user)) {
            row.presence = Presence::told(entry);
        }
    }

    /// The neighbour of a conversation in the list, going round at its ends; only among unread ones if asked for.
    pub(crate) fn neighbour(
        &self,
        from: Option<&ConversationId>,
        back: bool,
        only_unread: bool,
    ) -> Option<ConversationId> {
        let count = self.len();
        let start = from.and_then(|id| self.position(id));
        let step = |n: usize| match (start, back) {
            (Some(start), false) => (start + n) % count,
            (Some(start), true) => (start + count - n % count) % count,
            (None, false) => n - 1,
            (None, true) => count - n,
        };
        (1..=count)
            .filter_map(|n| self.at(step(n)))
            .find(|id| !only_unread || self.get(id).is_some_and(|row| row.unread > 0))
    }

    /// Unread messages outside one conversation.
    pub(crate) fn unread_elsewhere(&self, open: Option<&ConversationId>) -> u64 {
        self.iter()
            .filter(|row| Some(&row.id) != open)
            .map(|row| row.unread)
            .sum()
    }

    /// Messages of this device that no gateway has acked.
    pub(crate) fn waiting(&self) -> u64 {
        self.iter().map(|row| row.waiting).sum()
    }
}
