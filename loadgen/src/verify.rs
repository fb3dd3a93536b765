//! The ledger of a run: what was sent, what each member saw, and the verdict on every difference.

mod conversation;
mod edits;
#[cfg(test)]
mod group_tests;
mod last;
mod notes;

use std::time::Instant;

use quipu_protocol::event::Message;
use quipu_protocol::id::{ConversationId, MessageId, UserId};

use self::conversation::{Conversation, Member, Seen, What};
use self::edits::Edits;
pub(crate) use self::last::{Reckoning, Stopped};
use crate::measure::Verdicts;
use crate::payload::{Label, Tag};

/// What an observation means to the one who drives the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Acked now, and not before.
    pub(crate) is_ack: bool,
    /// A receiver saw it now.
    pub(crate) is_delivery: bool,
    /// Seen by all members now, and not before: one message of the measurement.
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

/// How a member comes to see a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As an event of its inbox: to the sender that is the ack.
    Event,
    /// By a notice or from the history: the sender has to be answered as well.
    Read,
}

/// Names the messages of one generator process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RunId {
    /// Random, the same in all processes of a run.
    pub(crate) number: u64,
    /// Conversations of the processes before this one: a message that strays to another process is known for what it is.
    pub(crate) first_pair: u32,
}

/// Everything a run has sent and seen.
#[derive(Debug)]
pub(crate) struct Ledger {
    run: RunId,
    conversations: Vec<Conversation>,
    verdicts: Verdicts,
    under_way: u64,
    /// Notes of open groups, counted once for each member that has not seen them.
    notes_under_way: u64,
    edits: Edits,
}

impl Ledger {
    /// An empty ledger.
    pub(crate) fn new(run: RunId) -> Self {
        Self {
            run,
            conversations: Vec::new(),
            verdicts: Verdicts::default(),
            under_way: 0,
            notes_under_way: 0,
            edits: Edits::default(),
        }
    }

    /// Adds a conversation that is not open yet. Its number is the count of those before it; its members are numbered in
    /// their order.
    pub(crate) fn add(&mut self, id: ConversationId, users: &[UserId]) {
        self.conversations.push(Conversation::new(id, users));
    }

    /// A conversation is open, and all its members have to see what comes after `head` (0: everything).
    pub(crate) fn open(&mut self, conversation: usize, head: u64) {
        self.conversations[conversation].begin_above(head, false);
    }

    /// The last seq that this member has seen everything up to, as far as it was shown anything.
    pub(crate) fn seen_up_to(&self, conversation: usize, member: usize) -> u64 {
        let seqs = &self.conversations[conversation].members[member].seqs;
        seqs.next().saturating_sub(1)
    }

    /// Whether the conversation's messages are read from the history.
    pub(crate) fn is_pulled(&self, conversation: usize) -> bool {
        self.conversations[conversation].pulled
    }

    /// Whether what is at this seq of a conversation is of the time before it was open.
    pub(crate) fn is_of_opening(&self, conversation: usize, seq: u64) -> bool {
        self.conversations[conversation].is_of_opening(seq)
    }

    /// The pair's conversation.
    pub(crate) fn conversation(&self, pair: usize) -> ConversationId {
        self.conversations[pair].id
    }

