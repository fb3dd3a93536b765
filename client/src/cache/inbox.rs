//! Writes what the gateway sent: one transaction for everything that has arrived, before anybody hears of it.

mod ahead;
pub(super) mod changes;

use std::collections::BTreeMap;
use std::sync::Arc;

use quipu_protocol::event::{Changed, Content, Event, EventBody, Message, Note, Notice, Receipt};
use quipu_protocol::id::{ChangeNumber, ConversationId, Cursor, InboxSeq, MessageId, Seq, UserId};
use quipu_protocol::session::{Answered, Positions, Settled};
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Tables, gaps, invitations, marks, outbox, row};
use crate::error::{Error, Refusal};
use crate::events::ClientEvent;
use crate::model::Account;

pub(crate) use ahead::Ahead;

/// What one turn of the driver brings to the cache.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Inbox events, in order.
    pub(crate) events: Vec<Event>,
    /// News of large groups, which have no place in the inbox.
    pub(crate) notices: Vec<Notice>,
    /// Answers to what was sent.
    pub(crate) settled: Vec<Settled>,
    /// Answers to kept changes.
    pub(crate) changes: Vec<Answered>,
}

impl Turn {
    /// Whether there is anything to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.notices.is_empty()
            && self.settled.is_empty()
            && self.changes.is_empty()
    }
}

/// What became of a turn, once it is committed.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// To show to the application, in order.
    pub(crate) events: Vec<ClientEvent>,
    /// The last event that is kept.
    pub(crate) cursor: Cursor,
    /// Groups of which messages are missing between what the cache has and what came, and behind which seq; or changes alone.
    pub(crate) behind: Vec<(ConversationId, Option<u64>)>,
}

/// What a turn changes, gathered while its transaction is open and taken over after the commit.
#[derive(Default)]
struct Changes {
    events: Vec<ClientEvent>,
    ended: Vec<(MessageId, Result<Seq, Refusal>)>,
    changes_ended: Vec<outbox::changes::Ended>,
    /// Messages have their places for which changes wait.
    placed: bool,
    conversations: BTreeMap<ConversationId, Head>,
    removed: outbox::Counts,
    inserted: usize,
    cursor: Cursor,
    behind: Vec<(ConversationId, Option<u64>)>,
    /// Of messages that are not in the cache.
    ahead: Vec<Changed>,
}

impl Changes {
    fn change_ended(
        &mut self,
        ended: impl IntoIterator<Item = (outbox::changes::Ended, ClientEvent)>,
    ) {
        for (ended, event) in ended {
            self.changes_ended.push(ended);
            self.events.push(event);
        }
    }
}

/// How the messages of one turn move one conversation.
#[derive(Default)]
struct Head {
    peer: Option<UserId>,
    head: Option<Seq>,
    last_at: u64,
    positions: Positions,
}

impl Tables {
    /// Writes a turn. Events at or below the cursor are dropped, and so are messages that the cache has already.
    pub(crate) fn apply(&mut self, turn: Turn, delivery_receipts: bool) -> Result<Applied, Error> {
        let mut session = self.signed_in()?;
        let mut changes = Changes {
            cursor: session.resume.cursor,
            ..Changes::default()
        };
        let tx = self.db.transaction()?;
        for settled in &turn.settled {
            settle(&tx, settled, &mut changes)?;
        }
        for answered in &turn.changes {
            changes.change_ended(outbox::changes::settle(&tx, answered)?);
        }
        for event in turn.events {
            let cursor = event.inbox_seq.cursor();
            if cursor > changes.cursor {
                keep(&tx, &session.account, event, &mut changes)?;
                changes.cursor = cursor;
            }
        }
        for notice in turn.notices {
            changes::notice(&tx, &session.account, notice, &mut changes)?;
        }
        for (id, head) in &changes.conversations {
            raise_head(&tx, id, head, delivery_receipts)?;
        }
        if changes.cursor > session.resume.cursor {
            tx.prepare_cached("UPDATE account SET cursor = ?1")?
                .execute([changes.cursor.0.cast_signed()])?;
        }
        let pruned = prune(&tx, self.messages + changes.inserted, self.messages_max)?;
        tx.commit()?;
        let refuses = |settled: &Settled| matches!(settled, Settled::Refused { .. });
        if turn.settled.iter().any(refuses) {
            // The application is told next and may send it anew. A machine that lost power and with it the refusal would send
            // the first one after all.
            self.sync()?;
        }

        self.messages = (self.messages + changes.inserted).saturating_sub(pruned);
        self.outbox.remove(changes.removed);
        session.resume.cursor = changes.cursor;
        self.session = Some(session);
        for changed in changes.ahead {
            self.ahead.hold(changed);
        }
        self.tell_waiters(changes.ended, changes.changes_ended);
        if changes.placed {
            self.ask_for_placed()?;
        }
        if delivery_receipts {
            self.report_delivered(&changes.conversations);
        }
        Ok(Applied {
            events: changes.events,
            cursor: changes.cursor,
            behind: changes.behind,
        })
    }

