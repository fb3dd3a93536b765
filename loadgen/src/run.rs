//! What the devices of a run share: who talks to whom, the ledger, and the clock of the measurement.

use std::rc::Rc;
use std::time::{Duration, Instant};

use quipu_protocol::event::{Event, EventBody, Message, Outcome, Reply, ReplyTo};
use quipu_protocol::id::{ConversationId, Seq, UserId};

use crate::mailbox::{Mailbox, Order};
use crate::measure::Verdicts;
use crate::payload::Label;
use crate::recorder::Latency;
use crate::verify::Ledger;

/// Messages of one side of a pair that may wait in open loop; a gateway that is this far behind will not catch up.
const BACKLOG_MAX: usize = 1_000;

/// How sends are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    /// A finished message starts the pair's next one.
    Closed,
    /// A schedule starts them, whatever happened before.
    Open,
    /// Nothing new: what is under way is finished.
    Drain,
}

/// Counts and latencies of one window.
#[derive(Debug)]
pub(crate) struct Window {
    /// Messages acked and delivered while the window was open.
    pub(crate) finished: u64,
    /// From due to ack.
    pub(crate) ack: Latency,
    /// From due to delivery.
    pub(crate) delivery: Latency,
    /// From due to the write.
    pub(crate) lag: Latency,
    /// Sends that were not started because too many waited already.
    pub(crate) shed: u64,
}

impl Window {
    fn new() -> Self {
        Self {
            finished: 0,
            ack: Latency::new(),
            delivery: Latency::new(),
            lag: Latency::new(),
            shed: 0,
        }
    }
}

/// The state of a run. Devices number `2 * p` and `2 * p + 1` are pair `p`; those beyond the pairs are idle.
pub(crate) struct Run {
    ledger: Ledger,
    users: Vec<UserId>,
    mailboxes: Vec<Rc<Mailbox>>,
    text_bytes: usize,
    pairs: usize,
    /// Pairs whose conversation is open, by number.
    opened: Vec<Option<Option<Seq>>>,
    /// Messages started by each pair; even ones come from its first user.
    turns: Vec<u64>,
    unfinished: Vec<usize>,
    mode: Loop,
    counting: bool,
    window: Window,
    /// Devices that lost their connection, and why the first did.
    failed: u64,
    first_failure: Option<String>,
}

impl Run {
    /// A run of `users`, of whom the first `2 * pairs` talk. `number` is its random name.
    pub(crate) fn new(number: u64, users: Vec<UserId>, pairs: usize, text_bytes: usize) -> Self {
        Self {
            ledger: Ledger::new(number),
            mailboxes: users.iter().map(|_| Rc::default()).collect(),
            users,
            text_bytes,
            pairs,
            opened: vec![None; pairs],
            turns: vec![0; pairs],
            unfinished: vec![0; pairs],
            mode: Loop::Drain,
            counting: false,
            window: Window::new(),
            failed: 0,
            first_failure: None,
        }
    }

    /// The orders of a device.
    pub(crate) fn mailbox(&self, device: usize) -> Rc<Mailbox> {
        self.mailboxes[device].clone()
    }

    /// Asks for every pair's conversation.
    pub(crate) fn open_all(&self) {
        for pair in 0..self.pairs {
            self.mailboxes[2 * pair].push(Order::OpenDirect(self.users[2 * pair + 1]));
        }
    }

    /// Whether all conversations are there. Then the ledger is ready.
    pub(crate) fn all_open(&mut self) -> bool {
        if self.opened.iter().any(Option::is_none) {
            return false;
        }
        for (pair, head) in self.opened.iter().enumerate() {
            let users = [self.users[2 * pair], self.users[2 * pair + 1]];
            self.ledger
                .add_pair(users, head.flatten().map_or(0, Seq::get));
        }
        true
    }

    /// Starts a closed loop with `outstanding` messages of each pair under way.
    pub(crate) fn start_closed(&mut self, outstanding: usize) {
        self.mode = Loop::Closed;
        let now = Instant::now();
        for pair in 0..self.pairs {
            for _ in 0..outstanding {
                self.start(pair, now);
            }
        }
    }

    /// Gets ready for [`start_due`](Self::start_due).
    pub(crate) fn start_open(&mut self) {
        self.mode = Loop::Open;
    }

