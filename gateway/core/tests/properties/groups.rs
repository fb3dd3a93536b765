//! Groups under crashes: whatever happens in whatever order, members, rosters, lists, counts and inboxes agree in the end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quipu_core::record::{CommandKind, Entry};
use quipu_core::row::{
    Conversation, EntityKey, Group, InboxKind, IndexKey, Membership, Place, Roster, Seat,
};
use quipu_protocol::event::{Change, NewGroup, Role};
use quipu_protocol::id::{ClientSeq, ConversationId, RequestId, Seq, UserId};

use crate::cluster::{Cluster, moves};
use crate::support::{self, Store};

const NAMES: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];

/// Who does what to whom; half of it is not allowed, which is to change nothing.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Create,
    Invite,
    Join,
    Leave,
    Remove,
    Make(Role),
    Title,
    Send,
    Read,
}

fn deeds() -> impl Strategy<Value = Vec<(Deed, usize, usize)>> {
    let deed = prop_oneof![
        1 => Just(Deed::Create),
        3 => Just(Deed::Invite),
        5 => Just(Deed::Join),
        2 => Just(Deed::Leave),
        2 => Just(Deed::Remove),
        1 => prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Owner)].prop_map(Deed::Make),
        1 => Just(Deed::Title),
        8 => Just(Deed::Send),
        2 => Just(Deed::Read),
    ];
    prop::collection::vec((deed, 0..NAMES.len(), 0..NAMES.len()), 1..60)
}

fn climbers() -> ConversationId {
    support::group("climbers")
}

/// Registers everybody, makes the group, then does the deeds.
fn entries(deeds: &[(Deed, usize, usize)], open: bool, fan_out_max: u32) -> Vec<Entry> {
    let mut entries: Vec<Entry> = NAMES
        .map(|name| support::register(support::user(name), support::device(1), 1, 1))
        .to_vec();
    let create = Change::CreateGroup(NewGroup {
        conversation: climbers(),
        title: "Climbing".into(),
        topic: String::new(),
        open,
        history_from_start: false,
        invite: vec![support::user("bob")],
    });
    let change = |who: usize, change: Change, request: usize| {
        let kind = CommandKind::Change {
            request: RequestId(request as u64),
            client_seq: ClientSeq::new(request as u64 + 1).ok(),
            change: Box::new(change),
            fan_out_max,
        };
        support::command(support::user(NAMES[who]), support::device(1), kind)
    };
    entries.push(change(0, create.clone(), 0));
    for (at, (deed, who, whom)) in deeds.iter().enumerate() {
        let (user, at_whom) = (support::user(NAMES[*who]), support::user(NAMES[*whom]));
        let asked = match deed {
            Deed::Create => create.clone(),
            Deed::Invite => Change::Invite {
                conversation: climbers(),
                users: vec![at_whom],
            },
            Deed::Join => Change::Join(climbers()),
            Deed::Leave => Change::Leave(climbers()),
            Deed::Remove => Change::Remove(climbers(), at_whom),
            Deed::Make(role) => Change::SetRole(climbers(), at_whom, *role),
            Deed::Title => Change::SetGroup {
                conversation: climbers(),
                title: Some(format!("title {at}")),
                topic: None,
            },
            Deed::Send => {
                let device = support::device(1);
                let number = at as u64 + 1;
                entries.push(support::send(user, device, climbers(), number, "hello"));
                continue;
            }
            Deed::Read => {
                let kind = CommandKind::Receipt {
                    conversation: climbers(),
                    delivered: None,
                    read: Seq::new(at as u64).ok(),
                    quiet: false,
                };
                entries.push(support::command(user, support::device(1), kind));
                continue;
            }
        };
        entries.push(change(*who, asked, at + 1));
    }
    entries
}

proptest! {
    #![proptest_config(crate::config(96))]

    #[test]
    fn members_rosters_lists_and_inboxes_agree_after_crashes(
        count in 1u16..=6,
        deeds in deeds(),
        open in any::<bool>(),
        fan_out_max in 1u32..6,
        moves in moves(),
    ) {
        let entries = entries(&deeds, open, fan_out_max);
        let mut cluster = Cluster::new(count);
        let (accounts, mut rest) = entries.split_at(NAMES.len());
        cluster.route(accounts);
        cluster.settle();
        for one in moves {
            let (now, later) = rest.split_at(one.commands.min(rest.len()));
            rest = later;
            cluster.route(now);
            cluster.turn(one.shard % usize::from(count), one.records, one.turn);
        }
        for entry in rest {
            cluster.route(std::slice::from_ref(entry));
        }
        cluster.settle();
        judge(&cluster.store)?;
    }
}

