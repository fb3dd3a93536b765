//! Changes that the application asked for and that have no answer: asked for again, in their order, on the next connection.

use std::collections::VecDeque;

use quipu_protocol::error::Retry;
use quipu_protocol::event::{Change, Outcome};
use quipu_protocol::id::{ClientSeq, RequestId};
use quipu_protocol::limits::CHANGES_IN_FLIGHT_MAX;
use quipu_protocol::session::{ClientSession, SendBlocked};

use super::Answer;
use crate::error::{Error, Refusal};

/// What the application hands over: a change, its number, and where the answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Taken before it is asked for first, and never used for anything else.
    pub(crate) client_seq: ClientSeq,
    /// What is to change.
    pub(crate) change: Change,
    /// Who waits.
    pub(crate) answer: Answer<()>,
}

/// The changes since the oldest one without an answer, in the order of their numbers: at most [`CHANGES_IN_FLIGHT_MAX`], as a
/// gateway remembers no more.
#[derive(Debug, Default)]
pub(super) struct Changes(VecDeque<Pending>);

#[derive(Debug)]
struct Pending {
    client_seq: ClientSeq,
    change: Change,
    /// `None`: it is answered.
    answer: Option<Answer<()>>,
    /// Its request on this connection; `None`: it was not asked for here.
    request: Option<RequestId>,
    /// It was asked for on an earlier connection, and that copy may still be on its way.
    again: bool,
}

impl Changes {
    /// One more to ask for. At the limit it is refused.
    pub(super) fn add(&mut self, asked: Asked) {
        let Asked {
            client_seq,
            change,
            answer,
        } = asked;
        let in_order = self
            .0
            .back()
            .is_none_or(|last| last.client_seq < client_seq);
        if self.0.len() >= CHANGES_IN_FLIGHT_MAX || !in_order {
            let _ = answer.send(Err(Error::Offline(
                "too many changes wait for an answer; try again".into(),
            )));
            return;
        }
        self.0.push_back(Pending {
            client_seq,
            change,
            answer: Some(answer),
            request: None,
            again: false,
        });
    }

    /// Asks for what was not asked for on this connection, as long as the session takes it.
    pub(super) fn pump(&mut self, session: &mut ClientSession, requests: &mut u64) {
        for pending in &mut self.0 {
            if pending.request.is_some() || pending.answer.is_none() {
                continue;
            }
            let request = RequestId(*requests);
            match session.change(request, pending.client_seq, pending.change.clone()) {
                Ok(()) => {
                    *requests += 1;
                    pending.request = Some(request);
                }
                // In their order, so the rest waits behind it.
                Err(
                    SendBlocked::ConversationFull
                    | SendBlocked::ConnectionFull
                    | SendBlocked::InFlight
                    | SendBlocked::OutputFull
                    | SendBlocked::TextTooLong(_)
                    | SendBlocked::NotWelcomed
                    | SendBlocked::Closed,
                ) => break,
            }
        }
    }

    /// Whether a change of this connection waits for its answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.0
            .iter()
            .any(|pending| pending.request.is_some() && pending.answer.is_some())
    }

    /// A request was answered; nothing happens if it was no change, or one of an earlier connection (QP-REPLY-2).
    pub(super) fn answered(&mut self, request: RequestId, outcome: Outcome) {
        let mut all = self.0.iter_mut();
        let Some(pending) = all.find(|pending| pending.request == Some(request)) else {
            return;
        };
        let end = match outcome {
            Outcome::Done | Outcome::Opened { .. } | Outcome::Accepted(_) => Ok(()),
            // Not remembered, and says nothing of the copy that was asked for before (QP-CMD-5).
            Outcome::Rejected(rejection)
                if pending.again && rejection.code.retry() == Retry::After =>
            {
                Err(unknown(&rejection.reason))
            }
            Outcome::Rejected(rejection) => Err(Error::Refused(Refusal::from(rejection))),
        };
        if let Some(answer) = pending.answer.take() {
            // Whoever asked may have given up.
            let _ = answer.send(end);
        }
        self.trim();
    }

    /// The connection ended: everything is to be asked for again, but what nobody waits for any more.
    pub(super) fn interrupted(&mut self) {
        for pending in &mut self.0 {
            pending.again |= pending.request.take().is_some();
            let is_given_up = pending
                .answer
                .as_ref()
                .is_none_or(|answer| answer.is_closed());
            if is_given_up {
                pending.answer = None;
            }
        }
        self.0.retain(|pending| pending.answer.is_some());
    }

    /// There will be no other connection by itself.
    pub(super) fn give_up(&mut self, why: &str) {
        for pending in self.0.drain(..) {
            if let Some(answer) = pending.answer {
                let _ = answer.send(Err(unknown(why)));
            }
        }
    }

    fn trim(&mut self) {
        while self
            .0
            .front()
            .is_some_and(|pending| pending.answer.is_none())
        {
            self.0.pop_front();
        }
    }
}

