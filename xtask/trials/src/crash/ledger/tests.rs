//! The judge must be able to condemn: each test spoils one thing in a good run.

use super::{Act, Ledger, Made, Missing, Observer, Shown, Verdict, View};
use quipu_client::protocol::event::{Content, Gone, Message, MessageState, Note, Reaction};
use quipu_client::protocol::id::{
    ClientSeq, ConversationId, DeviceId, MessageId, Seq, TimestampMs, UserId,
};
use quipu_client::protocol::media::MediaHash;

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a good name")
}

fn message(n: u8) -> MessageId {
    MessageId([n; 16])
}

fn conversation() -> ConversationId {
    ConversationId::direct(&user("alice"), &user("bob"))
}

fn shown(n: u8) -> Shown {
    Shown {
        inbox_seq: u64::from(n) * 2,
        conversation: conversation(),
        seq: u64::from(n),
        id: message(n),
    }
}

/// Alice types 1 and 3, bob types 2; both see all, on every device.
fn good() -> Ledger {
    let (alice, bob) = (user("alice"), user("bob"));
    let mut ledger = Ledger::default();
    ledger.conversation(conversation(), [alice, bob]);
    for n in 1..=3 {
        let typist = if n == 2 { bob } else { alice };
        ledger.typed(typist, conversation(), message(n));
        ledger.acked(conversation(), u64::from(n), message(n));
    }
    for person in [alice, bob] {
        for view in [View::Tail, View::Live, View::Fresh] {
            for n in 1..=3 {
                ledger.shown(person, view, shown(n));
            }
        }
    }
    let history: Vec<Message> = (1..=3).map(kept).collect();
    ledger.history(conversation(), &history);
    ledger
}

/// A message as the history has it.
fn kept(n: u8) -> Message {
    Message {
        conversation: conversation(),
        seq: Seq::new(n.into()).expect("not 0"),
        id: message(n),
        from: user(if n == 2 { "bob" } else { "alice" }),
        from_device: DeviceId::new(1).expect("not 0"),
        client_seq: ClientSeq::FIRST,
        to: None,
        sent_at: TimestampMs(0),
        content: Content::Text("words".to_owned()),
        state: None,
    }
}

/// Judges a good run with one thing spoiled.
fn check(
    spoil: impl FnOnce(&mut Ledger),
    lost: usize,
    doubled: usize,
    reordered: usize,
    wrong: usize,
) {
    let mut ledger = good();
    spoil(&mut ledger);
    let verdict = ledger.judge();
    let figures = (
        verdict.lost,
        verdict.doubled,
        verdict.reordered,
        verdict.wrong,
    );
    assert_eq!(
        figures,
        (lost, doubled, reordered, wrong),
        "{:#?}",
        verdict.complaints()
    );
    assert!(!verdict.is_good());
}

fn bob_tail(ledger: &mut Ledger) -> &mut Vec<Shown> {
    ledger.shown.entry((user("bob"), View::Tail)).or_default()
}

#[test]
fn a_good_run_is_good() {
    let ledger = good();
    let verdict = ledger.judge();
    assert!(verdict.is_good(), "{:#?}", verdict.complaints());
    assert!(
        verdict
            .to_string()
            .starts_with("acked=3 lost=0 doubled=0 reordered=0 leaked=0 ")
    );
    assert_eq!(ledger.missing(), Missing::default());
    assert_eq!(Ledger::default().judge(), Verdict::default());
}

#[test]
fn what_a_device_may_miss_while_it_is_down_is_no_loss() {
    let mut ledger = good();
    ledger.shown.remove(&(user("bob"), View::Live));
    assert!(ledger.judge().is_good());
}

#[test]
fn a_message_that_a_member_never_saw_is_lost() {
    check(
        |ledger| bob_tail(ledger).retain(|one| one.seq != 2),
        1,
        0,
        0,
        0,
    );
    check(
        |ledger| drop(ledger.shown.remove(&(user("bob"), View::Fresh))),
        3,
        0,
        0,
        0,
    );
}

