//! Messages of this device from the moment they are written until the gateway has answered.

pub(super) mod changes;

use std::collections::HashMap;
use std::hash::Hash;

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Content;
use quipu_protocol::id::{ClientSeq, ConversationId, MessageId, Seq, TimestampMs, UserId};
use quipu_protocol::session::{Positions, Waiting};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use tokio::sync::oneshot;

use super::inbox::sent_place;
use super::{Tables, row};
use crate::config::{OUTBOX_BYTES_MAX, OUTBOX_MESSAGES_MAX};
use crate::error::{Error, Refusal};
use crate::model::{LocalMessage, LocalState, Target};

const QUEUED: i64 = 0;
const ACKED: i64 = 1;
const REFUSED: i64 = 2;

/// How full the outbox is.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    messages: usize,
    text_bytes: usize,
}

impl Counts {
    pub(super) fn add(&mut self, text_bytes: usize) {
        self.messages += 1;
        self.text_bytes += text_bytes;
    }

    pub(super) fn remove(&mut self, removed: Self) {
        self.messages = self.messages.saturating_sub(removed.messages);
        self.text_bytes = self.text_bytes.saturating_sub(removed.text_bytes);
    }
}

pub(super) fn count(db: &Connection) -> Result<Counts, Error> {
    let sql = format!("SELECT count(*), coalesce(sum({BYTES}), 0) FROM outbox");
    let (messages, text_bytes) = db.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Counts {
        messages: row::count(messages),
        text_bytes: row::count(text_bytes),
    })
}

/// What a message takes in the outbox.
const BYTES: &str = "octet_length(text) + coalesce(octet_length(content), 0)";

/// The same before it is there.
fn stored_bytes(content: &Content) -> usize {
    content.text().len() + row::more_than_text(content).map_or(0, |bytes| bytes.len())
}

type Waiter<T> = oneshot::Sender<Result<T, Error>>;

/// Callers that wait for the end of a message, or of a change. Never more entries than there are of them in the outbox.
#[derive(Debug)]
pub(super) struct Waiters<K, T>(HashMap<K, Vec<Waiter<T>>>);

impl<K, T> Default for Waiters<K, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, T: Clone> Waiters<K, T> {
    fn add(&mut self, id: K, waiter: Waiter<T>) {
        let waiters = self.0.entry(id).or_default();
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(waiter);
    }

    pub(super) fn resolve(&mut self, id: K, end: Result<T, Error>) {
        for waiter in self.0.remove(&id).unwrap_or_default() {
            // A caller that no longer waits does not need to know.
            let _ = waiter.send(end.clone());
        }
    }
}

impl Tables {
    /// Puts messages into the outbox: all of them or none. Announces them to the driver after the commit, still under the
    /// lock, so that the driver sees them in the order in which they were written.
    pub(crate) fn enqueue(
        &mut self,
        target: Target,
        messages: Vec<(MessageId, Content)>,
        now: TimestampMs,
    ) -> Result<Vec<LocalMessage>, Error> {
        let user = self.signed_in()?.account.user;
        let bytes = |(_, content): &(MessageId, Content)| stored_bytes(content);
        let text_bytes: usize = messages.iter().map(bytes).sum();
        if self.outbox.messages + messages.len() > OUTBOX_MESSAGES_MAX
            || self.outbox.text_bytes + text_bytes > OUTBOX_BYTES_MAX
        {
            return Err(Error::OutboxFull {
                messages: self.outbox.messages,
            });
        }
        let (conversation, named) = match target {
            Target::User(peer) => (ConversationId::direct(&user, &peer), Some(peer)),
            Target::Conversation(conversation) => (conversation, None),
        };
        let (known_peer, opened) = self.known(&conversation)?;
        let peer = named.or(known_peer);
        // One that only its id is known of was learnt from the gateway, so there is nothing to open.
        let opened = opened || peer.is_none();
        let client_seqs = self.take_client_seqs(messages.len())?;
        let may_be_sent = self.outbound.is_taken();

        let tx = self.db.transaction()?;
        for ((id, content), client_seq) in messages.iter().zip(&client_seqs) {
            tx.prepare_cached(
                "INSERT INTO outbox (id, conversation, peer, text, queued_at, client_seq, content, may_be_sent)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                id.as_bytes(),
                conversation.as_bytes(),
                peer.as_ref().map(UserId::as_str),
                content.text(),
                now.0.cast_signed(),
                client_seq.get().cast_signed(),
                row::more_than_text(content),
                may_be_sent
            ])?;
        }
        // A conversation that is only written to is already one of the list.
        tx.prepare_cached(
            "INSERT INTO conversation (id, peer, last_at) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET last_at = max(last_at, excluded.last_at)",
        )?
        .execute(params![
            conversation.as_bytes(),
            peer.as_ref().map(UserId::as_str),
            now.0.cast_signed()
        ])?;
        tx.commit()?;

