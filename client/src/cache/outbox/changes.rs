//! Changes of messages from the moment they are asked for until the gateway has answered.

use std::collections::BTreeSet;

use quipu_protocol::event::Change;
use quipu_protocol::id::{ClientSeq, ConversationId, MessageId, Seq, TimestampMs};
use quipu_protocol::session::{Answered, ChangeEnd, Unanswered};
use rusqlite::{Connection, Row, Transaction, params};
use tokio::sync::oneshot;

use super::{BYTES, Counts, QUEUED, REFUSED, local_message, stored_bytes};
use crate::cache::inbox::sent_place;
use crate::cache::{Tables, row};
use crate::config::{CHANGES_BYTES_MAX, CHANGES_MAX};
use crate::error::{Error, Refusal};
use crate::events::ClientEvent;
use crate::model::{About, ChangeId, ChangeState, LocalChange, LocalMessage, LocalState};
use crate::model::{MessageChange, Taken};

const EDIT: i64 = 0;
const DELETE: i64 = 1;
const REACT: i64 = 2;
const REACT_OFF: i64 = 3;

/// How a change ended, for whoever waits for it.
pub(in crate::cache) type Ended = (ChangeId, Result<(), Refusal>);

impl Tables {
    /// Puts a change into the outbox, and hands it to the driver after the commit. One of a message that was certainly never
    /// sent is made at once. One of a message that waits for its ack waits with it: the gateway may have the message as it was.
    pub(crate) fn enqueue_change(
        &mut self,
        about: About,
        what: MessageChange,
        now: TimestampMs,
    ) -> Result<Taken, Error> {
        self.signed_in()?;
        let (place, message) = match self.find(about)? {
            Found::At(place) => (Some(place), None),
            Found::InOutbox(local) => {
                if !self.may_be_sent(local.id)? && self.change_unsent(&local, &what)? {
                    return Ok(Taken::Made);
                }
                (None, Some((local.conversation, local.id)))
            }
        };
        self.check_room(&what)?;
        let Some(conversation) = place
            .map(|(id, _)| id)
            .or_else(|| message.map(|(id, _)| id))
        else {
            return Err(Error::UnknownMessage);
        };
        let client_seq = match place {
            Some(_) => Some(self.next_client_seq()?),
            // A number has its place among the others, and this one's time has not come.
            None => None,
        };
        let (kind, content) = encode(&what);
        let id: i64 = self
            .db
            .prepare_cached(
                "INSERT INTO change (conversation, seq, message, client_seq, kind, content, queued_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING local",
            )?
            .query_row(
                params![
                    conversation.as_bytes(),
                    row::store(place.map(|(_, seq)| seq)),
                    message.as_ref().map(|(_, id)| id.as_bytes()),
                    client_seq.map(|client_seq| client_seq.get().cast_signed()),
                    kind,
                    content,
                    now.0.cast_signed()
                ],
                |found| found.get(0),
            )?;
        if let (Some((_, seq)), Some(client_seq)) = (place, client_seq) {
            let change = what.clone().of((conversation, seq));
            self.outbound
                .push(|news| news.changes.push(kept(client_seq, change)));
        }
        Ok(Taken::Queued(LocalChange {
            id: ChangeId(id.cast_unsigned()),
            conversation,
            about: match (place, message) {
                (None, Some((_, message))) => About::Queued(message),
                (Some((_, seq)), _) => About::Placed(conversation, seq),
                (None, None) => about,
            },
            what,
            queued_at: now,
            state: ChangeState::Queued,
        }))
    }

    fn find(&self, about: About) -> Result<Found, Error> {
        let id = match about {
            About::Placed(conversation, seq) => return Ok(Found::At((conversation, seq))),
            About::Queued(id) => id,
        };
        let Some(local) = local_message(&self.db, id)? else {
            let place = sent_place(&self.db, id)?;
            return place.map(Found::At).ok_or(Error::UnknownMessage);
        };
        match local.state {
            LocalState::Queued => Ok(Found::InOutbox(Box::new(local))),
            LocalState::Acked(seq) => Ok(Found::At((local.conversation, seq))),
            LocalState::Refused(refusal) => Err(Error::Refused(refusal)),
        }
    }

    /// Whether a message of the outbox may have been handed to a connection.
    fn may_be_sent(&self, id: MessageId) -> Result<bool, Error> {
        let sql = "SELECT may_be_sent FROM outbox WHERE id = ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([id.as_bytes()], |found| found.get(0))?)
    }

