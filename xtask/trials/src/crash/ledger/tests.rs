//! The judge must be able to condemn: each test spoils one thing in a good run.

use super::{Ledger, Shown, Verdict, View};
use quipu_client::protocol::id::{ConversationId, MessageId, UserId};

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
    let history = (1..=3).map(|n| (u64::from(n), message(n))).collect();
    ledger.history(conversation(), history);
    ledger
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
    assert_eq!(verdict.to_string(), "acked=3 lost=0 doubled=0 reordered=0");
    assert_eq!(ledger.waiting_for_ack(), 0);
    assert_eq!(ledger.unseen(View::Tail), 0);
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