/// Knows the rows only.
fn judge(store: &Store) -> Result<(), TestCaseError> {
    let row = &store.entities[&EntityKey::Conversation(climbers())];
    let row = Conversation::decode(row).unwrap();
    let head = row.head.map_or(0, |seq| seq.get());
    let group = row.group.as_deref().unwrap();
    let seqs: Vec<u64> = store.history.keys().map(|(_, seq)| *seq).collect();
    prop_assert_eq!(seqs, (1..=head).collect::<Vec<_>>(), "seqs are dense");

    let (mut members, mut invited, mut owners) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let (mut in_rosters, mut asked) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in &store.entities {
        match key {
            EntityKey::Member(_, user) => {
                let membership = Membership::decode(*user, value).unwrap();
                match membership.seat {
                    Seat::In(role) => {
                        members.insert((*user, role));
                        if role == Role::Owner {
                            owners.push(*user);
                        }
                    }
                    Seat::Invited(_) => drop(invited.insert(*user)),
                    Seat::Out => {}
                }
                inbox(store, *user, &membership, head, group)?;
            }
            EntityKey::Roster(..) => {
                let roster = Roster::decode(value).unwrap();
                for entry in roster.entries {
                    match entry.place {
                        Place::Member { role, .. } => {
                            in_rosters.insert((entry.user, role));
                        }
                        Place::Invited | Place::Untold => {
                            asked.insert(entry.user);
                        }
                    }
                }
            }
            EntityKey::Account(_)
            | EntityKey::Inbox(_)
            | EntityKey::Conversation(_)
            | EntityKey::Message(..)
            | EntityKey::Settings(_)
            | EntityKey::Answers(..)
            | EntityKey::Presence(_)
            | EntityKey::News(..)
            | EntityKey::DeadLetters(_) => {}
        }
    }
    prop_assert_eq!(&members, &in_rosters, "rosters name the members");
    prop_assert_eq!(&invited, &asked, "rosters name the invited");
    prop_assert_eq!(group.members(), members.len());
    prop_assert_eq!(group.invited as usize, invited.len());
    if members.is_empty() {
        prop_assert!(owners.is_empty());
    } else {
        prop_assert_eq!(owners, vec![group.owner], "there is one owner");
    }
    let listed: BTreeSet<UserId> = store
        .index
        .keys()
        .filter_map(|key| match key {
            IndexKey::Listed(user, _) => Some(*user),
            _ => None,
        })
        .collect();
    let known = members.iter().map(|(user, _)| *user);
    let known: BTreeSet<UserId> = known.chain(invited).collect();
    let seated = store.index.keys().filter_map(|key| match key {
        IndexKey::Seated(_, user) => Some(*user),
        _ => None,
    });
    let seated: BTreeSet<UserId> = seated.collect();
    prop_assert_eq!(&seated, &known, "the index has who is there");
    prop_assert_eq!(
        listed,
        known,
        "lists hold the group of those who are in it or invited"
    );
    Ok(())
}

/// From the last joining on an inbox has every message while its owner was a member and the group was pushed, and each once.
fn inbox(
    store: &Store,
    user: UserId,
    membership: &Membership,
    head: u64,
    group: &Group,
) -> Result<(), TestCaseError> {
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    let mut last = 0;
    for ((owner, _), row) in &store.inbox {
        if let (true, InboxKind::Message { seq, .. }) = (*owner == user, &row.kind) {
            prop_assert!(seq.get() > last, "in order and once");
            last = seq.get();
            *seen.entry(last).or_default() += 1;
        }
    }
    let Some(joined) = membership.joined.map(Seq::get) else {
        return Ok(());
    };
    let left = membership.left.map(Seq::get).filter(|left| *left > joined);
    let pulled = group.pulled.map_or(u64::MAX, Seq::get);
    for seq in joined..=left.unwrap_or(head) {
        let due = seq <= pulled || seq == joined || Some(seq) == left;
        prop_assert_eq!(seen.contains_key(&seq), due, "{} and message {}", user, seq);
    }
    if let Some(left) = left {
        let declined = membership.declined.map_or(0, Seq::get);
        prop_assert!(last <= left.max(declined), "nothing comes after leaving");
    }
    Ok(())
}
