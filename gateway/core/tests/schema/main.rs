//! Holds the hand-written codec to `log.proto`: the types that are generated from it read what the codec writes, and write
//! what the codec reads.

#[allow(
    clippy::all,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "generated"
)]
#[rustfmt::skip] // It stays as the generator wrote it, which `cargo xtask generate --check` compares.
mod wire;

use prost::Message as _;
use quipu_core::limits::DEVICES_PER_ACCOUNT_MAX;
use quipu_core::record::{
    Command, CommandKind, Entry, EntryBody, Fact, GivenUp, NewDevice, Position, Record,
    STATE_MACHINE_VERSION, SessionId, Source, Standing,
};
use quipu_core::retention::{Age, Retention};
use quipu_core::row::{
    Account, Answers, Conversation, DeadLetter, DeadLetters, Device, HistoryRow, Inbox, InboxKind,
    InboxRow, Membership, News, NumberedChange, OfflineRow, OldContent, Place, Presence,
    PresentDevice, Report, Roster, Seat, Settings, Waiting,
};
use quipu_core::shard::ShardId;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{
    Change, Changed, ChangedKind, Content, EventBody, Gone, Invitation, Message, MessageState,
    Note, Outcome, Privacy, Reaction, Receipt, Rejection, Reply, ReplyTo, Rich, Role,
};
use quipu_protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, Cursor, DeviceId, InboxSeq, MessageId, RequestId, Seq,
    TimestampMs, UserId,
};
use quipu_protocol::limits::DEDUP_WINDOW;

#[test]
fn records_are_what_the_schema_says() {
    let entries = every_entry();
    let payload = Record::encode_entries(&entries);
    let read = wire::Record::decode(payload.clone()).unwrap();
    assert_eq!(read.version, STATE_MACHINE_VERSION);
    assert_eq!(read.entries.len(), entries.len());
    // Canonical on both sides, so equal bytes mean equal meaning of every field.
    assert_eq!(read.encode_to_vec(), payload);
    let back = Record::decode(Position(7), TimestampMs(8), &payload).unwrap();
    assert_eq!(back.entries, entries);

    let Some(wire::entry::Body::Deliver(deliver)) = &read.entries[8].body else {
        panic!("{:?}", read.entries[8]);
    };
    let Some(wire::deliver::Event::Message(message)) = &deliver.event else {
        panic!("{deliver:?}");
    };
    assert_eq!(deliver.to, ["alice", "bob"]);
    assert_eq!(
        (message.seq, message.client_seq, message.sent_at_ms),
        (3, 4, 5)
    );
    assert_eq!(
        (message.from.as_str(), message.to.as_str()),
        ("alice", "bob")
    );
}