    /// Notes that member `side` of `pair` has its next message to send, due at `due` in `phase`, and says which one that is.
    pub(crate) fn send(
        &mut self,
        pair: usize,
        side: u8,
        due: Instant,
        phase: Option<u16>,
    ) -> Label {
        self.under_way += 1;
        Label {
            run: self.run.number,
            pair: self.run.first_pair + pair as u32,
            side,
            counter: self.conversations[pair].send(side, due, phase),
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
        &mut self.conversations[place].members[usize::from(label.side)]
    }

    /// The name of a message: a function of its label, so that a receiver can check it.
    pub(crate) fn message_id(label: &Label) -> MessageId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&label.run.to_be_bytes());
        bytes[8..].copy_from_slice(
            &(u64::from(label.pair) << 40 | u64::from(label.side) << 32 | label.counter)
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
            side: (rest >> 32) as u8,
            counter: rest & u64::from(u32::MAX),
        }
    }

    /// A member got a message that is not as it was sent. Where text or id still says which one it was, it is not counted a
    /// second time as lost.
    fn corrupted(&mut self, pair: usize, label: &Label) {
        self.verdicts.corrupted += 1;
        if label.run != self.run.number || !self.is_of(label, pair) {
            return;
        }
        let sender = self.conversations[pair]
            .members
            .get_mut(usize::from(label.side));
        if let Some(progress) = sender.and_then(|sender| sender.progress(label.counter)) {
            progress.corrupted = true;
        }
    }

    /// Somebody who is not a member of its conversation got something.
    pub(crate) fn misdelivered(&mut self) {
        self.verdicts.misdelivered += 1;
    }

    /// Somebody got a message of which nobody knows.
    pub(crate) fn ghost(&mut self) {
        self.verdicts.ghosts += 1;
    }

    /// Somebody was told of a position below one that was told before.
    pub(crate) fn went_back(&mut self) {
        self.verdicts.reordered += 1;
    }

    /// A file came with other bytes than those that were sent.
    pub(crate) fn file_corrupted(&mut self) {
        self.verdicts.corrupted += 1;
    }

    /// A file that was confirmed could not be fetched.
    pub(crate) fn file_lost(&mut self) {
        self.verdicts.acked_but_lost += 1;
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
        let sender = &mut self.conversations[place].members[usize::from(label.side)];
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

    /// A reply said that the message has this seq: an ack. The sender must still see it.
    pub(crate) fn accepted(
        &mut self,
        label: &Label,
        seq: u64,
        now: Instant,
    ) -> Option<Observation> {
        let sender = self.sender(label);
        let progress = sender.progress(label.counter).filter(|it| !it.done())?;
        progress.accepted = Some(seq);
        let disagrees = progress.own && progress.seq.is_some_and(|seen| seen != seq);
        let is_ack = progress.acked.is_none();
        progress.acked.get_or_insert(now);
        let observation = Observation {
            is_ack,
            finished: progress.done(),
            ..progress.observation()
        };
        sender.sweep();
        self.verdicts.disagreed += u64::from(disagrees);
        self.under_way -= u64::from(observation.finished);
        Some(observation)
    }

    /// Whether the message has a file, and if so, that it is the one that the text names.
    fn is_whole(message: &Message) -> bool {
        let files = message.content.attachments();
        match Tag::read(message.content.text()) {
            Tag::None | Tag::Edited => files.is_empty(),
            Tag::File(hash) => matches!(files, [file] if file.hash[..8] == hash),
        }
    }

    /// Member `observer` of a conversation got `message`. `None`: a fault that makes it none of the measured ones.
    pub(crate) fn observe(
        &mut self,
        pair: usize,
        observer: usize,
        message: &Message,
        way: Way,
        now: Instant,
    ) -> Option<Observation> {
        let Some(label) = Label::read(message.content.text()) else {
            self.corrupted(pair, &Self::label_of(&message.id));
            return None;
        };
        let is_of = self.is_of(&label, pair);
        let sender = self.conversations[pair]
            .members
            .get(usize::from(label.side));
        let is_sent = sender.is_some_and(|sender| label.counter < sender.sent);
        if label.run != self.run.number || (is_of && !is_sent) {
            self.verdicts.ghosts += 1;
            return None;
        }
        let this = &mut self.conversations[pair];
        if !is_of || message.conversation != this.id {
            self.verdicts.misdelivered += 1;
            return None;
        }
        let sender = this.members[usize::from(label.side)].user;
        if message.from != sender
            || message.id != Self::message_id(&label)
            || !Self::is_whole(message)
        {
            self.corrupted(pair, &label);
            return None;
        }
        let member = &mut this.members[observer];
        let (by_seq, by_counter) = member.see(message.seq.get(), label.side, label.counter);
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
        let what = What::Message {
            sender: label.side,
            counter: label.counter,
        };
        if !this.agree(message.seq.get(), what) {
            self.verdicts.disagreed += 1;
        }
        let by_sender = observer == usize::from(label.side);
        self.progress(&label, by_sender.then_some(way), message.seq.get(), now)
    }

    /// Notes that the sender, in this way, or (`None`) a receiver of a message has seen it.
    fn progress(
        &mut self,
        label: &Label,
        by_sender: Option<Way>,
        seq: u64,
        now: Instant,
    ) -> Option<Observation> {
        let sender = self.sender(label);
        let progress = sender.progress(label.counter)?;
        let is_ack = by_sender == Some(Way::Event) && progress.acked.is_none();
        progress.seq.get_or_insert(seq);
        let mut disagrees = false;
        match by_sender {
            Some(_) => {
                progress.own = true;
                if is_ack {
                    progress.acked = Some(now);
                }
                disagrees = progress.accepted.is_some_and(|accepted| accepted != seq);
            }
            None => {
                progress.delivered = true;
                progress.expected = progress.expected.saturating_sub(1);
            }
        }
        let observation = Observation {
            is_ack,
            is_delivery: by_sender.is_none(),
            finished: progress.done(),
            ..progress.observation()
        };
        sender.sweep();
        self.verdicts.disagreed += u64::from(disagrees);
        self.under_way -= u64::from(observation.finished);
        Some(observation)
    }

    /// Which run it is of.
    pub(crate) fn run(&self) -> RunId {
        self.run
    }

    /// Whether every message sent was acked and seen by all, or refused, and so with notes and edits.
    pub(crate) fn settled(&self) -> bool {
        self.under_way() == 0
    }

    /// Messages, notes and edits that not all have seen yet.
    pub(crate) fn under_way(&self) -> u64 {
        self.under_way + self.notes_under_way + self.edits.len()
    }

    /// The verdicts so far; what is missing is not among them yet.
    pub(crate) fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }
}

