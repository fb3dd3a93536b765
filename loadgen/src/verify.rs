//! The ledger of a run: what was sent, what each member saw, and the verdict on every difference.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use quipu_protocol::event::Message;
use quipu_protocol::id::{ConversationId, MessageId, UserId};

use crate::measure::Verdicts;
use crate::payload::Label;

/// Gaps that one view remembers; what is missing beyond them is counted as lost without being told apart.
const GAPS_MAX: usize = 4_096;

/// A number that must come once and in order, and what happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    InOrder,
    /// Later ones came first; the ones between are missing for now.
    Ahead,
    /// Was missing until now.
    Late,
    Again,
}

/// Which numbers of a gap-free sequence one observer has seen.
#[derive(Debug)]
struct View {
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

    fn see(&mut self, number: u64) -> Seen {
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
struct Progress {
    due: Instant,
    phase: Option<u16>,
    written: Option<Instant>,
    acked: Option<Instant>,
    /// The seq that a reply named.
    accepted: Option<u64>,
    /// The sender saw it in its own inbox.
    own: bool,
    delivered: bool,
    refused: bool,
    /// A member got something else in its place.
    corrupted: bool,
}

impl Progress {
    fn done(&self) -> bool {
        self.refused || (self.own && self.delivered)
    }
}

/// One member of a pair.
#[derive(Debug)]
struct Member {
    user: UserId,
    sent: u64,
    /// Messages of this member that are not finished, the first of them number `finished`, except for holes.
    in_flight: VecDeque<Progress>,
    finished: u64,
    /// The conversation's seqs as this member saw them.
    seqs: View,
    /// The counters of both senders as this member saw them.
    counters: [View; 2],
}

/// What the members saw at one seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Unseen,
    /// One of them saw this side's message with this counter.
    Once(u8, u64),
    /// Both were there.
    Both,
}

/// One conversation of two users.
#[derive(Debug)]
struct Pair {
    conversation: ConversationId,
    members: [Member; 2],
    /// What was seen at seq `order_base` and after.
    order: VecDeque<Place>,
    order_base: u64,
}

/// What an observation means to the one who drives the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Acked now, and not before.
    pub(crate) is_ack: bool,
    /// Its receiver saw it now.
    pub(crate) is_delivery: bool,
    /// Seen by both members now, and not before: one message of the measurement.
    pub(crate) finished: bool,
    /// When it was acked.
    pub(crate) acked: Option<Instant>,
    /// When it was due.
    pub(crate) due: Instant,
    /// When it was written to a connection for the first time.
    pub(crate) written: Option<Instant>,
    /// The phase that it was due in; `None`: it came while nothing was being measured.
    pub(crate) phase: Option<u16>,
}

/// Names the messages of one generator process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RunId {
    /// Random, the same in all processes of a run.
    pub(crate) number: u64,
    /// Pairs of the processes before this one: a message that strays to another process is known for what it is.
    pub(crate) first_pair: u32,
}

/// Everything a run has sent and seen.
#[derive(Debug)]
pub(crate) struct Ledger {
    run: RunId,
    pairs: Vec<Pair>,
    verdicts: Verdicts,
    under_way: u64,
}

impl Ledger {
    /// An empty ledger.
    pub(crate) fn new(run: RunId) -> Self {
        Self {
            run,
            pairs: Vec::new(),
            verdicts: Verdicts::default(),
            under_way: 0,
        }
    }

    /// Adds a pair whose conversation's last message is `head` (0: none). Its number is the count of pairs before it.
    pub(crate) fn add_pair(&mut self, users: [UserId; 2], head: u64) {
        let member = |user| Member {
            user,
            sent: 0,
            in_flight: VecDeque::new(),
            finished: 0,
            seqs: View::from(head + 1),
            counters: [View::from(0), View::from(0)],
        };
        self.pairs.push(Pair {
            conversation: ConversationId::direct(&users[0], &users[1]),
            members: users.map(member),
            order: VecDeque::new(),
            order_base: head + 1,
        });
    }