    fn report_delivered(&self, conversations: &BTreeMap<ConversationId, Head>) {
        if conversations
            .values()
            .all(|head| head.positions.delivered.is_none())
        {
            return;
        }
        self.outbound.push(|news| {
            for (id, head) in conversations
                .iter()
                .filter(|(_, head)| head.positions.delivered.is_some())
            {
                news.receipts.entry(*id).or_default().raise(head.positions);
            }
        });
    }

    /// Keeps a page of history, and makes of it what the cache holds then: changes may have overtaken it. Its messages are not
    /// events: they have no place in the inbox and are announced to nobody. But a message of this device that is among them is
    /// acked thereby, if no answer came: whoever waits for it is woken, and what to announce is given back. `as_of`: which change of a
    /// pulled group it has for sure.
    pub(crate) fn keep_history(
        &mut self,
        messages: &mut [Message],
        head: Option<Seq>,
        as_of: ChangeNumber,
    ) -> Result<Vec<ClientEvent>, Error> {
        let account = self.signed_in()?.account;
        let tx = self.db.transaction()?;
        let mut inserted = 0;
        let mut changes = Changes::default();
        let alone = match messages.first() {
            Some(first) => marks::is_empty(&tx, &first.conversation)?,
            None => false,
        };
        for message in &mut *messages {
            let is_new = insert(&tx, &account, message, None)? == Inserted::Yes;
            inserted += usize::from(is_new);
            changes::refresh(&tx, message)?;
            answered(&tx, &account, message, &mut changes)?;
            if !is_new {
                changes::renew(&tx, message)?;
            }
        }
        if let Some(first) = messages.first() {
            let last_at = messages
                .iter()
                .map(|message| message.sent_at.0)
                .max()
                .unwrap_or_default();
            let peer = peer_of(&account.user, first);
            let head = Head {
                peer,
                head,
                last_at,
                positions: Positions::default(),
            };
            note_gap(&tx, first, head.head)?;
            raise_head(&tx, &first.conversation, &head, false)?;
            let before = marks::read(&tx, &first.conversation)?;
            let mut mark = before;
            match inserted > 0 {
                true => mark.keep(as_of, alone),
                false => mark.hear(as_of),
            }
            if mark != before {
                marks::write(&tx, &first.conversation, mark)?;
            }
        }
        // Not pruned here, or a page of old history would be gone before it is read: the next event makes room.
        tx.commit()?;
        self.outbox.remove(changes.removed);
        self.messages += inserted;
        self.tell_waiters(changes.ended, changes.changes_ended);
        if changes.placed {
            self.ask_for_placed()?;
        }
        Ok(changes.events)
    }

    /// Tells whoever waits for the end of messages and changes, after the commit.
    pub(super) fn tell_waiters(
        &mut self,
        messages: Vec<(MessageId, Result<Seq, Refusal>)>,
        changes: Vec<outbox::changes::Ended>,
    ) {
        for (id, end) in messages {
            self.waiters.resolve(id, end.map_err(Error::Refused));
        }
        for (id, end) in changes {
            self.change_waiters.resolve(id, end.map_err(Error::Refused));
        }
    }
}

/// The other member of a direct conversation, as this user sees it.
fn peer_of(user: &UserId, message: &Message) -> Option<UserId> {
    let to = message.to?;
    Some(if message.from == *user {
        to
    } else {
        message.from
    })
}

fn settle(tx: &Transaction<'_>, settled: &Settled, changes: &mut Changes) -> Result<(), Error> {
    match settled {
        Settled::Accepted {
            conversation,
            client_seq,
            seq,
        } => {
            if let Some(id) = outbox::accept(tx, conversation, *client_seq, *seq)? {
                changes.placed |= outbox::changes::place(tx, id, *seq)?;
                changes.ended.push((id, Ok(*seq)));
                changes.events.push(ClientEvent::Acked {
                    id,
                    conversation: *conversation,
                    seq: *seq,
                });
            }
        }
        Settled::Refused {
            conversation,
            client_seq,
            rejection,
        } => {
            let refusal = Refusal::from(rejection.clone());
            for id in outbox::refuse(tx, conversation, *client_seq, &refusal)? {
                changes.change_ended(outbox::changes::refuse_of(tx, id, &refusal)?);
                let refusal = refusal.clone();
                changes.ended.push((id, Err(refusal.clone())));
                changes.events.push(ClientEvent::Refused {
                    id,
                    conversation: *conversation,
                    refusal,
                });
            }
        }
        Settled::Opened {
            conversation,
            peer,
            head,
        } => {
            let known = changes.conversations.entry(*conversation).or_default();
            known.peer = known.peer.or(*peer);
            known.head = known.head.max(*head);
        }
    }
    Ok(())
}

