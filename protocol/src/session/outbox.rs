//! What of a device's outbox goes out when: in order within each conversation, again on every connection until it is
//! answered.

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test has to begin at some time, and no decision depends on which"
)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{ClientSession, SendBlocked};
use crate::error::{RejectCode, Retry};
use crate::event::{Content, Outcome, Rejection};
use crate::id::{ClientSeq, ConversationId, MessageId, RequestId, Seq, UserId};
use crate::limits::{SENDS_IN_FLIGHT_MAX, SENDS_UNSYNCED_MAX};

/// Pause after a rejection that names no time.
const REJECTED_PAUSE: Duration = Duration::from_secs(1);

/// One message that the gateway has not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Where it goes.
    pub conversation: ConversationId,
    /// Set for direct conversations that this device can make.
    pub peer: Option<UserId>,
    /// Whether the gateway is known to have the conversation.
    pub opened: bool,
    /// The device's number for it.
    pub client_seq: ClientSeq,
    /// Its name.
    pub id: MessageId,
    /// What it says.
    pub content: Content,
}

/// The end of something that was sent, without an event of its own. The client keeps it before it tells anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// A message was accepted before; its event is on the way.
    Accepted {
        /// Where.
        conversation: ConversationId,
        /// Which.
        client_seq: ClientSeq,
        /// Its place there.
        seq: Seq,
    },
    /// A message was refused for good.
    Refused {
        /// Where.
        conversation: ConversationId,
        /// Which; `None`: all that wait for this conversation.
        client_seq: Option<ClientSeq>,
        /// Why.
        rejection: Rejection,
    },
    /// A conversation exists.
    Opened {
        /// Its id.
        conversation: ConversationId,
        /// The other one, if this device asked for it by name.
        peer: Option<UserId>,
        /// Seq of its last message.
        head: Option<Seq>,
    },
}

/// The unanswered messages of one connection, as a machine without a clock. Made anew for each connection from what the
/// client keeps, and as bounded as that is.
///
/// A client whose machine loses power may forget answers that it had written down but not synced. It asks again, and the
/// gateway remembers only so many answers. So what is in flight and what is answered but perhaps not durable count together,
/// and together stay within [`SENDS_IN_FLIGHT_MAX`] (QP-SEND-9); now and then the outbox asks its client to
/// [sync](Pumped::sync).
///
/// Answers do not always come in order: after a resume the oldest messages may wait for a REPLY while the EVENTs of later ones come. What is
/// sent then would push the oldest out of the gateway's memory, so a conversation's client seqs stay within the same bound of
/// the oldest one that the client may ask about again, on this connection and on every other (QP-SEND-4).
#[derive(Debug)]
pub struct Outbox {
    lanes: BTreeMap<ConversationId, Lane>,
    /// Lanes that may have something to send, in the order of their turns.
    ready: VecDeque<ConversationId>,
    /// Lanes that wait for a time.
    paused: BTreeMap<ConversationId, Instant>,
    opening: BTreeMap<RequestId, ConversationId>,
    /// Answered messages whose end may not be on the client's disk.
    unsynced: usize,
}

impl Default for Outbox {
    /// Holds nothing, and does not know what the connection before it left unsynced.
    fn default() -> Self {
        Self {
            lanes: BTreeMap::new(),
            ready: VecDeque::new(),
            paused: BTreeMap::new(),
            opening: BTreeMap::new(),
            unsynced: SENDS_IN_FLIGHT_MAX,
        }
    }
}

/// The messages of one conversation.
///
/// ```text
///   Unopened ──OPEN_DIRECT──> Opening ──OPENED──> Open ──rejected, may be tried again──> Settling
///       ^                        │                 ^                                        │ nothing in flight
///       └──── UNKNOWN_CONVERSATION, nothing in flight ────────────┬── pause, renumber ──────┘
/// ```
///
/// A conversation that may not exist is opened before the first SEND: SENDs that race with its making by the other member
/// could be refused and accepted by turns, and so be reordered. For the same reason nothing is sent while Settling.
#[derive(Debug)]
struct Lane {
    peer: Option<UserId>,
    state: State,
    /// In order. The first `in_flight` of them are, unless the lane is settling.
    messages: VecDeque<Entry>,
    in_flight: usize,
    /// The oldest message without an answer when all answers were last durable: the oldest that a loss of power may bring back.
    since: ClientSeq,
}