/// Nobody knows whether it was made.
fn unknown(why: &str) -> Error {
    Error::Offline(format!(
        "{why}; the change may have been made or not: ask again"
    ))
}

#[cfg(test)]
mod tests {
    use quipu_protocol::error::RejectCode;
    use quipu_protocol::event::Rejection;
    use quipu_protocol::id::DeviceId;
    use tokio::sync::oneshot;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    type End = oneshot::Receiver<Result<(), Error>>;

    fn add(changes: &mut Changes, number: u64) -> End {
        let (answer, end) = oneshot::channel();
        let device = DeviceId::new(1).unwrap();
        changes.add(Asked {
            client_seq: ClientSeq::new(number).unwrap(),
            change: Change::RenameDevice(device, format!("label {number}")),
            answer,
        });
        end
    }

    /// As after a pump that found room for all.
    fn sent(changes: &mut Changes, first: u64) -> Vec<u64> {
        let waiting = changes.0.iter_mut();
        let waiting = waiting.filter(|p| p.request.is_none() && p.answer.is_some());
        let numbered = waiting.zip(first..).map(|(pending, request)| {
            pending.request = Some(RequestId(request));
            pending.client_seq.get()
        });
        numbered.collect()
    }

    fn rejected(code: RejectCode) -> Outcome {
        Outcome::Rejected(Rejection::new(code, "no"))
    }

    #[test]
    fn what_was_not_answered_is_asked_for_again_in_its_order() {
        let mut changes = Changes::default();
        let mut ends: Vec<End> = (1..=4).map(|number| add(&mut changes, number)).collect();
        assert_eq!(sent(&mut changes, 10), [1, 2, 3, 4]);
        changes.answered(RequestId(11), Outcome::Done);
        assert_eq!(ends[1].try_recv().unwrap().ok(), Some(()));
        ends.remove(3);
        changes.interrupted();
        assert!(!changes.is_waiting());
        let mut later = add(&mut changes, 5);
        assert_eq!(sent(&mut changes, 20), [1, 3, 5]);
        // A late answer of the connection before is nobody's.
        changes.answered(RequestId(12), Outcome::Done);
        let end = ends[2].try_recv();
        assert!(matches!(end, Err(TryRecvError::Empty)), "{end:?}");
        changes.answered(RequestId(20), Outcome::Done);
        changes.answered(RequestId(21), rejected(RejectCode::StaleClientSeq));
        assert!(ends[0].try_recv().unwrap().is_ok());
        let refused = ends[2].try_recv().unwrap();
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
        assert!(changes.is_waiting());
        changes.give_up("replaced");
        assert!(matches!(later.try_recv().unwrap(), Err(Error::Offline(_))));
    }

    #[test]
    fn a_rejection_for_now_is_final_only_for_what_was_asked_for_once() {
        let mut changes = Changes::default();
        let mut first = add(&mut changes, 1);
        sent(&mut changes, 1);
        changes.answered(RequestId(1), rejected(RejectCode::RateLimited));
        let end = first.try_recv().unwrap();
        assert!(matches!(end, Err(Error::Refused(_))), "{end:?}");

        let mut second = add(&mut changes, 2);
        sent(&mut changes, 2);
        changes.interrupted();
        sent(&mut changes, 3);
        changes.answered(RequestId(3), rejected(RejectCode::RateLimited));
        let end = second.try_recv().unwrap();
        assert!(matches!(end, Err(Error::Offline(_))), "{end:?}");
    }

    #[test]
    fn no_more_than_a_gateway_remembers_behind_the_oldest() {
        let mut changes = Changes::default();
        let max = CHANGES_IN_FLIGHT_MAX as u64;
        let mut ends: Vec<End> = (1..=max).map(|number| add(&mut changes, number)).collect();
        sent(&mut changes, 1);
        changes.answered(RequestId(2), Outcome::Done);
        let mut refused = add(&mut changes, max + 1);
        assert!(matches!(
            refused.try_recv().unwrap(),
            Err(Error::Offline(_))
        ));
        changes.answered(RequestId(1), Outcome::Done);
        assert!(ends[0].try_recv().unwrap().is_ok());
        for number in max + 2..=max + 3 {
            ends.push(add(&mut changes, number));
        }
        assert_eq!(sent(&mut changes, 100), [max + 2, max + 3]);
    }
}
