//! Groups, edits and the last look in the ledger, member by member.

use std::time::Instant;

use quipu_protocol::event::{Changed, ChangedKind, Content, Message, Note};
use quipu_protocol::id::{
    ClientSeq, ConversationId, DeviceId, MessageId, Seq, TimestampMs, UserId,
};

use super::{Ledger, Reckoning, RunId, Stopped, Way};
use crate::measure::Verdicts;
use crate::payload::{Label, Tag};
use crate::seed::{Purpose, Seed};

const GROUP: ConversationId = ConversationId([0xaa; 16]);
const RUN: RunId = RunId {
    number: 5,
    first_pair: 3,
};

fn users(size: usize) -> Vec<UserId> {
    (0..size)
        .map(|n| UserId::new(&format!("member-{n}")).unwrap())
        .collect()
}

fn message(from: usize, seq: u64, id: MessageId, content: Content) -> Message {
    Message {
        conversation: GROUP,
        seq: Seq::new(seq).unwrap(),
        id,
        from: users(from + 1)[from],
        from_device: DeviceId::new(1).unwrap(),
        client_seq: ClientSeq::FIRST,
        to: None,
        sent_at: TimestampMs(0),
        content,
        state: None,
    }
}

fn note(from: usize, seq: u64, note: Note) -> Message {
    let id = MessageId::note(&GROUP, Seq::new(seq).unwrap());
    message(from, seq, id, Content::Note(Box::new(note)))
}

fn text(label: &Label, seq: u64) -> Message {
    let says = Content::Text(label.text(80, Tag::None));
    message(
        usize::from(label.side),
        seq,
        Ledger::message_id(label),
        says,
    )
}

/// The notes of a group that its members have joined in their order.
fn notes(size: usize) -> Vec<Message> {
    let joined = (1..size).map(|member| note(member, member as u64 + 1, Note::Joined));
    let created = note(0, 1, Note::Created("load".to_owned()));
    [created].into_iter().chain(joined).collect()
}

/// A ledger with one group; nobody has seen anything.
fn closed(size: usize) -> Ledger {
    let mut ledger = Ledger::new(RUN);
    ledger.add(GROUP, &users(size));
    ledger
}

/// A pushed group, of which every member has seen the notes that it has to see.
fn open(size: usize) -> Ledger {
    let mut ledger = closed(size);
    let notes = notes(size);
    // Some are seen before it is known what the group is, and some after.
    let see = |ledger: &mut Ledger, member: usize| {
        for note in &notes[member..] {
            ledger.note(0, member, note);
        }
    };
    (0..size / 2).for_each(|member| see(&mut ledger, member));
    ledger.open_pushed(0, size as u64, &notes);
    assert!(size < 2 || !ledger.settled());
    (size / 2..size).for_each(|member| see(&mut ledger, member));
    assert!(ledger.settled());
    ledger
}

fn send(ledger: &mut Ledger, side: u8) -> Label {
    let label = ledger.send(0, side, Instant::now(), Some(0));
    ledger.written(&label, Instant::now());
    label
}

fn see(ledger: &mut Ledger, member: usize, message: &Message, way: Way) {
    ledger.observe(0, member, message, way, Instant::now());
}

fn finish(ledger: Ledger) -> Verdicts {
    let reckoning = ledger.finish(&Stopped {
        arriving: false,
        is_there: &|_, _| true,
    });
    assert_eq!(reckoning.under_way, 0);
    reckoning.verdicts
}

fn verdicts(change: impl FnOnce(&mut Verdicts)) -> Verdicts {
    let mut verdicts = Verdicts::default();
    change(&mut verdicts);
    verdicts
}

#[test]
fn every_member_has_to_see_the_notes_from_its_own_on() {
    assert!(finish(open(7)).clean());
    // The third never sees that the fifth joined; the last does not even see its own.
    let mut ledger = closed(6);
    let notes = notes(6);
    for (member, skipped) in [(0, 9), (1, 9), (2, 4), (3, 9), (4, 9), (5, 5)] {
        for note in notes[member..]
            .iter()
            .filter(|one| one.seq.get() != skipped + 1)
        {
            ledger.note(0, member, note);
        }
    }
    ledger.open_pushed(0, 6, &notes);
    assert_eq!(ledger.under_way(), 2);
    assert_eq!(finish(ledger), verdicts(|v| v.acked_but_lost = 2));
}

