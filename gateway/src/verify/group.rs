//! What must agree about a group: its counts, its members' rows, the rosters, and what the inboxes hold of it.

use std::collections::{BTreeMap, BTreeSet};

use quipu_core::row::{Group, Membership, News, Place, Seat};
use quipu_core::shard::{ShardCount, ShardId};
use quipu_protocol::event::Role;
use quipu_protocol::id::{ConversationId, Seq, UserId};

use super::Report;
use super::tally::Numbers;

/// Runs of messages that are remembered of one group in one inbox; as many as a user may have left and joined it again.
const RUNS_MAX: usize = 1024;

/// What an inbox holds of a conversation.
#[derive(Debug, Default)]
pub(super) struct Pointers {
    pub(super) numbers: Numbers,
    /// Of a group: seqs that follow each other, first and last; in the order of the inbox.
    runs: Vec<(u64, u64)>,
    out_of_order: bool,
}

impl Pointers {
    pub(super) fn add(&mut self, seq: u64, group: bool) {
        self.numbers.add(seq);
        if !group {
            return;
        }
        let full = self.runs.len() >= RUNS_MAX;
        match self.runs.last_mut() {
            Some((_, last)) if seq == *last + 1 => *last = seq,
            Some((_, last)) if seq <= *last => self.out_of_order = true,
            Some(_) | None if full => self.out_of_order = true,
            Some(_) | None => self.runs.push((seq, seq)),
        }
    }

    /// Whether all of these are there; in a `trimmed` inbox, those that are not older than the oldest message of the group.
    fn holds(&self, first: u64, last: u64, trimmed: bool) -> bool {
        let oldest = self.runs.first().map_or(u64::MAX, |(from, _)| *from);
        let first = if trimmed { first.max(oldest) } else { first };
        if first > last {
            return true;
        }
        let mut runs = self.runs.iter();
        runs.any(|(from, to)| *from <= first && last <= *to)
    }
}

/// What the row of a member says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) seat: Seat,
    joined: Option<u64>,
    left: Option<u64>,
    declined: Option<u64>,
}

impl Standing {
    pub(super) fn of(row: &Membership) -> Self {
        Self {
            seat: row.seat,
            joined: row.joined.map(Seq::get),
            left: row.left.map(Seq::get),
            declined: row.declined.map(Seq::get),
        }
    }

    /// What is wrong with an inbox, `trimmed` or not, in which everything has to be from the last joining until the member left, or until the
    /// group became pulled; and the note of the leaving.
    pub(super) fn complaint(
        &self,
        (pointers, trimmed): (&Pointers, bool),
        head: u64,
        pulled: Option<u64>,
    ) -> Option<String> {
        if pointers.out_of_order {
            return Some("has messages of it twice or out of order".to_owned());
        }
        if let Some(declined) = self.declined
            && !pointers.holds(declined, declined, trimmed)
        {
            return Some(format!(
                "lacks message {declined}, which ends an invitation"
            ));
        }
        let is_in = matches!(self.seat, Seat::In(_));
        // Who left before joining again has left it for good only if the leaving is the later one.
        let left = self.left.filter(|left| !is_in && Some(*left) > self.joined);
        let end = match left {
            Some(left) => left,
            None if is_in => head,
            None => return None,
        };
        let pushed_to = pulled.map_or(end, |pulled| pulled.min(end));
        // Who enters a pulled group is told so.
        if let Some(joined) = self.joined
            && joined > pushed_to
            && !pointers.holds(joined, joined, trimmed)
        {
            return Some(format!(
                "lacks message {joined}, which says that its user joined"
            ));
        }
        if let Some(joined) = self.joined
            && joined <= pushed_to
            && !pointers.holds(joined, pushed_to, trimmed)
        {
            return Some(format!("lacks some of messages {joined} to {pushed_to}"));
        }
        if let Some(left) = left
            && !pointers.holds(left, left, trimmed)
        {
            return Some(format!(
                "lacks message {left}, which says that its user left"
            ));
        }
        let last = pointers.runs.last().map_or(0, |(_, last)| *last);
        let most = left.unwrap_or(pushed_to).max(self.left.unwrap_or(0));
        let most = most.max(self.joined.unwrap_or(0));
        let most = most.max(self.declined.unwrap_or(0));
        (last > most).then(|| format!("has message {last}, which was not for it"))
    }
}