    /// The pair's conversation.
    pub(crate) fn conversation(&self, pair: usize) -> ConversationId {
        self.pairs[pair].conversation
    }

    /// Notes that `side` of `pair` has its next message to send, due at `due` in `phase`, and says which one that is.
    pub(crate) fn send(
        &mut self,
        pair: usize,
        side: u8,
        due: Instant,
        phase: Option<u16>,
    ) -> Label {
        self.under_way += 1;
        let member = &mut self.pairs[pair].members[usize::from(side)];
        let counter = member.sent;
        member.sent += 1;
        member.in_flight.push_back(Progress {
            due,
            phase,
            written: None,
            acked: None,
            accepted: None,
            own: false,
            delivered: false,
            refused: false,
            corrupted: false,
        });
        Label {
            run: self.run.number,
            pair: self.run.first_pair + pair as u32,
            side,
            counter,
        }
    }

    /// Number, in this ledger, of the pair whose message this is. Only for labels that it gave out itself.
    pub(crate) fn place(&self, label: &Label) -> usize {
        (label.pair - self.run.first_pair) as usize
    }

    /// Whether a message that claims to be of this run is one of this pair.
    fn is_of(&self, label: &Label, pair: usize) -> bool {
        u64::from(label.pair) == u64::from(self.run.first_pair) + pair as u64
    }

    /// The sender of a message that this ledger has given out.
    fn sender(&mut self, label: &Label) -> &mut Member {
        let place = self.place(label);
        &mut self.pairs[place].members[usize::from(label.side)]
    }