    /// Starts message number `index` of an open loop, which is due at `due`.
    pub(crate) fn start_due(&mut self, index: u64, due: Instant) {
        let pair = (index % self.pairs as u64) as usize;
        if self.unfinished[pair] >= BACKLOG_MAX {
            self.window.shed += 1;
            return;
        }
        self.start(pair, due);
    }

    /// Starts nothing more.
    pub(crate) fn drain(&mut self) {
        self.mode = Loop::Drain;
    }

    /// Whether nothing new is to be started.
    pub(crate) fn draining(&self) -> bool {
        self.mode == Loop::Drain
    }

    /// Opens the window: what is due from now on is measured.
    pub(crate) fn open_window(&mut self) {
        self.window = Window::new();
        self.counting = true;
    }

    /// Closes the window for counting and for new messages; those of it that are under way are still measured.
    pub(crate) fn close_window(&mut self) -> u64 {
        self.counting = false;
        self.window.finished
    }

    /// The window with everything that was measured.
    pub(crate) fn take_window(&mut self) -> Window {
        std::mem::replace(&mut self.window, Window::new())
    }

    /// Whether everything that was sent has been acked and delivered.
    pub(crate) fn settled(&self) -> bool {
        self.ledger.settled()
    }

    /// Messages that were sent in all.
    pub(crate) fn sent(&self) -> u64 {
        self.ledger.sent()
    }

    /// Reconciles the ledger.
    pub(crate) fn finish(&mut self) -> Verdicts {
        std::mem::replace(&mut self.ledger, Ledger::new(0)).finish()
    }

    /// Devices that lost their connection, with the first reason.
    pub(crate) fn failures(&self) -> (u64, Option<&str>) {
        (self.failed, self.first_failure.as_deref())
    }

    /// A device's task ended.
    pub(crate) fn failed(&mut self, device: usize, error: &anyhow::Error) {
        self.failed += 1;
        let user = self.users[device];
        self.first_failure
            .get_or_insert_with(|| format!("{user}: {error:#}"));
    }

    fn start(&mut self, pair: usize, due: Instant) {
        let side = (self.turns[pair] % 2) as u8;
        self.turns[pair] += 1;
        self.unfinished[pair] += 1;
        let label = self
            .ledger
            .send(pair, side, due, self.counting.then_some(0));
        self.mailboxes[2 * pair + usize::from(side)].push(Order::Send(label, due));
    }

    /// What a message to send consists of.
    pub(crate) fn compose(&self, label: &Label) -> (ConversationId, String) {
        let conversation = self.ledger.conversation(label.pair as usize);
        (conversation, label.text(self.text_bytes))
    }

    /// A message has been written that was due `late` ago.
    pub(crate) fn written(&mut self, late: Duration) {
        if self.counting {
            self.window.lag.record(late);
        }
    }

    /// A device got an event.
    pub(crate) fn event(&mut self, device: usize, event: &Event) {
        match &event.body {
            EventBody::Message(message) => self.message(device, message),
            EventBody::Receipt(_) => {}
        }
    }

    fn message(&mut self, device: usize, message: &Message) {
        let (pair, side) = (device / 2, (device % 2) as u8);
        if pair >= self.pairs {
            self.ledger.misdelivered();
            return;
        }
        let Some(seen) = self.ledger.observe(pair, side, message, Instant::now()) else {
            return;
        };
        if seen.phase.is_some() {
            let latency = seen.due.elapsed();
            match seen.is_ack {
                true => self.window.ack.record(latency),
                false => self.window.delivery.record(latency),
            }
        }
        if seen.finished {
            self.unfinished[pair] -= 1;
            if self.counting {
                self.window.finished += 1;
            }
            if self.mode == Loop::Closed {
                self.start(pair, Instant::now());
            }
        }
    }

    /// A device got a reply.
    pub(crate) fn reply(&mut self, device: usize, reply: &Reply) {
        match (&reply.to, &reply.outcome) {
            (ReplyTo::Request(_), Outcome::Opened { head, .. }) => {
                if let Some(opened) = self.opened.get_mut(device / 2) {
                    *opened = Some(*head);
                }
            }
            // Nothing is ever sent twice here, so an answer to a repetition is as wrong as a refusal.
            (
                _,
                Outcome::Accepted(_)
                | Outcome::Rejected(_)
                | Outcome::Opened { .. }
                | Outcome::Done,
            ) => {
                eprintln!("{}: {reply:?}", self.users[device]);
                self.ledger.rejected();
            }
        }
    }
}
