//! Counts rows per user and per conversation, and says at the end what does not add up.

use std::collections::{BTreeMap, BTreeSet};

use quipu_core::row::{
    Account, Answers, Conversation, DeadLetters, EntityKey, Group, Inbox, InboxKind, IndexKey,
    Membership, News, NumberedChange, OldContent, Place, Report as Complaint, Roster, Row, Seat,
    Settings,
};
use quipu_core::shard::{ShardCount, ShardId};
use quipu_protocol::id::{ConversationId, InboxSeq, Seq, UserId};

use super::Report;
use super::attendance::Attendances;
use super::changed::Changes;
use super::extras::Extras;
use super::group::{self, Pointers, Standing};
use super::numbered::Numbered;

/// Numbers that should be all of 1 to some head, each once.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Numbers {
    count: u64,
    min: Option<u64>,
    max: u64,
    /// Of all numbers, wrapping; tells a repeated number from a missing one.
    sum: u64,
}

impl Numbers {
    pub(super) fn add(&mut self, number: u64) {
        self.count += 1;
        self.min = Some(self.min.map_or(number, |min| min.min(number)));
        self.max = self.max.max(number);
        self.sum = self.sum.wrapping_add(number);
    }

    /// What is wrong with them, if they should be 1 to `head`.
    fn gap(&self, head: u64) -> Option<String> {
        self.gap_after(0, head)
    }

    /// What is wrong with them, if they should be all above `floor` to `head`. Below it they may have begun to go, from the
    /// front.
    fn gap_after(&self, floor: u64, head: u64) -> Option<String> {
        let before = self.min.map_or(head, |min| min - 1);
        let up_to = |number: u64| (u128::from(number) * (u128::from(number) + 1) / 2) as u64;
        let dense = self.count == head.saturating_sub(before)
            && self.sum == up_to(head).wrapping_sub(up_to(before));
        if dense && before <= floor && (self.count == 0 || self.max == head) {
            return None;
        }
        let first = floor + 1;
        Some(format!(
            "{} entries up to {} where {first} to {head} are due",
            self.count, self.max
        ))
    }

    /// What is wrong with them, if they should be exactly those above `floor` to `head`.
    pub(super) fn gap_exactly(&self, floor: u64, head: u64) -> Option<String> {
        match self.min {
            Some(min) if min <= floor => {
                Some(format!("entry {min} where the first is {}", floor + 1))
            }
            Some(_) | None => self.gap_after(floor, head),
        }
    }

    /// What is wrong with them, if they should be the last ones to `head`, however many of the first are gone.
    fn gap_before(&self, head: u64) -> Option<String> {
        self.gap_after(head, head)
    }
}

/// What the row of a conversation says.
#[derive(Debug)]
struct ConversationHead {
    head: u64,
    /// Of a direct one.
    members: Vec<UserId>,
    unopened: bool,
    group: Option<Box<Group>>,
}

#[derive(Debug, Default)]
struct ConversationTally {
    row: Option<ConversationHead>,
    messages: Numbers,
    senders: BTreeSet<UserId>,
    /// Messages that are in somebody's inbox.
    pointers: BTreeMap<UserId, Pointers>,
    /// Of a group, in the group's shard.
    memberships: BTreeMap<UserId, Standing>,
    /// Of a group: who is there, or invited, by the index.
    seated: BTreeSet<UserId>,
    /// Of a group, in the users' shards.
    rosters: BTreeMap<UserId, Place>,
    /// Of a pulled group: what each of those shards was told of.
    news: BTreeMap<ShardId, News>,
    extras: Extras,
    changes: Changes,
    /// Of a pulled group: the changes that are found by their numbers.
    numbered: Numbered,
}

#[derive(Debug, Default)]
struct UserTally {
    account: bool,
    inbox_head: Option<u64>,
    /// What is no longer kept, and up to where its rows are gone.
    floor: u64,
    trimmed: u64,
    entries: Numbers,
    /// As the inbox counts them, and as they are listed.
    listed: u64,
    list: BTreeSet<ConversationId>,
}