/// Compares a group's own counts with its members.
pub(super) fn check_counts(
    id: &ConversationId,
    group: &Group,
    memberships: &BTreeMap<UserId, Standing>,
    report: &mut Report,
) {
    let count = |is: fn(&Seat) -> bool| {
        let seats = memberships.values().map(|standing| &standing.seat);
        seats.filter(|seat| is(seat)).count()
    };
    let members = count(|seat| matches!(seat, Seat::In(_)));
    let invited = count(|seat| matches!(seat, Seat::Invited(_)));
    if (members, invited) != (group.members(), group.invited as usize) {
        report.problem(format!(
            "group {id} counts {} members and {} invited where {members} and {invited} are",
            group.members(),
            group.invited
        ));
    }
    let owners = memberships.iter();
    let mut owners = owners.filter(|(_, standing)| standing.seat == Seat::In(Role::Owner));
    let (owner, second) = (owners.next(), owners.next());
    let sound = match owner {
        Some((owner, _)) => second.is_none() && *owner == group.owner,
        None => members == 0,
    };
    if !sound {
        report.problem(format!("group {id} has not one owner, {}", group.owner));
    }
}

/// Compares on which shards a group thinks that its members live with where they do: a shard that it does not know of is told
/// of no message.
pub(super) fn check_shards(
    id: &ConversationId,
    group: &Group,
    (memberships, shards): (&BTreeMap<UserId, Standing>, ShardCount),
    report: &mut Report,
) {
    let mut homes: BTreeMap<ShardId, u32> = BTreeMap::new();
    for (user, _) in memberships
        .iter()
        .filter(|(_, standing)| matches!(standing.seat, Seat::In(_)))
    {
        *homes.entry(shards.of_user(user)).or_default() += 1;
    }
    let counted: BTreeMap<ShardId, u32> = group.shards.iter().copied().collect();
    if homes != counted {
        report.problem(format!(
            "group {id} counts its members by shard as {counted:?} where {homes:?} is right"
        ));
    }
}

/// Compares the members of a group with the index of who is there.
pub(super) fn check_seated(
    id: &ConversationId,
    memberships: &BTreeMap<UserId, Standing>,
    seated: &BTreeSet<UserId>,
    report: &mut Report,
) {
    let there = memberships.iter();
    let there = there.filter(|(_, standing)| !matches!(standing.seat, Seat::Out));
    let there: BTreeSet<UserId> = there.map(|(user, _)| *user).collect();
    for user in there.symmetric_difference(seated) {
        report.problem(format!(
            "{user} is in group {id} and not in its index, or the other way round"
        ));
    }
}

/// Compares the members of a group with the rosters on their shards.
pub(super) fn check_rosters(
    (id, group): (&ConversationId, &Group),
    memberships: &BTreeMap<UserId, Standing>,
    rosters: &BTreeMap<UserId, Place>,
    report: &mut Report,
) {
    for (user, standing) in memberships {
        let place = rosters.get(user);
        let agrees = match standing.seat {
            Seat::Out => place.is_none(),
            Seat::Invited(_) => matches!(place, Some(Place::Invited | Place::Untold)),
            Seat::In(role) => {
                let first = match (group.history_from_start, standing.joined) {
                    (false, Some(joined)) => Seq::new(joined).unwrap_or(Seq::FIRST),
                    (true, _) | (false, None) => Seq::FIRST,
                };
                place == Some(&Place::Member { role, first })
            }
        };
        if !agrees {
            report.problem(format!(
                "{user} is {:?} in group {id}, and {place:?} in its roster",
                standing.seat
            ));
        }
    }
    for user in rosters
        .keys()
        .filter(|user| !memberships.contains_key(user))
    {
        report.problem(format!(
            "{user} is in a roster of {id} without being a member"
        ));
    }
}

/// Compares what the shards of a pulled group's members were told of with what the history has: all of it since it is pulled, and
/// nothing beyond. Devices ask for the head where it was told.
pub(super) fn check_news(
    id: &ConversationId,
    (head, group): (u64, &Group),
    (memberships, shards): (&BTreeMap<UserId, Standing>, ShardCount),
    news: &BTreeMap<ShardId, News>,
    report: &mut Report,
) {
    // Who has just joined with the last message has it as an event.
    let has_heard = |shard: &ShardId| {
        let mut here = memberships.iter();
        here.any(|(user, standing)| {
            let is_in = matches!(standing.seat, Seat::In(_)) && shards.of_user(user) == *shard;
            is_in && standing.joined < Some(head)
        })
    };
    let told = |shard: &ShardId| {
        news.get(shard)
            .and_then(|news| news.head)
            .map_or(0, Seq::get)
    };
    for shard in news.keys().filter(|shard| told(shard) > head) {
        report.problem(format!(
            "shard {} was told of message {} of group {id}, which ends with {head}",
            shard.0,
            told(shard)
        ));
    }
    if group.pulled.is_none_or(|pulled| pulled.get() >= head) {
        return;
    }
    let due = group.shards.iter().filter(|(shard, _)| has_heard(shard));
    for (shard, _) in due.filter(|(shard, _)| told(shard) < head) {
        report.problem(format!(
            "shard {} was told of group {id} up to message {} where {head} is due",
            shard.0,
            told(shard)
        ));
    }
}