    /// Changes a message that nobody but this device knows of. False: that has to wait.
    fn change_unsent(&mut self, local: &LocalMessage, what: &MessageChange) -> Result<bool, Error> {
        match what {
            MessageChange::React { .. } => Ok(false),
            MessageChange::Edit(content) => {
                self.db
                    .prepare_cached("UPDATE outbox SET text = ?2, content = ?3 WHERE id = ?1")?
                    .execute(params![
                        local.id.as_bytes(),
                        content.text(),
                        row::more_than_text(content)
                    ])?;
                self.outbox.add(stored_bytes(content));
                self.outbox.remove(Counts {
                    messages: 1,
                    text_bytes: stored_bytes(&local.content),
                });
                Ok(true)
            }
            MessageChange::Delete => {
                let tx = self.db.transaction()?;
                let sql = format!("DELETE FROM outbox WHERE id = ?1 RETURNING {BYTES}");
                let bytes: i64 = tx
                    .prepare_cached(&sql)?
                    .query_row([local.id.as_bytes()], |found| found.get(0))?;
                drop_of_unsent(&tx, local.id)?;
                tx.commit()?;
                self.outbox.remove(Counts {
                    messages: 1,
                    text_bytes: row::count(bytes),
                });
                self.waiters.resolve(local.id, Err(Error::UnknownMessage));
                Ok(true)
            }
        }
    }

    fn check_room(&self, what: &MessageChange) -> Result<(), Error> {
        let sql = "SELECT count(*), coalesce(sum(octet_length(content)), 0) FROM change";
        let mut statement = self.db.prepare_cached(sql)?;
        let (changes, bytes): (i64, i64) =
            statement.query_row([], |found| Ok((found.get(0)?, found.get(1)?)))?;
        let changes = row::count(changes);
        if changes >= CHANGES_MAX || row::count(bytes) + what.bytes() > CHANGES_BYTES_MAX {
            return Err(Error::ChangesFull { changes });
        }
        Ok(())
    }

    /// Everything that the gateway has not answered and that can be asked for, in the order of its numbers.
    pub(crate) fn waiting_changes(&mut self) -> Result<Vec<Unanswered>, Error> {
        // Their numbers are read below.
        let _ = self.number_placed()?;
        let mut statement = self.db.prepare_cached(
            "SELECT client_seq, conversation, seq, kind, content FROM change
             WHERE state = 0 AND client_seq IS NOT NULL ORDER BY client_seq",
        )?;
        let found = statement.query_and_then([], read_unanswered)?;
        found.collect()
    }

    /// Hands over changes whose messages have their places now.
    pub(in crate::cache) fn ask_for_placed(&mut self) -> Result<(), Error> {
        let waiting = self.number_placed()?;
        self.outbound.push(|news| news.changes.extend(waiting));
        Ok(())
    }

    fn number_placed(&mut self) -> Result<Vec<Unanswered>, Error> {
        let ids: Vec<i64> = {
            let sql = "SELECT local FROM change WHERE state = 0 AND client_seq IS NULL AND seq <> 0 ORDER BY local";
            let mut statement = self.db.prepare_cached(sql)?;
            let found = statement.query_map([], |found| found.get(0))?;
            found.collect::<Result<_, _>>()?
        };
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let client_seqs = self.take_client_seqs(ids.len())?;
        let tx = self.db.transaction()?;
        let mut waiting = Vec::with_capacity(ids.len());
        for (id, client_seq) in ids.iter().zip(&client_seqs) {
            let one = tx
                .prepare_cached(
                    "UPDATE change SET client_seq = ?2 WHERE local = ?1
                     RETURNING client_seq, conversation, seq, kind, content",
                )?
                .query_and_then(params![id, client_seq.get().cast_signed()], read_unanswered)?
                .next();
            waiting.extend(one.transpose()?);
        }
        tx.commit()?;
        // A loss of power that took back the number of a change that was sent would have it made again under another.
        self.sync()?;
        Ok(waiting)
    }

    /// Gives changes other client seqs, and with each those that came after it and are of the same message: old and new ones.
    pub(crate) fn renumber_changes(
        &mut self,
        stale: &[ClientSeq],
    ) -> Result<Vec<(ClientSeq, ClientSeq)>, Error> {
        let mut all = BTreeSet::new();
        for client_seq in stale {
            // Also what the driver has not taken yet.
            let mut statement = self.db.prepare_cached(
                "SELECT later.client_seq FROM change stale JOIN change later USING (conversation, seq)
                 WHERE stale.client_seq = ?1 AND later.client_seq >= ?1",
            )?;
            let found = statement.query_and_then([client_seq.get().cast_signed()], |found| {
                ClientSeq::new(row::number(found, 0)?).map_err(row::damaged)
            })?;
            for later in found {
                all.insert(later?);
            }
        }
        let new = self.take_client_seqs(all.len())?;
        let renumbered: Vec<_> = all.into_iter().zip(new).collect();
        let tx = self.db.transaction()?;
        for (old, new) in &renumbered {
            tx.prepare_cached("UPDATE change SET client_seq = ?2 WHERE client_seq = ?1")?
                .execute([old.get().cast_signed(), new.get().cast_signed()])?;
        }
        tx.commit()?;
        // The old numbers must not come back: under them they are stale, and may have been made under the new ones.
        self.sync()?;
        self.outbound.push(|news| {
            for waiting in &mut news.changes {
                let new = renumbered
                    .iter()
                    .find(|(old, _)| *old == waiting.client_seq);
                waiting.client_seq = new.map_or(waiting.client_seq, |(_, new)| *new);
            }
        });
        Ok(renumbered)
    }