        let local = |(id, content): &(MessageId, Content)| LocalMessage {
            id: *id,
            conversation,
            peer,
            content: content.clone(),
            queued_at: now,
            state: LocalState::Queued,
        };
        let queued = messages.iter().map(local).collect();
        for (_, content) in &messages {
            self.outbox.add(stored_bytes(content));
        }
        self.outbound.push(|news| {
            let waiting = messages.into_iter().zip(client_seqs);
            news.messages
                .extend(waiting.map(|((id, content), client_seq)| Waiting {
                    conversation,
                    peer,
                    opened,
                    client_seq,
                    id,
                    content,
                }));
        });
        Ok(queued)
    }

    /// The peer of a conversation, and whether the gateway is known to have it.
    fn known(&self, conversation: &ConversationId) -> Result<(Option<UserId>, bool), Error> {
        let mut statement = self
            .db
            .prepare_cached("SELECT peer, opened FROM conversation WHERE id = ?1")?;
        let mut rows = statement.query([conversation.as_bytes()])?;
        match rows.next()? {
            Some(found) => Ok((row::optional_user(found, 0)?, found.get(1)?)),
            None => Ok((None, false)),
        }
    }

    /// Everything that the gateway has not answered, in the order in which it goes out. From now on it may have been sent.
    pub(crate) fn waiting(&self) -> Result<Vec<Waiting>, Error> {
        // On the disk before anything is sent: an outbox machine asks for a sync first.
        self.db
            .prepare_cached("UPDATE outbox SET may_be_sent = 1 WHERE may_be_sent = 0")?
            .execute([])?;
        let mut statement = self.db.prepare_cached(
            "SELECT o.conversation, o.peer, coalesce(c.opened, 0), o.client_seq, o.id, o.text, o.content
             FROM outbox o LEFT JOIN conversation c ON c.id = o.conversation WHERE o.state = 0 ORDER BY o.local",
        )?;
        let mut rows = statement.query([])?;
        let mut waiting = Vec::new();
        while let Some(found) = rows.next()? {
            let peer = row::optional_user(found, 1)?;
            waiting.push(Waiting {
                conversation: row::conversation(found, 0)?,
                peer,
                opened: found.get(2)? || peer.is_none(),
                client_seq: ClientSeq::new(row::number(found, 3)?).map_err(row::damaged)?,
                id: row::message_id(found, 4)?,
                content: row::content(found, 5, 6)?,
            });
        }
        Ok(waiting)
    }

    /// Gives every message that waits for a conversation a new client seq, in their order.
    pub(crate) fn renumber(
        &mut self,
        conversation: ConversationId,
    ) -> Result<Vec<(MessageId, ClientSeq)>, Error> {
        let ids: Vec<MessageId> = {
            let sql = "SELECT id FROM outbox WHERE conversation = ?1 AND state = 0 ORDER BY local";
            let mut statement = self.db.prepare_cached(sql)?;
            let found = statement
                .query_and_then([conversation.as_bytes()], |found| row::message_id(found, 0))?;
            found.collect::<Result<_, _>>()?
        };
        let client_seqs = self.take_client_seqs(ids.len())?;
        let tx = self.db.transaction()?;
        for (id, client_seq) in ids.iter().zip(&client_seqs) {
            tx.prepare_cached("UPDATE outbox SET client_seq = ?2 WHERE id = ?1")?
                .execute(params![id.as_bytes(), client_seq.get().cast_signed()])?;
        }
        tx.commit()?;
        // The old numbers must not come back: under them the gateway would not know the messages again (QP-SEND-9).
        self.sync()?;
        let renumbered: Vec<_> = ids.into_iter().zip(client_seqs).collect();
        // Also what the driver has not taken yet.
        self.outbound.push(|news| {
            for waiting in &mut news.messages {
                let new = renumbered.iter().find(|(id, _)| *id == waiting.id);
                waiting.client_seq = new.map_or(waiting.client_seq, |(_, client_seq)| *client_seq);
            }
        });
        Ok(renumbered)
    }

    /// Registers a caller for the end of a message, or answers at once.
    pub(crate) fn wait(&mut self, id: MessageId, waiter: Waiter<Seq>) -> Result<(), Error> {
        let end = match local_message(&self.db, id)?.map(|local| local.state) {
            Some(LocalState::Queued) => {
                self.waiters.add(id, waiter);
                return Ok(());
            }
            Some(LocalState::Acked(seq)) => Ok(seq),
            Some(LocalState::Refused(refusal)) => Err(Error::Refused(refusal)),
            None => sent_place(&self.db, id)?
                .map(|(_, seq)| seq)
                .ok_or(Error::UnknownMessage),
        };
        // A caller that no longer waits does not need to know.
        let _ = waiter.send(end);
        Ok(())
    }

    /// Removes a refused message.
    pub(crate) fn forget(&mut self, id: MessageId) -> Result<(), Error> {
        let tx = self.db.transaction()?;
        let sql = format!("DELETE FROM outbox WHERE id = ?1 AND state = 2 RETURNING {BYTES}");
        let removed: Option<i64> = tx
            .prepare_cached(&sql)?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        let text_bytes = row::count(removed.ok_or(Error::UnknownMessage)?);
        changes::drop_of_unsent(&tx, id)?;
        tx.commit()?;
        self.outbox.remove(Counts {
            messages: 1,
            text_bytes,
        });
        Ok(())
    }

    /// What of a conversation is not in the history yet.
    pub(crate) fn outbox(&self, conversation: ConversationId) -> Result<Vec<LocalMessage>, Error> {
        let sql = format!("SELECT {LOCAL} FROM outbox WHERE conversation = ?1 ORDER BY local");
        let mut statement = self.db.prepare_cached(&sql)?;
        let found = statement.query_and_then([conversation.as_bytes()], read_local)?;
        found.collect()
    }

    /// Raises what this user has read of a conversation, and has it reported.
    pub(crate) fn mark_read(&self, conversation: ConversationId, seq: Seq) -> Result<(), Error> {
        self.signed_in()?;
        let changed = self
            .db
            .prepare_cached(
                "UPDATE conversation SET want_read = min(?2, head), want_delivered = max(want_delivered, min(?2, head))
                 WHERE id = ?1 AND min(?2, head) > max(want_read, own_read)",
            )?
            .execute(params![conversation.as_bytes(), seq.get().cast_signed()])?;
        if changed == 1
            && let Some(positions) = self.unreported(Some(&conversation))?.remove(&conversation)
        {
            self.outbound.push(|news| {
                news.receipts
                    .entry(conversation)
                    .or_default()
                    .raise(positions)
            });
        }
        Ok(())
    }

    /// Positions that the gateway has not confirmed, of one conversation or of all.
    pub(crate) fn unreported(
        &self,
        only: Option<&ConversationId>,
    ) -> Result<std::collections::BTreeMap<ConversationId, Positions>, Error> {
        let mut statement = self.db.prepare_cached(
            "SELECT id, want_delivered, want_read FROM conversation
             WHERE (want_delivered > own_delivered OR want_read > own_read) AND (?1 IS NULL OR id = ?1)",
        )?;
        let only = only.map(|id| id.as_bytes().as_slice());
        let found = statement.query_and_then([only], |found| {
            let positions = Positions {
                delivered: row::optional_seq(found, 1)?,
                read: row::optional_seq(found, 2)?,
            };
            Ok((row::conversation(found, 0)?, positions))
        })?;
        found.collect()
    }
}