#[test]
fn rows_are_what_the_schema_says() {
    let account = Account {
        password: Some(String::new()),
        created_at: TimestampMs(1),
        devices: vec![device(1), device(2)],
    };
    let read = wire::Account::decode(account.encode()).unwrap();
    assert_eq!((read.devices.len(), read.devices[1].added_at_ms), (2, 99));
    assert_eq!(read.encode_to_vec(), account.encode());
    assert_eq!(Account::decode(&account.encode()).unwrap(), account);

    let inbox = Inbox {
        head: InboxSeq::new(300).ok(),
        incoming: InboxSeq::new(299).ok(),
        listed: 3,
        floor: Cursor(200),
        trimmed: Cursor(199),
        ages: [(201, 5), (250, 1 << 41)]
            .map(|(last, at)| Age {
                last: InboxSeq::new(last).unwrap(),
                at: TimestampMs(at),
            })
            .into(),
    };
    let read = wire::Inbox::decode(inbox.encode()).unwrap();
    assert_eq!((read.head, read.incoming), (300, 299));
    assert_eq!((read.floor, read.ages[1].at_ms), (200, 1 << 41));
    assert_eq!(read.encode_to_vec(), inbox.encode());
    assert_eq!(Inbox::decode(&inbox.encode()).unwrap(), inbox);

    let settings = Settings {
        privacy: Privacy {
            hide_read: true,
            hide_typing: false,
            hide_presence: true,
            hide_last_seen: true,
        },
        blocked: vec![user("bob"), user("eve")],
    };
    let read = wire::Settings::decode(settings.encode()).unwrap();
    assert_eq!(read.blocked, ["bob", "eve"]);
    assert_eq!(
        [
            read.hide_read,
            read.hide_typing,
            read.hide_presence,
            read.hide_last_seen
        ],
        [true, false, true, true]
    );
    assert_eq!(read.encode_to_vec(), settings.encode());
    assert_eq!(Settings::decode(&settings.encode()).unwrap(), settings);

    for message in [None, Some(changed_message())] {
        let report = Report {
            reason: "is rude".to_owned(),
            message,
        };
        let read = wire::Report::decode(report.encode()).unwrap();
        assert_eq!(read.reason, "is rude");
        assert_eq!(read.message.is_some(), report.message.is_some());
        assert_eq!(read.encode_to_vec(), report.encode());
        assert_eq!(Report::decode(&report.encode()).unwrap(), report);
    }
    let old = OldContent(Content::Text("helo".to_owned()));
    let read = wire::Content::decode(old.encode()).unwrap();
    assert_eq!(read.encode_to_vec(), old.encode());
    assert_eq!(OldContent::decode(&old.encode()).unwrap(), old);

    let row = HistoryRow(changed_message());
    let back = HistoryRow::decode_value(*row.conversation(), row.seq(), &row.encode_value());
    assert_eq!(back.unwrap(), row);
    let row = HistoryRow(message());
    let read = wire::Message::decode(row.encode_value()).unwrap();
    assert_eq!((read.seq, read.conversation.len()), (0, 0));
    assert_eq!(read.encode_to_vec(), row.encode_value());
    let back = HistoryRow::decode_value(*row.conversation(), row.seq(), &row.encode_value());
    assert_eq!(back.unwrap(), row);

    let kinds = [
        InboxKind::Message {
            conversation: conversation(),
            seq: seq(9),
        },
        InboxKind::Receipt(receipt()),
        InboxKind::Invitation(Box::new(invitation())),
    ];
    for kind in kinds {
        let row = InboxRow {
            user: user("bob"),
            inbox_seq: InboxSeq::FIRST,
            kind,
        };
        let read = wire::InboxEntry::decode(row.encode_value()).unwrap();
        assert_eq!(read.encode_to_vec(), row.encode_value());
        let back = InboxRow::decode_value(row.user, row.inbox_seq, &row.encode_value());
        assert_eq!(back.unwrap(), row);
    }
}

#[test]
fn conversation_is_what_the_schema_says() {
    let written = wire::Conversation {
        head: 700,
        keep_ms: 60_000,
        unopened: true,
        activity_ms: 5,
        members: vec![
            wire::Member {
                user: "alice".into(),
                delivered: 700,
                read: 0,
                senders: vec![wire::Sender {
                    device: 5,
                    steps: vec![1000, 600, 1, 1, 2, 0, 10, 300, 99],
                }],
                shown_read: None,
                blocks: true,
                reports: vec![0, 9],
            },
            wire::Member {
                user: "bob".into(),
                delivered: 9,
                read: 9,
                shown_read: Some(0),
                ..Default::default()
            },
        ],
        group: None,
    };
    let row = Conversation::decode(&written.encode_to_vec()).unwrap();
    assert_eq!(row.head, Some(seq(700)));
    assert_eq!(
        row.member(&user("alice")).unwrap().delivered,
        Some(seq(700))
    );
    assert_eq!((row.keep_ms, row.unopened), (60_000, true));
    let [alice, bob] = ["alice", "bob"].map(|name| row.member(&user(name)).unwrap());
    assert_eq!((alice.blocks, alice.shown_read), (true, None));
    assert_eq!((bob.blocks, bob.read), (false, Some(seq(9))));
    assert_eq!(bob.shown_read, None);
    assert_eq!(row.encode(), written.encode_to_vec());
}

