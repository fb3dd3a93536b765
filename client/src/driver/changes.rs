//! Changes that have no answer: the machine that says when each is asked for, and those who wait at this moment.

use std::collections::BTreeMap;

use quipu_protocol::event::{Change, Outcome};
use quipu_protocol::id::{ClientSeq, RequestId};
use quipu_protocol::limits::CHANGES_IN_FLIGHT_MAX;
use quipu_protocol::session::{
    self, Answered, ChangeEnd, ClientSession, PumpedChanges, Unanswered,
};
use tokio::time::Instant;

use super::Answer;
use crate::error::{Error, Refusal};

/// What the application hands over when somebody waits: a change, its number, and where the answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Taken before it is asked for first, and never used for anything else.
    pub(crate) client_seq: ClientSeq,
    /// What is to change.
    pub(crate) change: Change,
    /// Who waits.
    pub(crate) answer: Answer<()>,
}

/// The unanswered changes. Those of messages are kept on disk; of the others there are at most [`CHANGES_IN_FLIGHT_MAX`].
#[derive(Debug, Default)]
pub(super) struct Changes {
    machine: session::Changes,
    /// Who waits for those that are not kept.
    waiters: BTreeMap<ClientSeq, Answer<()>>,
}

impl Changes {
    /// A connection begins, and this is what the disk has.
    pub(super) fn begin(&mut self, kept: Vec<Unanswered>) {
        self.machine.begin(kept);
    }

    /// More that is on the disk.
    pub(super) fn add_kept(&mut self, kept: Vec<Unanswered>) {
        for one in kept {
            self.machine.add(one);
        }
    }

    /// One more that somebody waits for. At the limit it is refused.
    pub(super) fn add(&mut self, asked: Asked) {
        let Asked {
            client_seq,
            change,
            answer,
        } = asked;
        if self.machine.asked() >= CHANGES_IN_FLIGHT_MAX {
            let _ = answer.send(Err(Error::Offline(
                "too many changes wait for an answer; try again".into(),
            )));
            return;
        }
        self.waiters.insert(client_seq, answer);
        self.machine.add(Unanswered {
            client_seq,
            change,
            kept: false,
        });
    }

    /// Asks for what may be asked for now, as long as the session takes it.
    pub(super) fn pump(
        &mut self,
        session: &mut ClientSession,
        requests: &mut u64,
    ) -> PumpedChanges {
        let now = Instant::now().into_std();
        self.machine.pump(now, session, requests)
    }

    /// Everything that was answered is on the disk.
    pub(super) fn synced(&mut self) {
        self.machine.synced();
    }

    /// Kept changes have new numbers.
    pub(super) fn renumbered(&mut self, renumbered: &[(ClientSeq, ClientSeq)]) {
        self.machine.renumbered(renumbered);
    }

    /// When more may be asked for.
    pub(super) fn timeout(&self) -> Option<std::time::Instant> {
        self.machine.timeout()
    }

    /// Whether a change of this connection waits for its answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.machine.is_waiting()
    }

    /// A request was answered. Whoever waits is told; what is kept is given back, to be written down first.
    pub(super) fn answered(&mut self, request: RequestId, outcome: Outcome) -> Option<Answered> {
        let now = Instant::now().into_std();
        let answered = self.machine.answered(now, request, outcome)?;
        if answered.kept {
            return Some(answered);
        }
        let end = match answered.end {
            ChangeEnd::Done => Ok(()),
            ChangeEnd::Refused(rejection) => Err(Error::Refused(Refusal::from(rejection))),
            ChangeEnd::Unknown(rejection) => Err(unknown(&rejection.reason)),
        };
        if let Some(answer) = self.waiters.remove(&answered.client_seq) {
            // Whoever asked may have given up.
            let _ = answer.send(end);
        }
        None
    }

    /// The connection ended: everything is to be asked for again, but what nobody waits for any more.
    pub(super) fn interrupted(&mut self) {
        self.machine.end_connection();
        self.waiters.retain(|_, answer| !answer.is_closed());
        let waiters = &self.waiters;
        self.machine
            .retain_asked(|client_seq| waiters.contains_key(&client_seq));
    }

    /// There will be no other connection by itself.
    pub(super) fn give_up(&mut self, why: &str) {
        self.machine.retain_asked(|_| false);
        for (_, answer) in std::mem::take(&mut self.waiters) {
            let _ = answer.send(Err(unknown(why)));
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
    use quipu_protocol::id::DeviceId;
    use tokio::sync::oneshot;

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

    #[test]
    fn whoever_waits_is_told_and_whoever_does_not_is_forgotten() {
        let mut changes = Changes::default();
        let mut ends: Vec<End> = (1..=2).map(|number| add(&mut changes, number)).collect();
        drop(ends.pop());
        changes.interrupted();
        assert_eq!((changes.machine.asked(), changes.waiters.len()), (1, 1));
        changes.give_up("replaced");
        let end = ends[0].try_recv().unwrap();
        assert!(matches!(end, Err(Error::Offline(_))), "{end:?}");
        assert_eq!(changes.machine.asked(), 0);
    }

    #[test]
    fn those_that_wait_are_bounded() {
        let mut changes = Changes::default();
        let max = CHANGES_IN_FLIGHT_MAX as u64;
        let _ends: Vec<End> = (1..=max).map(|number| add(&mut changes, number)).collect();
        let mut refused = add(&mut changes, max + 1);
        let end = refused.try_recv().unwrap();
        assert!(matches!(end, Err(Error::Offline(_))), "{end:?}");
    }
}
