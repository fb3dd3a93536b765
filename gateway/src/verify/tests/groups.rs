//! Damage to groups, and to what happened to messages: every kind of row, and what is wrong with it.

use quipu_core::row::{Group, InboxRow, IndexKey, Membership, OldContent, Place, Roster, Seat};
use quipu_protocol::event::{Attachment, Change, ChangedKind, Gone, NewGroup, Rich, Role};

use super::*;

const GROUP: ConversationId = ConversationId([0xcc; 16]);
/// The text that was edited, the file, what was deleted, and what ends.
const EDITED: u64 = 1;
const FILE: u64 = 2;
const DELETED: u64 = 3;
const ENDS: u64 = 4;

/// Beside the direct conversation, a group: ann has it, bob is in it, cy was, dan is asked in. One message was edited and has
/// a sign, one has a file, one was edited and deleted, one ends in an hour; somebody has complained.
fn world() -> World {
    let world = World::new();
    let numbers = std::cell::Cell::new(1);
    let change = |name: &str, change| {
        let kind = CommandKind::Change {
            request: RequestId(1),
            client_seq: ClientSeq::new(numbers.replace(numbers.get() + 1)).ok(),
            change: Box::new(change),
            fan_out_max: 256,
        };
        world.command(name, kind);
        world.process();
    };
    for name in ["cy", "dan"] {
        world.command(name, register());
    }
    world.process();
    let group = NewGroup {
        conversation: GROUP,
        title: "Climbing".into(),
        topic: String::new(),
        open: true,
        history_from_start: false,
        invite: vec![user("bob"), user("dan")],
    };
    change("ann", Change::CreateGroup(group));
    change("bob", Change::Join(GROUP));
    change("cy", Change::Join(GROUP));
    let say = |number: u64, content| {
        let send = CommandKind::Send {
            conversation: GROUP,
            client_seq: ClientSeq::new(number).unwrap(),
            id: MessageId([number as u8; 16]),
            content,
        };
        world.command("ann", send);
        world.process();
        place(&world, number)
    };
    let text = |text: &str| Content::Text(text.to_owned());
    let edit = |seq, to: &str| Change::Edit {
        conversation: GROUP,
        seq,
        content: text(to),
    };
    let sign = |seq| Change::React {
        conversation: GROUP,
        seq,
        emoji: "+".into(),
        on: true,
    };
    let seq = say(EDITED, text("one"));
    change("ann", edit(seq, "two"));
    change("bob", sign(seq));
    say(FILE, file());
    let seq = say(DELETED, text("secret"));
    change("ann", edit(seq, "more secret"));
    change("bob", sign(seq));
    change("ann", Change::Delete(GROUP, seq));
    change("ann", Change::SetTimer(GROUP, 3_600_000));
    let seq = say(ENDS, text("until then"));
    let complaint = Change::Report {
        conversation: GROUP,
        seq: Some(seq),
        reason: "rude".into(),
    };
    change("bob", complaint);
    change("cy", Change::Leave(GROUP));
    world
}

fn file() -> Content {
    Content::Rich(Box::new(Rich {
        attachments: vec![Attachment {
            hash: [7; 32],
            size: 9,
            media_type: "image/png".into(),
            name: "peak.png".into(),
            width: 0,
            height: 0,
            duration_ms: 0,
            thumbnail: Bytes::new(),
        }],
        ..Rich::default()
    }))
}

/// Where ann's message of this number is.
fn place(world: &World, number: u64) -> Seq {
    let rows = scan_all(&world.store);
    let found = rows.iter().find_map(|row| match row {
        Row::History(row)
            if *row.conversation() == GROUP && row.0.id == MessageId([number as u8; 16]) =>
        {
            Some(row.seq())
        }
        any_row!() => None,
    });
    found.expect("it is in the history")
}

/// Damages sound data and expects a complaint.
fn damaged(expected: &str, change: impl FnMut(Row) -> Option<Row>) {
    expect(expected, &world().with_rows(change));
}

/// Adds rows to sound data and expects a complaint.
fn added(expected: &str, rows: Vec<Row>) {
    let world = world();
    world.store.commit(rows).unwrap();
    expect(expected, &world);
}

fn expect(expected: &str, world: &World) {
    let report = world.report();
    let mut problems = report.problems.iter();
    assert!(
        problems.any(|problem| problem.contains(expected)),
        "'{expected}' is not among {:#?}",
        report.problems
    );
}

/// Changes rows of entities; the others stay.
fn entities(
    mut change: impl FnMut(EntityKey, Bytes) -> Option<Bytes>,
) -> impl FnMut(Row) -> Option<Row> {
    move |row| match row {
        Row::Entity(key, value) => change(key, value).map(|value| Row::Entity(key, value)),
        Row::Shard(..) | Row::History(_) | Row::Inbox(_) | Row::Trimmed(..) | Row::Index(..) => {
            Some(row)
        }
    }
}