#[test]
fn attendance_is_what_the_schema_says() {
    let presence = Presence {
        devices: vec![
            PresentDevice {
                id: DeviceId::new(3).unwrap(),
                session: Some(session()),
                stalled: true,
                cursor: Cursor(7),
                seen_at: TimestampMs(8),
            },
            PresentDevice {
                id: device_id(),
                session: None,
                stalled: false,
                cursor: Cursor(0),
                seen_at: TimestampMs(9),
            },
        ],
        acked: Cursor(10),
        told: Cursor(11),
        waiting: Some(Waiting {
            on: InboxSeq::new(12).unwrap(),
            since: TimestampMs(13),
        }),
    };
    let read = wire::Presence::decode(presence.encode()).unwrap();
    assert_eq!((read.acked, read.told), (10, 11));
    let device = &read.devices[0];
    assert_eq!(
        (device.stalled, device.cursor, device.seen_at_ms),
        (true, 7, 8)
    );
    assert_eq!(device.session.as_ref().map(|s| s.number), Some(300));
    assert_eq!(
        read.waiting.as_ref().map(|w| (w.on, w.since_ms)),
        Some((12, 13))
    );
    assert_eq!(read.encode_to_vec(), presence.encode());
    assert_eq!(Presence::decode(&presence.encode()).unwrap(), presence);

    let row = OfflineRow {
        after: Cursor(1),
        since: TimestampMs(2),
    };
    let read = wire::OfflineRow::decode(row.encode()).unwrap();
    assert_eq!((read.after, read.since_ms), (1, 2));
    assert_eq!(OfflineRow::decode(&row.encode()).unwrap(), row);

    let dead = DeadLetters {
        letters: vec![DeadLetter {
            user: user("bob"),
            died_at: TimestampMs(4),
            given_up: given_up(),
        }],
        dropped: 5,
    };
    let read = wire::DeadLetters::decode(dead.encode()).unwrap();
    assert_eq!((read.dropped, read.letters[0].died_at_ms), (5, 4));
    assert_eq!(read.encode_to_vec(), dead.encode());
    assert_eq!(DeadLetters::decode(&dead.encode()).unwrap(), dead);
}

#[test]
fn groups_are_what_the_schema_says() {
    let written = wire::Conversation {
        head: 9,
        group: Some(wire::Group {
            title: "climbing".into(),
            topic: "where to next".into(),
            open: true,
            history_from_start: true,
            pulled: 7,
            fan_out_max: 256,
            creator: "alice".into(),
            owner: "bob".into(),
            invited: 4,
            shards: vec![0, 200, 300, 1],
            changes: 1025,
        }),
        ..Default::default()
    };
    let row = Conversation::decode(&written.encode_to_vec()).unwrap();
    let group = row.group.as_deref().unwrap();
    assert_eq!((group.members(), group.pulled), (201, Some(seq(7))));
    assert_eq!((group.creator, group.owner), (user("alice"), user("bob")));
    assert_eq!(group.changes, ChangeNumber(1025));
    assert_eq!(row.encode(), written.encode_to_vec());

    let invited = wire::Membership {
        invited_by: "bob".into(),
        joined: 3,
        left: 5,
        declined: 8,
        ..Default::default()
    };
    let row = Membership::decode(user("carol"), &invited.encode_to_vec()).unwrap();
    assert_eq!(row.seat, Seat::Invited(user("bob")));
    assert_eq!((row.joined, row.left), (Some(seq(3)), Some(seq(5))));
    assert_eq!(row.declined, Some(seq(8)));
    assert_eq!(row.encode(), invited.encode_to_vec());

    let member = wire::Membership {
        delivered: 8,
        read: 8,
        shown_read: Some(6),
        senders: vec![wire::Sender {
            device: 5,
            steps: vec![1, 4],
        }],
        role: Role::Admin.to_wire() as u32,
        joined: 3,
        ..Default::default()
    };
    let row = Membership::decode(user("carol"), &member.encode_to_vec()).unwrap();
    assert_eq!(
        (row.role(), row.member.user),
        (Some(Role::Admin), user("carol"))
    );
    assert_eq!(
        (row.member.read, row.member.shown_read),
        (Some(seq(8)), Some(seq(6)))
    );
    assert_eq!(
        (row.first(group), row.encode()),
        (Seq::FIRST, member.encode_to_vec().into())
    );
}