fn keep(
    tx: &Transaction<'_>,
    account: &Account,
    event: Event,
    changes: &mut Changes,
) -> Result<(), Error> {
    match event.body {
        EventBody::Message(message) => keep_message(tx, account, event.inbox_seq, message, changes),
        EventBody::Receipt(receipt) => keep_receipt(tx, account, receipt, changes),
        EventBody::Changed(changed) => changes::changed(tx, *changed, changes),
        EventBody::Invitation(invitation) => {
            invitations::keep(tx, &invitation)?;
            changes.events.push(ClientEvent::Invited(*invitation));
            Ok(())
        }
    }
}

fn keep_message(
    tx: &Transaction<'_>,
    account: &Account,
    inbox_seq: InboxSeq,
    message: Message,
    changes: &mut Changes,
) -> Result<(), Error> {
    match insert(tx, account, &message, Some(inbox_seq))? {
        Inserted::Yes => changes.inserted += 1,
        Inserted::WasHistory => {}
        // Shown before: the cursor had gone back.
        Inserted::No => return Ok(()),
    }
    let is_met = changes.conversations.contains_key(&message.conversation);
    if message.seq > Seq::FIRST && !is_met && !gaps::is_open(tx, &message.conversation)? {
        // Events began in the middle, and the list need not have it: one that moves to its front while it is read is on no page.
        gaps::ask_about(tx, &message.conversation)?;
        changes::ask_for(&message.conversation, None, changes);
    }
    let known = changes
        .conversations
        .entry(message.conversation)
        .or_default();
    known.peer = known.peer.or_else(|| peer_of(&account.user, &message));
    known.head = known.head.max(Some(message.seq));
    known.last_at = known.last_at.max(message.sent_at.0);
    if message.from != account.user {
        known.positions.raise(Positions {
            delivered: Some(message.seq),
            read: None,
        });
    }
    answered(tx, account, &message, changes)?;
    changes::note(tx, account, &message)?;
    if message.from == account.user && message.content == Content::Note(Box::new(Note::Joined)) {
        gaps::ask_about(tx, &message.conversation)?;
        changes::ask_for(&message.conversation, None, changes);
    }
    if message.content == Content::Note(Box::new(Note::Pulled)) {
        // What came after it was told to those who were connected, and this may be an old story.
        changes::missing(tx, (&message.conversation, message.seq.get()), changes)?;
        // Those before it say nothing of what was changed since, and some may have been kept after the news of that.
        let mut mark = marks::read(tx, &message.conversation)?;
        mark.keep(ChangeNumber::START, false);
        marks::write(tx, &message.conversation, mark)?;
    }
    changes.events.push(ClientEvent::Message {
        inbox_seq,
        message: Arc::new(message),
    });
    Ok(())
}

/// A message of this very device that has come is no longer in the outbox, and may be its own first answer.
fn answered(
    tx: &Transaction<'_>,
    account: &Account,
    message: &Message,
    changes: &mut Changes,
) -> Result<(), Error> {
    if is_mine(account, message)
        && let Some(removed) = outbox::remove_sent(tx, message.id)?
    {
        changes.removed.add(removed.text_bytes);
        changes.placed |= outbox::changes::place(tx, message.id, message.seq)?;
        if removed.unanswered {
            let (id, conversation, seq) = (message.id, message.conversation, message.seq);
            changes.ended.push((id, Ok(seq)));
            changes.events.push(ClientEvent::Acked {
                id,
                conversation,
                seq,
            });
        }
    }
    Ok(())
}

