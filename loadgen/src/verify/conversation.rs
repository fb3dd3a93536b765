//! One conversation as the ledger knows it: what each member has sent and seen, and whether all saw one order.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use quipu_protocol::id::{ConversationId, UserId};

use super::Observation;

/// Gaps that one view remembers; what is missing beyond them is counted as lost without being told apart.
const GAPS_MAX: usize = 4_096;

/// A number that must come once and in order, and what happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    InOrder,
    /// Later ones came first; the ones between are missing for now.
    Ahead,
    /// Was missing until now.
    Late,
    Again,
}

/// Which numbers of a gap-free sequence one observer has seen.
#[derive(Debug)]
pub(super) struct View {
    next: u64,
    missing: BTreeSet<u64>,
}

impl View {
    fn from(next: u64) -> Self {
        Self {
            next,
            missing: BTreeSet::new(),
        }
    }

    pub(super) fn see(&mut self, number: u64) -> Seen {
        if number < self.next {
            return match self.missing.remove(&number) {
                true => Seen::Late,
                false => Seen::Again,
            };
        }
        let skipped = self.next..number;
        self.next = number + 1;
        if skipped.is_empty() {
            return Seen::InOrder;
        }
        let room = GAPS_MAX - self.missing.len();
        self.missing.extend(skipped.take(room));
        Seen::Ahead
    }
}

/// Where a sent message stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) due: Instant,
    pub(super) phase: Option<u16>,
    pub(super) written: Option<Instant>,
    pub(super) acked: Option<Instant>,
    /// The seq that a reply named.
    pub(super) accepted: Option<u64>,
    /// The sender saw it in its own inbox.
    pub(super) own: bool,
    /// Receivers that have not seen it yet. Each counts once: a view knows what its member saw before.
    pub(super) expected: u16,
    /// A receiver saw it.
    pub(super) delivered: bool,
    pub(super) refused: bool,
    /// A member got something else in its place.
    pub(super) corrupted: bool,
}

impl Progress {
    /// A message for so many receivers that was due then.
    fn new(due: Instant, phase: Option<u16>, expected: u16) -> Self {
        Self {
            due,
            phase,
            written: None,
            acked: None,
            accepted: None,
            own: false,
            expected,
            delivered: false,
            refused: false,
            corrupted: false,
        }
    }

    pub(super) fn done(&self) -> bool {
        self.refused || (self.own && self.expected == 0)
    }

    pub(super) fn observation(&self) -> Observation {
        Observation {
            is_ack: false,
            is_delivery: false,
            finished: false,
            acked: self.acked,
            due: self.due,
            written: self.written,
            phase: self.phase,
        }
    }
}

/// One member of a conversation.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) user: UserId,
    pub(super) sent: u64,
    /// Messages of this member that are not finished, the first of them number `finished`, except for holes.
    pub(super) in_flight: VecDeque<Progress>,
    finished: u64,
    /// The conversation's seqs as this member saw them.
    pub(super) seqs: View,
    /// The counters of the senders as this member saw them; those whom it has seen nothing of may be left out at the end.
    counters: Vec<View>,
}

impl Member {
    /// Where message `counter` stands; `None`: it is done, and so are all before it.
    pub(super) fn progress(&mut self, counter: u64) -> Option<&mut Progress> {
        let at = usize::try_from(counter.checked_sub(self.finished)?).ok()?;
        self.in_flight.get_mut(at)
    }

    /// Forgets what is done, as far as nothing before it is missing.
    pub(super) fn sweep(&mut self) {
        while self.in_flight.front().is_some_and(Progress::done) {
            self.in_flight.pop_front();
            self.finished += 1;
        }
    }

    /// Notes that this member saw a message, by its place and by its sender's count.
    pub(super) fn see(&mut self, seq: u64, sender: u8, counter: u64) -> (Seen, Seen) {
        let sender = usize::from(sender);
        if self.counters.len() <= sender {
            self.counters.resize_with(sender + 1, || View::from(0));
        }
        (self.seqs.see(seq), self.counters[sender].see(counter))
    }
}

/// What the members saw at one seq.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    /// Whose message it was for the first who saw one, and its counter.
    what: Option<(u8, u64)>,
    /// Members who saw something there.
    seen: u16,
}

/// A conversation of two or more.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) id: ConversationId,
    pub(super) members: Box<[Member]>,
    /// What was seen at seq `order_base` and after.
    order: VecDeque<Place>,
    order_base: u64,
}

impl Conversation {
    /// One whose last message is `head` (0: none).
    pub(super) fn new(id: ConversationId, users: &[UserId], head: u64) -> Self {
        let member = |user: &UserId| Member {
            user: *user,
            sent: 0,
            in_flight: VecDeque::new(),
            finished: 0,
            seqs: View::from(head + 1),
            counters: Vec::new(),
        };
        Self {
            id,
            members: users.iter().map(member).collect(),
            order: VecDeque::new(),
            order_base: head + 1,
        }
    }

    /// Notes that a member has its next message to send, and says which one that is.
    pub(super) fn send(&mut self, sender: u8, due: Instant, phase: Option<u16>) -> u64 {
        // At most 256 members.
        let receivers = (self.members.len() - 1) as u16;
        let member = &mut self.members[usize::from(sender)];
        let counter = member.sent;
        member.sent += 1;
        let progress = Progress::new(due, phase, receivers);
        member.in_flight.push_back(progress);
        counter
    }

    /// Notes what one member saw at `seq`; false when another one saw something else there.
    pub(super) fn agree(&mut self, seq: u64, what: (u8, u64)) -> bool {
        let Some(at) = seq.checked_sub(self.order_base) else {
            // All had agreed on this place already.
            return false;
        };
        let Ok(at) = usize::try_from(at) else {
            return false;
        };
        if at >= self.order.len() {
            // A seq far ahead is a gap that the views count; the table of places stays bounded.
            if at > self.order.len() + GAPS_MAX {
                return true;
            }
            self.order.resize(at + 1, Place::default());
        }
        let members = self.members.len() as u16;
        let place = &mut self.order[at];
        let agreed = place.seen < members && place.what.is_none_or(|known| known == what);
        place.what.get_or_insert(what);
        place.seen = members.min(place.seen + 1);
        while self
            .order
            .front()
            .is_some_and(|first| first.seen == members)
        {
            self.order.pop_front();
            self.order_base += 1;
        }
        agreed
    }
}