    /// Changes of a conversation's messages that are not answered, or were refused, in the order in which they were asked for.
    pub(crate) fn changes(&self, conversation: ConversationId) -> Result<Vec<LocalChange>, Error> {
        let sql = format!("SELECT {LOCAL} FROM change WHERE conversation = ?1 ORDER BY local");
        let mut statement = self.db.prepare_cached(&sql)?;
        let found = statement.query_and_then([conversation.as_bytes()], read_local)?;
        found.collect()
    }

    /// Removes a refused change.
    pub(crate) fn forget_change(&self, id: ChangeId) -> Result<(), Error> {
        self.db
            .prepare_cached("DELETE FROM change WHERE local = ?1 AND state = 2")?
            .execute([id.0.cast_signed()])?;
        Ok(())
    }

    /// Registers a caller for the end of a change, or answers at once.
    pub(crate) fn wait_changed(
        &mut self,
        id: ChangeId,
        waiter: oneshot::Sender<Result<(), Error>>,
    ) -> Result<(), Error> {
        let sql = format!("SELECT {LOCAL} FROM change WHERE local = ?1");
        let found = {
            let mut statement = self.db.prepare_cached(&sql)?;
            let mut found = statement.query_and_then([id.0.cast_signed()], read_local)?;
            found.next().transpose()?
        };
        let end = match found.map(|change| change.state) {
            Some(ChangeState::Queued) => {
                self.change_waiters.add(id, waiter);
                return Ok(());
            }
            Some(ChangeState::Refused(refusal)) => Err(Error::Refused(refusal)),
            None => Ok(()),
        };
        // A caller that no longer waits does not need to know.
        let _ = waiter.send(end);
        Ok(())
    }
}

/// Where a message is that is to be changed.
enum Found {
    At((ConversationId, Seq)),
    InOutbox(Box<LocalMessage>),
}

fn kept(client_seq: ClientSeq, change: Change) -> Unanswered {
    Unanswered {
        client_seq,
        change,
        kept: true,
    }
}

/// Removes a change that was made, or marks it as refused.
pub(in crate::cache) fn settle(
    tx: &Transaction<'_>,
    answered: &Answered,
) -> Result<Option<(Ended, ClientEvent)>, Error> {
    let key = answered.client_seq.get().cast_signed();
    let rejection = match &answered.end {
        ChangeEnd::Refused(rejection) | ChangeEnd::Unknown(rejection) => rejection,
        ChangeEnd::Done => {
            let sql = format!("DELETE FROM change WHERE client_seq = ?1 RETURNING {LOCAL}");
            let mut statement = tx.prepare_cached(&sql)?;
            let made = statement.query_and_then([key], read_local)?.next();
            return Ok(made.transpose()?.map(|made| {
                let event = ClientEvent::ChangeMade {
                    id: made.id,
                    conversation: made.conversation,
                };
                ((made.id, Ok(())), event)
            }));
        }
    };
    let refusal = Refusal::from(rejection.clone());
    let sql = "UPDATE change SET state = ?2, code = ?3, reason = ?4, client_seq = NULL
               WHERE client_seq = ?1 RETURNING local, conversation";
    let key = params![key, REFUSED, refusal.code.code(), refusal.reason];
    let mut statement = tx.prepare_cached(sql)?;
    let found = statement.query_and_then(key, |found| refused(found, &refusal))?;
    Ok(found.collect::<Result<Vec<_>, Error>>()?.pop())
}

fn refused(found: &Row<'_>, refusal: &Refusal) -> Result<(Ended, ClientEvent), Error> {
    let id = ChangeId(row::number(found, 0)?);
    let event = ClientEvent::ChangeRefused {
        id,
        conversation: row::conversation(found, 1)?,
        refusal: refusal.clone(),
    };
    Ok(((id, Err(refusal.clone())), event))
}

