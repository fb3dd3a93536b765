//! Keeps the gateway's list of conversations, when events begin in the middle of the inbox and do not bring them all.

use quipu_protocol::id::{ConversationId, Cursor, Seq, UserId};
use quipu_protocol::query::ConversationEntry;
use rusqlite::{Transaction, params};

use super::{Tables, gaps, marks, row};
use crate::error::Error;
use crate::events::ClientEvent;

/// Groups of which messages are missing, and behind which seq; or changes alone.
type Behind = Vec<(ConversationId, Option<u64>)>;

impl Tables {
    /// Keeps a page of the list: what each conversation is, where it ends, what is unread, and the last message. Those that the
    /// user is only invited to are no conversations of the user yet.
    /// What the last messages ack is given back, to be announced; and of which groups messages are missing, behind which seq: devices
    /// were told of them, and the history had them not yet.
    pub(crate) fn keep_listed(
        &mut self,
        entries: &[ConversationEntry],
    ) -> Result<(Vec<ClientEvent>, Behind), Error> {
        let me = self.signed_in()?.account.user;
        let tx = self.db.transaction()?;
        let mut behind = Vec::new();
        for entry in entries.iter().filter(|entry| is_in(entry)) {
            // Before the head is raised over messages that are not here.
            if let Some(after) = gaps::in_front_of(&tx, entry)? {
                gaps::remember(&tx, entry.conversation.as_bytes(), after)?;
                behind.push((entry.conversation, Some(after)));
            }
            keep(&tx, &me, entry)?;
            if let Some(after) = falls_short(entry) {
                gaps::remember(&tx, entry.conversation.as_bytes(), after)?;
                behind.push((entry.conversation, Some(after)));
            }
            if marks::hear(&tx, &entry.conversation, entry.changes)?.is_behind() {
                behind.push((entry.conversation, None));
            }
        }
        tx.commit()?;
        let mut acked = Vec::new();
        for entry in entries.iter().filter(|entry| is_in(entry)) {
            if let Some(mut last) = entry.last.clone() {
                // One of which not all is known shows up as such when its page is read.
                self.overtake(std::slice::from_mut(&mut last), self.forgotten());
                let last = std::slice::from_mut(&mut last);
                acked.extend(self.keep_history(last, entry.head, entry.changes)?);
            }
        }
        Ok((acked, behind))
    }

    /// The whole list is here; `begun`: for events that began at this cursor.
    pub(crate) fn listed(&self, begun: Cursor) -> Result<(), Error> {
        self.db.execute(
            "UPDATE account SET list_due = 0 WHERE list_due = ?1",
            [begun.0.cast_signed()],
        )?;
        Ok(())
    }
}

/// The last message of a pulled group that is there, if it is not the last that devices were told of.
fn falls_short(entry: &ConversationEntry) -> Option<u64> {
    let is_pulled = entry.group.as_ref().is_some_and(|group| group.pulled);
    let last = entry.last.as_ref().map(|last| last.seq);
    (is_pulled && entry.head > last).then(|| last.map_or(0, Seq::get))
}

fn is_in(entry: &ConversationEntry) -> bool {
    entry
        .group
        .as_ref()
        .is_none_or(|group| group.role.is_some())
}

fn keep(tx: &Transaction<'_>, me: &UserId, entry: &ConversationEntry) -> Result<(), Error> {
    let id = entry.conversation.as_bytes().as_slice();
    let group = entry.group.as_ref();
    tx.prepare_cached(
        "INSERT INTO conversation (id, peer, head, last_at, opened, title, pulled, own_delivered, own_read, listed_head,
             listed_unread, listed_read) VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7, ?8, ?3, ?9, ?8)
         ON CONFLICT DO UPDATE SET peer = coalesce(peer, excluded.peer), head = max(head, excluded.head),
             last_at = max(last_at, excluded.last_at), opened = 1, gone = 0,
             title = iif(coalesce(head, 0) <= excluded.head, coalesce(excluded.title, title), coalesce(title, excluded.title)),
             pulled = max(pulled % 2, excluded.pulled), own_delivered = max(own_delivered, excluded.own_delivered),
             own_read = max(own_read, excluded.own_read), listed_head = excluded.listed_head,
             listed_unread = excluded.listed_unread, listed_read = excluded.listed_read",
    )?
    .execute(params![
        id,
        entry.peer.as_ref().map(UserId::as_str),
        row::store(entry.head),
        entry.activity.0.cast_signed(),
        group.map(|group| group.title.as_str()),
        group.is_some_and(|group| group.pulled),
        row::store(entry.delivered),
        row::store(entry.read),
        entry.unread.cast_signed(),
    ])?;
    if let Some(peer) = entry.peer.filter(|peer| peer != me) {
        tx.prepare_cached(
            "INSERT INTO receipt VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET
             delivered = max(delivered, excluded.delivered), read = max(read, excluded.read)",
        )?
        .execute(params![
            id,
            peer.as_str(),
            row::store(entry.peer_delivered),
            row::store(entry.peer_read)
        ])?;
    }
    Ok(())
}