/// Everything counted so far.
#[derive(Debug)]
pub(super) struct Tally {
    shards: ShardCount,
    conversations: BTreeMap<ConversationId, ConversationTally>,
    users: BTreeMap<UserId, UserTally>,
    attendances: Attendances,
}

impl Tally {
    pub(super) fn new(shards: ShardCount) -> Self {
        Self {
            shards,
            conversations: BTreeMap::new(),
            users: BTreeMap::new(),
            attendances: Attendances::default(),
        }
    }

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
                tally.senders.insert(row.0.from);
                tally.extras.expect(&row.0);
                tally.changes.keep(&row.0);
            }
            Row::Inbox(row) => {
                report.inbox_entries += 1;
                let user = self.users.entry(row.user).or_default();
                user.entries.add(row.inbox_seq.get());
                match &row.kind {
                    InboxKind::Message { conversation, seq } => {
                        let tally = self.conversations.entry(*conversation).or_default();
                        let pointers = tally.pointers.entry(row.user).or_default();
                        pointers.add(seq.get(), conversation.is_group());
                    }
                    InboxKind::Changed(changed) => {
                        let tally = self.conversations.entry(changed.conversation).or_default();
                        if tally.changes.tell(&row.kind) {
                            report.problem(format!(
                                "entry {} of the inbox of {} has words of an edit",
                                row.inbox_seq, row.user
                            ));
                        }
                    }
                    InboxKind::Receipt(_) | InboxKind::Invitation(_) => {}
                }
            }
            Row::Index(key, Some(value)) => self.add_index(key, value, report),
            // Taken away by what the log has beyond the store.
            Row::Index(_, None) | Row::Trimmed(..) => {}
        }
    }

    fn add_index(&mut self, key: &IndexKey, value: &[u8], report: &mut Report) {
        let read = match key {
            IndexKey::Version(..) => OldContent::decode(value).map(drop),
            IndexKey::Changed(id, number) => NumberedChange::decode(value).map(|change| {
                let tally = self.conversations.entry(*id).or_default();
                tally.numbered.add(*number, change.seq);
            }),
            IndexKey::Report(..) => Complaint::decode(value).map(drop),
            IndexKey::Here(_) | IndexKey::Offline(_) => self.attendances.index(key, value),
            IndexKey::Listed(..)
            | IndexKey::MediaRef(..)
            | IndexKey::Due(..)
            | IndexKey::Seated(..) => Ok(()),
        };
        if let Err(error) = read {
            report.problem(format!("{key:?}: {error}"));
        }
        match key {
            IndexKey::Listed(user, conversation) => {
                let tally = self.users.entry(*user).or_default();
                tally.list.insert(*conversation);
            }
            IndexKey::Seated(conversation, user) => {
                let tally = self.conversations.entry(*conversation).or_default();
                tally.seated.insert(*user);
            }
            IndexKey::Version(conversation, ..)
            | IndexKey::MediaRef(conversation, ..)
            | IndexKey::Due(_, conversation, _)
            | IndexKey::Report(_, conversation, ..) => {
                let tally = self.conversations.entry(*conversation).or_default();
                tally.extras.find(key);
            }
            IndexKey::Changed(..) | IndexKey::Here(_) | IndexKey::Offline(_) => {}
        }
    }

    fn add_entity(&mut self, key: &EntityKey, value: &[u8], report: &mut Report) {
        let read = match key {
            EntityKey::Account(user) => Account::decode(value).map(|_| {
                report.accounts += 1;
                self.users.entry(*user).or_default().account = true;
            }),
            EntityKey::Inbox(user) => Inbox::decode(value).map(|inbox| {
                let tally = self.users.entry(*user).or_default();
                tally.inbox_head = Some(inbox.head.map_or(0, InboxSeq::get));
                (tally.floor, tally.trimmed) = (inbox.floor.0, inbox.trimmed.0);
                tally.listed = u64::from(inbox.listed);
            }),
            EntityKey::Conversation(id) => Conversation::decode(value).map(|row| {
                report.conversations += 1;
                let tally = self.conversations.entry(*id).or_default();
                tally.row = Some(ConversationHead {
                    head: row.head.map_or(0, Seq::get),
                    members: row.members.iter().map(|member| member.user).collect(),
                    unopened: row.unopened,
                    group: row.group,
                });
            }),
            EntityKey::Member(id, user) => Membership::decode(*user, value).map(|row| {
                let tally = self.conversations.entry(*id).or_default();
                tally.memberships.insert(*user, Standing::of(&row));
            }),
            EntityKey::Roster(id, shard) => Roster::decode(value).map(|row| {
                for entry in row.entries {
                    let home = self.shards.of_user(&entry.user);
                    if home != *shard {
                        report.problem(format!(
                            "{} is in the roster of {id} on shard {} and lives on shard {}",
                            entry.user, shard.0, home.0
                        ));
                    }
                    let tally = self.conversations.entry(*id).or_default();
                    if tally.rosters.insert(entry.user, entry.place).is_some() {
                        report.problem(format!(
                            "{} is in the rosters of {id} twice, once on shard {}",
                            entry.user, shard.0
                        ));
                    }
                }
            }),
            EntityKey::News(id, shard) => News::decode(value).map(|news| {
                let tally = self.conversations.entry(*id).or_default();
                tally.news.insert(*shard, news);
            }),
            // A scan gives it as a history row.
            EntityKey::Message(..) => Ok(()),
            EntityKey::Settings(_) => Settings::decode(value).map(drop),
            EntityKey::Answers(..) => Answers::decode(value).map(drop),
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
            finish_inbox(user, tally, report);
            self.finish_list(user, tally, report);
        }
        for (id, tally) in &self.conversations {
            self.finish_conversation(id, tally, report);
        }
        let head_of = |user: &_| self.users.get(user).and_then(|tally| tally.inbox_head);
        self.attendances.finish(head_of, report);
    }

    /// Every conversation of a list is the user's, and they are as many as the inbox counts.
    fn finish_list(&self, user: &UserId, tally: &UserTally, report: &mut Report) {
        let count = tally.list.len() as u64;
        if count != tally.listed {
            report.problem(format!(
                "the inbox of {user} counts {} listed conversations where {count} are listed",
                tally.listed
            ));
        }
        for id in &tally.list {
            let conversation = self.conversations.get(id);
            if !conversation.is_some_and(|conversation| conversation.lists(user)) {
                report.problem(format!(
                    "{user} has {id} listed without being a member or invited"
                ));
            }
        }
    }

    /// Whether a user has an inbox: who has no account gets nothing.
    fn has_inbox(&self, user: &UserId) -> bool {
        let tally = self.users.get(user);
        tally.is_some_and(|tally| tally.inbox_head.is_some())
    }

    /// Whether the oldest events of an inbox are gone.
    fn is_trimmed(&self, user: &UserId) -> bool {
        self.users.get(user).is_some_and(|tally| tally.floor > 0)
    }

    fn finish_conversation(
        &self,
        id: &ConversationId,
        tally: &ConversationTally,
        report: &mut Report,
    ) {
        let Some(row) = &tally.row else {
            report.problem(format!(
                "conversation {id} has {} messages and does not exist",
                tally.messages.count
            ));
            return;
        };
        if let Some(gap) = tally.messages.gap(row.head) {
            report.problem(format!("conversation {id} has {gap}"));
        }
        for problem in tally.changes.problems() {
            report.problem(format!("conversation {id} has {problem}"));
        }
        for problem in tally.extras.problems() {
            report.problem(format!("conversation {id} has {problem}"));
        }
        for sender in tally.senders.iter().filter(|sender| !tally.knows(sender)) {
            report.problem(format!(
                "{sender} has written to {id} without being a member"
            ));
        }
        for user in tally.pointers.keys().filter(|user| !tally.knows(user)) {
            report.problem(format!(
                "{user} has messages of {id} without being a member"
            ));
        }
        let here = tally.here();
        for user in here.into_iter().filter(|user| self.has_inbox(user)) {
            if !self.users[&user].list.contains(id) {
                report.problem(format!("{user} is a member of {id}, which is not listed"));
            }
        }
        match &row.group {
            None => self.finish_direct(id, tally, row, report),
            Some(group) => self.finish_group(id, tally, (row.head, group), report),
        }
    }

    fn finish_direct(
        &self,
        id: &ConversationId,
        tally: &ConversationTally,
        row: &ConversationHead,
        report: &mut Report,
    ) {
        for member in row.members.iter().filter(|user| self.has_inbox(user)) {
            let pointers = tally.pointers.get(member);
            let delivered = pointers.map_or_else(Numbers::default, |pointers| pointers.numbers);
            let gap = match self.is_trimmed(member) {
                true => delivered.gap_before(row.head),
                false => delivered.gap(row.head),
            };
            if let Some(gap) = gap {
                report.problem(format!(
                    "of conversation {id}, the inbox of {member} has {gap}"
                ));
            }
        }
    }

    fn finish_group(
        &self,
        id: &ConversationId,
        tally: &ConversationTally,
        (head, group): (u64, &Group),
        report: &mut Report,
    ) {
        group::check_counts(id, group, &tally.memberships, report);
        group::check_shards(id, group, (&tally.memberships, self.shards), report);
        group::check_rosters((id, group), &tally.memberships, &tally.rosters, report);
        for problem in tally.numbered.problems(group.changes, head) {
            report.problem(format!("group {id} has {problem}"));
        }
        group::check_seated(id, &tally.memberships, &tally.seated, report);
        let members = (&tally.memberships, self.shards);
        group::check_news(id, (head, group), members, &tally.news, report);
        for (user, standing) in &tally.memberships {
            if !self.has_inbox(user) {
                continue;
            }
            let none = Pointers::default();
            let pointers = tally.pointers.get(user).unwrap_or(&none);
            let pulled = group.pulled.map(Seq::get);
            let trimmed = self.is_trimmed(user);
            if let Some(wrong) = standing.complaint((pointers, trimmed), head, pulled) {
                report.problem(format!("of group {id}, the inbox of {user} {wrong}"));
            }
        }
    }
}