/// A message of this device has its place: what waits for it can be asked for. Says whether anything does.
pub(in crate::cache) fn place(
    tx: &Transaction<'_>,
    message: MessageId,
    seq: Seq,
) -> Result<bool, Error> {
    let sql = "UPDATE change SET seq = ?2 WHERE message = ?1 AND seq = 0 AND state = 0";
    let placed = tx
        .prepare_cached(sql)?
        .execute(params![message.as_bytes(), seq.get().cast_signed()])?;
    Ok(placed > 0)
}

/// A message was refused, and with it all that waits for its place.
pub(in crate::cache) fn refuse_of(
    tx: &Transaction<'_>,
    message: MessageId,
    refusal: &Refusal,
) -> Result<Vec<(Ended, ClientEvent)>, Error> {
    let sql = "UPDATE change SET state = ?2, code = ?3, reason = ?4
               WHERE message = ?1 AND seq = 0 AND state = 0 RETURNING local, conversation";
    let key = params![
        message.as_bytes(),
        REFUSED,
        refusal.code.code(),
        refusal.reason
    ];
    let mut statement = tx.prepare_cached(sql)?;
    let found = statement.query_and_then(key, |found| refused(found, refusal))?;
    found.collect()
}

/// The seqs of before mean nothing any more: what was to be done to them is not.
pub(in crate::cache) fn refuse_placed(
    tx: &Transaction<'_>,
    refusal: &Refusal,
) -> Result<Vec<(Ended, ClientEvent)>, Error> {
    let sql = "UPDATE change SET state = ?1, code = ?2, reason = ?3, client_seq = NULL
               WHERE seq <> 0 AND state = 0 RETURNING local, conversation";
    let key = params![REFUSED, refusal.code.code(), refusal.reason];
    let mut statement = tx.prepare_cached(sql)?;
    let found = statement.query_and_then(key, |found| refused(found, refusal))?;
    found.collect()
}

/// A message that has no place leaves the outbox for good, and with it what was to be done to it.
pub(in crate::cache) fn drop_of_unsent(db: &Connection, message: MessageId) -> Result<(), Error> {
    db.prepare_cached("DELETE FROM change WHERE message = ?1 AND seq = 0")?
        .execute([message.as_bytes()])?;
    Ok(())
}

const LOCAL: &str =
    "local, conversation, seq, message, kind, content, queued_at, state, code, reason";

fn read_local(found: &Row<'_>) -> Result<LocalChange, Error> {
    let conversation = row::conversation(found, 1)?;
    let about = match row::optional_seq(found, 2)? {
        Some(seq) => About::Placed(conversation, seq),
        None => About::Queued(row::message_id(found, 3)?),
    };
    let state = match found.get::<_, i64>(7)? {
        QUEUED => ChangeState::Queued,
        _ => ChangeState::Refused(Refusal {
            code: quipu_protocol::error::RejectCode::from_code(row::number(found, 8)?),
            reason: found.get(9)?,
        }),
    };
    Ok(LocalChange {
        id: ChangeId(row::number(found, 0)?),
        conversation,
        about,
        what: decode(found, 4, 5)?,
        queued_at: TimestampMs(row::number(found, 6)?),
        state,
    })
}

fn read_unanswered(found: &Row<'_>) -> Result<Unanswered, Error> {
    let client_seq = ClientSeq::new(row::number(found, 0)?).map_err(row::damaged)?;
    let seq = Seq::new(row::number(found, 2)?).map_err(row::damaged)?;
    let place = (row::conversation(found, 1)?, seq);
    Ok(kept(client_seq, decode(found, 3, 4)?.of(place)))
}

fn encode(what: &MessageChange) -> (i64, Option<Vec<u8>>) {
    match what {
        MessageChange::Edit(content) => (EDIT, Some(row::whole(content))),
        MessageChange::Delete => (DELETE, None),
        MessageChange::React { emoji, on } => {
            let kind = if *on { REACT } else { REACT_OFF };
            (kind, Some(emoji.as_bytes().to_vec()))
        }
    }
}

fn decode(found: &Row<'_>, kind: usize, content: usize) -> Result<MessageChange, Error> {
    let emoji = || {
        let bytes: Vec<u8> = found.get(content)?;
        String::from_utf8(bytes).map_err(row::damaged)
    };
    Ok(match found.get::<_, i64>(kind)? {
        EDIT => MessageChange::Edit(row::read_whole(found, content)?),
        DELETE => MessageChange::Delete,
        REACT => MessageChange::React {
            emoji: emoji()?,
            on: true,
        },
        REACT_OFF => MessageChange::React {
            emoji: emoji()?,
            on: false,
        },
        other => return Err(row::damaged(format!("a change of kind {other}"))),
    })
}
