//! Where the decisions about one record put their results, numbered and digested.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use quipu_protocol::event::{
    EventBody, Message, Notice, Outcome, Receipt, Rejection, Reply, ReplyTo,
};
use quipu_protocol::id::{
    ChangeNumber, ConversationId, DeviceId, InboxSeq, RequestId, Seq, TimestampMs, UserId,
};
use quipu_protocol::limits::CHANGES_KEPT_MAX;
use siphasher::sip::SipHasher13;

use super::entities::Audience;
use super::{Action, Effects, ShardCount, ShardId};
use crate::record::{Command, Entry, EntryBody, Position, Source, Standing};
use crate::retention::Retention;
use crate::row::{HistoryRow, IndexKey, NumberedChange, Presence, Row, Settings};

/// How many entries a record has sent to each shard.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbering {
    record: Position,
    sent: BTreeMap<ShardId, u32>,
}

impl Numbering {
    fn next(&mut self, record: Position, to: ShardId) -> u32 {
        if self.record != record {
            self.record = record;
            self.sent.clear();
        }
        let next = self.sent.entry(to).or_insert(0);
        let index = *next;
        *next += 1;
        index
    }
}

/// The record in hand, and the results so far.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) shard: ShardId,
    pub(super) shards: ShardCount,
    pub(super) position: Position,
    pub(super) time: TimestampMs,
    /// What inboxes keep; `None`: everything.
    pub(super) keep: Option<Retention>,
    pub(super) numbering: &'a mut Numbering,
    pub(super) digest: &'a mut u64,
    pub(super) effects: &'a mut Effects,
}

/// The first byte of what a digest takes of a decision.
mod decision {
    pub(super) const HISTORY: u8 = 1;
    pub(super) const RECEIPT: u8 = 2;
    pub(super) const ANSWER: u8 = 3;
    pub(super) const INBOX: u8 = 4;
    pub(super) const ACCOUNT: u8 = 5;
    pub(super) const STANDING: u8 = 6;
    pub(super) const LISTED: u8 = 7;
    pub(super) const NOTICE: u8 = 8;
    pub(super) const CHANGED: u8 = 9;
    pub(super) const SETTINGS: u8 = 10;
    pub(super) const REPORTED: u8 = 11;
    pub(super) const TRIMMED: u8 = 12;
    pub(super) const NUMBERED: u8 = 13;
    pub(super) const PRESENCE: u8 = 0x10;
}

