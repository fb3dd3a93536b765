//! Changes of messages in the cache, from the moment they are asked for until they are answered.

use quipu_protocol::event::Change;
use quipu_protocol::session::{Answered, ChangeEnd};

use super::*;
use crate::config::CHANGES_MAX;
use crate::model::{About, ChangeId, ChangeState, LocalChange, MessageChange, Taken};

fn edit(words: &str) -> MessageChange {
    MessageChange::Edit(Content::Text(words.to_owned()))
}

fn at(seq_value: u64) -> About {
    About::Placed(direct(), seq(seq_value))
}

fn ask(tables: &mut Tables, about: About, what: MessageChange) -> Result<Taken, Error> {
    tables.enqueue_change(about, what, TimestampMs(5))
}

fn queued(tables: &mut Tables, about: About, what: MessageChange) -> LocalChange {
    match ask(tables, about, what) {
        Ok(Taken::Queued(change)) => change,
        other => panic!("not queued: {other:?}"),
    }
}

/// What would be asked for now, as numbers and seqs of messages.
fn waiting(tables: &mut Tables) -> Vec<(u64, u64)> {
    let waiting = tables.waiting_changes().expect("reads");
    let place = |change: &Change| match change {
        Change::Edit { seq, .. } | Change::Delete(_, seq) | Change::React { seq, .. } => seq.get(),
        other => panic!("{other:?}"),
    };
    waiting
        .iter()
        .map(|one| (one.client_seq.get(), place(&one.change)))
        .collect()
}

fn answer(tables: &mut Tables, number: u64, end: ChangeEnd) -> Vec<ClientEvent> {
    let turn = Turn {
        changes: vec![Answered {
            client_seq: ClientSeq::new(number).expect("not 0"),
            kept: true,
            end,
        }],
        ..Turn::default()
    };
    tables.apply(turn, true).expect("applies").events
}

#[test]
fn a_change_survives_a_reopen_under_its_number_until_it_is_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let (change, before) = {
        let mut tables = alice(Some(folder.path()));
        let change = queued(&mut tables, at(3), edit("better"));
        queue(&mut tables, &["a message between"]);
        queued(&mut tables, at(4), MessageChange::Delete);
        (change, waiting(&mut tables))
    };
    assert!(before[1].0 > before[0].0 + 1, "one count: {before:?}");
    let mut tables = open(Some(folder.path()), 1000);
    assert_eq!(waiting(&mut tables), before);
    let kept = tables.changes(direct()).expect("reads");
    assert_eq!(kept[0], change);
    let (waiter, mut end) = oneshot::channel();
    tables.wait_changed(change.id, waiter).expect("waits");
    let told = answer(&mut tables, before[0].0, ChangeEnd::Done);
    assert!(matches!(told[..], [ClientEvent::ChangeMade { id, .. }] if id == change.id));
    assert!(end.try_recv().expect("resolved").is_ok());
    assert_eq!(waiting(&mut tables), before[1..]);
    assert!(answer(&mut tables, before[0].0, ChangeEnd::Done).is_empty());
}

#[test]
fn a_refused_change_is_kept_until_it_is_forgotten() {
    let mut tables = alice(None);
    let change = queued(&mut tables, at(3), edit("too late"));
    let number = waiting(&mut tables)[0].0;
    let rejection = Rejection::new(RejectCode::WindowClosed, "too old");
    let refusal = Refusal::from(rejection.clone());
    let told = answer(&mut tables, number, ChangeEnd::Refused(rejection));
    assert!(matches!(told[..], [ClientEvent::ChangeRefused { id, .. }] if id == change.id));
    assert!(waiting(&mut tables).is_empty());
    let kept = tables.changes(direct()).expect("reads");
    assert_eq!(kept[0].state, ChangeState::Refused(refusal));
    let (waiter, mut end) = oneshot::channel();
    tables.wait_changed(change.id, waiter).expect("answers");
    let end = end.try_recv().expect("resolved");
    assert!(matches!(end, Err(Error::Refused(_))), "{end:?}");
    tables.forget_change(change.id).expect("forgets");
    assert!(tables.changes(direct()).expect("reads").is_empty());
}

#[test]
fn what_was_never_sent_is_changed_where_it_waits() {
    let mut tables = alice(None);
    tables.outbound.stop();
    let ids = queue(&mut tables, &["one", "two", "three"]);
    let taken = ask(&mut tables, About::Queued(ids[0]), edit("better"));
    assert_eq!(taken.expect("takes"), Taken::Made);
    let (waiter, mut end) = oneshot::channel();
    tables.wait(ids[1], waiter).expect("waits");
    let taken = ask(&mut tables, About::Queued(ids[1]), MessageChange::Delete);
    assert_eq!(taken.expect("takes"), Taken::Made);
    assert!(matches!(end.try_recv(), Ok(Err(Error::UnknownMessage))));
    let waiting = tables.waiting().expect("reads");
    let texts: Vec<_> = waiting.iter().map(|one| one.content.text()).collect();
    assert_eq!(texts, ["better", "three"]);
    // Now it is handed to a connection, and may be anywhere.
    let taken = ask(&mut tables, About::Queued(ids[0]), edit("best"));
    assert!(matches!(taken, Ok(Taken::Queued(_))), "{taken:?}");
    let gone = ask(&mut tables, About::Queued(ids[1]), edit("what?"));
    assert!(matches!(gone, Err(Error::UnknownMessage)), "{gone:?}");
}