/// Changes the group's own row.
fn group(mut change: impl FnMut(&mut Conversation, &mut Group)) -> impl FnMut(Row) -> Option<Row> {
    entities(move |key, value| {
        if key != EntityKey::Conversation(GROUP) {
            return Some(value);
        }
        let mut row = Conversation::decode(&value).unwrap();
        let mut group = row.group.take().unwrap();
        change(&mut row, &mut group);
        row.group = Some(group);
        Some(row.encode())
    })
}

/// Changes the row of a member.
fn member(name: &str, mut change: impl FnMut(&mut Membership)) -> impl FnMut(Row) -> Option<Row> {
    let user = user(name);
    entities(move |key, value| {
        if key != EntityKey::Member(GROUP, user) {
            return Some(value);
        }
        let mut row = Membership::decode(user, &value).unwrap();
        change(&mut row);
        Some(row.encode())
    })
}

/// Changes the roster that a user is in.
fn roster(name: &str, mut change: impl FnMut(&mut Roster)) -> impl FnMut(Row) -> Option<Row> {
    let home = SHARDS.of_user(&user(name));
    entities(move |key, value| {
        if key != EntityKey::Roster(GROUP, home) {
            return Some(value);
        }
        let mut row = Roster::decode(&value).unwrap();
        change(&mut row);
        Some(row.encode())
    })
}

/// Changes messages of the group; `None` takes one away.
fn messages(
    mut change: impl FnMut(&mut quipu_protocol::event::Message) -> bool,
) -> impl FnMut(Row) -> Option<Row> {
    move |row| match row {
        Row::History(mut row) if *row.conversation() == GROUP => {
            change(&mut row.0).then_some(Row::History(row))
        }
        any_row!() => Some(row),
    }
}

/// Takes rows of the index away.
fn unindexed(mut gone: impl FnMut(&IndexKey) -> bool) -> impl FnMut(Row) -> Option<Row> {
    move |row| match row {
        Row::Index(key, _) if gone(&key) => None,
        any_row!() => Some(row),
    }
}

#[test]
fn a_sound_group_passes() {
    let report = world().report();
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.accounts, report.conversations), (4, 2));
}

#[test]
fn members_that_do_not_add_up_are_found() {
    damaged(
        "is in a roster of",
        entities(|key, value| (key != EntityKey::Member(GROUP, user("bob"))).then_some(value)),
    );
    damaged(
        "counts 3 members and 1 invited where 2 and 1 are",
        group(|_, group| group.shards[0].1 += 1),
    );
    damaged(
        "counts 2 members and 2 invited where 2 and 1 are",
        group(|_, group| group.invited += 1),
    );
    damaged("counts its members by shard as", |row| {
        // As many, but elsewhere.
        group(|_, group| {
            let members = group.members() as u32;
            let lives = |shard: &ShardId| group.shards.iter().any(|(home, _)| home == shard);
            let other = SHARDS.iter().find(|shard| !lives(shard)).unwrap();
            group.shards = vec![(other, members)];
        })(row)
    });
    damaged(
        "has not one owner",
        group(|_, group| group.owner = user("bob")),
    );
    damaged(
        "has not one owner",
        member("bob", |row| row.seat = Seat::In(Role::Owner)),
    );
    damaged(
        "bob is Out in group",
        member("bob", |row| row.seat = Seat::Out),
    );
    damaged("the inbox of ann lacks some of messages", |row| {
        member("ann", |row| row.joined = Seq::new(1).ok())(row).and_then(|row| match row {
            Row::Inbox(entry)
                if entry.user == user("ann")
                    && matches!(entry.kind, InboxKind::Message { conversation, seq }
                        if conversation == GROUP && seq.get() == 2) =>
            {
                None
            }
            any_row!() => Some(row),
        })
    });
    damaged(
        "the inbox of cy lacks some of messages",
        member("cy", |row| row.left = Seq::new(9999).ok()),
    );
}

#[test]
fn rosters_that_are_off_by_one_are_found() {
    damaged("and None in its roster", |row| {
        roster("bob", |row| {
            row.entries.retain(|entry| entry.user != user("bob"))
        })(row)
    });
    damaged("without being a member", |row| {
        roster("bob", |row| {
            let mut entry = row.entries[0];
            entry.user = user("zoe");
            row.entries.push(entry);
        })(row)
    });
    damaged("in its roster", |row| {
        roster("bob", |row| {
            let mut entries = row.entries.iter_mut();
            let bob = entries.find(|entry| entry.user == user("bob"));
            bob.unwrap().place = Place::Member {
                role: Role::Admin,
                first: Seq::FIRST,
            };
        })(row)
    });
    let home = SHARDS.of_user(&user("bob"));
    let other = ShardId((home.0 + 1) % SHARDS.0);
    let alone = Roster {
        entries: vec![quipu_core::row::RosterEntry {
            user: user("bob"),
            place: Place::Member {
                role: Role::Member,
                first: Seq::FIRST,
            },
        }],
    };
    let misplaced = Row::Entity(EntityKey::Roster(GROUP, other), alone.encode());
    added("and lives on shard", vec![misplaced]);
}