    /// The name of a message: a function of its label, so that a receiver can check it.
    pub(crate) fn message_id(label: &Label) -> MessageId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&label.run.to_be_bytes());
        bytes[8..].copy_from_slice(
            &(u64::from(label.pair) << 40 | u64::from(label.side) << 39 | label.counter)
                .to_be_bytes(),
        );
        MessageId(bytes)
    }

    /// Which message has this name, if any has.
    fn label_of(id: &MessageId) -> Label {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let (run, rest) = (number(&id.0[..8]), number(&id.0[8..]));
        Label {
            run,
            pair: (rest >> 40) as u32,
            side: (rest >> 39 & 1) as u8,
            counter: rest & ((1 << 39) - 1),
        }
    }

    /// A member got a message that is not as it was sent. Where text or id still says which one it was, it is not counted a
    /// second time as lost.
    fn corrupted(&mut self, pair: usize, label: &Label) {
        self.verdicts.corrupted += 1;
        if label.run != self.run.number || !self.is_of(label, pair) {
            return;
        }
        let sender = &mut self.pairs[pair].members[usize::from(label.side)];
        if let Some(progress) = sender.progress(label.counter) {
            progress.corrupted = true;
        }
    }

    /// Somebody without a conversation got a message.
    pub(crate) fn misdelivered(&mut self) {
        self.verdicts.misdelivered += 1;
    }

    /// Somebody got a message of which nobody knows.
    pub(crate) fn ghost(&mut self) {
        self.verdicts.ghosts += 1;
    }

    /// Somebody was shown a message too late after coming back.
    pub(crate) fn late(&mut self) {
        self.verdicts.late += 1;
    }

    /// A message was refused, nobody knows which.
    pub(crate) fn rejected(&mut self) {
        self.verdicts.rejected += 1;
    }

    /// A message was refused for good: nobody may see it any more.
    pub(crate) fn refused(&mut self, label: &Label) {
        self.verdicts.rejected += 1;
        self.withdraw(label);
    }

    /// A message was put off and will be sent anew, as another one: under this label nobody may see it any more. Says the phase
    /// that it was due in.
    pub(crate) fn withdraw(&mut self, label: &Label) -> Option<u16> {
        let place = self.place(label);
        let sender = &mut self.pairs[place].members[usize::from(label.side)];
        let progress = sender.progress(label.counter).filter(|it| !it.done())?;
        progress.refused = true;
        let phase = progress.phase;
        self.under_way -= 1;
        sender.sweep();
        phase
    }

    /// A message was written to a connection; the first time counts.
    pub(crate) fn written(&mut self, label: &Label, now: Instant) {
        let sender = self.sender(label);
        if let Some(progress) = sender.progress(label.counter) {
            progress.written.get_or_insert(now);
        }
    }

    /// A reply said that the message has this seq: an ack. The sender's own event must still come.
    pub(crate) fn accepted(
        &mut self,
        label: &Label,
        seq: u64,
        now: Instant,
    ) -> Option<Observation> {
        let sender = self.sender(label);
        let progress = sender.progress(label.counter)?;
        progress.accepted = Some(seq);
        let is_ack = progress.acked.is_none();
        progress.acked.get_or_insert(now);
        Some(Observation {
            is_ack,
            ..progress.observation()
        })
    }

    /// Member `observer` of `pair` got `message`. `None`: a fault that makes it none of the measured ones.
    pub(crate) fn observe(
        &mut self,
        pair: usize,
        observer: u8,
        message: &Message,
        now: Instant,
    ) -> Option<Observation> {
        let Some(label) = Label::read(message.content.text()) else {
            self.corrupted(pair, &Self::label_of(&message.id));
            return None;
        };
        let known = self.pairs[pair].members[usize::from(label.side)].sent;
        let is_of = self.is_of(&label, pair);
        if label.run != self.run.number || (is_of && label.counter >= known) {
            self.verdicts.ghosts += 1;
            return None;
        }
        let this = &mut self.pairs[pair];
        if !is_of || message.conversation != this.conversation {
            self.verdicts.misdelivered += 1;
            return None;
        }
        let sender = this.members[usize::from(label.side)].user;
        if message.from != sender || message.id != Self::message_id(&label) {
            self.corrupted(pair, &label);
            return None;
        }
        let member = &mut this.members[usize::from(observer)];
        let by_seq = member.seqs.see(message.seq.get());
        let by_counter = member.counters[usize::from(label.side)].see(label.counter);
        if by_seq == Seen::Again || by_counter == Seen::Again {
            self.verdicts.duplicated += 1;
            return None;
        }
        let sender = &mut this.members[usize::from(label.side)];
        if sender.progress(label.counter).is_none_or(|it| it.refused) {
            // Not seen before, and nobody waits for it: it had been refused.
            self.verdicts.ghosts += 1;
            return None;
        }
        if by_seq == Seen::Late || by_counter == Seen::Late {
            self.verdicts.reordered += 1;
        }
        if !this.agree(message.seq.get(), (label.side, label.counter)) {
            self.verdicts.disagreed += 1;
        }
        self.progress(&label, observer == label.side, message.seq.get(), now)
    }

    /// Notes that the sender or the receiver of a message has seen it.
    fn progress(
        &mut self,
        label: &Label,
        by_sender: bool,
        seq: u64,
        now: Instant,
    ) -> Option<Observation> {
        let place = self.place(label);
        let sender = &mut self.pairs[place].members[usize::from(label.side)];
        let progress = sender.progress(label.counter)?;
        let is_ack = by_sender && progress.acked.is_none();
        match by_sender {
            true => {
                progress.own = true;
                progress.acked.get_or_insert(now);
                if progress.accepted.is_some_and(|accepted| accepted != seq) {
                    self.verdicts.disagreed += 1;
                }
            }
            false => progress.delivered = true,
        }
        let observation = Observation {
            is_ack,
            is_delivery: !by_sender,
            finished: progress.done(),
            ..progress.observation()
        };
        self.under_way -= u64::from(observation.finished);
        sender.sweep();
        Some(observation)
    }

    /// Which run it is of.
    pub(crate) fn run(&self) -> RunId {
        self.run
    }

    /// Whether every message sent was acked and delivered, or refused.
    pub(crate) fn settled(&self) -> bool {
        self.under_way == 0
    }

    /// Messages sent that not all have seen yet.
    pub(crate) fn under_way(&self) -> u64 {
        self.under_way
    }

    /// The verdicts so far; what is missing is not among them yet.
    pub(crate) fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// Reconciles: what is still missing now is lost.
    pub(crate) fn finish(mut self) -> Verdicts {
        for pair in &self.pairs {
            for sender in &pair.members {
                for progress in &sender.in_flight {
                    if progress.done() || progress.corrupted {
                        continue;
                    }
                    match (progress.acked.is_some(), progress.delivered) {
                        (true, _) => self.verdicts.acked_but_lost += 1,
                        (false, true) => self.verdicts.unacked += 1,
                        (false, false) => self.verdicts.lost += 1,
                    }
                }
            }
        }
        self.verdicts
    }
}