#[test]
fn notes_that_nobody_caused_or_that_come_twice_or_late() {
    let mut ledger = closed(3);
    let notes = notes(3);
    for at in [0, 2, 1] {
        ledger.note(0, 0, &notes[at]);
    }
    ledger.note(0, 0, &notes[1]);
    ledger.note(0, 1, &notes[1]);
    ledger.note(0, 1, &note(1, 3, Note::Joined));
    ledger.note(0, 2, &note(2, 3, Note::Left));
    ledger.note(0, 2, &notes[2]);
    ledger.open_pushed(0, 3, &notes);
    ledger.note(0, 2, &note(2, 4, Note::Joined));
    let mut forged = note(2, 3, Note::Joined);
    forged.id = MessageId([1; 16]);
    ledger.note(0, 2, &forged);
    assert_eq!(
        finish(ledger),
        verdicts(|v| {
            v.reordered = 1;
            v.duplicated = 1;
            v.disagreed = 1;
            v.ghosts = 2;
            v.corrupted = 1;
        })
    );
}

#[test]
fn who_has_joined_and_is_not_in_the_history_is_lost() {
    let mut ledger = closed(3);
    let mut notes = notes(3);
    notes.pop();
    ledger.open_pushed(0, 2, &notes);
    for (member, from) in [(0, 0), (1, 1)] {
        for note in &notes[from..] {
            ledger.note(0, member, note);
        }
    }
    assert_eq!(finish(ledger), verdicts(|v| v.acked_but_lost = 1));
}

#[test]
fn a_pulled_group_is_read_and_its_senders_are_answered_by_a_reply() {
    let size = 300;
    let mut ledger = closed(size);
    ledger.note(0, 0, &notes(size)[0]);
    ledger.open_pulled(0, 301);
    // Of the time before; nobody judges it.
    ledger.note(0, 7, &note(250, 251, Note::Joined));
    let label = send(&mut ledger, 9);
    for member in 0..size {
        assert_eq!(ledger.seen_up_to(0, member), 301);
        see(&mut ledger, member, &text(&label, 302), Way::Read);
        assert_eq!(ledger.seen_up_to(0, member), 302);
    }
    assert!(!ledger.settled(), "its sender has no answer");
    let answered = ledger.accepted(&label, 302, Instant::now()).unwrap();
    assert!(answered.is_ack && answered.finished && ledger.settled());
    // Another place than all have seen it at.
    let label = send(&mut ledger, 9);
    see(&mut ledger, 9, &text(&label, 303), Way::Read);
    ledger.accepted(&label, 304, Instant::now());
    // Seen by all but the last, and by its sender only.
    (0..size - 1)
        .filter(|member| *member != 9)
        .for_each(|member| see(&mut ledger, member, &text(&label, 303), Way::Read));
    // Everybody saw it, and its sender has no answer.
    let unanswered = send(&mut ledger, 9);
    (0..size).for_each(|member| see(&mut ledger, member, &text(&unanswered, 304), Way::Read));
    assert_eq!(
        finish(ledger),
        verdicts(|v| {
            v.disagreed = 1;
            v.acked_but_lost = 1;
            v.unacked = 1;
        })
    );
}

/// What goes wrong with one delivery to one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Dropped,
    Repeated,
    Swapped,
}