const LOCAL: &str = "id, conversation, peer, text, queued_at, state, seq, code, reason, content";

fn local_message(db: &Connection, id: MessageId) -> Result<Option<LocalMessage>, Error> {
    let sql = format!("SELECT {LOCAL} FROM outbox WHERE id = ?1");
    let mut statement = db.prepare_cached(&sql)?;
    let mut found = statement.query_and_then([id.as_bytes()], read_local)?;
    found.next().transpose()
}

fn read_local(found: &Row<'_>) -> Result<LocalMessage, Error> {
    let state = match found.get::<_, i64>(5)? {
        ACKED => LocalState::Acked(Seq::new(row::number(found, 6)?).map_err(row::damaged)?),
        REFUSED => LocalState::Refused(Refusal {
            code: RejectCode::from_code(row::number(found, 7)?),
            reason: found.get(8)?,
        }),
        _ => LocalState::Queued,
    };
    Ok(LocalMessage {
        id: row::message_id(found, 0)?,
        conversation: row::conversation(found, 1)?,
        peer: row::optional_user(found, 2)?,
        content: row::content(found, 3, 9)?,
        queued_at: TimestampMs(row::number(found, 4)?),
        state,
    })
}

/// What was removed from the outbox because its event has come.
pub(super) struct Removed {
    pub(super) text_bytes: usize,
    /// Whether the event is also the first answer.
    pub(super) unanswered: bool,
}