/// Everything above the floor is there, and nothing of what is said to be gone.
fn finish_inbox(user: &UserId, tally: &UserTally, report: &mut Report) {
    let head = tally.inbox_head.unwrap_or(0);
    if let Some(gap) = tally.entries.gap_after(tally.floor, head) {
        report.problem(format!("the inbox of {user} has {gap}"));
    }
    if tally.trimmed > tally.floor || tally.floor > 0 && tally.floor >= head {
        report.problem(format!(
            "the inbox of {user} is trimmed to {} and keeps what comes after {} to {head}",
            tally.trimmed, tally.floor
        ));
    }
    // What a replay trims stays in the store until the next start.
    let oldest = tally.entries.min.filter(|_| report.replayed_records == 0);
    if oldest.is_some_and(|oldest| oldest <= tally.trimmed) {
        report.problem(format!(
            "the inbox of {user} is trimmed to {} and has older entries",
            tally.trimmed
        ));
    }
}

impl ConversationTally {
    /// Whether a user is or was a member.
    fn knows(&self, user: &UserId) -> bool {
        let direct = self
            .row
            .as_ref()
            .is_some_and(|row| row.members.contains(user));
        direct || self.memberships.contains_key(user)
    }

    /// Whether it belongs into a user's list.
    fn lists(&self, user: &UserId) -> bool {
        let standing = self.memberships.get(user);
        standing.is_some_and(|standing| !matches!(standing.seat, Seat::Out))
            || self
                .row
                .as_ref()
                .is_some_and(|row| !row.unopened && row.members.contains(user))
    }

    /// Who takes part now.
    fn here(&self) -> Vec<UserId> {
        let seated = self.memberships.iter();
        let seated = seated.filter(|(_, standing)| matches!(standing.seat, Seat::In(_)));
        let seated = seated.map(|(user, _)| *user);
        let direct = self.row.iter().filter(|row| !row.unopened);
        let direct = direct.flat_map(|row| row.members.iter().copied());
        seated.chain(direct).collect()
    }
}