#[derive(Debug)]
enum State {
    Unopened,
    Opening,
    Open,
    Settling {
        next: Next,
        not_before: Option<Instant>,
    },
}

/// How a settled lane goes on. The later variant wins when rejections differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Resend,
    Renumber,
    Reopen,
}

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    in_flight: bool,
}

/// What sending found out.
#[derive(Debug, Default)]
pub struct Pumped {
    /// Messages that need no gateway to be refused.
    pub settled: Vec<Settled>,
    /// Conversations whose messages need new client seqs before they go on: [`Outbox::renumbered`].
    pub renumber: Vec<ConversationId>,
    /// Nothing more is sent until everything that the client was told is on its disk: [`Outbox::synced`].
    pub sync: bool,
}

impl Outbox {
    /// Adds messages behind those of their conversation.
    pub fn add(&mut self, messages: Vec<Waiting>) {
        for waiting in messages {
            let conversation = waiting.conversation;
            let lane = self.lanes.entry(conversation).or_insert_with(|| Lane {
                peer: waiting.peer,
                state: if waiting.opened {
                    State::Open
                } else {
                    State::Unopened
                },
                messages: VecDeque::new(),
                in_flight: 0,
                since: waiting.client_seq,
            });
            lane.peer = lane.peer.or(waiting.peer);
            lane.messages.push_back(Entry {
                waiting,
                in_flight: false,
            });
            self.make_ready(conversation);
        }
    }