/// Plays a group of random size with random senders, and one thing going wrong at a random place.
fn play(seed: Seed, wrong: Wrong) -> Verdicts {
    let draw = |index, bound| seed.below(Purpose::Group, 77, index, bound);
    let size = 3 + draw(0, 40) as usize;
    let texts = 2 + draw(1, 30);
    let victim = draw(2, size as u64) as usize;
    let struck = draw(3, texts - 1) as usize;
    let mut ledger = open(size);
    let first = size as u64 + 1;
    let sent: Vec<Message> = (0..texts)
        .map(|number| {
            let label = send(&mut ledger, draw(10 + number, size as u64) as u8);
            text(&label, first + number)
        })
        .collect();
    for member in 0..size {
        let mut shown: Vec<&Message> = sent.iter().collect();
        if member == victim {
            match wrong {
                Wrong::Nothing => {}
                Wrong::Dropped => drop(shown.remove(struck)),
                Wrong::Repeated => shown.insert(struck + 1, &sent[struck]),
                Wrong::Swapped => shown.swap(struck, struck + 1),
            }
        }
        for message in shown {
            see(&mut ledger, member, message, Way::Event);
        }
    }
    finish(ledger)
}

#[test]
fn whatever_goes_wrong_at_one_member_is_found_in_groups_of_all_sizes() {
    for seed in 0..200 {
        let seed = Seed(seed);
        assert!(play(seed, Wrong::Nothing).clean(), "{seed:?}");
        let dropped = play(seed, Wrong::Dropped);
        // To its sender it is the ack as well.
        assert_eq!(dropped.acked_but_lost + dropped.unacked, 1, "{seed:?}");
        let repeated = play(seed, Wrong::Repeated);
        assert_eq!(repeated, verdicts(|v| v.duplicated = 1), "{seed:?}");
        let swapped = play(seed, Wrong::Swapped);
        assert_eq!(swapped, verdicts(|v| v.reordered = 1), "{seed:?}");
    }
}

fn edited(label: &Label, seq: u64, tag: Tag) -> Changed {
    Changed {
        conversation: GROUP,
        seq: Seq::new(seq).unwrap(),
        version: 1,
        by: Some(users(usize::from(label.side) + 1)[usize::from(label.side)]),
        at: TimestampMs(0),
        kind: ChangedKind::Edited(Content::Text(label.text(80, tag))),
    }
}

/// A group of three in which a message was sent and its author edits it.
fn edits() -> (Ledger, Label) {
    let mut ledger = open(3);
    let label = send(&mut ledger, 1);
    (0..3).for_each(|member| see(&mut ledger, member, &text(&label, 4), Way::Event));
    assert!(ledger.settled() && ledger.edit(&label, 4) && !ledger.settled());
    (ledger, label)
}

#[test]
fn an_edit_is_done_when_it_is_answered_and_every_member_has_seen_it() {
    let (mut ledger, label) = edits();
    for member in 0..3 {
        assert!(ledger.changed(0, member, &edited(&label, 4, Tag::Edited)));
    }
    assert!(!ledger.settled());
    ledger.edit_acked(&label, 4);
    assert!(ledger.settled());
    assert!(finish(ledger).clean());

    let (mut ledger, label) = edits();
    ledger.edit_acked(&label, 4);
    assert!(ledger.changed(0, 0, &edited(&label, 4, Tag::Edited)));
    assert!(!ledger.changed(0, 0, &edited(&label, 4, Tag::Edited)));
    assert!(!ledger.changed(0, 1, &edited(&label, 4, Tag::None)));
    assert!(!ledger.changed(0, 1, &edited(&label, 5, Tag::Edited)));
    assert_eq!(
        finish(ledger),
        verdicts(|v| {
            v.duplicated = 1;
            v.corrupted = 1;
            v.ghosts = 1;
            v.acked_but_lost = 1;
        })
    );

    let (ledger, _) = edits();
    assert_eq!(finish(ledger), verdicts(|v| v.lost = 1));
    let (mut ledger, label) = edits();
    ledger.changed(0, 2, &edited(&label, 4, Tag::Edited));
    assert_eq!(finish(ledger), verdicts(|v| v.unacked = 1));
    let (mut ledger, label) = edits();
    ledger.edit_refused(&label, 4);
    assert_eq!(finish(ledger), verdicts(|v| v.rejected = 1));
}

