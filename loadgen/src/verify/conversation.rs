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
    /// The first one that it has to see; `None`: the first that it is shown.
    first: Option<u64>,
    next: u64,
    missing: BTreeSet<u64>,
}

impl View {
    fn from(first: u64) -> Self {
        Self {
            first: Some(first),
            next: first,
            missing: BTreeSet::new(),
        }
    }

    /// One that begins with what it is shown first.
    const fn open() -> Self {
        Self {
            first: None,
            next: 0,
            missing: BTreeSet::new(),
        }
    }

    /// The first number above all that were seen.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether it was seen.
    pub(super) fn has(&self, number: u64) -> bool {
        self.first.is_some_and(|first| first <= number)
            && number < self.next
            && !self.missing.contains(&number)
    }

    pub(super) fn see(&mut self, number: u64) -> Seen {
        if self.first.is_none() {
            *self = Self::from(number);
        }
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
    /// Where a member saw it first, or the history has it.
    pub(super) seq: Option<u64>,
    /// The history has it, looked up after the end of the run.
    pub(super) in_history: bool,
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
            seq: None,
            in_history: false,
            own: false,
            expected,
            delivered: false,
            refused: false,
            corrupted: false,
        }
    }

    pub(super) fn done(&self) -> bool {
        self.refused || (self.own && self.acked.is_some() && self.expected == 0)
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
    /// Where it came into the conversation: it has to see everything from there on.
    entered: u64,
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

/// What somebody saw at one seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Message {
        sender: u8,
        counter: u64,
    },
    /// The note that this member made the group, or joined it.
    Entered(usize),
    /// The note that the group is too large for inboxes.
    Pulled,
}

/// What the members saw at one seq.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    /// What it was for the first who saw something.
    what: Option<What>,
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
    /// Its last seq when it was open and nothing had been said in it; `None`: it is still being opened.
    head: Option<u64>,
    /// Its messages are read from the history, not pushed.
    pub(super) pulled: bool,
    /// Where the members of a pushed group entered, ascending; empty where all were there from the start.
    entries: Vec<u64>,
    /// How often a note was seen before the conversation was open.
    notes_seen: u64,
}

impl Conversation {
    /// One that is not open yet.
    pub(super) fn new(id: ConversationId, users: &[UserId]) -> Self {
        let member = |user: &UserId| Member {
            user: *user,
            sent: 0,
            in_flight: VecDeque::new(),
            finished: 0,
            seqs: View::open(),
            counters: Vec::new(),
            entered: 1,
        };
        Self {
            id,
            members: users.iter().map(member).collect(),
            order: VecDeque::new(),
            order_base: 1,
            head: None,
            pulled: false,
            entries: Vec::new(),
            notes_seen: 0,
        }
    }

    /// It is open, and all that is above `head` counts, for every member.
    pub(super) fn begin_above(&mut self, head: u64, pulled: bool) {
        for member in &mut self.members {
            member.seqs = View::from(head + 1);
            member.entered = head + 1;
        }
        self.order.clear();
        self.order_base = head + 1;
        self.head = Some(head);
        self.pulled = pulled;
    }

    /// A pushed group is open: up to `head` there are the notes of it, and each member has to see those from its own on.
    /// `entered` says where that was; `None`: its note is nowhere. Says how many notes are still to be seen.
    pub(super) fn begin_with_notes(&mut self, head: u64, entered: &[Option<u64>]) -> u64 {
        let mut expected = 0;
        for (member, seq) in self.members.iter_mut().zip(entered) {
            member.entered = seq.unwrap_or(head + 1);
            expected += head + 1 - member.entered.min(head + 1);
            if member.seqs.first.is_none() {
                member.seqs = View::from(member.entered);
            }
            self.entries.push(member.entered);
        }
        self.entries.sort_unstable();
        self.head = Some(head);
        self.forget_what_all_saw();
        expected.saturating_sub(self.notes_seen)
    }

    /// Whether it is open, so that messages may come.
    pub(super) fn is_open(&self) -> bool {
        self.head.is_some()
    }

    /// Whether what is at this seq belongs to its opening.
    pub(super) fn is_of_opening(&self, seq: u64) -> bool {
        self.head.is_none_or(|head| seq <= head)
    }

    /// Notes that a member saw a note of the opening before all were there. Later ones are counted by the ledger.
    pub(super) fn saw_note(&mut self) {
        self.notes_seen += u64::from(self.head.is_none());
    }

    /// Members who have to see this seq.
    fn expected(&self, seq: u64) -> u16 {
        // At most 10,000 members.
        match self.entries.is_empty() {
            true => self.members.len() as u16,
            false => self.entries.partition_point(|entered| *entered <= seq) as u16,
        }
    }

    /// Members who have not seen this seq and have to.
    pub(super) fn lacking(&self, seq: u64) -> impl Iterator<Item = usize> + '_ {
        let lacks = move |member: &Member| member.entered <= seq && !member.seqs.has(seq);
        let numbered = self.members.iter().enumerate();
        numbered.filter_map(move |(number, member)| lacks(member).then_some(number))
    }

    /// Seqs of the notes of its opening that have to be seen.
    pub(super) fn notes(&self) -> std::ops::Range<u64> {
        match (self.pulled, self.entries.is_empty(), self.head) {
            (false, false, Some(head)) => 1..head + 1,
            (_, _, _) => 0..0,
        }
    }

    /// The first seq that not all have seen, as far as that is known.
    pub(super) fn first_unseen(&self) -> u64 {
        self.order_base
    }

    /// Whether a message of its members is not done.
    pub(super) fn is_unfinished(&self) -> bool {
        let is = |member: &Member| member.in_flight.iter().any(|progress| !progress.done());
        self.members.iter().any(is)
    }

    /// Notes that a member has its next message to send, and says which one that is.
    pub(super) fn send(&mut self, sender: u8, due: Instant, phase: Option<u16>) -> u64 {
        // At most 10,000 members.
        let receivers = (self.members.len() - 1) as u16;
        let member = &mut self.members[usize::from(sender)];
        let counter = member.sent;
        member.sent += 1;
        let progress = Progress::new(due, phase, receivers);
        member.in_flight.push_back(progress);
        counter
    }

    /// Notes what one member saw at `seq`; false when another one saw something else there.
    pub(super) fn agree(&mut self, seq: u64, what: What) -> bool {
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
        let expected = match self.is_open() {
            true => self.expected(seq),
            false => self.members.len() as u16,
        };
        let place = &mut self.order[at];
        let agreed = place.seen < expected && place.what.is_none_or(|known| known == what);
        place.what.get_or_insert(what);
        place.seen = expected.min(place.seen + 1);
        self.forget_what_all_saw();
        agreed
    }

    fn forget_what_all_saw(&mut self) {
        while self.is_open()
            && self
                .order
                .front()
                .is_some_and(|first| first.seen >= self.expected(self.order_base))
        {
            self.order.pop_front();
            self.order_base += 1;
        }
    }
}