    /// Hands the session as much as it takes. `request` names the next OPEN_DIRECT.
    pub fn pump(&mut self, now: Instant, session: &mut ClientSession, request: &mut u64) -> Pumped {
        let mut pumped = Pumped::default();
        let over: Vec<_> = self
            .paused
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(id, _)| *id)
            .collect();
        for conversation in over {
            self.paused.remove(&conversation);
            self.make_ready(conversation);
        }
        let mut ready = self.ready.iter().filter_map(|id| self.lanes.get(id));
        let many = self.unsynced >= SENDS_UNSYNCED_MAX && !self.ready.is_empty();
        if many || ready.any(Lane::waits_for_sync) {
            pumped.sync = true;
            return pumped;
        }
        while let Some(conversation) = self.ready.pop_front() {
            if self
                .pump_lane(now, conversation, session, request, &mut pumped)
                .is_err()
            {
                // No room on the connection: this lane is the first of the next turn.
                self.ready.push_front(conversation);
                break;
            }
        }
        pumped
    }

    fn pump_lane(
        &mut self,
        now: Instant,
        conversation: ConversationId,
        session: &mut ClientSession,
        request: &mut u64,
        pumped: &mut Pumped,
    ) -> Result<(), SendBlocked> {
        let Some(lane) = self.lanes.get_mut(&conversation) else {
            return Ok(());
        };
        if lane.messages.is_empty() {
            if self.unsynced == 0 {
                self.lanes.remove(&conversation);
            }
            return Ok(());
        }
        if let State::Settling { next, not_before } = &lane.state {
            if lane.in_flight > 0 {
                return Ok(());
            }
            if let Some(until) = not_before.filter(|until| *until > now) {
                self.paused.insert(conversation, until);
                return Ok(());
            }
            match (next, lane.peer) {
                (Next::Reopen, Some(_)) => lane.state = State::Unopened,
                (Next::Resend | Next::Reopen, _) => lane.state = State::Open,
                (Next::Renumber, _) => {
                    pumped.renumber.push(conversation);
                    return Ok(());
                }
            }
        }
        match (&lane.state, lane.peer) {
            (State::Unopened, Some(peer)) => {
                session.open_direct(RequestId(*request), &peer)?;
                self.opening.insert(RequestId(*request), conversation);
                *request += 1;
                lane.state = State::Opening;
                Ok(())
            }
            (State::Unopened, None) | (State::Open, _) => {
                lane.send(session, SENDS_IN_FLIGHT_MAX - self.unsynced, pumped)
            }
            (State::Opening | State::Settling { .. }, _) => Ok(()),
        }
    }

    /// Everything that the gateway has answered so far is durable.
    pub fn synced(&mut self) {
        self.unsynced = 0;
        self.lanes.retain(|_, lane| {
            lane.all_is_durable();
            !lane.messages.is_empty()
        });
    }

    /// Messages of a conversation have new client seqs, durably; they go out from the first on. Those that are not named wait no
    /// longer: the client has had their end in another way, and under their old numbers they would be rejected for ever.
    pub fn renumbered(
        &mut self,
        conversation: ConversationId,
        renumbered: &[(MessageId, ClientSeq)],
    ) {
        if let Some(lane) = self.lanes.get_mut(&conversation) {
            lane.messages.retain_mut(|entry| {
                let named = renumbered.iter().find(|(id, _)| *id == entry.waiting.id);
                if let Some((_, client_seq)) = named {
                    entry.waiting.client_seq = *client_seq;
                }
                named.is_some()
            });
            // What came before was made durable with the new numbers.
            lane.all_is_durable();
            lane.state = State::Open;
            self.make_ready(conversation);
        }
    }

    /// The gateway took a message. Says whether it waited here.
    pub fn accepted(&mut self, conversation: ConversationId, client_seq: ClientSeq) -> bool {
        let Some(lane) = self.lanes.get_mut(&conversation) else {
            return false;
        };
        let waited = lane.remove(client_seq);
        if waited {
            self.unsynced += 1;
        }
        self.make_ready(conversation);
        waited
    }

    /// The gateway answered a SEND; the end of the message, if it is one.
    pub fn answered(
        &mut self,
        now: Instant,
        (conversation, client_seq): (ConversationId, ClientSeq),
        outcome: Outcome,
    ) -> Option<Settled> {
        match outcome {
            Outcome::Accepted(seq) => {
                self.accepted(conversation, client_seq);
                Some(Settled::Accepted {
                    conversation,
                    client_seq,
                    seq,
                })
            }
            Outcome::Rejected(rejection) => self.rejected(now, conversation, client_seq, rejection),
            // What other commands are answered with: the session lets none of it through.
            Outcome::Opened { .. } | Outcome::Done => None,
        }
    }

    /// The gateway rejected a message; the end of it, if it is one.
    fn rejected(
        &mut self,
        now: Instant,
        conversation: ConversationId,
        client_seq: ClientSeq,
        rejection: Rejection,
    ) -> Option<Settled> {
        let lane = self.lanes.get_mut(&conversation)?;
        let next = match (rejection.code, rejection.code.retry()) {
            (RejectCode::UnknownConversation, _) if lane.peer.is_some() => Next::Reopen,
            (RejectCode::StaleClientSeq, _) => Next::Renumber,
            (_, Retry::No | Retry::Elsewhere) => {
                if lane.remove(client_seq) {
                    self.unsynced += 1;
                }
                self.make_ready(conversation);
                return Some(refused(conversation, Some(client_seq), rejection));
            }
            (_, Retry::Now | Retry::After) => Next::Resend,
        };
        lane.settle(client_seq, next, pause(now, next, &rejection));
        self.make_ready(conversation);
        None
    }

    /// Which conversation a request was to open, if it came from here.
    pub fn take_opening(&mut self, request: RequestId) -> Option<ConversationId> {
        self.opening.remove(&request)
    }

    /// A conversation exists now.
    pub fn opened(&mut self, conversation: ConversationId) {
        if let Some(lane) = self.lanes.get_mut(&conversation) {
            if matches!(lane.state, State::Unopened | State::Opening) {
                lane.state = State::Open;
            }
            self.make_ready(conversation);
        }
    }

    /// A conversation could not be opened; the end of all that waits for it, if it is one.
    pub fn not_opened(
        &mut self,
        now: Instant,
        conversation: ConversationId,
        rejection: Rejection,
    ) -> Option<Settled> {
        let lane = self.lanes.get_mut(&conversation)?;
        match rejection.code.retry() {
            Retry::No | Retry::Elsewhere => {
                self.lanes.remove(&conversation);
                Some(refused(conversation, None, rejection))
            }
            Retry::Now | Retry::After => {
                let until = pause(now, Next::Resend, &rejection).unwrap_or(now);
                lane.state = State::Settling {
                    next: Next::Reopen,
                    not_before: Some(until),
                };
                self.make_ready(conversation);
                None
            }
        }
    }

    /// When a pause ends.
    pub fn timeout(&self) -> Option<Instant> {
        self.paused.values().min().copied()
    }

    fn make_ready(&mut self, conversation: ConversationId) {
        // Bursts go to one conversation, so it is usually the last.
        if self.ready.back() != Some(&conversation) && !self.ready.contains(&conversation) {
            self.ready.push_back(conversation);
        }
    }
}