#[test]
fn a_message_that_the_history_does_not_have_is_lost() {
    // And the devices that were shown it saw what the history does not have.
    check(
        |ledger| {
            ledger
                .history
                .entry(conversation())
                .or_default()
                .truncate(2)
        },
        1,
        0,
        6,
        0,
    );
}

#[test]
fn a_message_shown_again_is_doubled() {
    check(|ledger| bob_tail(ledger).push(shown(2)), 0, 1, 0, 0);
}

#[test]
fn a_message_with_two_seqs_is_doubled() {
    check(
        |ledger| ledger.acked(conversation(), 9, message(1)),
        0,
        1,
        0,
        0,
    );
    check(
        |ledger| {
            ledger
                .history
                .entry(conversation())
                .or_default()
                .push((4, message(1)))
        },
        // The history's last place of it is not the acked one.
        1,
        1,
        0,
        0,
    );
}

#[test]
fn messages_out_of_order_are_reordered() {
    check(|ledger| bob_tail(ledger).swap(0, 1), 0, 0, 1, 0);
}

#[test]
fn two_orders_for_two_members_are_reordered() {
    check(
        |ledger| {
            let tail = bob_tail(ledger);
            tail[0].id = message(2);
            tail[1].id = message(1);
        },
        0,
        0,
        2,
        0,
    );
}

#[test]
fn a_sender_overtaken_by_its_own_message_is_reordered() {
    check(
        |ledger| {
            let typed = ledger
                .typed
                .entry((user("alice"), conversation()))
                .or_default();
            typed.reverse();
        },
        0,
        0,
        1,
        0,
    );
}

#[test]
fn a_message_that_nobody_typed_or_that_was_never_acked_is_wrong() {
    check(
        |ledger| {
            ledger
                .history
                .entry(conversation())
                .or_default()
                .push((4, message(4)))
        },
        0,
        0,
        0,
        1,
    );
    check(
        |ledger| ledger.typed(user("bob"), conversation(), message(7)),
        0,
        0,
        0,
        1,
    );
}

/// Alice makes a group, bob joins at 2, alice writes 3, bob leaves at 4, alice writes 5.
fn good_group() -> Ledger {
    let mut ledger = good();
    let (alice, bob) = (user("alice"), user("bob"));
    let group = ConversationId([0xff; 16]);
    ledger.group(group, vec![alice]);
    let note = |n: u8, from, note| Message {
        conversation: group,
        from,
        content: Content::Note(Box::new(note)),
        id: message(100 + n),
        ..kept(n)
    };
    let said = |n: u8| Message {
        conversation: group,
        from: alice,
        id: message(100 + n),
        ..kept(n)
    };
    let history = [
        note(1, alice, Note::Created("first".to_owned())),
        note(2, bob, Note::Joined),
        said(3),
        note(4, bob, Note::Left),
        said(5),
    ];
    for n in [3, 5] {
        ledger.typed(alice, group, message(100 + n));
        ledger.acked(group, n.into(), message(100 + n));
    }
    for (person, seqs) in [(alice, 1..=5), (bob, 2..=4)] {
        for view in [View::Tail, View::Fresh] {
            for n in seqs.clone() {
                ledger.shown(person, view, in_group(n));
            }
        }
    }
    ledger.history(group, &history);
    ledger
}

fn in_group(n: u8) -> Shown {
    Shown {
        inbox_seq: 100 + u64::from(n),
        conversation: ConversationId([0xff; 16]),
        seq: n.into(),
        id: message(100 + n),
    }
}

#[test]
fn members_are_shown_their_time_in_a_group() {
    let ledger = good_group();
    let verdict = ledger.judge();
    assert!(verdict.is_good(), "{:#?}", verdict.complaints());
    assert_eq!((verdict.groups, verdict.moves), (1, 3));
    assert_eq!(ledger.missing(), Missing::default());

    let spoiled = |spoil: fn(&mut Vec<Shown>)| {
        let mut ledger = good_group();
        spoil(bob_tail(&mut ledger));
        let verdict = ledger.judge();
        (verdict.lost, verdict.leaked, verdict.reordered)
    };
    // The note of joining, a message, the note of leaving: each was bob's.
    assert_eq!(
        spoiled(|shown| shown.retain(|one| *one != in_group(2))),
        (1, 0, 0)
    );
    assert_eq!(
        spoiled(|shown| shown.retain(|one| *one != in_group(3))),
        (1, 0, 0)
    );
    assert_eq!(spoiled(|shown| shown.truncate(5)), (1, 0, 0));
    // What came before and after was not.
    assert_eq!(spoiled(|shown| shown.push(in_group(5))), (0, 1, 0));
    assert_eq!(spoiled(|shown| shown.insert(3, in_group(1))), (0, 1, 0));
}

