//! What a message costs in a group of 10,000: one history row; one entry and one small row for each shard with members; no row for
//! a member.

use std::collections::BTreeSet;

use bytes::Bytes;
use quipu_core::record::{Entry, EntryBody, Record};
use quipu_core::row::{
    Conversation, EntityKey, Group, Membership, Place, Roster, RosterEntry, Row,
};
use quipu_core::shard::{Action, Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::event::{Notice, Role};
use quipu_protocol::id::{ChangeNumber, Seq, TimestampMs, UserId};
use quipu_protocol::limits::GROUP_MEMBERS_MAX;

use crate::support::{self, Store};

const SHARDS: ShardCount = ShardCount(64);

fn member(number: usize) -> UserId {
    support::user(&format!("member-{number:05}"))
}

/// The rows of a pulled group of [`GROUP_MEMBERS_MAX`] members, as joining one by one would have left them.
fn store() -> Store {
    let mut rosters: Vec<Roster> = SHARDS.iter().map(|_| Roster::default()).collect();
    for number in 0..GROUP_MEMBERS_MAX {
        let user = member(number);
        rosters[usize::from(SHARDS.of_user(&user).0)]
            .entries
            .push(RosterEntry {
                user,
                place: Place::Member {
                    role: Role::Member,
                    first: Seq::FIRST,
                },
            });
    }
    let group = Group {
        title: "everybody".into(),
        topic: String::new(),
        open: true,
        history_from_start: false,
        pulled: Some(Seq::FIRST),
        changes: ChangeNumber::START,
        fan_out_max: 256,
        creator: member(0),
        owner: member(0),
        invited: 0,
        shards: SHARDS
            .iter()
            .zip(&rosters)
            .map(|(shard, roster)| (shard, roster.entries.len() as u32))
            .collect(),
    };
    let id = support::group("everybody");
    let mut conversation = Conversation::of_group(group, TimestampMs(1));
    conversation.head = Some(Seq::FIRST);
    // A member (field 7) who joined with the first message (field 9).
    let joined = Membership::decode(member(7), &[0x38, 1, 0x48, 1]).unwrap();
    let mut store = Store::default();
    store.commit([
        Row::Entity(EntityKey::Conversation(id), conversation.encode()),
        Row::Entity(EntityKey::Member(id, member(7)), joined.encode()),
    ]);
    let rosters = SHARDS.iter().zip(rosters);
    store.commit(
        rosters.map(|(shard, roster)| Row::Entity(EntityKey::Roster(id, shard), roster.encode())),
    );
    store
}

/// One turn of a shard that has applied nothing yet: what it does, and the rows that it commits.
fn turn(store: &Store, shard: ShardId, entries: Vec<Entry>) -> (Effects, Vec<Row>) {
    let mut state = ShardState::new(shard, SHARDS);
    let record = Record {
        position: state.applied().next(),
        time: TimestampMs(2),
        entries,
    };
    let mut effects = Effects::default();
    store.apply(&mut state, &record, &mut effects);
    let mut rows = std::mem::take(&mut effects.rows);
    state.drain_dirty(&mut rows);
    (effects, rows)
}

#[test]
fn a_message_to_ten_thousand_is_stored_once() {
    let store = store();
    let id = support::group("everybody");
    let send = support::send(member(7), support::device(1), id, 1, "hello everybody");
    let (effects, rows) = turn(&store, SHARDS.of_conversation(&id), vec![send]);
    let bytes: Vec<(&EntityKey, &Bytes)> = rows
        .iter()
        .filter_map(|row| match row {
            Row::Entity(key, value) => Some((key, value)),
            Row::History(_)
            | Row::Inbox(_)
            | Row::Trimmed(..)
            | Row::Shard(..)
            | Row::Index(..) => None,
        })
        .collect();
    // The message, the group, its sender and the shard.
    assert_eq!(rows.len(), 4, "{rows:?}");
    assert!(matches!(rows[0], Row::History(_)));
    assert_eq!(bytes.len(), 2);
    assert!(
        bytes.iter().all(|(_, value)| value.len() < 512),
        "{bytes:?}"
    );
    let (spreads, answers): (Vec<_>, Vec<_>) = effects
        .outgoing
        .into_iter()
        .partition(|(_, entry)| matches!(entry.body, EntryBody::Spread { pulled: true, .. }));
    assert_eq!((spreads.len(), answers.len()), (64, 1));

    let mut told = BTreeSet::new();
    for (shard, entry) in spreads {
        let (effects, rows) = turn(&store, shard, vec![entry]);
        let [Row::Entity(key, value), Row::Shard(..)] = &rows[..] else {
            panic!("what was told here, and the shard's own row only: {rows:?}");
        };
        assert_eq!(*key, EntityKey::News(id, shard));
        assert!(value.len() < 16, "{value:?}");
        let [Action::Notice { users, notice }] = &effects.actions[..] else {
            panic!("{:?}", effects.actions);
        };
        assert!(matches!(notice, Notice::Message(message, _) if message.seq.get() == 2));
        assert!(users.iter().all(|user| SHARDS.of_user(user) == shard));
        told.extend(users.iter().copied());
    }
    assert_eq!(told.len(), GROUP_MEMBERS_MAX);
}
