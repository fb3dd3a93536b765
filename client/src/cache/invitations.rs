//! Groups that the user is asked into: kept until the question is answered, on whichever device.

use quipu_protocol::event::Invitation;
use quipu_protocol::id::{ConversationId, TimestampMs, UserId};
use rusqlite::{Row, Transaction, params};

use super::{Tables, row};
use crate::error::Error;

/// Invitations that are kept; further ones take the place of the oldest, which the gateway still lists.
pub(crate) const INVITATIONS_MAX: usize = 1024;

impl Tables {
    /// Invitations without an answer, the oldest first.
    pub(crate) fn invitations(&self) -> Result<Vec<Invitation>, Error> {
        let sql =
            "SELECT conversation, by_user, title, at FROM invitation ORDER BY at, conversation";
        let mut statement = self.db.prepare_cached(sql)?;
        let found = statement.query_and_then([], read)?;
        found.collect()
    }

    /// One of them is answered.
    pub(crate) fn forget_invitation(&mut self, group: ConversationId) -> Result<(), Error> {
        let tx = self.db.transaction()?;
        answered(&tx, &group)?;
        tx.commit()?;
        Ok(())
    }

    /// Takes over what the gateway lists: of the invitations in `before`, those that it does not have are answered. What came
    /// as an event meanwhile stays. Says which are new.
    pub(crate) fn take_invitations(
        &mut self,
        before: &[ConversationId],
        listed: Vec<Invitation>,
    ) -> Result<Vec<Invitation>, Error> {
        let tx = self.db.transaction()?;
        for group in before {
            if !listed.iter().any(|one| one.conversation == *group) {
                answered(&tx, group)?;
            }
        }
        let mut new = Vec::new();
        for invitation in listed {
            if keep(&tx, &invitation)? {
                new.push(invitation);
            }
        }
        tx.commit()?;
        Ok(new)
    }
}

fn read(found: &Row<'_>) -> Result<Invitation, Error> {
    Ok(Invitation {
        conversation: row::conversation(found, 0)?,
        by: row::user(found, 1)?,
        title: found.get(2)?,
        at: TimestampMs(row::number(found, 3)?),
    })
}

/// Keeps an invitation, and the group as a conversation of the list. Whether there was none into this group.
pub(super) fn keep(tx: &Transaction<'_>, invitation: &Invitation) -> Result<bool, Error> {
    let (id, at) = (
        invitation.conversation.as_bytes(),
        invitation.at.0.cast_signed(),
    );
    let is_new = tx
        .prepare_cached("SELECT 1 FROM invitation WHERE conversation = ?1")?
        .query([id])?
        .next()?
        .is_none();
    tx.prepare_cached("INSERT OR REPLACE INTO invitation VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            id,
            invitation.by.as_str(),
            invitation.title.as_str(),
            at
        ])?;
    tx.prepare_cached(
        "INSERT INTO conversation (id, title, opened, last_at) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT DO UPDATE SET title = excluded.title, last_at = max(last_at, excluded.last_at)",
    )?
    .execute(params![id, invitation.title.as_str(), at])?;
    if is_new {
        tx.prepare_cached(
            "DELETE FROM invitation WHERE conversation IN
             (SELECT conversation FROM invitation ORDER BY at DESC, conversation LIMIT -1 OFFSET ?1)",
        )?
        .execute([INVITATIONS_MAX as i64])?;
    }
    Ok(is_new)
}

/// The question is answered. A group of which nothing else is known is no conversation of the list any more.
pub(super) fn answered(tx: &Transaction<'_>, group: &ConversationId) -> Result<(), Error> {
    let id = group.as_bytes();
    let was_there = tx
        .prepare_cached("DELETE FROM invitation WHERE conversation = ?1")?
        .execute([id])?;
    if was_there > 0 {
        tx.prepare_cached(
            "DELETE FROM conversation WHERE id = ?1 AND head = 0 AND pulled = 0
             AND NOT EXISTS (SELECT 1 FROM message m WHERE m.conversation = ?1)
             AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.conversation = ?1)",
        )?
        .execute([id])?;
    }
    Ok(())
}

/// Whether the user of a note is the one of this client and the note answers an invitation.
pub(super) fn ends(note: &quipu_protocol::event::Note, from: &UserId, me: &UserId) -> bool {
    use quipu_protocol::event::Note;
    match note {
        Note::Joined | Note::Left => from == me,
        Note::Removed(user) => user == me,
        Note::Created(_)
        | Note::Invited(_)
        | Note::Role(..)
        | Note::Title(_)
        | Note::Topic(_)
        | Note::Timer(_)
        | Note::Pulled => false,
    }
}