#[test]
fn holes_and_heads_of_a_group_are_found() {
    damaged("entries up to", messages(|message| message.seq.get() != 5));
    damaged("entries up to", |row| {
        group(|row, _| row.head = row.head.and_then(|head| Seq::new(head.get() - 1).ok()))(row)
    });
    damaged(
        "has written to",
        messages(|message| {
            if message.seq.get() == 5 {
                message.from = user("zoe");
            }
            true
        }),
    );
    damaged(
        "has messages of it twice or out of order",
        |row| match row {
            // An entry that points at the wrong message.
            Row::Inbox(mut entry) if entry.user == user("bob") => {
                if let InboxKind::Message { conversation, seq } = &mut entry.kind
                    && *conversation == GROUP
                    && seq.get() == 6
                {
                    *seq = Seq::new(7).unwrap();
                }
                Some(Row::Inbox(entry))
            }
            any_row!() => Some(row),
        },
    );
}

#[test]
fn rows_of_the_index_that_are_missing_are_found() {
    let version = |key: &IndexKey| matches!(key, IndexKey::Version(..));
    damaged(
        "0 earlier contents of its messages where 1 are due",
        unindexed(version),
    );
    let file = |key: &IndexKey| matches!(key, IndexKey::MediaRef(..));
    damaged("0 references to files where 1 are due", unindexed(file));
    let due = |key: &IndexKey| matches!(key, IndexKey::Due(..));
    damaged("0 messages that end where 1 are due", unindexed(due));
    let listed =
        |key: &IndexKey| matches!(key, IndexKey::Listed(user, GROUP) if user.as_str() == "bob");
    damaged("which is not listed", unindexed(listed));
    let seated =
        |key: &IndexKey| matches!(key, IndexKey::Seated(GROUP, user) if user.as_str() == "bob");
    damaged("not in its index", unindexed(seated));
}

#[test]
fn rows_of_the_index_that_dangle_are_found() {
    let empty = || Some(Bytes::new());
    let seq = |number| Seq::new(number).unwrap();
    let old = OldContent(Content::Text("secret".into())).encode();
    for (expected, key, value) in [
        // What a deleted message has said before.
        (
            "2 earlier contents of its messages where 1 are due",
            IndexKey::Version(GROUP, seq(8), 1),
            Some(old),
        ),
        (
            "2 references to files where 1 are due",
            IndexKey::MediaRef(GROUP, [9; 32], seq(6)),
            empty(),
        ),
        (
            "2 messages that end where 1 are due",
            IndexKey::Due(TimestampMs(5), GROUP, seq(6)),
            empty(),
        ),
        (
            "listed without being a member",
            IndexKey::Listed(user("cy"), GROUP),
            empty(),
        ),
        (
            "not in its index",
            IndexKey::Seated(GROUP, user("cy")),
            empty(),
        ),
        (
            "does not exist",
            IndexKey::MediaRef(ConversationId([0xdd; 16]), [9; 32], seq(1)),
            empty(),
        ),
        (
            "Version(",
            IndexKey::Version(GROUP, seq(6), 1),
            Some(Bytes::from_static(b"\xff")),
        ),
        (
            "Report(",
            IndexKey::Report(TimestampMs(5), GROUP, user("bob"), None),
            Some(Bytes::from_static(b"\xff")),
        ),
        (
            "is here and not in the index",
            IndexKey::Here(user("bob")),
            empty(),
        ),
    ] {
        added(expected, vec![Row::Index(key, value)]);
    }
}

#[test]
fn what_is_left_of_deleted_messages_is_found() {
    let gone =
        |message: &quipu_protocol::event::Message| matches!(message.content, Content::Gone(_));
    // The words came back, in the version that the deletion made.
    damaged(
        "which was deleted and is still there",
        messages(|message| {
            if gone(message) {
                message.content = Content::Text("more secret".into());
            }
            true
        }),
    );
    // A deletion that the history missed.
    damaged(
        "which was deleted and is still there",
        messages(|message| {
            if gone(message) {
                message.content = Content::Text("more secret".into());
                message.state = None;
            }
            true
        }),
    );
    damaged(
        "which is gone and not empty",
        messages(|message| {
            if gone(message) {
                let mut state = MessageState::default();
                let sign = quipu_protocol::event::Reaction {
                    user: user("bob"),
                    emoji: "+".into(),
                };
                state.reactions.push(sign);
                message.state = Some(Box::new(state));
            }
            true
        }),
    );
    // An edit that the history missed.
    damaged(
        "and inboxes know version",
        messages(|message| {
            let state = message.state.as_mut();
            if let Some(state) = state.filter(|state| !state.reactions.is_empty()) {
                state.version -= 1;
            }
            true
        }),
    );
    damaged("has words of an edit", |row| match row {
        Row::Inbox(InboxRow {
            user,
            inbox_seq,
            kind: InboxKind::Changed(mut changed),
        }) => {
            if changed.kind == ChangedKind::Edited(Content::Gone(Gone::Deleted)) {
                changed.kind = ChangedKind::Edited(Content::Text("more secret".into()));
            }
            let kind = InboxKind::Changed(changed);
            Some(Row::Inbox(InboxRow {
                user,
                inbox_seq,
                kind,
            }))
        }
        any_row!() => Some(row),
    });
}