impl Lane {
    fn send(
        &mut self,
        session: &mut ClientSession,
        in_flight_max: usize,
        pumped: &mut Pumped,
    ) -> Result<(), SendBlocked> {
        while self.in_flight < in_flight_max
            && self.next().is_some_and(|next| is_near(next, self.since))
            && let Some(entry) = self.messages.get_mut(self.in_flight)
        {
            let Waiting {
                conversation,
                client_seq,
                id,
                content,
                ..
            } = &entry.waiting;
            match session.send(*conversation, *client_seq, *id, content.clone()) {
                Ok(()) | Err(SendBlocked::InFlight) => {
                    entry.in_flight = true;
                    self.in_flight += 1;
                }
                // An answer makes room, and makes this lane ready.
                Err(SendBlocked::ConversationFull) => return Ok(()),
                Err(SendBlocked::TextTooLong(limit)) => {
                    let rejection = Rejection::new(
                        RejectCode::TextTooLong,
                        format!("the gateway takes texts of up to {limit} bytes"),
                    );
                    pumped
                        .settled
                        .push(refused(*conversation, Some(*client_seq), rejection));
                    self.messages.remove(self.in_flight);
                }
                Err(
                    blocked @ (SendBlocked::ConnectionFull
                    | SendBlocked::OutputFull
                    | SendBlocked::NotWelcomed
                    | SendBlocked::Closed),
                ) => return Err(blocked),
            }
        }
        Ok(())
    }

    /// The oldest message without an answer.
    fn oldest(&self) -> Option<ClientSeq> {
        Some(self.messages.front()?.waiting.client_seq)
    }

    /// No answer of before can be forgotten any more.
    fn all_is_durable(&mut self) {
        self.since = self.oldest().unwrap_or(self.since);
    }

    /// The next message to send.
    fn next(&self) -> Option<ClientSeq> {
        let entry = self.messages.get(self.in_flight)?;
        Some(entry.waiting.client_seq)
    }

    /// Whether nothing more can be sent before the answers of the oldest messages are durable, and no answer will come that
    /// changes this.
    fn waits_for_sync(&self) -> bool {
        let (Some(next), Some(oldest)) = (self.next(), self.oldest()) else {
            return false;
        };
        self.in_flight == 0 && !is_near(next, self.since) && is_near(next, oldest)
    }

    fn position(&self, client_seq: ClientSeq) -> Option<usize> {
        self.messages
            .iter()
            .position(|entry| entry.waiting.client_seq == client_seq)
    }

    fn remove(&mut self, client_seq: ClientSeq) -> bool {
        let Some(at) = self.position(client_seq) else {
            return false;
        };
        if self
            .messages
            .remove(at)
            .is_some_and(|entry| entry.in_flight)
        {
            self.in_flight -= 1;
        }
        true
    }

    /// A message was sent in vain; everything waits until what is in flight is answered.
    fn settle(&mut self, client_seq: ClientSeq, next: Next, not_before: Option<Instant>) {
        let Some(at) = self.position(client_seq) else {
            return;
        };
        if std::mem::take(&mut self.messages[at].in_flight) {
            self.in_flight -= 1;
        }
        self.state = match self.state {
            State::Settling {
                next: known,
                not_before: until,
            } => State::Settling {
                next: known.max(next),
                not_before: until.max(not_before),
            },
            State::Unopened | State::Opening | State::Open => State::Settling { next, not_before },
        };
    }
}

/// Whether a gateway that has taken `next`, and all before it, still remembers what it answered to `oldest`.
fn is_near(next: ClientSeq, oldest: ClientSeq) -> bool {
    next.get().saturating_sub(oldest.get()) < SENDS_IN_FLIGHT_MAX as u64
}

fn refused(
    conversation: ConversationId,
    client_seq: Option<ClientSeq>,
    rejection: Rejection,
) -> Settled {
    Settled::Refused {
        conversation,
        client_seq,
        rejection,
    }
}

fn pause(now: Instant, next: Next, rejection: &Rejection) -> Option<Instant> {
    match (next, rejection.retry_after_ms) {
        (Next::Renumber | Next::Reopen, 0) => None,
        (Next::Resend, 0) => Some(now + REJECTED_PAUSE),
        // A peer's number: bounded, so that it cannot overflow the clock.
        (_, after) => Some(now + Duration::from_millis(after.min(24 * 60 * 60 * 1000))),
    }
}
