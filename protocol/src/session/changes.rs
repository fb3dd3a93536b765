//! What of a device's changes goes out when: in the order of their numbers, again on every connection until they are
//! answered.

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test has to begin at some time, and no decision depends on which"
)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{ClientSession, SendBlocked};
use crate::error::{RejectCode, Retry};
use crate::event::{Change, Outcome, Rejection};
use crate::id::{ClientSeq, ConversationId, RequestId, Seq};
use crate::limits::CHANGES_IN_FLIGHT_MAX;

/// Pause after a rejection for now that names no time.
const REJECTED_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause that a gateway can name: bounded, so that a peer's number cannot overflow the clock.
const PAUSE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// One change that the gateway has not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// The device's number for it.
    pub client_seq: ClientSeq,
    /// What is to change.
    pub change: Change,
    /// Whether the client has it on its disk, to be asked for until it is answered for good. If not, somebody waits for the
    /// answer of this moment, whatever it is.
    pub kept: bool,
}

/// The answer to a change. What the client keeps, it forgets with this, before it tells anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Which.
    pub client_seq: ClientSeq,
    /// Whether it was kept.
    pub kept: bool,
    /// What became of it.
    pub end: ChangeEnd,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeEnd {
    /// It was made.
    Done,
    /// It was not made.
    Refused(Rejection),
    /// It was refused for now, and an earlier copy may have been made or not (QP-CMD-5). Only of what is not kept.
    Unknown(Rejection),
}

/// What asking found out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PumpedChanges {
    /// Nothing more is asked until everything that the client was told is on its disk: [`Changes::synced`].
    pub sync: bool,
    /// Kept changes that need new client seqs, in their order: [`Changes::renumbered`].
    pub renumber: Vec<ClientSeq>,
}

/// The unanswered changes of a device, as a machine without a clock. It outlives connections for the sake of those that are not
/// kept; the kept ones are given to it anew with each. As bounded as what is given to it.
///
/// - They are given in the order of their numbers (QP-CMD-3), and no number is given that is [`CHANGES_IN_FLIGHT_MAX`] or more above
///   the oldest one that is unanswered, or whose answer a client that loses power could forget. So the gateway remembers every
///   answer that may be asked for again (QP-CMD-4). Numbers of messages count too: what was answered in between before
///   a restart is not known any more, and a distance needs no memory.
/// - One of a message waits until those of the same message before it are answered: if the gateway puts one off, a later
///   one must not be made before it.
/// - A kept one that is rejected for now is asked for again after a pause, and so is everything behind it. One that is then told
///   STALE_CLIENT_SEQ was certainly not made; it needs a new number, and those of its message behind it too, which were
///   never given.
#[derive(Debug, Default)]
pub struct Changes {
    /// Ascending.
    queue: VecDeque<Entry>,
    /// Until when nothing that is kept is asked for.
    paused: Option<Instant>,
    /// Whether the answers of the connections before are certainly on the client's disk.
    synced: bool,
}

#[derive(Debug)]
struct Entry {
    asked: Unanswered,
    state: State,
    /// It was asked for on an earlier connection, and that copy may still be on its way.
    again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Given(RequestId),
    /// Not made, and never to be made under this number.
    Stale,
    /// Kept, and answered, perhaps not durably. It counts until the client is synced.
    Ended,
}

impl Changes {
    /// A connection begins: `kept` is what the client has on its disk, ascending. What is not kept and has no answer is asked for again.
    pub fn begin(&mut self, kept: Vec<Unanswered>) {
        self.end_connection();
        self.queue.retain(|entry| !entry.asked.kept);
        self.queue.extend(kept.into_iter().map(Entry::new));
        self.sort();
        self.paused = None;
        // What was answered on the connection before may not be on the disk.
        self.synced = false;
    }

    /// The connection has ended: nothing is answered any more.
    pub fn end_connection(&mut self) {
        for entry in &mut self.queue {
            if let State::Given(_) = entry.state {
                entry.again = true;
                entry.state = State::Waiting;
            }
        }
    }

    /// One more to ask for; its number is above all others.
    pub fn add(&mut self, asked: Unanswered) {
        self.queue.push_back(Entry::new(asked));
        // A client takes numbers and hands changes over in one order, but two lists of them may meet here.
        self.sort();
    }

    /// Forgets those of what is not kept that nobody waits for any more.
    pub fn retain_asked(&mut self, mut is_wanted: impl FnMut(ClientSeq) -> bool) {
        self.queue
            .retain(|entry| entry.asked.kept || is_wanted(entry.asked.client_seq));
    }

    /// Hands the session as much as it takes. `request` names the next one.
    pub fn pump(
        &mut self,
        now: Instant,
        session: &mut ClientSession,
        request: &mut u64,
    ) -> PumpedChanges {
        let mut pumped = PumpedChanges {
            renumber: self.stale(),
            ..PumpedChanges::default()
        };
        if !pumped.renumber.is_empty() {
            return pumped;
        }
        if self.paused.is_some_and(|until| until <= now) {
            self.paused = None;
        }
        for at in 0..self.queue.len() {
            if self.may_go(at) {
                if !self.is_near(at) {
                    // Syncing makes room where the oldest one is only not durable.
                    let first = self.queue.front();
                    pumped.sync = first.is_some_and(|entry| entry.state == State::Ended);
                    break;
                }
                if !self.synced {
                    pumped.sync = true;
                    break;
                }
                if self.give(at, session, request).is_err() {
                    // In their order, so the rest waits behind it.
                    break;
                }
            }
        }
        pumped
    }

