//! Counts rows per user and per conversation, and says at the end what does not add up.

use std::collections::BTreeMap;

use quipu_core::row::{
    Account, Conversation, DeadLetters, EntityKey, Inbox, InboxKind, Row, Settings,
};
use quipu_protocol::id::{ConversationId, InboxSeq, Seq, UserId};

use super::Report;
use super::attendance::Attendances;

/// Numbers that should be all of 1 to some head, each once.
#[derive(Debug, Default, Clone, Copy)]
struct Numbers {
    count: u64,
    max: u64,
    /// Of all numbers, wrapping; tells a repeated number from a missing one.
    sum: u64,
}

impl Numbers {
    fn add(&mut self, number: u64) {
        self.count += 1;
        self.max = self.max.max(number);
        self.sum = self.sum.wrapping_add(number);
    }

    /// What is wrong with them, if they should be 1 to `head`.
    fn gap(&self, head: u64) -> Option<String> {
        let sum = (u128::from(head) * (u128::from(head) + 1) / 2) as u64;
        if self.count == head && self.max == head && self.sum == sum {
            return None;
        }
        Some(format!(
            "{} entries up to {} where 1 to {head} are due",
            self.count, self.max
        ))
    }
}

#[derive(Debug, Default)]
struct ConversationTally {
    row: Option<(u64, Vec<UserId>)>,
    messages: Numbers,
    senders: Vec<UserId>,
    /// Messages that are in somebody's inbox.
    pointers: Vec<(UserId, Numbers)>,
}

#[derive(Debug, Default)]
struct UserTally {
    account: bool,
    inbox_head: Option<u64>,
    entries: Numbers,
}

/// Everything counted so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    conversations: BTreeMap<ConversationId, ConversationTally>,
    users: BTreeMap<UserId, UserTally>,
    attendances: Attendances,
}

impl Tally {
    /// Counts a row; the order of rows does not matter, but each comes once.
    pub(super) fn add(&mut self, row: &Row, report: &mut Report) {
        match row {
            // The replay has checked it.
            Row::Shard(_, _) => {}
            Row::Entity(key, value) => self.add_entity(key, value, report),
            Row::History(row) => {
                report.messages += 1;
                let tally = self.conversations.entry(*row.conversation()).or_default();
                tally.messages.add(row.seq().get());
                if !tally.senders.contains(&row.0.from) {
                    tally.senders.push(row.0.from);
                }
            }
            Row::Inbox(row) => {
                report.inbox_entries += 1;
                let user = self.users.entry(row.user).or_default();
                user.entries.add(row.inbox_seq.get());
                match &row.kind {
                    InboxKind::Message { conversation, seq } => {
                        let tally = self.conversations.entry(*conversation).or_default();
                        tally.point(row.user, *seq);
                    }
                    InboxKind::Receipt(_) | InboxKind::Changed(_) | InboxKind::Invitation(_) => {}
                }
            }
            Row::Index(key, value) => {
                let value = value.as_deref().unwrap_or_default();
                if let Err(error) = self.attendances.index(key, value) {
                    report.problem(format!("{key:?}: {error}"));
                }
            }
        }
    }

    fn add_entity(&mut self, key: &EntityKey, value: &[u8], report: &mut Report) {
        let read = match key {
            EntityKey::Account(user) => Account::decode(value).map(|_| {
                report.accounts += 1;
                self.users.entry(*user).or_default().account = true;
            }),
            EntityKey::Inbox(user) => Inbox::decode(value).map(|inbox| {
                let head = inbox.head.map_or(0, InboxSeq::get);
                self.users.entry(*user).or_default().inbox_head = Some(head);
            }),
            EntityKey::Conversation(id) => Conversation::decode(value).map(|row| {
                report.conversations += 1;
                let members = row.members.iter().map(|member| member.user).collect();
                let head = row.head.map_or(0, Seq::get);
                self.conversations.entry(*id).or_default().row = Some((head, members));
            }),
            // A scan gives it as a history row.
            EntityKey::Message(..) => Ok(()),
            EntityKey::Settings(_) => Settings::decode(value).map(drop),
            EntityKey::Presence(user) => self.attendances.presence(user, value),
            EntityKey::DeadLetters(_) => DeadLetters::decode(value).map(drop),
        };
        if let Err(error) = read {
            report.problem(format!("{key:?}: {error}"));
        }
    }

    /// Compares heads with what was counted.
    pub(super) fn finish(&self, report: &mut Report) {
        for (user, tally) in &self.users {
            match (tally.account, tally.inbox_head) {
                (true, None) => report.problem(format!("the account of {user} has no inbox")),
                (false, Some(_)) => report.problem(format!("the inbox of {user} has no account")),
                (true, Some(_)) | (false, None) => {}
            }
            if let Some(gap) = tally.entries.gap(tally.inbox_head.unwrap_or(0)) {
                report.problem(format!("the inbox of {user} has {gap}"));
            }
        }
        for (id, tally) in &self.conversations {
            self.finish_conversation(id, tally, report);
        }
        let head_of = |user: &_| self.users.get(user).and_then(|tally| tally.inbox_head);
        self.attendances.finish(head_of, report);
    }

    fn finish_conversation(
        &self,
        id: &ConversationId,
        tally: &ConversationTally,
        report: &mut Report,
    ) {
        let Some((head, members)) = &tally.row else {
            report.problem(format!(
                "conversation {id} has {} messages and does not exist",
                tally.messages.count
            ));
            return;
        };
        if let Some(gap) = tally.messages.gap(*head) {
            report.problem(format!("conversation {id} has {gap}"));
        }
        for sender in &tally.senders {
            if !members.contains(sender) {
                report.problem(format!(
                    "{sender} has written to {id} without being a member"
                ));
            }
        }
        for (user, _) in &tally.pointers {
            if !members.contains(user) {
                report.problem(format!(
                    "{user} has messages of {id} without being a member"
                ));
            }
        }
        for member in members {
            // Who has no account has no inbox, and nothing was delivered.
            if self
                .users
                .get(member)
                .is_none_or(|user| user.inbox_head.is_none())
            {
                continue;
            }
            let delivered = tally.pointers.iter().find(|(user, _)| user == member);
            let delivered = delivered.map_or_else(Numbers::default, |(_, numbers)| *numbers);
            if let Some(gap) = delivered.gap(*head) {
                report.problem(format!(
                    "of conversation {id}, the inbox of {member} has {gap}"
                ));
            }
        }
    }
}

impl ConversationTally {
    fn point(&mut self, user: UserId, seq: Seq) {
        let at = self.pointers.iter().position(|(owner, _)| *owner == user);
        let at = at.unwrap_or_else(|| {
            self.pointers.push((user, Numbers::default()));
            self.pointers.len() - 1
        });
        self.pointers[at].1.add(seq.get());
    }
}