/// Alice's first message was edited, reacted to, and her second one deleted.
fn changed(first: &str, on: bool, second_gone: bool) -> Verdict {
    let mut ledger = good();
    let (alice, bob, here) = (user("alice"), user("bob"), conversation());
    let sign = || "+".to_owned();
    let acts = [
        (alice, Act::Edit(here, 1, "old".to_owned())),
        (alice, Act::Edit(here, 1, "new".to_owned())),
        (bob, Act::React(here, 1, sign(), true)),
        (alice, Act::Delete(here, 3)),
    ];
    for (user, act) in &acts {
        ledger.changes.asked();
        ledger.changes.acked(*user, act);
    }
    ledger.changes.asked();
    ledger.changes.refused(here, 3);
    let mut one = kept(1);
    one.content = Content::Text(first.to_owned());
    let reactions = on.then(|| Reaction {
        user: bob,
        emoji: sign(),
    });
    one.state = Some(Box::new(MessageState {
        reactions: reactions.into_iter().collect(),
        ..MessageState::default()
    }));
    let mut three = kept(3);
    if second_gone {
        three.content = Content::Gone(Gone::Deleted);
    }
    let cached = one.clone();
    ledger.history(here, &[one, kept(2), three]);
    ledger.changes.shown(Observer::Cache(bob), &cached);
    ledger.judge()
}

#[test]
fn what_was_changed_stays_changed() {
    let verdict = changed("new", true, true);
    assert!(verdict.is_good(), "{:#?}", verdict.complaints());
    assert_eq!(verdict.changes, 4);
    // Seen wrongly in the history and in bob's cache.
    assert_eq!(changed("old", true, true).undone, 2);
    assert_eq!(changed("new", false, true).undone, 2);
    assert_eq!(changed("new", true, false).undone, 1);

    let mut ledger = good_group();
    let title = |title: &str| Act::Title(ConversationId([0xff; 16]), title.to_owned());
    ledger.changes.asked();
    ledger.changes.acked(user("alice"), &title("first"));
    assert!(ledger.judge().is_good());
    ledger.changes.asked();
    ledger.changes.acked(user("alice"), &title("second"));
    assert_eq!(ledger.judge().undone, 2);
    // A refusal needs a reason, and a question an answer.
    ledger.changes.asked();
    ledger.changes.refused(conversation(), 2);
    ledger.changes.asked();
    assert_eq!(ledger.judge().wrong, 2);
}

#[test]
fn a_file_comes_down_as_it_went_up() {
    let made = Made { seed: 7, size: 99 };
    assert_eq!((made.bytes().len(), made.bytes()), (99, made.bytes()));
    let hash = MediaHash([3; 32]);
    let run = |end: Option<Result<(), String>>, progress: &[u64]| {
        let mut ledger = good();
        ledger.files.begins(
            user("alice"),
            Made {
                seed: 7,
                size: 4 << 20,
            },
        );
        for done in progress {
            ledger.files.progress(user("alice"), *done);
        }
        ledger
            .files
            .acked(user("alice"), conversation(), hash, made);
        assert_eq!(ledger.claim_file(&user("alice")), None);
        assert_eq!(ledger.claim_file(&user("zoe")), None);
        assert_eq!(
            ledger.claim_file(&user("bob")),
            Some((conversation(), hash))
        );
        if let Some(end) = end {
            assert_eq!(ledger.files.fetches(conversation(), hash), Some(made));
            ledger.files.fetched(conversation(), hash, end);
        }
        let verdict = ledger.judge();
        (verdict.files, verdict.resumed, verdict.files_lost)
    };
    assert_eq!(
        run(Some(Ok(())), &[0, 2 << 20, 1 << 20, 4 << 20]),
        (1, 1, 0)
    );
    // Where it stopped, to the byte.
    assert_eq!(
        run(Some(Ok(())), &[0, 2 << 20, 2 << 20, 4 << 20, 4 << 20]),
        (1, 1, 0)
    );
    assert_eq!(run(Some(Ok(())), &[0, 1000, 0, 4 << 20]), (1, 0, 0));
    assert_eq!(run(Some(Ok(())), &[0, 2 << 20, 0, 4 << 20]), (1, 0, 1));
    assert_eq!(run(Some(Err("damaged".to_owned())), &[]), (1, 0, 1));
    assert_eq!(run(None, &[]), (1, 0, 1));
}