#[test]
fn rosters_and_news_are_what_the_schema_says() {
    let roster = wire::Roster {
        entries: [(2, false, 300), (0, false, 0), (0, true, 0), (1, false, 0)]
            .into_iter()
            .zip(["alice", "bob", "carol", "dave"])
            .map(|((role, untold, first), name)| wire::RosterEntry {
                user: name.into(),
                role,
                untold,
                first,
            })
            .collect(),
    };
    let row = Roster::decode(&roster.encode_to_vec()).unwrap();
    let member = |role, first| Place::Member { role, first };
    let places = [
        member(Role::Admin, seq(300)),
        Place::Invited,
        Place::Untold,
        member(Role::Member, Seq::FIRST),
    ];
    assert_eq!(
        row.entries
            .iter()
            .map(|entry| entry.place)
            .collect::<Vec<_>>(),
        places
    );
    let members: Vec<UserId> = row.members().collect();
    assert_eq!(members, [user("alice"), user("dave")]);
    assert!(row.members_who_see(seq(299)).eq([user("dave")]));
    assert!(row.members_who_see(seq(300)).eq(members));
    assert_eq!(row.encode(), roster.encode_to_vec());

    let news = wire::News { head: 300 };
    let row = News::decode(&news.encode_to_vec()).unwrap();
    assert_eq!(row.head, Some(seq(300)));
    assert_eq!(row.encode(), news.encode_to_vec());
}

#[test]
fn numbered_changes_are_what_the_schema_says() {
    let change = NumberedChange {
        seq: seq(300),
        by: user("alice"),
        at: TimestampMs(301),
    };
    let read = wire::NumberedChange::decode(change.encode()).unwrap();
    assert_eq!(
        (read.seq, read.by.as_str(), read.at_ms),
        (300, "alice", 301)
    );
    assert_eq!(read.encode_to_vec(), change.encode());
    assert_eq!(NumberedChange::decode(&change.encode()), Ok(change));
}

#[test]
fn answers_are_what_the_schema_says() {
    let device = |device, steps: Vec<u64>| wire::AnsweredDevice {
        device,
        last: 9,
        steps,
    };
    // Number 3 done, 5 opened and empty, 305 opened with head 70, 306 refused.
    let steps = vec![3, 0, 2, 1, 300, 141, 1, 22];
    let answers = wire::Answers {
        devices: vec![device(1, steps), device(2, Vec::new())],
    };
    let row = Answers::decode(&answers.encode_to_vec()).unwrap();
    let devices: Vec<_> = row
        .devices
        .iter()
        .map(|d| (d.device.get(), d.last.0))
        .collect();
    assert_eq!(devices, [(1, 9), (2, 9)]);
    assert_eq!(row.encode(), answers.encode_to_vec());

    let broken = [
        vec![device(2, Vec::new()), device(1, Vec::new())],
        vec![device(1, vec![3, 0, 0, 0])],
        vec![device(1, vec![0, 0])],
        vec![device(1, [1, 0].repeat(DEDUP_WINDOW + 1))],
        vec![device(1, vec![u64::MAX, 0, 1, 0])],
        (1..=DEVICES_PER_ACCOUNT_MAX as u64 + 1)
            .map(|number| device(number, Vec::new()))
            .collect(),
    ];
    for devices in broken {
        let bytes = wire::Answers { devices }.encode_to_vec();
        assert!(Answers::decode(&bytes).is_err());
    }
}