impl Member {
    /// Where message `counter` stands; `None`: it is done, and so are all before it.
    fn progress(&mut self, counter: u64) -> Option<&mut Progress> {
        let at = usize::try_from(counter.checked_sub(self.finished)?).ok()?;
        self.in_flight.get_mut(at)
    }

    /// Forgets what is done, as far as nothing before it is missing.
    fn sweep(&mut self) {
        while self.in_flight.front().is_some_and(Progress::done) {
            self.in_flight.pop_front();
            self.finished += 1;
        }
    }
}

impl Progress {
    fn observation(&self) -> Observation {
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

impl Pair {
    /// Notes what one member saw at `seq`; false when the other saw something else there.
    fn agree(&mut self, seq: u64, what: (u8, u64)) -> bool {
        let Some(at) = seq.checked_sub(self.order_base) else {
            // Both had agreed on this place already.
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
            self.order.resize(at + 1, Place::Unseen);
        }
        let (place, agreed) = match self.order[at] {
            Place::Unseen => (Place::Once(what.0, what.1), true),
            Place::Once(side, counter) => (Place::Both, (side, counter) == what),
            Place::Both => (Place::Both, false),
        };
        self.order[at] = place;
        while self.order.front() == Some(&Place::Both) {
            self.order.pop_front();
            self.order_base += 1;
        }
        agreed
    }
}

#[cfg(test)]
mod tests {
    use quipu_protocol::id::{ClientSeq, DeviceId, Seq, TimestampMs};

    use quipu_protocol::event::Content;

    use super::*;

    const RUN: u64 = 7;
    /// Pairs of other processes come first.
    const FIRST: u32 = 100;

    fn users(pair: usize) -> [UserId; 2] {
        ["a", "b"].map(|side| UserId::new(&format!("user-{pair}-{side}")).unwrap())
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(RunId {
            number: RUN,
            first_pair: FIRST,
        });
        ledger.add_pair(users(0), 0);
        ledger.add_pair(users(1), 0);
        ledger
    }

    fn message(label: &Label, seq: u64) -> Message {
        let users = users((label.pair - FIRST) as usize);
        Message {
            conversation: ConversationId::direct(&users[0], &users[1]),
            seq: Seq::new(seq).unwrap(),
            id: Ledger::message_id(label),
            from: users[usize::from(label.side)],
            from_device: DeviceId::new(1).unwrap(),
            client_seq: ClientSeq::FIRST,
            to: Some(users[usize::from(1 - label.side)]),
            sent_at: TimestampMs(0),
            content: Content::Text(label.text(120)),
            state: None,
        }
    }

    /// Sends `count` messages from side 0 of pair 0.
    fn sent(ledger: &mut Ledger, count: usize) -> Vec<Label> {
        (0..count).map(|_| send(ledger, 0)).collect()
    }

    fn send(ledger: &mut Ledger, side: u8) -> Label {
        ledger.send(0, side, Instant::now(), Some(0))
    }

    fn verdicts(change: impl FnOnce(&mut Verdicts)) -> Verdicts {
        let mut verdicts = Verdicts::default();
        change(&mut verdicts);
        verdicts
    }

    #[test]
    fn a_message_counts_once_acked_and_delivered() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 2);
        for (label, seq) in labels.iter().zip(1..) {
            let ack = ledger
                .observe(0, 0, &message(label, seq), Instant::now())
                .unwrap();
            assert!(ack.is_ack && !ack.finished);
            let delivery = ledger
                .observe(0, 1, &message(label, seq), Instant::now())
                .unwrap();
            assert!(
                !delivery.is_ack
                    && delivery.finished
                    && delivery.is_delivery
                    && delivery.phase.is_some()
            );
        }
        assert!(ledger.settled());
        assert!(ledger.finish().clean());
    }