/// A group of three in which the last member lacks the second of three messages' successors, as `how` says.
fn stopped(arriving: bool, away: &[usize], in_history: bool, seen_by_last: &[usize]) -> Reckoning {
    let mut ledger = open(3);
    let labels: Vec<Label> = (0..3).map(|_| send(&mut ledger, 0)).collect();
    for (at, label) in labels.iter().enumerate() {
        let shown = text(label, 4 + at as u64);
        see(&mut ledger, 0, &shown, Way::Event);
        see(&mut ledger, 1, &shown, Way::Event);
        if seen_by_last.contains(&at) {
            see(&mut ledger, 2, &shown, Way::Event);
        }
        if in_history {
            ledger.found_in_history(0, &shown);
        }
    }
    let wanted = match seen_by_last.len() {
        3 => Vec::new(),
        _ => vec![0],
    };
    assert!(ledger.unfinished().into_keys().eq(wanted));
    ledger.finish(&Stopped {
        arriving,
        is_there: &|_, member| !away.contains(&member),
    })
}

#[test]
fn only_what_is_proven_to_be_under_way_is_not_lost() {
    let faults = |acked_but_lost, under_way| Reckoning {
        verdicts: verdicts(|v| v.acked_but_lost = acked_but_lost),
        under_way,
    };
    assert_eq!(stopped(true, &[], true, &[0, 1, 2]), faults(0, 0));
    // Events still came, and the history has it.
    assert_eq!(stopped(true, &[], true, &[0]), faults(0, 2));
    // They did, and it has not.
    assert_eq!(stopped(true, &[], false, &[0]), faults(2, 0));
    // A later one was shown: the one before it cannot come any more.
    assert_eq!(stopped(true, &[], true, &[0, 2]), faults(1, 0));
    // Nothing came any more, and everybody was there.
    assert_eq!(stopped(false, &[], true, &[0]), faults(2, 0));
    // Whoever lacks it was away.
    assert_eq!(stopped(false, &[2], true, &[0]), faults(0, 2));
    assert_eq!(stopped(false, &[1], true, &[0]), faults(2, 0));
}

#[test]
fn what_never_left_the_generator_is_not_lost_and_an_ack_is_a_promise() {
    let mut ledger = open(3);
    ledger.send(0, 0, Instant::now(), None);
    let swallowed = send(&mut ledger, 0);
    let acked = send(&mut ledger, 0);
    ledger.accepted(&acked, 6, Instant::now());
    assert_eq!(Label::read(&swallowed.text(80, Tag::None)), Some(swallowed));
    let reckoning = ledger.finish(&Stopped {
        arriving: true,
        is_there: &|_, _| true,
    });
    assert_eq!(
        reckoning,
        Reckoning {
            verdicts: verdicts(|v| {
                v.lost = 1;
                v.acked_but_lost = 1;
            }),
            under_way: 1,
        }
    );
}

#[test]
fn a_file_is_the_one_that_the_text_names() {
    use quipu_protocol::event::{Attachment, Rich};
    let mut ledger = open(2);
    let label = send(&mut ledger, 0);
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(b"abcdefgh");
    let with = |tag: Tag, files: Vec<[u8; 32]>| {
        let attachments = files.into_iter().map(|hash| Attachment {
            hash,
            size: 1,
            media_type: "application/octet-stream".to_owned(),
            name: String::new(),
            width: 0,
            height: 0,
            duration_ms: 0,
            thumbnail: bytes::Bytes::new(),
        });
        Message {
            content: Content::Rich(Box::new(Rich {
                text: label.text(80, tag),
                attachments: attachments.collect(),
                ..Rich::default()
            })),
            ..text(&label, 3)
        }
    };
    let named = Tag::File(*b"abcdefgh");
    see(&mut ledger, 0, &with(named, vec![hash]), Way::Event);
    see(&mut ledger, 1, &with(named, Vec::new()), Way::Event);
    see(&mut ledger, 1, &with(named, vec![[0; 32]]), Way::Event);
    see(&mut ledger, 1, &with(Tag::None, vec![hash]), Way::Event);
    assert_eq!(ledger.verdicts().corrupted, 3);
    see(&mut ledger, 1, &with(named, vec![hash]), Way::Event);
    assert!(ledger.settled());
}