/// Alice makes a group and writes 3, bob joins at 2, and it is pulled at once: both have 2 and 3, and were told of 3.
fn good_pulled_group() -> Ledger {
    let mut ledger = good();
    let (alice, bob) = (user("alice"), user("bob"));
    let group = ConversationId([0xfe; 16]);
    ledger.pulled_group(group, vec![alice, bob]);
    let said = |n: u8, from, content| Message {
        conversation: group,
        from,
        content,
        id: message(120 + n),
        ..kept(n)
    };
    let note = |n, from, note| said(n, from, Content::Note(Box::new(note)));
    let history = [
        note(1, alice, Note::Created("everybody".to_owned())),
        note(2, bob, Note::Joined),
        said(3, alice, Content::Text("hello".to_owned())),
    ];
    ledger.typed(alice, group, history[2].id);
    ledger.acked(group, 3, history[2].id);
    ledger.history(group, &history);
    for (person, first) in [(alice, 0), (bob, 1)] {
        ledger.pulled.kept(person, group, &history[first..]);
        ledger.pulled.noticed(person, &history[2]);
    }
    ledger
}

#[test]
fn members_of_a_pulled_group_have_it_in_the_end() {
    let (alice, bob) = (user("alice"), user("bob"));
    let group = ConversationId([0xfe; 16]);
    let verdict = good_pulled_group().judge();
    assert!(verdict.is_good(), "{verdict} {:?}", verdict.complaints());
    assert_eq!(verdict.noticed, 2);
    assert_eq!(good_pulled_group().missing(), Missing::default());
    let spoiled = |spoil: &dyn Fn(&mut Ledger, &[Message])| {
        let mut ledger = good_pulled_group();
        let history: Vec<Message> = (1..=3)
            .map(|n| Message {
                conversation: group,
                id: message(120 + n),
                ..kept(n)
            })
            .collect();
        spoil(&mut ledger, &history);
        let verdict = ledger.judge();
        let Verdict {
            lost,
            doubled,
            reordered,
            leaked,
            wrong,
            ..
        } = verdict;
        (lost, doubled, reordered, leaked, wrong)
    };
    // What bob has kept has a hole; no notice of it makes up for that.
    assert_eq!(
        spoiled(&|ledger, all| ledger.pulled.kept(bob, group, &all[1..2])),
        (1, 0, 0, 0, 0)
    );
    let mut ledger = good_pulled_group();
    ledger.pulled.lose();
    assert_eq!(ledger.missing_in_pulled(&alice, &group), 1);
    assert_eq!(ledger.judge().lost, 1);
    // Told twice.
    assert_eq!(
        spoiled(&|ledger, all| ledger.pulled.noticed(bob, &all[2])),
        (0, 1, 0, 0, 0)
    );
    // Another message than the history has there.
    let other = |all: &[Message]| Message {
        id: message(99),
        ..all[2].clone()
    };
    assert_eq!(
        spoiled(&|ledger, all| {
            ledger
                .pulled
                .kept(bob, group, &[all[1].clone(), other(all)]);
        }),
        (0, 0, 1, 0, 0)
    );
    assert_eq!(
        spoiled(&|ledger, all| ledger.pulled.noticed(alice, &other(all))),
        (0, 0, 1, 0, 0)
    );
    // From before bob's joining.
    assert_eq!(
        spoiled(&|ledger, all| ledger.pulled.kept(bob, group, all)),
        (0, 0, 0, 1, 0)
    );
}
