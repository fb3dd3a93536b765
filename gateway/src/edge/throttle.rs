//! Which SENDs of one connection are let through when its user gives too many commands, so that none overtakes another.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quipu_protocol::id::{ClientSeq, ConversationId};

/// How long after the time that a rejection named the messages behind it are still held back: longer than any that were on
/// their way can take. A client that never sends the rejected one again goes on after that.
const HOLD_TIME: Duration = Duration::from_secs(10);
/// Conversations of one connection that are held back at once. A client that goes on sending to ever more of them does not
/// listen to rejections, and is turned away.
pub(super) const HELD_CONVERSATIONS_MAX: usize = 256;

/// Why a SEND is not let through.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// The user gives too many commands: wait so long.
    TooMany(Duration),
    /// One before it in its conversation was rejected: wait so long, and send that one first.
    Behind(Duration),
    /// The connection is to be closed: come again after so long.
    Hopeless(Duration),
}

/// The rejected SENDs of one connection that were not sent again yet. Empty, it holds no heap.
///
/// A client has up to 64 SENDs of a conversation in flight. If the first is rejected and the second, a moment later, is not,
/// their order is lost for good: so everything behind a rejected SEND is rejected with it (QP-RATE-4).
#[derive(Debug, Default)]
pub(super) struct Throttle {
    held: BTreeMap<ConversationId, Hold>,
}

#[derive(Debug)]
struct Hold {
    /// The rejected one.
    client_seq: ClientSeq,
    /// When it may be sent again.
    until: Instant,
}

impl Throttle {
    /// Judges a SEND; `take` takes a token of the user's bucket, or says how long until there is one.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        conversation: ConversationId,
        client_seq: ClientSeq,
        take: impl FnOnce() -> Result<(), Duration>,
    ) -> Result<(), Held> {
        let hold = self.held.get(&conversation);
        if let Some(hold) = hold.filter(|hold| hold.client_seq < client_seq && hold.holds(now)) {
            return Err(Held::Behind(hold.until.saturating_duration_since(now)));
        }
        match take() {
            Ok(()) => {
                // An earlier one leaves the hold as it is: it goes before the rejected one.
                if hold.is_some_and(|hold| hold.client_seq <= client_seq) {
                    self.held.remove(&conversation);
                }
                Ok(())
            }
            Err(wait) => self.hold(now, conversation, client_seq, wait),
        }
    }

    fn hold(
        &mut self,
        now: Instant,
        conversation: ConversationId,
        client_seq: ClientSeq,
        wait: Duration,
    ) -> Result<(), Held> {
        if self.held.len() >= HELD_CONVERSATIONS_MAX && !self.held.contains_key(&conversation) {
            self.held.retain(|_, hold| hold.holds(now));
            if self.held.len() >= HELD_CONVERSATIONS_MAX {
                return Err(Held::Hopeless(wait));
            }
        }
        let until = now + wait;
        self.held.insert(conversation, Hold { client_seq, until });
        Err(Held::TooMany(wait))
    }
}

impl Hold {
    fn holds(&self, now: Instant) -> bool {
        now < self.until + HOLD_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    struct Bench {
        throttle: Throttle,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                throttle: Throttle::default(),
                start: Instant::now(),
            }
        }

        /// Sends to conversation `to`, `ms` after the start; `full`: whether the bucket has tokens.
        fn send(&mut self, ms: u64, to: u8, client_seq: u64, full: bool) -> Result<(), Held> {
            let now = self.start + Duration::from_millis(ms);
            let client_seq = ClientSeq::new(client_seq).expect("not 0");
            let take = || full.then_some(()).ok_or(WAIT);
            self.throttle
                .judge(now, ConversationId([to; 16]), client_seq, take)
        }
    }

    #[test]
    fn nothing_overtakes_a_rejected_message() {
        let mut bench = Bench::new();
        assert_eq!(bench.send(0, 1, 5, false), Err(Held::TooMany(WAIT)));
        // The bucket has tokens again before the client has heard of it.
        let behind = Err(Held::Behind(Duration::from_millis(40)));
        assert_eq!(bench.send(60, 1, 6, true), behind);
        assert_eq!(bench.send(60, 2, 7, true), Ok(()), "elsewhere");
        // Again in order.
        assert_eq!(bench.send(150, 1, 5, true), Ok(()));
        assert_eq!(bench.send(150, 1, 6, true), Ok(()));
        assert!(bench.throttle.held.is_empty());
    }

    #[test]
    fn a_retry_of_an_earlier_one_does_not_let_the_later_ones_through() {
        let mut bench = Bench::new();
        assert!(bench.send(0, 1, 5, false).is_err());
        assert_eq!(bench.send(10, 1, 4, true), Ok(()));
        assert!(bench.send(10, 1, 6, true).is_err());
        // The earlier one is rejected as well: it is the one to wait for.
        assert!(bench.send(20, 1, 3, false).is_err());
        assert!(bench.send(130, 1, 4, true).is_err());
        assert_eq!(bench.send(130, 1, 3, true), Ok(()));
    }

    #[test]
    fn a_message_that_never_comes_again_does_not_hold_the_others_for_ever() {
        let mut bench = Bench::new();
        assert!(bench.send(0, 1, 5, false).is_err());
        let end = (WAIT + HOLD_TIME).as_millis() as u64;
        assert_eq!(
            bench.send(end - 1, 1, 6, true),
            Err(Held::Behind(Duration::ZERO))
        );
        assert_eq!(bench.send(end, 1, 6, true), Ok(()));
    }

    #[test]
    fn what_is_held_is_bounded_and_frees_itself() {
        let mut bench = Bench::new();
        for to in 0..HELD_CONVERSATIONS_MAX {
            assert_eq!(
                bench.send(0, to as u8, 1, false),
                Err(Held::TooMany(WAIT)),
                "{to}"
            );
        }
        let mut more = ConversationId([1; 16]);
        more.0[0] = 2;
        let mut judge = |after: Duration| {
            let now = bench.start + after;
            let throttle = &mut bench.throttle;
            throttle.judge(now, more, ClientSeq::FIRST, || Err(WAIT))
        };
        assert_eq!(judge(Duration::ZERO), Err(Held::Hopeless(WAIT)));
        assert_eq!(judge(WAIT + HOLD_TIME), Err(Held::TooMany(WAIT)));
        assert_eq!(bench.throttle.held.len(), 1);
    }
}