fn keep_receipt(
    tx: &Transaction<'_>,
    account: &Account,
    receipt: Receipt,
    changes: &mut Changes,
) -> Result<(), Error> {
    let (delivered, read) = (row::store(receipt.delivered), row::store(receipt.read));
    let id = receipt.conversation.as_bytes().as_slice();
    tx.prepare_cached(
        "INSERT INTO receipt VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET
         delivered = max(delivered, excluded.delivered), read = max(read, excluded.read)",
    )?
    .execute(params![id, receipt.user.as_str(), delivered, read])?;
    if receipt.user == account.user {
        tx.prepare_cached(
            "UPDATE conversation SET own_delivered = max(own_delivered, ?2), own_read = max(own_read, ?3) WHERE id = ?1",
        )?
        .execute(params![id, delivered, read])?;
    }
    changes.events.push(ClientEvent::Receipt(receipt));
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Inserted {
    Yes,
    /// It was there from a page of history and got its place in the inbox now.
    WasHistory,
    No,
}

fn insert(
    tx: &Transaction<'_>,
    account: &Account,
    message: &Message,
    inbox_seq: Option<InboxSeq>,
) -> Result<Inserted, Error> {
    let text = message.content.text();
    let inserted = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO message VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?
        .execute(params![
            message.conversation.as_bytes(),
            message.seq.get().cast_signed(),
            message.id.as_bytes(),
            message.from.as_str(),
            message.from_device.get().cast_signed(),
            message.client_seq.get().cast_signed(),
            message.to.as_ref().map(UserId::as_str),
            message.sent_at.0.cast_signed(),
            text,
            is_mine(account, message),
            inbox_seq.map(|inbox_seq| inbox_seq.get().cast_signed()),
            row::more_than_text(&message.content),
            message.state.as_ref().map_or(0, |state| state.version),
            changes::state_bytes(message.state.as_deref()),
        ])?;
    if inserted == 1 {
        return Ok(Inserted::Yes);
    }
    let Some(inbox_seq) = inbox_seq else {
        return Ok(Inserted::No);
    };
    let placed = tx
        .prepare_cached(
            "UPDATE message SET inbox_seq = ?3 WHERE conversation = ?1 AND seq = ?2 AND inbox_seq IS NULL",
        )?
        .execute(params![
            message.conversation.as_bytes(),
            message.seq.get().cast_signed(),
            inbox_seq.get().cast_signed()
        ])?;
    Ok(if placed == 1 {
        Inserted::WasHistory
    } else {
        Inserted::No
    })
}

/// A page raises the head of a pulled group over messages that it does not bring: they are missing from then on.
fn note_gap(tx: &Transaction<'_>, first: &Message, head: Option<Seq>) -> Result<(), Error> {
    let id = first.conversation.as_bytes();
    let known: Option<i64> = tx
        .prepare_cached("SELECT head FROM conversation WHERE id = ?1 AND pulled = 1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    let (Some(known), Some(head)) = (known.map(i64::cast_unsigned), head) else {
        return Ok(());
    };
    if head.get() <= known {
        return Ok(());
    }
    // Of a group of which nothing is here, nothing is missing in front of what somebody looks at.
    let from = if known == 0 {
        first.seq.get() - 1
    } else {
        known
    };
    if let Some(after) = gaps::first_gap(tx, id, (from, head.get()))? {
        gaps::remember(tx, id, if known == 0 { 0 } else { after })?;
    }
    Ok(())
}

/// Whether this very device sent it.
fn is_mine(account: &Account, message: &Message) -> bool {
    message.from == account.user && message.from_device == account.device
}

fn raise_head(
    tx: &Transaction<'_>,
    id: &ConversationId,
    head: &Head,
    delivery_receipts: bool,
) -> Result<(), Error> {
    let delivered = if delivery_receipts {
        head.positions.delivered
    } else {
        None
    };
    tx.prepare_cached(
        "INSERT INTO conversation (id, peer, head, last_at, opened, want_delivered) VALUES (?1, ?2, ?3, ?4, 1, ?5)
         ON CONFLICT DO UPDATE SET peer = coalesce(peer, excluded.peer), head = max(head, excluded.head),
         last_at = max(last_at, excluded.last_at), opened = 1, want_delivered = max(want_delivered, excluded.want_delivered)",
    )?
    .execute(params![
        id.as_bytes(),
        head.peer.as_ref().map(UserId::as_str),
        row::store(head.head),
        head.last_at.cast_signed(),
        row::store(delivered)
    ])?;
    Ok(())
}

/// Forgets the oldest arrivals when there are too many, a tenth at a time so that it is rare.
fn prune(tx: &Transaction<'_>, messages: usize, messages_max: usize) -> Result<usize, Error> {
    if messages <= messages_max {
        return Ok(0);
    }
    let surplus = messages - messages_max + messages_max / 10;
    // Empty places sort first: history that was fetched goes before anything that arrived.
    let pruned = tx
        .prepare_cached(
            "DELETE FROM message WHERE (conversation, seq) IN
             (SELECT conversation, seq FROM message ORDER BY inbox_seq LIMIT ?1)",
        )?
        .execute([surplus as i64])?;
    Ok(pruned)
}

/// Finds the place of a message that this device sent.
pub(super) fn sent_place(
    db: &rusqlite::Connection,
    id: MessageId,
) -> Result<Option<(ConversationId, Seq)>, Error> {
    let sql = "SELECT conversation, seq FROM message WHERE id = ?1 AND mine = 1";
    let mut statement = db.prepare_cached(sql)?;
    let mut found = statement.query_and_then([id.as_bytes()], |found| {
        let seq = Seq::new(row::number(found, 1)?).map_err(row::damaged)?;
        Ok((row::conversation(found, 0)?, seq))
    })?;
    found.next().transpose()
}