#[cfg(test)]
mod tests {
    use quipu_protocol::event::Content;
    use quipu_protocol::id::{ClientSeq, DeviceId, Seq, TimestampMs};

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
        for pair in 0..2 {
            let users = users(pair);
            ledger.add(ConversationId::direct(&users[0], &users[1]), &users);
            ledger.open(pair, 0);
        }
        ledger
    }

    /// Everybody was connected, and nothing more came.
    fn finish(ledger: Ledger) -> Verdicts {
        let reckoning = ledger.finish(&Stopped {
            arriving: false,
            is_there: &|_, _| true,
        });
        assert_eq!(reckoning.under_way, 0);
        reckoning.verdicts
    }

    fn see(
        ledger: &mut Ledger,
        conversation: usize,
        observer: usize,
        message: &Message,
    ) -> Option<Observation> {
        ledger.observe(conversation, observer, message, Way::Event, Instant::now())
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
            content: Content::Text(label.text(120, Tag::None)),
            state: None,
        }
    }

    /// Sends `count` messages from side 0 of pair 0.
    fn sent(ledger: &mut Ledger, count: usize) -> Vec<Label> {
        (0..count).map(|_| send(ledger, 0)).collect()
    }

    fn send(ledger: &mut Ledger, side: u8) -> Label {
        let label = ledger.send(0, side, Instant::now(), Some(0));
        ledger.written(&label, Instant::now());
        label
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
            let ack = see(&mut ledger, 0, 0, &message(label, seq)).unwrap();
            assert!(ack.is_ack && !ack.finished);
            let delivery = see(&mut ledger, 0, 1, &message(label, seq)).unwrap();
            assert!(
                !delivery.is_ack
                    && delivery.finished
                    && delivery.is_delivery
                    && delivery.phase.is_some()
            );
        }
        assert!(ledger.settled());
        assert!(finish(ledger).clean());
    }

    #[test]
    fn both_sides_may_talk_at_once() {
        let mut ledger = ledger();
        let (first, second) = (send(&mut ledger, 0), send(&mut ledger, 1));
        for observer in [0, 1] {
            see(&mut ledger, 0, observer, &message(&second, 1)).unwrap();
            see(&mut ledger, 0, observer, &message(&first, 2)).unwrap();
        }
        assert!(ledger.settled());
        assert!(finish(ledger).clean());
    }

    #[test]
    fn lost_with_and_without_an_ack() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 3);
        see(&mut ledger, 0, 0, &message(&labels[0], 1));
        see(&mut ledger, 0, 1, &message(&labels[1], 2));
        assert!(!ledger.settled());
        assert_eq!(
            finish(ledger),
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
            see(&mut ledger, 0, observer, &message(&labels[0], 1));
        }
        see(&mut ledger, 0, 1, &message(&labels[0], 1));
        see(&mut ledger, 0, 1, &message(&labels[0], 2));
        assert_eq!(finish(ledger), verdicts(|v| v.duplicated = 2));
    }

    #[test]
    fn a_group_message_is_done_when_every_member_has_seen_it() {
        let users: Vec<UserId> = (0..4)
            .map(|n| UserId::new(&format!("member-{n}")).unwrap())
            .collect();
        let id = ConversationId::direct(&users[0], &users[1]);
        let mut ledger = Ledger::new(RunId::default());
        ledger.add(id, &users);
        ledger.open(0, 0);
        let labels: Vec<Label> = (0..2)
            .map(|_| ledger.send(0, 3, Instant::now(), None))
            .collect();
        // As one of a pair would be shown it, but for what makes it a group's.
        let of_a_pair = Label {
            run: 0,
            pair: FIRST,
            side: 0,
            counter: 0,
        };
        let seen = |label: &Label, seq: u64| Message {
            conversation: id,
            id: Ledger::message_id(label),
            from: users[3],
            to: None,
            content: Content::Text(label.text(120, Tag::None)),
            ..message(&of_a_pair, seq)
        };
        for observer in [3, 0, 2, 1] {
            let first = see(&mut ledger, 0, observer, &seen(&labels[0], 1)).unwrap();
            assert_eq!(first.is_ack, observer == 3);
            assert_eq!(first.finished, observer == 1);
        }
        // One of them sees it twice, and one of them never sees the second message.
        see(&mut ledger, 0, 0, &seen(&labels[0], 1));
        for observer in [3, 0, 2] {
            see(&mut ledger, 0, observer, &seen(&labels[1], 2));
        }
        assert_eq!(ledger.under_way(), 1);
        assert_eq!(
            finish(ledger),
            verdicts(|v| {
                v.duplicated = 1;
                v.acked_but_lost = 1;
            })
        );
    }

    #[test]
    fn reordered() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 2);
        for at in [0, 1] {
            see(&mut ledger, 0, 0, &message(&labels[at], at as u64 + 1));
        }
        for at in [1, 0] {
            see(&mut ledger, 0, 1, &message(&labels[at], at as u64 + 1));
        }
        assert_eq!(finish(ledger), verdicts(|v| v.reordered = 1));
    }

    #[test]
    fn two_members_see_different_orders() {
        let mut ledger = ledger();
        let (first, second) = (send(&mut ledger, 0), send(&mut ledger, 1));
        see(&mut ledger, 0, 0, &message(&first, 1));
        see(&mut ledger, 0, 0, &message(&second, 2));
        see(&mut ledger, 0, 1, &message(&second, 1));
        see(&mut ledger, 0, 1, &message(&first, 2));
        assert_eq!(finish(ledger), verdicts(|v| v.disagreed = 2));
    }

    #[test]
    fn an_ack_by_reply_is_one_ack_and_holds_the_gateway_to_its_word() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 3);
        let now = Instant::now();
        assert!(ledger.accepted(&labels[0], 1, now).unwrap().is_ack);
        assert!(!ledger.accepted(&labels[0], 1, now).unwrap().is_ack);
        let own = see(&mut ledger, 0, 0, &message(&labels[0], 1)).unwrap();
        assert!(!own.is_ack && !own.finished);
        assert!(
            see(&mut ledger, 0, 1, &message(&labels[0], 1))
                .unwrap()
                .finished
        );
        // Another place than the ack had named, then an ack that nothing follows.
        ledger.accepted(&labels[1], 9, now);
        for observer in [0, 1] {
            see(&mut ledger, 0, observer, &message(&labels[1], 2));
        }
        ledger.accepted(&labels[2], 3, now);
        assert_eq!(ledger.under_way(), 1);
        assert_eq!(
            finish(ledger),
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
        see(&mut ledger, 0, 1, &message(&labels[1], 1));
        ledger.late();
        assert_eq!(
            finish(ledger),
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
            see(&mut ledger, 0, 0, &message(label, seq));
        }
        let mut text = message(&labels[0], 1);
        text.content = Content::Text("something else".to_owned());
        see(&mut ledger, 0, 1, &text);
        let mut id = message(&labels[1], 2);
        id.id = MessageId([7; 16]);
        see(&mut ledger, 0, 1, &id);
        let mut both = message(&labels[2], 3);
        both.id = MessageId([7; 16]);
        both.content = Content::Text("something else".to_owned());
        see(&mut ledger, 0, 1, &both);
        assert_eq!(
            finish(ledger),
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
            see(&mut ledger, 0, observer, &message(&labels[1], 1));
        }
        assert!(ledger.settled());
        assert!(ledger.verdicts().clean());
        see(&mut ledger, 0, 1, &message(&labels[0], 2));
        assert_eq!(finish(ledger), verdicts(|v| v.ghosts = 1));
    }

    #[test]
    fn misdelivered_corrupted_ghost_and_rejected() {
        let mut ledger = ledger();
        let labels = sent(&mut ledger, 1);
        let good = message(&labels[0], 1);
        see(&mut ledger, 1, 0, &good);
        let of_another_process = Label {
            pair: FIRST - 1,
            ..labels[0]
        };
        let mut stray = good.clone();
        stray.content = Content::Text(of_another_process.text(120, Tag::None));
        see(&mut ledger, 1, 0, &stray);
        let mut wrong_sender = good.clone();
        wrong_sender.from = users(0)[1];
        see(&mut ledger, 0, 1, &wrong_sender);
        let mut wrong_text = good.clone();
        wrong_text.content = Content::Text("something else".to_owned());
        see(&mut ledger, 0, 1, &wrong_text);
        let unsent = Label {
            counter: 1,
            ..labels[0]
        };
        see(&mut ledger, 0, 1, &message(&unsent, 2));
        let earlier_run = Label {
            run: RUN + 1,
            ..labels[0]
        };
        see(&mut ledger, 0, 1, &message(&earlier_run, 2));
        ledger.rejected();
        for observer in [0, 1] {
            see(&mut ledger, 0, observer, &good);
        }
        assert_eq!(
            finish(ledger),
            verdicts(|v| {
                v.misdelivered = 2;
                v.corrupted = 2;
                v.ghosts = 2;
                v.rejected = 1;
            })
        );
    }
}