/// Removes a message whose event has come.
pub(super) fn remove_sent(tx: &Transaction<'_>, id: MessageId) -> Result<Option<Removed>, Error> {
    let sql = format!("DELETE FROM outbox WHERE id = ?1 RETURNING {BYTES}, state");
    let mut statement = tx.prepare_cached(&sql)?;
    let removed = statement
        .query_row([id.as_bytes()], |row| {
            Ok(Removed {
                text_bytes: row::count(row.get(0)?),
                unanswered: row.get::<_, i64>(1)? != ACKED,
            })
        })
        .optional()?;
    Ok(removed)
}

/// Marks a message as acked. `None` if its event has come already.
pub(super) fn accept(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    client_seq: ClientSeq,
    seq: Seq,
) -> Result<Option<MessageId>, Error> {
    let mut statement = tx.prepare_cached(
        "UPDATE outbox SET state = ?4, seq = ?3 WHERE client_seq = ?2 AND conversation = ?1 AND state = 0 RETURNING id",
    )?;
    let mut found = statement.query_and_then(
        params![
            conversation.as_bytes(),
            client_seq.get().cast_signed(),
            seq.get().cast_signed(),
            ACKED
        ],
        |found| row::message_id(found, 0),
    )?;
    found.next().transpose()
}

/// Marks one message as refused, or all that wait for the conversation, and says which.
pub(super) fn refuse(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    client_seq: Option<ClientSeq>,
    refusal: &Refusal,
) -> Result<Vec<MessageId>, Error> {
    let mut statement = tx.prepare_cached(
        "UPDATE outbox SET state = ?5, code = ?3, reason = ?4
         WHERE conversation = ?1 AND (?2 IS NULL OR client_seq = ?2) AND state = ?6 RETURNING id",
    )?;
    let found = statement.query_and_then(
        params![
            conversation.as_bytes(),
            client_seq.map(|client_seq| client_seq.get().cast_signed()),
            refusal.code.code(),
            refusal.reason,
            REFUSED,
            QUEUED
        ],
        |found| row::message_id(found, 0),
    )?;
    found.collect()
}