#[test]
fn a_change_of_a_message_without_an_ack_waits_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tables = alice(Some(folder.path()));
    let ids = queue(&mut tables, &["one", "two"]);
    let first = queued(&mut tables, About::Queued(ids[0]), edit("better"));
    let second = queued(&mut tables, About::Queued(ids[0]), MessageChange::Delete);
    queued(&mut tables, About::Queued(ids[1]), edit("never"));
    assert_eq!(first.about, About::Queued(ids[0]));
    assert!(waiting(&mut tables).is_empty());
    let sent = tables.waiting().expect("reads");
    let settled = vec![Settled::Accepted {
        conversation: direct(),
        client_seq: sent[0].client_seq,
        seq: seq(8),
    }];
    let turn = Turn {
        settled,
        ..Turn::default()
    };
    tables.apply(turn, true).expect("applies");
    let now = waiting(&mut tables);
    assert_eq!(now.iter().map(|one| one.1).collect::<Vec<_>>(), [8, 8]);
    assert!(now[0].0 < now[1].0 && now[0].0 > sent[1].client_seq.get());
    // What the driver is handed is what the disk has, and it stays so.
    let handed = tables.outbound.take().changes;
    assert_eq!(handed, tables.waiting_changes().expect("reads"));
    // The event of the message changes nothing of it.
    let mine = message("alice", 7, 8, ids[0], sent[0].client_seq);
    apply(&mut tables, vec![event(1, mine)]);
    assert_eq!(waiting(&mut tables), now);
    let kept = tables.changes(direct()).expect("reads");
    assert_eq!((kept[1].id, kept[1].about), (second.id, at(8)));
    // A message that is refused takes its changes with it.
    let rejection = Rejection::new(RejectCode::Blocked, "no");
    let settled = vec![Settled::Refused {
        conversation: direct(),
        client_seq: Some(sent[1].client_seq),
        rejection,
    }];
    let turn = Turn {
        settled,
        ..Turn::default()
    };
    let told = tables.apply(turn, true).expect("applies").events;
    let refused = |event: &ClientEvent| matches!(event, ClientEvent::ChangeRefused { .. });
    assert_eq!(told.iter().filter(|event| refused(event)).count(), 1);
    tables.forget(ids[1]).expect("forgets");
    assert_eq!(tables.changes(direct()).expect("reads").len(), 2);
}

#[test]
fn a_message_that_has_its_place_already_is_found_by_its_name() {
    let mut tables = alice(None);
    let ids = queue(&mut tables, &["one"]);
    let client_seq = tables.waiting().expect("reads")[0].client_seq;
    let mine = message("alice", 7, 6, ids[0], client_seq);
    apply(&mut tables, vec![event(1, mine)]);
    let change = queued(&mut tables, About::Queued(ids[0]), edit("better"));
    assert_eq!(change.about, at(6));
    assert_eq!(waiting(&mut tables)[0].1, 6);
    let unknown = ask(&mut tables, About::Queued(MessageId([9; 16])), edit("x"));
    assert!(matches!(unknown, Err(Error::UnknownMessage)));
}

#[test]
fn new_numbers_go_to_what_is_stale_and_to_all_of_its_message_behind_it() {
    let mut tables = alice(None);
    for seq_value in [3, 4, 3] {
        queued(&mut tables, at(seq_value), edit("better"));
    }
    let before = waiting(&mut tables);
    let stale = ClientSeq::new(before[0].0).expect("not 0");
    let renumbered = tables.renumber_changes(&[stale]).expect("renumbers");
    let old: Vec<u64> = renumbered.iter().map(|(old, _)| old.get()).collect();
    assert_eq!(old, [before[0].0, before[2].0]);
    let after = waiting(&mut tables);
    assert_eq!(after.iter().map(|one| one.1).collect::<Vec<_>>(), [4, 3, 3]);
    assert_eq!(after[0].0, before[1].0);
    assert!(after[1].0 > before[2].0);
    // The driver is handed the new ones, too.
    let handed = tables.outbound.take().changes;
    let mut numbers: Vec<u64> = handed.iter().map(|one| one.client_seq.get()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, after.iter().map(|one| one.0).collect::<Vec<_>>());
}

#[test]
fn a_new_life_of_the_inbox_refuses_changes_and_a_gap_in_it_does_not() {
    let mut tables = alice(None);
    apply(&mut tables, vec![event(1, from_bob(1))]);
    let change = queued(&mut tables, at(1), edit("better"));
    tables
        .welcome(&welcome(false, false, 9, 5), None)
        .expect("welcomes");
    assert_eq!(waiting(&mut tables).len(), 1);
    let again = tables.welcome(&welcome(false, false, 0, 6), None);
    let news = again.expect("welcomes").news;
    assert!(matches!(news[..], [ClientEvent::ChangeRefused { id, .. }] if id == change.id));
    assert!(waiting(&mut tables).is_empty());
}

#[test]
fn the_outbox_of_changes_is_bounded() {
    let mut tables = alice(None);
    for seq_value in 1..=CHANGES_MAX as u64 {
        queued(&mut tables, at(seq_value), MessageChange::Delete);
    }
    let full = ask(&mut tables, at(1), MessageChange::Delete);
    let Err(Error::ChangesFull { changes }) = full else {
        panic!("{full:?}");
    };
    assert_eq!(changes, CHANGES_MAX);
    let first = waiting(&mut tables)[0].0;
    answer(&mut tables, first, ChangeEnd::Done);
    assert!(ask(&mut tables, at(1), MessageChange::Delete).is_ok());
    assert!(tables.forget_change(ChangeId(u64::MAX)).is_ok());
}