    #[test]
    fn both_sides_may_talk_at_once() {
        let mut ledger = ledger();
        let (first, second) = (send(&mut ledger, 0), send(&mut ledger, 1));
        for observer in [0, 1] {
            ledger
                .observe(0, observer, &message(&second, 1), Instant::now())
                .unwrap();
            ledger
                .observe(0, observer, &message(&first, 2), Instant::now())
                .unwrap();
        }
        assert!(ledger.settled());
        assert!(ledger.finish().clean());
    }

    #[test]
    fn lost_with_and_without_an_ack() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 3);
        ledger.observe(0, 0, &message(&labels[0], 1), Instant::now());
        ledger.observe(0, 1, &message(&labels[1], 2), Instant::now());
        assert!(!ledger.settled());
        assert_eq!(
            ledger.finish(),
            verdicts(|v| {
                v.acked_but_lost = 1;
                v.unacked = 1;
                v.lost = 1;
            })
        );
    }

    #[test]
    fn duplicated_by_place_and_by_content() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 1);
        for observer in [0, 1] {
            ledger.observe(0, observer, &message(&labels[0], 1), Instant::now());
        }
        ledger.observe(0, 1, &message(&labels[0], 1), Instant::now());
        ledger.observe(0, 1, &message(&labels[0], 2), Instant::now());
        assert_eq!(ledger.finish(), verdicts(|v| v.duplicated = 2));
    }

    #[test]
    fn reordered() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 2);
        for at in [0, 1] {
            ledger.observe(0, 0, &message(&labels[at], at as u64 + 1), Instant::now());
        }
        for at in [1, 0] {
            ledger.observe(0, 1, &message(&labels[at], at as u64 + 1), Instant::now());
        }
        assert_eq!(ledger.finish(), verdicts(|v| v.reordered = 1));
    }

    #[test]
    fn two_members_see_different_orders() {
        let mut ledger = ledger();
        let (first, second) = (send(&mut ledger, 0), send(&mut ledger, 1));
        ledger.observe(0, 0, &message(&first, 1), Instant::now());
        ledger.observe(0, 0, &message(&second, 2), Instant::now());
        ledger.observe(0, 1, &message(&second, 1), Instant::now());
        ledger.observe(0, 1, &message(&first, 2), Instant::now());
        assert_eq!(ledger.finish(), verdicts(|v| v.disagreed = 2));
    }

    #[test]
    fn an_ack_by_reply_is_one_ack_and_holds_the_gateway_to_its_word() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 3);
        let now = Instant::now();
        assert!(ledger.accepted(&labels[0], 1, now).unwrap().is_ack);
        assert!(!ledger.accepted(&labels[0], 1, now).unwrap().is_ack);
        let own = ledger.observe(0, 0, &message(&labels[0], 1), now).unwrap();
        assert!(!own.is_ack && !own.finished);
        assert!(
            ledger
                .observe(0, 1, &message(&labels[0], 1), now)
                .unwrap()
                .finished
        );
        // Another place than the ack had named, then an ack that nothing follows.
        ledger.accepted(&labels[1], 9, now);
        for observer in [0, 1] {
            ledger.observe(0, observer, &message(&labels[1], 2), now);
        }
        ledger.accepted(&labels[2], 3, now);
        assert_eq!(ledger.under_way(), 1);
        assert_eq!(
            ledger.finish(),
            verdicts(|v| {
                v.disagreed = 1;
                v.acked_but_lost = 1;
            })
        );
    }

    #[test]
    fn what_was_refused_must_not_come() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 2);
        ledger.refused(&labels[0]);
        ledger.refused(&labels[1]);
        assert!(ledger.settled());
        ledger.observe(0, 1, &message(&labels[1], 1), Instant::now());
        ledger.late();
        assert_eq!(
            ledger.finish(),
            verdicts(|v| {
                v.rejected = 2;
                v.ghosts = 1;
                v.late = 1;
            })
        );
    }

    #[test]
    fn what_is_corrupted_is_not_lost_as_well() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 3);
        for (label, seq) in labels.iter().zip(1..) {
            assert_eq!(Ledger::label_of(&Ledger::message_id(label)), *label);
            ledger.observe(0, 0, &message(label, seq), Instant::now());
        }
        let mut text = message(&labels[0], 1);
        text.content = Content::Text("something else".to_owned());
        ledger.observe(0, 1, &text, Instant::now());
        let mut id = message(&labels[1], 2);
        id.id = MessageId([7; 16]);
        ledger.observe(0, 1, &id, Instant::now());
        let mut both = message(&labels[2], 3);
        both.id = MessageId([7; 16]);
        both.content = Content::Text("something else".to_owned());
        ledger.observe(0, 1, &both, Instant::now());
        assert_eq!(
            ledger.finish(),
            verdicts(|v| {
                v.corrupted = 3;
                v.acked_but_lost = 1;
            })
        );
    }

    #[test]
    fn what_was_put_off_is_no_fault_unless_it_comes() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 2);
        assert_eq!(ledger.withdraw(&labels[0]), Some(0));
        for observer in [0, 1] {
            ledger.observe(0, observer, &message(&labels[1], 1), Instant::now());
        }
        assert!(ledger.settled());
        assert!(ledger.verdicts().clean());
        ledger.observe(0, 1, &message(&labels[0], 2), Instant::now());
        assert_eq!(ledger.finish(), verdicts(|v| v.ghosts = 1));
    }

    #[test]
    fn misdelivered_corrupted_ghost_and_rejected() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 1);
        let good = message(&labels[0], 1);
        ledger.observe(1, 0, &good, Instant::now());
        let of_another_process = Label {
            pair: FIRST - 1,
            ..labels[0]
        };
        let mut stray = good.clone();
        stray.content = Content::Text(of_another_process.text(120));
        ledger.observe(1, 0, &stray, Instant::now());
        let mut wrong_sender = good.clone();
        wrong_sender.from = users(0)[1];
        ledger.observe(0, 1, &wrong_sender, Instant::now());
        let mut wrong_text = good.clone();
        wrong_text.content = Content::Text("something else".to_owned());
        ledger.observe(0, 1, &wrong_text, Instant::now());
        let unsent = Label {
            counter: 1,
            ..labels[0]
        };
        ledger.observe(0, 1, &message(&unsent, 2), Instant::now());
        let earlier_run = Label {
            run: RUN + 1,
            ..labels[0]
        };
        ledger.observe(0, 1, &message(&earlier_run, 2), Instant::now());
        ledger.rejected();
        for observer in [0, 1] {
            ledger.observe(0, observer, &good, Instant::now());
        }
        assert_eq!(
            ledger.finish(),
            verdicts(|v| {
                v.misdelivered = 2;
                v.corrupted = 2;
                v.ghosts = 2;
                v.rejected = 1;
            })
        );
    }
}
