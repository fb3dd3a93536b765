//! What the application reads from the cache.

use quipu_protocol::event::{Content, Gone, Message, Receipt};
use quipu_protocol::id::{ConversationId, Cursor, InboxSeq, Seq};
use rusqlite::params;

use super::Tables;
use super::row::{self, MESSAGE};
use crate::error::Error;
use crate::model::{Arrival, ConversationSummary, Page};

/// Rows of one read, whatever was asked for.
const ROWS_MAX: usize = 10_000;

/// How far the user has read a conversation.
const READ: &str = "max(c.want_read, c.own_read)";
/// Whether a message can be unread: it is another's, no note, and not gone.
const COUNTS: &str =
    "m.sender <> ?1 AND m.client_seq <> -1 AND (m.content IS NULL OR m.content NOT IN (?3, ?4))";
/// Of the messages up to `listed_head`, which the gateway has counted and the cache need not have: those that are unread.
///
/// What was unread, less what the cache knows to be read since; and what lies above the read position, less what the cache knows
/// not to count. Neither is too small, and each is exact if the cache has its range whole: who reads on from where they were has the
/// first, who has looked at the newest messages the second. Else the smaller one is as near as the cache can know.
fn listed_unread() -> String {
    let of = "FROM message m WHERE m.conversation = c.id AND";
    format!(
        "CASE WHEN c.listed_head > {READ} THEN max(0, min(
             c.listed_unread - (SELECT count(*) {of} m.seq > c.listed_read AND m.seq <= {READ} AND {COUNTS}),
             c.listed_head - {READ} - (SELECT count(*) {of} m.seq > {READ} AND m.seq <= c.listed_head AND NOT ({COUNTS}))
         )) ELSE 0 END"
    )
}

impl Tables {
    /// Messages that arrived after a cursor, in the order of the inbox.
    pub(crate) fn arrivals(&self, after: Cursor, limit: usize) -> Result<Vec<Arrival>, Error> {
        let sql = format!(
            "SELECT {MESSAGE} FROM message WHERE inbox_seq > ?1 ORDER BY inbox_seq LIMIT ?2"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let found =
            statement.query_and_then(params![after.0.cast_signed(), bounded(limit)], |found| {
                let inbox_seq = InboxSeq::new(row::number(found, 9)?).map_err(row::damaged)?;
                Ok(Arrival {
                    inbox_seq,
                    message: row::message(found)?,
                })
            })?;
        found.collect()
    }

    /// Messages of a conversation, ascending.
    pub(crate) fn messages(
        &self,
        id: ConversationId,
        page: Page,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        match page {
            Page::Latest => self.up_to(&id, i64::MAX, limit),
            Page::Before(seq) => self.up_to(&id, seq.get().cast_signed() - 1, limit),
            Page::After(seq) => self.above(&id, seq, limit),
            Page::Around(seq) => {
                let mut messages = self.up_to(&id, seq.get().cast_signed(), limit.div_ceil(2))?;
                messages.extend(self.above(&id, seq, limit / 2)?);
                Ok(messages)
            }
        }
    }

    fn up_to(&self, id: &ConversationId, last: i64, limit: usize) -> Result<Vec<Message>, Error> {
        let sql = format!(
            "SELECT {MESSAGE} FROM message WHERE conversation = ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT ?3"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let found =
            statement.query_and_then(params![id.as_bytes(), last, bounded(limit)], row::message)?;
        let mut messages = found.collect::<Result<Vec<_>, _>>()?;
        messages.reverse();
        Ok(messages)
    }

    fn above(&self, id: &ConversationId, after: Seq, limit: usize) -> Result<Vec<Message>, Error> {
        let sql = format!(
            "SELECT {MESSAGE} FROM message WHERE conversation = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let after = after.get().cast_signed();
        let found = statement
            .query_and_then(params![id.as_bytes(), after, bounded(limit)], row::message)?;
        found.collect()
    }

    /// Positions of a conversation's members.
    pub(crate) fn receipts(&self, id: ConversationId) -> Result<Vec<Receipt>, Error> {
        let sql = "SELECT user, delivered, read FROM receipt WHERE conversation = ?1 ORDER BY user";
        let mut statement = self.db.prepare_cached(sql)?;
        let found = statement.query_and_then([id.as_bytes()], |found| {
            Ok(Receipt {
                conversation: id,
                user: row::user(found, 0)?,
                delivered: row::optional_seq(found, 1)?,
                read: row::optional_seq(found, 2)?,
            })
        })?;
        found.collect()
    }

    /// The conversation list, the most recent first.
    pub(crate) fn conversations(&self) -> Result<Vec<ConversationSummary>, Error> {
        let Some(account) = self.account() else {
            return Ok(Vec::new());
        };
        let listed_unread = listed_unread();
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT c.id, c.peer, c.head, {READ}, coalesce(r.delivered, 0), coalesce(r.read, 0),
                 (SELECT count(*) FROM message m
                  WHERE m.conversation = c.id AND m.seq > max({READ}, c.listed_head) AND {COUNTS}) + {listed_unread},
                 (SELECT count(*) FROM outbox o WHERE o.conversation = c.id), c.title, c.gone,
                 (SELECT i.by_user FROM invitation i WHERE i.conversation = c.id)
             FROM conversation c LEFT JOIN receipt r ON r.conversation = c.id AND r.user = c.peer AND c.peer <> ?1
             ORDER BY c.last_at DESC, c.id LIMIT ?2",
        ))?;
        let [deleted, expired] =
            [Gone::Deleted, Gone::Expired].map(|gone| row::whole(&Content::Gone(gone)));
        let found = statement.query_and_then(
            params![account.user.as_str(), bounded(ROWS_MAX), deleted, expired],
            |found| {
                Ok(ConversationSummary {
                    id: row::conversation(found, 0)?,
                    peer: row::optional_user(found, 1)?,
                    title: found.get(8)?,
                    gone: found.get(9)?,
                    invited_by: row::optional_user(found, 10)?,
                    head: row::optional_seq(found, 2)?,
                    last: None,
                    unread: row::number(found, 6)?,
                    read: row::optional_seq(found, 3)?,
                    peer_delivered: row::optional_seq(found, 4)?,
                    peer_read: row::optional_seq(found, 5)?,
                    waiting: row::number(found, 7)?,
                })
            },
        )?;
        let mut list: Vec<ConversationSummary> = found.collect::<Result<_, Error>>()?;
        for summary in &mut list {
            summary.last = self.up_to(&summary.id, i64::MAX, 1)?.pop();
        }
        Ok(list)
    }
}

fn bounded(limit: usize) -> i64 {
    limit.min(ROWS_MAX) as i64
}