    fn give(
        &mut self,
        at: usize,
        session: &mut ClientSession,
        request: &mut u64,
    ) -> Result<(), SendBlocked> {
        let Some(entry) = self.queue.get_mut(at) else {
            return Ok(());
        };
        let id = RequestId(*request);
        session.change(id, entry.asked.client_seq, entry.asked.change.clone())?;
        *request += 1;
        entry.state = State::Given(id);
        Ok(())
    }

    /// Everything that the gateway has answered so far is durable.
    pub fn synced(&mut self) {
        self.synced = true;
        self.queue.retain(|entry| entry.state != State::Ended);
    }

    /// Kept changes have new client seqs, durably: old and new. Those that are named and not here any more are nobody's.
    pub fn renumbered(&mut self, renumbered: &[(ClientSeq, ClientSeq)]) {
        for entry in &mut self.queue {
            let asked = &mut entry.asked;
            let new = renumbered.iter().find(|(old, _)| *old == asked.client_seq);
            if let Some((_, new)) = new {
                asked.client_seq = *new;
                entry.state = State::Waiting;
            }
        }
        self.sort();
    }

    /// A request was answered; `None` if it was no change, one of an earlier connection (QP-REPLY-2), or it is not the end of it.
    pub fn answered(
        &mut self,
        now: Instant,
        request: RequestId,
        outcome: Outcome,
    ) -> Option<Answered> {
        let given = State::Given(request);
        let at = self.queue.iter().position(|entry| entry.state == given)?;
        let entry = self.queue.get_mut(at)?;
        let (client_seq, kept) = (entry.asked.client_seq, entry.asked.kept);
        let end = match outcome {
            Outcome::Done | Outcome::Opened { .. } | Outcome::Accepted(_) => ChangeEnd::Done,
            Outcome::Rejected(rejection) => {
                let for_now = matches!(rejection.code.retry(), Retry::Now | Retry::After);
                let is_stale = rejection.code == RejectCode::StaleClientSeq;
                match (kept, is_stale, for_now) {
                    (true, true, _) => {
                        entry.state = State::Stale;
                        return None;
                    }
                    (true, false, true) => {
                        entry.state = State::Waiting;
                        let until = now + pause(&rejection);
                        self.paused = self.paused.max(Some(until));
                        return None;
                    }
                    // Says nothing of the copy that was asked for before.
                    (false, false, true) if entry.again => ChangeEnd::Unknown(rejection),
                    _ => ChangeEnd::Refused(rejection),
                }
            }
        };
        entry.state = State::Ended;
        if !kept {
            // Nothing of it comes back, whatever the client forgets.
            self.queue.remove(at);
        }
        Some(Answered {
            client_seq,
            kept,
            end,
        })
    }

    /// When a pause ends.
    pub fn timeout(&self) -> Option<Instant> {
        self.paused
    }

    /// Whether a change of this connection waits for its answer.
    pub fn is_waiting(&self) -> bool {
        let mut all = self.queue.iter();
        all.any(|entry| matches!(entry.state, State::Given(_)))
    }

    /// Changes without an answer that are not kept.
    pub fn asked(&self) -> usize {
        self.queue.iter().filter(|entry| !entry.asked.kept).count()
    }

    /// What needs a new number: what is stale, and behind it what is about the same messages.
    fn stale(&self) -> Vec<ClientSeq> {
        let mut about = Vec::new();
        let mut renumber = Vec::new();
        for entry in &self.queue {
            let target = target(&entry.asked.change);
            let follows = entry.state == State::Waiting && about.contains(&target);
            if entry.state == State::Stale || (follows && target.is_some() && entry.asked.kept) {
                renumber.push(entry.asked.client_seq);
                about.push(target);
            }
        }
        renumber
    }

    /// Whether a change may be given now.
    fn may_go(&self, at: usize) -> bool {
        let Some(entry) = self.queue.get(at) else {
            return false;
        };
        if entry.state != State::Waiting || (entry.asked.kept && self.paused.is_some()) {
            return false;
        }
        let Some(about) = target(&entry.asked.change) else {
            return true;
        };
        let mut before = self.queue.iter().take(at);
        !before
            .any(|other| other.state != State::Ended && target(&other.asked.change) == Some(about))
    }

    fn sort(&mut self) {
        let queue = self.queue.make_contiguous();
        queue.sort_by_key(|entry| entry.asked.client_seq);
    }

    /// Whether a gateway that has taken a change, and all before it, still remembers what it answered to the oldest.
    fn is_near(&self, at: usize) -> bool {
        let number = |entry: &Entry| entry.asked.client_seq.get();
        let oldest = self.queue.front().map_or(0, number);
        let next = self.queue.get(at).map_or(0, number);
        next.saturating_sub(oldest) < CHANGES_IN_FLIGHT_MAX as u64
    }
}

impl Entry {
    fn new(asked: Unanswered) -> Self {
        Self {
            asked,
            state: State::Waiting,
            again: false,
        }
    }
}

/// The message that a change is about; `None`: its order among others is nobody's concern.
fn target(change: &Change) -> Option<(ConversationId, Seq)> {
    match change {
        Change::Edit {
            conversation, seq, ..
        }
        | Change::Delete(conversation, seq)
        | Change::React {
            conversation, seq, ..
        } => Some((*conversation, *seq)),
        Change::CreateGroup(_)
        | Change::SetGroup { .. }
        | Change::Invite { .. }
        | Change::Join(_)
        | Change::Leave(_)
        | Change::Remove(..)
        | Change::SetRole(..)
        | Change::SetTimer(..)
        | Change::RenameDevice(..)
        | Change::RevokeDevice(_)
        | Change::Block(..)
        | Change::Report { .. }
        | Change::SetPrivacy(_) => None,
    }
}

fn pause(rejection: &Rejection) -> Duration {
    match rejection.retry_after_ms {
        0 => REJECTED_PAUSE,
        after => Duration::from_millis(after.min(PAUSE_MS_MAX)),
    }
}
