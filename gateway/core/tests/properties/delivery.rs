//! The delivery window against a model of its shell: a store that grows, a mailbox that overflows, pages that take time.

use proptest::prelude::*;
use quipu_core::delivery::{DeliveryWindow, Offer, Want};
use quipu_protocol::id::{Cursor, InboxSeq};
use quipu_protocol::limits::{DELIVERY_WINDOW_BYTES, DELIVERY_WINDOW_EVENTS, FRAME_BYTES_MAX};

#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many events are committed and pushed, each of this size; the mailbox has room for some.
    Commit {
        events: usize,
        bytes: usize,
        room: usize,
    },
    /// The session takes its mail.
    TakeMail,
    /// A page is read from the store as it is now.
    BeginRead { limit: usize },
    /// The page that was read is processed.
    EndRead,
    /// The device acks a part of what is in flight.
    Ack { part: u64 },
    /// Events are pushed again by a processor that came back.
    PushAgain { back: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![Just(80usize), 1..=FRAME_BYTES_MAX, Just(FRAME_BYTES_MAX)];
    let events = prop_oneof![4 => 1..4usize, 1 => 1..400usize];
    let step = prop_oneof![
        3 => (events, bytes, 0..500usize)
            .prop_map(|(events, bytes, room)| Step::Commit { events, bytes, room }),
        4 => Just(Step::TakeMail),
        2 => (1..300usize).prop_map(|limit| Step::BeginRead { limit }),
        2 => Just(Step::EndRead),
        2 => (0..4u64).prop_map(|part| Step::Ack { part }),
        1 => (0..9u64).prop_map(|back| Step::PushAgain { back }),
    ];
    prop::collection::vec(step, 1..120)
}

/// A page: the events it holds, and whether the inbox ended there.
type Page = (Vec<InboxSeq>, bool);

struct Shell {
    window: DeliveryWindow,
    /// Sizes of the committed events; event n is the n-th.
    store: Vec<usize>,
    mail: Vec<InboxSeq>,
    /// The highest event that did not fit the mailbox.
    dropped: Option<InboxSeq>,
    page: Option<Page>,
    /// The last event that the device has received.
    received: u64,
    acked: u64,
}

impl Shell {
    fn push(&mut self, seq: u64, room: usize) {
        let Ok(seq) = InboxSeq::new(seq) else { return };
        if self.mail.len() < room {
            self.mail.push(seq);
        } else {
            self.dropped = self.dropped.max(Some(seq));
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Commit {
                events,
                bytes,
                room,
            } => {
                for _ in 0..events {
                    self.store.push(bytes);
                    self.push(self.store.len() as u64, room);
                }
            }
            Step::PushAgain { back } => {
                self.push((self.store.len() as u64).saturating_sub(back), usize::MAX);
            }
            Step::TakeMail => self.take_mail()?,
            Step::BeginRead { limit } => self.begin_read(limit),
            Step::EndRead => self.end_read()?,
            Step::Ack { part } => self.ack(part)?,
        }
        prop_assert!(self.window.in_flight_events() <= DELIVERY_WINDOW_EVENTS);
        prop_assert!(self.window.in_flight_bytes() <= DELIVERY_WINDOW_BYTES);
        let in_flight = &self.store[self.acked as usize..self.received as usize];
        prop_assert_eq!(self.window.in_flight_events(), in_flight.len());
        prop_assert_eq!(
            self.window.in_flight_bytes(),
            in_flight.iter().sum::<usize>()
        );
        Ok(())
    }

    fn take_mail(&mut self) -> Result<(), TestCaseError> {
        for seq in std::mem::take(&mut self.mail) {
            if self.window.offer(seq) == Offer::Send {
                self.receive(seq)?;
            }
        }
        if let Some(seq) = self.dropped.take() {
            self.window.missed(seq);
        }
        Ok(())
    }

    fn begin_read(&mut self, limit: usize) {
        let Want::Read {
            after,
            max_events,
            max_bytes,
        } = self.window.want()
        else {
            return;
        };
        if self.page.is_some() {
            return;
        }
        let (mut page, mut bytes) = (Vec::new(), 0);
        let rest = &self.store[after.0 as usize..];
        for (i, size) in rest.iter().enumerate().take(max_events.min(limit)) {
            bytes += size;
            // A shell that knows sizes only when it has read the messages goes by the number of events alone.
            let by_bytes = limit.is_multiple_of(2);
            if by_bytes && bytes > max_bytes && !page.is_empty() {
                break;
            }
            page.extend(InboxSeq::new(after.0 + i as u64 + 1));
        }
        let exhausted = page.len() == rest.len();
        self.page = Some((page, exhausted));
    }

    fn end_read(&mut self) -> Result<(), TestCaseError> {
        let Some((page, exhausted)) = self.page.take() else {
            return Ok(());
        };
        for seq in &page {
            if !self.window.fits(self.store[seq.get() as usize - 1]) {
                break;
            }
            self.receive(*seq)?;
        }
        let ended = self.window.page(page.last().copied(), exhausted);
        prop_assert_eq!(ended, Ok(()), "the store has everything that was pushed");
        Ok(())
    }

    fn receive(&mut self, seq: InboxSeq) -> Result<(), TestCaseError> {
        prop_assert_eq!(seq.get(), self.received + 1, "each event once, in order");
        self.received += 1;
        self.window.sent(seq, self.store[seq.get() as usize - 1]);
        Ok(())
    }

    fn ack(&mut self, part: u64) -> Result<(), TestCaseError> {
        let in_flight = self.received - self.acked;
        self.acked += in_flight * part / 3_u64.max(part);
        prop_assert_eq!(self.window.ack(Cursor(self.acked)), Ok(()));
        prop_assert!(self.window.ack(Cursor(self.received + 1)).is_err());
        prop_assert_eq!(
            self.window.ack(Cursor(self.acked / 2)),
            Ok(()),
            "an old ack means nothing"
        );
        prop_assert_eq!(self.window.acked(), Cursor(self.acked));
        Ok(())
    }
}

proptest! {
    #![proptest_config(crate::config(512))]

    #[test]
    fn every_event_is_acked_in_flight_or_in_the_store_never_nowhere(
        before in 0..300usize,
        before_bytes in prop_oneof![Just(500), 1..=FRAME_BYTES_MAX],
        cursor in 0..300u64,
        steps in steps(),
    ) {
        let cursor = cursor.min(before as u64);
        let mut shell = Shell {
            window: DeliveryWindow::new(Cursor(cursor)),
            store: vec![before_bytes; before],
            mail: Vec::new(),
            dropped: None,
            page: None,
            received: cursor,
            acked: cursor,
        };
        for step in steps {
            shell.step(step)?;
        }
        // The faults end; the device acks, the session works. Then everything has arrived, and in bounded time.
        let turns = shell.store.len() + 8;
        for _ in 0..turns {
            for step in [Step::TakeMail, Step::BeginRead { limit: 301 }, Step::EndRead, Step::Ack { part: 3 }] {
                shell.step(step)?;
            }
        }
        prop_assert_eq!(shell.received, shell.store.len() as u64);
        prop_assert!(!shell.window.is_behind(), "nothing is left to catch up with");
        // And the next one goes live.
        shell.store.push(FRAME_BYTES_MAX);
        let last = InboxSeq::new(shell.store.len() as u64).unwrap();
        prop_assert_eq!(shell.window.offer(last), Offer::Send);
    }
}