#[test]
fn groups_that_cannot_be_are_corrupt() {
    let group = |shards: Vec<u32>| wire::Conversation {
        group: Some(wire::Group {
            creator: "alice".into(),
            owner: "alice".into(),
            shards,
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(Conversation::decode(&group(vec![1, 1]).encode_to_vec()).is_ok());
    for shards in [vec![2, 1, 1, 1], vec![1, 0], vec![1], vec![70_000, 1]] {
        assert!(Conversation::decode(&group(shards).encode_to_vec()).is_err());
    }
    let never_joined = wire::Membership {
        role: Role::Member.to_wire() as u32,
        ..Default::default()
    };
    assert!(Membership::decode(user("bob"), &never_joined.encode_to_vec()).is_err());
    let entry = |name: &str| wire::RosterEntry {
        user: name.into(),
        ..Default::default()
    };
    let twice = wire::Roster {
        entries: vec![entry("bob"), entry("bob")],
    };
    assert!(Roster::decode(&twice.encode_to_vec()).is_err());
}

#[test]
fn a_record_of_a_later_version_stops_an_older_gateway() {
    let later = wire::Record {
        version: STATE_MACHINE_VERSION + 1,
        entries: Vec::new(),
    };
    let decoded = Record::decode(Position(1), TimestampMs(1), &later.encode_to_vec());
    let error = decoded.unwrap_err().to_string();
    assert!(error.contains("start the newer gateway"), "{error}");
    let none = Record::decode(Position(1), TimestampMs(1), &[])
        .unwrap_err()
        .to_string();
    assert!(none.contains("version"), "{none}");
}

#[test]
fn fields_of_a_later_version_are_skipped() {
    // Fields 100 (varint), 101 (8 bytes), 102 (bytes) and 103 (4 bytes) after a record's own.
    let mut payload = Record::encode_entries(&every_entry()).to_vec();
    payload.extend_from_slice(&[0xa0, 0x06, 1, 0xa9, 0x06, 1, 2, 3, 4, 5, 6, 7, 8]);
    payload.extend_from_slice(&[0xb2, 0x06, 2, 0xff, 0xff, 0xbd, 0x06, 1, 2, 3, 4]);
    let back = Record::decode(Position(1), TimestampMs(1), &payload).unwrap();
    assert_eq!(back.entries, every_entry());
}

fn every_entry() -> Vec<Entry> {
    let source = Some(Source {
        shard: ShardId(3),
        position: Position(1 << 40),
        index: 129,
    });
    let bodies = commands().into_iter().chain(news()).chain(answers());
    let mut sources = [None, source].into_iter().cycle();
    bodies
        .map(|body| Entry {
            source: sources.next().flatten(),
            body,
        })
        .collect()
}

fn commands() -> Vec<EntryBody> {
    let new_device = NewDevice {
        label: "phone".into(),
        token_hash: [7; 32],
    };
    let request = RequestId(0);
    let commands = vec![
        CommandKind::Send {
            conversation: conversation(),
            client_seq: ClientSeq::new(1 << 50).unwrap(),
            id: MessageId([9; 16]),
            content: Content::Text("x".repeat(20_000)),
        },
        CommandKind::OpenDirect {
            request,
            peer: user("bob"),
        },
        CommandKind::Receipt {
            conversation: conversation(),
            delivered: Some(seq(2)),
            read: None,
            quiet: false,
        },
        CommandKind::Register {
            request,
            password: None,
            device: new_device.clone(),
        },
        CommandKind::Register {
            request,
            password: Some(String::new()),
            device: new_device.clone(),
        },
        CommandKind::AddDevice {
            request: RequestId(1 << 63),
            device: new_device,
        },
        CommandKind::Receipt {
            conversation: conversation(),
            delivered: None,
            read: Some(seq(2)),
            quiet: true,
        },
        CommandKind::Change {
            request: RequestId(9),
            client_seq: ClientSeq::new(300).ok(),
            change: Box::new(Change::Edit {
                conversation: conversation(),
                seq: seq(2),
                content: rich(),
            }),
            fan_out_max: 256,
        },
    ];
    let body = |kind| {
        EntryBody::Command(Command {
            user: user("alice"),
            device: device_id(),
            kind,
        })
    };
    commands.into_iter().map(body).collect()
}

fn answers() -> Vec<EntryBody> {
    let outcomes = [
        Outcome::Accepted(seq(1)),
        Outcome::Opened {
            conversation: conversation(),
            head: None,
        },
        Outcome::Done,
        Outcome::Rejected(Rejection {
            code: RejectCode::TooManyDevices,
            reason: "too many".into(),
            retry_after_ms: 1,
        }),
    ];
    let tos = [
        ReplyTo::Send {
            conversation: conversation(),
            client_seq: ClientSeq::FIRST,
        },
        ReplyTo::Request(RequestId(0)),
    ];
    let answers = outcomes.into_iter().flat_map(|outcome| {
        tos.map(|to| EntryBody::Answer {
            user: user("bob"),
            device: device_id(),
            reply: Reply {
                to,
                outcome: outcome.clone(),
            },
        })
    });
    answers.collect()
}

fn news() -> Vec<EntryBody> {
    let changed = |kind| {
        EventBody::Changed(Box::new(Changed {
            conversation: conversation(),
            seq: seq(3),
            version: 2,
            by: Some(user("bob")),
            at: TimestampMs(6),
            kind,
        }))
    };
    let events = [
        EventBody::Message(message()),
        EventBody::Receipt(receipt()),
        EventBody::Message(changed_message()),
        changed(ChangedKind::Edited(rich())),
        changed(ChangedKind::Gone(Gone::Expired)),
        EventBody::Invitation(Box::new(invitation())),
    ];
    let spread: Vec<EntryBody> = events[..5]
        .iter()
        .cloned()
        .map(|event| EntryBody::Spread {
            group: ConversationId([0xff; 16]),
            pulled: event == EventBody::Receipt(receipt()),
            changes: match event {
                EventBody::Changed(_) => ChangeNumber(300),
                _ => ChangeNumber::START,
            },
            event,
        })
        .collect();
    let standings = [
        Standing::Out,
        Standing::In {
            role: Role::Owner,
            first: Seq::FIRST,
        },
        Standing::In {
            role: Role::Member,
            first: seq(300),
        },
        Standing::Invited(Box::new(invitation())),
    ];
    let standings = standings.map(|standing| EntryBody::Standing {
        conversation: ConversationId([0xff; 16]),
        user: user("bob"),
        standing,
    });
    let others = [
        EntryBody::Blocked {
            by: user("alice"),
            user: user("bob"),
            on: true,
            asked: Some((device_id(), RequestId(300))),
        },
        EntryBody::Blocked {
            by: user("alice"),
            user: user("bob"),
            on: false,
            asked: None,
        },
        EntryBody::Expire {
            conversation: conversation(),
            seqs: vec![seq(1), seq(300)],
        },
        EntryBody::Keep(Retention::new(200_000, 1 << 33)),
    ];
    let facts = facts().map(|fact| EntryBody::Fact {
        user: user("bob"),
        fact,
    });
    let deliveries = events.map(|event| EntryBody::Deliver {
        to: vec![user("alice"), user("bob")],
        event,
    });
    let bodies = deliveries.into_iter().chain(spread).chain(standings);
    bodies.chain(others).chain(facts).collect()
}

fn session() -> SessionId {
    SessionId {
        boot: u64::MAX,
        number: 300,
    }
}

fn given_up() -> GivenUp {
    GivenUp {
        conversation: conversation(),
        first: seq(1),
        last: seq(300),
        count: 299,
        after: Cursor(77),
        tries: 10,
        why: "HTTP status 500".into(),
    }
}

fn facts() -> [Fact; 6] {
    let (device, session, cursor) = (device_id(), session(), Cursor(1 << 40));
    let since = TimestampMs(1 << 41);
    [
        Fact::Attached {
            device,
            session,
            cursor,
        },
        Fact::Stalled {
            device,
            session,
            cursor,
            since,
        },
        Fact::Detached {
            device,
            session,
            cursor,
        },
        Fact::Vanished {
            boot: session.boot,
            since,
        },
        Fact::Told {
            through: cursor,
            given_up: vec![given_up(), given_up()],
        },
        Fact::TellAgain { after: cursor },
    ]
}

fn message() -> Message {
    Message {
        conversation: conversation(),
        seq: seq(3),
        id: MessageId([1; 16]),
        from: user("alice"),
        from_device: device_id(),
        client_seq: ClientSeq::new(4).unwrap(),
        to: Some(user("bob")),
        sent_at: TimestampMs(5),
        content: Content::Text("hello".into()),
        state: None,
    }
}

fn rich() -> Content {
    Content::Rich(Box::new(Rich {
        text: "hello".into(),
        reply_to: Some(seq(1)),
        mentions: vec![user("bob")],
        ..Rich::default()
    }))
}

fn changed_message() -> Message {
    let reaction = Reaction {
        user: user("bob"),
        emoji: "+".into(),
    };
    let state = MessageState {
        version: 3,
        edited_at: Some(TimestampMs(8)),
        expires_at: None,
        reactions: vec![reaction],
        edits: 2,
    };
    Message {
        to: None,
        content: Content::Note(Box::new(Note::Title("climbing".into()))),
        state: Some(Box::new(state)),
        ..message()
    }
}

fn invitation() -> Invitation {
    Invitation {
        conversation: ConversationId([0xff; 16]),
        by: user("alice"),
        title: "climbing".into(),
        at: TimestampMs(7),
    }
}

fn receipt() -> Receipt {
    Receipt {
        conversation: conversation(),
        user: user("bob"),
        delivered: Some(seq(3)),
        read: None,
    }
}

fn device(id: u64) -> Device {
    Device {
        id: DeviceId::new(id).unwrap(),
        label: "a phone".into(),
        token_hash: [id as u8; 32],
        added_at: TimestampMs(99),
    }
}

fn device_id() -> DeviceId {
    DeviceId::new(u64::MAX).unwrap()
}

fn conversation() -> ConversationId {
    ConversationId::direct(&user("alice"), &user("bob"))
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn seq(value: u64) -> Seq {
    Seq::new(value).unwrap()
}
