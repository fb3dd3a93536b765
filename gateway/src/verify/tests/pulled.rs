//! Damage to what the shards of a pulled group's members were told of.

use quipu_core::row::{IndexKey, News, NumberedChange};
use quipu_protocol::event::{Change, NewGroup};
use quipu_protocol::id::ChangeNumber;

use super::*;

const CREW: ConversationId = ConversationId([0xcd; 16]);

/// Beside the direct conversation a group that is pulled with its second member, and two messages in it.
fn world() -> World {
    let world = World::new();
    let change = |name: &str, change| {
        let kind = CommandKind::Change {
            request: RequestId(1),
            client_seq: ClientSeq::new(1).ok(),
            change: Box::new(change),
            fan_out_max: 1,
        };
        world.command(name, kind);
        world.process();
    };
    let group = NewGroup {
        conversation: CREW,
        title: "Crew".into(),
        topic: String::new(),
        open: true,
        history_from_start: false,
        invite: Vec::new(),
    };
    change("ann", Change::CreateGroup(group));
    change("bob", Change::Join(CREW));
    for number in [1, 2] {
        let send = CommandKind::Send {
            conversation: CREW,
            client_seq: ClientSeq::new(number).unwrap(),
            id: MessageId([number as u8; 16]),
            content: Content::Text(format!("message {number}")),
        };
        world.command("ann", send);
        world.process();
    }
    world
}

/// Changes what the shard of bob was told of; `None` takes the row away.
fn told(change: impl Fn(News) -> Option<News>) -> Vec<String> {
    let key = EntityKey::News(CREW, SHARDS.of_user(&user("bob")));
    let damaged = world().with_rows(|row| match row {
        Row::Entity(at, value) if at == key => {
            let news = change(News::decode(&value).unwrap())?;
            Some(Row::Entity(key, news.encode()))
        }
        row => Some(row),
    });
    damaged.report().problems
}

#[test]
fn what_shards_were_told_of_a_pulled_group_is_what_it_has() {
    assert_ne!(
        SHARDS.of_user(&user("ann")),
        SHARDS.of_user(&user("bob")),
        "two shards are told"
    );
    let report = world().report();
    assert!(report.is_sound(), "{report}");
    // Created, joined, pulled, and the messages.
    assert!(told(Some).is_empty());
    let seq = |number| Seq::new(number).ok();
    let ahead = told(|_| Some(News { head: seq(6) })).join("; ");
    assert!(
        ahead.contains("was told of message 6") && ahead.contains("which ends with 5"),
        "{ahead}"
    );
    for behind in [told(|_| Some(News { head: seq(4) })), told(|_| None)] {
        let behind = behind.join("; ");
        assert!(behind.contains("where 5 is due"), "{behind}");
    }
}

#[test]
fn what_a_shard_was_told_before_the_group_committed_it_is_sound() {
    let world = world();
    let send = CommandKind::Send {
        conversation: CREW,
        client_seq: ClientSeq::new(3).unwrap(),
        id: MessageId([3; 16]),
        content: Content::Text("message 3".into()),
    };
    world.command("ann", send);
    // The group's shard has sent it out and dies before it commits: its log has the command still.
    let of_group = SHARDS.of_conversation(&CREW);
    let before = world.store.shard(of_group).unwrap();
    let rows = scan_all(&world.store);
    assert!(world.turn(of_group));
    let store = MemoryStore::new();
    store.commit(rows).unwrap();
    let world = World { store, ..world };
    assert_eq!(world.store.shard(of_group).unwrap(), before);
    for shard in SHARDS.iter().filter(|shard| *shard != of_group) {
        while world.turn(shard) {}
    }
    let report = world.report();
    assert!(report.is_sound(), "{report}");
    assert!(report.replayed_records > 0);
}

/// The group with three signs on its last message, of which the index has what `keep` lets pass.
fn numbered(keep: impl Fn(ChangeNumber, &mut NumberedChange) -> bool) -> Vec<String> {
    let world = world();
    for (number, emoji) in (2..).zip(["+", "!", "?"]) {
        let react = Change::React {
            conversation: CREW,
            seq: Seq::new(5).unwrap(),
            emoji: emoji.into(),
            on: true,
        };
        let kind = CommandKind::Change {
            request: RequestId(number),
            client_seq: ClientSeq::new(number).ok(),
            change: Box::new(react),
            fan_out_max: 1,
        };
        world.command("bob", kind);
        world.process();
    }
    let damaged = world.with_rows(|row| match row {
        Row::Index(IndexKey::Changed(id, number), Some(value)) => {
            let mut change = NumberedChange::decode(&value).unwrap();
            let stays = keep(number, &mut change);
            stays.then(|| Row::Index(IndexKey::Changed(id, number), Some(change.encode())))
        }
        row => Some(row),
    });
    damaged.report().problems
}

#[test]
fn numbered_changes_that_are_missing_or_of_nothing_are_found() {
    assert_eq!(numbered(|_, _| true), Vec::<String>::new());
    for lost in 1..=3 {
        let problems = numbered(|number, _| number.0 != lost).join("; ");
        assert!(
            problems.contains("among its numbered changes"),
            "{problems}"
        );
    }
    let problems = numbered(|_, change| {
        change.seq = Seq::new(6).unwrap();
        true
    });
    let problems = problems.join("; ");
    assert!(
        problems.contains("message 6 where 5 is the last"),
        "{problems}"
    );
}

#[test]
fn who_enters_a_pulled_group_has_the_note_of_it() {
    let entered = || {
        let world = world();
        for (number, change) in [(2, Change::Leave(CREW)), (3, Change::Join(CREW))] {
            let kind = CommandKind::Change {
                request: RequestId(number),
                client_seq: ClientSeq::new(number).ok(),
                change: Box::new(change),
                fan_out_max: 1,
            };
            world.command("bob", kind);
            world.process();
        }
        world
    };
    // It is the last message of the group, and nobody else lives on this shard.
    let report = entered().report();
    assert!(report.is_sound(), "{report}");
    let lost = entered().with_rows(|row| match row {
        Row::Inbox(row) if row.user == user("bob") => {
            let note = InboxKind::Message {
                conversation: CREW,
                seq: Seq::new(7).unwrap(),
            };
            (row.kind != note).then_some(Row::Inbox(row))
        }
        row => Some(row),
    });
    let problems = lost.report().problems.join("; ");
    assert!(
        problems.contains("which says that its user joined"),
        "{problems}"
    );
}