impl Turn<'_> {
    /// Keeps a message and tells everybody in `audience`.
    pub(super) fn message(&mut self, message: Message, audience: Audience) {
        self.digest(decision::HISTORY, |hasher| {
            hasher.write(message.conversation.as_bytes());
            hasher.write_u64(message.seq.get());
            hasher.write(message.id.as_bytes());
        });
        self.tell(audience, || EventBody::Message(message.clone()));
        let (conversation, seq) = (message.conversation, message.seq);
        for key in IndexKey::media_refs(conversation, seq, &message.content) {
            self.index(key, Some(Bytes::new()));
        }
        let state = message.state.as_ref();
        if let Some(at) = state.and_then(|state| state.expires_at) {
            self.index(IndexKey::Due(at, conversation, seq), Some(Bytes::new()));
        }
        self.effects.rows.push(Row::History(HistoryRow(message)));
    }

    /// Writes a row of the index, or takes it away.
    pub(super) fn index(&mut self, key: IndexKey, value: Option<Bytes>) {
        self.effects.rows.push(Row::Index(key, value));
    }

    /// Notes in the digest that a message has another version.
    pub(super) fn changed(&mut self, (conversation, seq): (ConversationId, Seq), version: u32) {
        self.digest(decision::CHANGED, |hasher| {
            hasher.write(conversation.as_bytes());
            hasher.write_u64(seq.get());
            hasher.write_u32(version);
        });
    }

    /// Keeps which message a change of a pulled group was about, and forgets the oldest one that need not be kept any more.
    pub(super) fn numbered(
        &mut self,
        group: ConversationId,
        number: ChangeNumber,
        of: NumberedChange,
    ) {
        self.digest(decision::NUMBERED, |hasher| {
            hasher.write(group.as_bytes());
            hasher.write_u64(number.0);
            hasher.write_u64(of.seq.get());
        });
        self.index(IndexKey::Changed(group, number), Some(of.encode()));
        if let Some(old @ 1..) = number.0.checked_sub(CHANGES_KEPT_MAX as u64) {
            self.index(IndexKey::Changed(group, ChangeNumber(old)), None);
        }
    }

    /// Notes in the digest that a user has other settings.
    pub(super) fn settings(&mut self, user: &UserId, settings: &Settings) {
        self.digest(decision::SETTINGS, |hasher| {
            hasher.write(user.as_str().as_bytes());
            hasher.write(&settings.encode());
        });
    }

    /// Notes in the digest that somebody complained.
    pub(super) fn reported(&mut self, id: ConversationId, by: &UserId, seq: Option<Seq>) {
        self.digest(decision::REPORTED, |hasher| {
            hasher.write(id.as_bytes());
            hasher.write(by.as_str().as_bytes());
            hasher.write_u64(seq.map_or(0, Seq::get));
        });
    }

    /// Tells the direct conversation of two users that one takes no messages from the other any more, or takes them again. It
    /// answers the command.
    pub(super) fn blocked(&mut self, by: &Command, request: RequestId, (user, on): (UserId, bool)) {
        let conversation = ConversationId::direct(&by.user, &user);
        let shard = self.shards.of_conversation(&conversation);
        let body = EntryBody::Blocked {
            by: by.user,
            user,
            on,
            asked: Some((by.device, request)),
        };
        self.send(shard, body);
    }

    /// Tells the gateway what a user of this shard has decided about others.
    pub(super) fn decided(&mut self, user: UserId, settings: Settings) {
        let settings = Arc::new(settings);
        let tell = Action::Settings { user, settings };
        self.effects.actions.push(tell);
    }

    /// Throws a device out that its account has no longer.
    pub(super) fn revoked(&mut self, user: UserId, device: DeviceId) {
        self.effects.actions.push(Action::Revoked { user, device });
    }

    /// Tells everybody in `audience` how far a member is.
    pub(super) fn receipt(&mut self, receipt: &Receipt, audience: Audience) {
        self.digest(decision::RECEIPT, |hasher| {
            hasher.write(receipt.conversation.as_bytes());
            hasher.write(receipt.user.as_str().as_bytes());
            hasher.write_u64(receipt.delivered.map_or(0, |seq| seq.get()));
            hasher.write_u64(receipt.read.map_or(0, |seq| seq.get()));
        });
        self.tell(audience, || EventBody::Receipt(receipt.clone()));
    }

    /// Sends an event to each shard that has somebody of `audience`.
    pub(super) fn tell(&mut self, audience: Audience, event: impl Fn() -> EventBody) {
        match audience {
            Audience::Users(users) => {
                for (shard, to) in users {
                    self.deliver(*shard, to, event());
                }
            }
            Audience::Group {
                id,
                pulled,
                changes,
                shards,
            } => {
                for (shard, _) in shards {
                    let body = EntryBody::Spread {
                        group: id,
                        pulled,
                        changes,
                        event: event(),
                    };
                    self.send(*shard, body);
                }
            }
        }
    }

    /// Sends an event to one user's inbox.
    pub(super) fn tell_one(&mut self, user: UserId, event: EventBody) {
        self.deliver(self.shards.of_user(&user), &[user], event);
    }

    /// Tells a user's shard what the user is to a conversation from now on.
    pub(super) fn standing(
        &mut self,
        conversation: ConversationId,
        user: UserId,
        standing: Standing,
    ) {
        self.digest(decision::STANDING, |hasher| {
            hasher.write(conversation.as_bytes());
            hasher.write(user.as_str().as_bytes());
            hasher.write_u8(match &standing {
                Standing::Out => 0,
                Standing::Invited(_) => 255,
                Standing::In { role, .. } => role.to_wire() as u8,
            });
            if let Standing::In { first, .. } = &standing {
                hasher.write_u64(first.get());
            }
        });
        let body = EntryBody::Standing {
            conversation,
            user,
            standing,
        };
        self.send(self.shards.of_user(&user), body);
    }

    /// Puts a conversation into a user's list, or takes it out.
    pub(super) fn listed(&mut self, user: UserId, conversation: ConversationId, on: bool) {
        self.digest(decision::LISTED, |hasher| {
            hasher.write(conversation.as_bytes());
            hasher.write(user.as_str().as_bytes());
            hasher.write_u8(u8::from(on));
        });
        let key = IndexKey::Listed(user, conversation);
        let value = on.then(Bytes::new);
        self.effects.rows.push(Row::Index(key, value));
    }

    /// Offers news of a pulled group to the devices of its members that are connected.
    pub(super) fn notice(&mut self, group: ConversationId, users: Arc<[UserId]>, notice: Notice) {
        self.digest(decision::NOTICE, |hasher| {
            hasher.write(group.as_bytes());
            hasher.write_u64(users.len() as u64);
        });
        self.effects.actions.push(Action::Notice { users, notice });
    }

    /// Sends the answer to a device's command to the shard of its user.
    pub(super) fn answer(&mut self, user: UserId, device: DeviceId, reply: Reply) {
        self.digest_answer(&user, device, &reply);
        let body = EntryBody::Answer {
            user,
            device,
            reply,
        };
        self.send(self.shards.of_user(&user), body);
    }

    /// Answers a device of a user of this shard.
    pub(super) fn answer_here(&mut self, user: UserId, device: DeviceId, reply: Reply) {
        self.digest_answer(&user, device, &reply);
        self.effects.actions.push(Action::Answer {
            user,
            device,
            reply,
        });
    }

    /// Keeps an event in an inbox and offers it to the user's devices.
    pub(super) fn inbox(&mut self, row: crate::row::InboxRow, body: EventBody) {
        self.digest(decision::INBOX, |hasher| {
            hasher.write(row.user.as_str().as_bytes());
            hasher.write_u64(row.inbox_seq.get());
        });
        self.effects.actions.push(Action::Push {
            user: row.user,
            event: quipu_protocol::event::Event {
                inbox_seq: row.inbox_seq,
                body,
            },
        });
        self.effects.rows.push(Row::Inbox(row));
    }

    /// Takes an entry of an inbox out of the store.
    pub(super) fn trimmed(&mut self, user: UserId, inbox_seq: InboxSeq) {
        self.digest(decision::TRIMMED, |hasher| {
            hasher.write(user.as_str().as_bytes());
            hasher.write_u64(inbox_seq.get());
        });
        self.effects.rows.push(Row::Trimmed(user, inbox_seq));
    }

    /// Notes in the digest that an account got a device.
    pub(super) fn account(&mut self, user: &UserId, device: DeviceId) {
        self.digest(decision::ACCOUNT, |hasher| {
            hasher.write(user.as_str().as_bytes());
            hasher.write_u64(device.get());
        });
    }

    /// Notes what is known of a user's devices from now on, and what follows for the offline topic.
    pub(super) fn presence(&mut self, user: UserId, before: Option<&Presence>, after: &Presence) {
        self.digest(decision::PRESENCE, |hasher| {
            hasher.write(user.as_str().as_bytes());
            hasher.write(&after.encode());
        });
        let here = after.is_here();
        if here != before.is_some_and(Presence::is_here) {
            let value = here.then(Bytes::new);
            self.effects
                .rows
                .push(Row::Index(IndexKey::Here(user), value));
        }
        let offline = after.offline();
        if offline != before.and_then(Presence::offline) {
            let value = offline.map(|row| row.encode());
            self.effects
                .rows
                .push(Row::Index(IndexKey::Offline(user), value));
            self.offline(user, Some(after));
        }
    }

    /// Tells whoever tells about messages what waits for a user.
    pub(super) fn offline(&mut self, user: UserId, presence: Option<&Presence>) {
        let offline = presence.and_then(Presence::offline);
        self.effects.actions.push(Action::Offline {
            user,
            since: offline.map(|row| row.since),
        });
    }

    fn deliver(&mut self, shard: ShardId, to: &[UserId], event: EventBody) {
        let to = to.to_vec();
        self.send(shard, EntryBody::Deliver { to, event });
    }

    fn send(&mut self, to: ShardId, body: EntryBody) {
        let source = Source {
            shard: self.shard,
            position: self.position,
            index: self.numbering.next(self.position, to),
        };
        let source = Some(source);
        self.effects.outgoing.push((to, Entry { source, body }));
    }

    fn digest_answer(&mut self, user: &UserId, device: DeviceId, reply: &Reply) {
        let (to, of) = match &reply.to {
            ReplyTo::Send { client_seq, .. } => (1, client_seq.get()),
            ReplyTo::Request(request) => (2, request.0),
        };
        let (outcome, value) = match &reply.outcome {
            Outcome::Accepted(seq) => (1, seq.get()),
            Outcome::Opened { head, .. } => (2, head.map_or(0, |seq| seq.get())),
            Outcome::Done => (3, 0),
            Outcome::Rejected(rejection) => (4, u64::from(rejection.code.code())),
        };
        self.digest(decision::ANSWER, |hasher| {
            hasher.write(user.as_str().as_bytes());
            hasher.write_u64(device.get());
            hasher.write(&[to, outcome]);
            hasher.write_u64(of);
            hasher.write_u64(value);
        });
    }

    fn digest(&mut self, decision: u8, write: impl FnOnce(&mut SipHasher13)) {
        let mut hasher = SipHasher13::new_with_keys(*self.digest, u64::from(decision));
        write(&mut hasher);
        *self.digest = hasher.finish();
    }
}

/// A refusal without a time to wait.
pub(super) fn rejected(code: quipu_protocol::error::RejectCode, reason: &str) -> Outcome {
    Outcome::Rejected(Rejection {
        code,
        reason: reason.to_owned(),
        retry_after_ms: 0,
    })
}
