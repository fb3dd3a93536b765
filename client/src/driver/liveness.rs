//! Notices that a gateway no longer answers, long before QUIC's idle timeout would.

use std::time::{Duration, Instant};

use quinn::ConnectionStats;

/// Compares what was sent that asks for an answer with what has come.
///
/// QUIC gives up only after the idle timeout, which is long so that idle devices may sleep. But a peer that lives
/// acknowledges within a round trip, so silence after something was sent means more than silence.
#[derive(Debug)]
pub(super) struct Liveness {
    answer_timeout: Duration,
    received: u64,
    asked: u64,
    waiting_since: Option<Instant>,
}

impl Liveness {
    /// Begins to watch.
    pub(super) fn new(answer_timeout: Duration) -> Self {
        Self {
            answer_timeout,
            received: 0,
            asked: 0,
            waiting_since: None,
        }
    }

    /// How often to look.
    pub(super) fn interval(&self) -> Duration {
        self.answer_timeout / 4
    }

    /// Looks at the counters; `true`: the gateway does not answer.
    pub(super) fn is_dead(&mut self, now: Instant, stats: &ConnectionStats) -> bool {
        self.observe(now, stats.udp_rx.datagrams, asked(stats))
    }

    fn observe(&mut self, now: Instant, received: u64, asked: u64) -> bool {
        if received != self.received {
            self.received = received;
            self.asked = asked;
            self.waiting_since = None;
            return false;
        }
        if asked == self.asked {
            return false;
        }
        // Lost packets are sent again and count again, so one that was sent just before the last answer is not overlooked.
        let since = *self.waiting_since.get_or_insert(now);
        now.saturating_duration_since(since) >= self.answer_timeout
    }
}

/// Frames that a living peer acknowledges. Acks ask for nothing.
fn asked(stats: &ConnectionStats) -> u64 {
    let sent = &stats.frame_tx;
    // Between two quinns the probes after a loss are IMMEDIATE_ACKs, not PINGs.
    let probes = sent.ping + sent.immediate_ack + sent.path_challenge + sent.path_response;
    let flow =
        sent.max_data + sent.max_stream_data + sent.new_connection_id + sent.retire_connection_id;
    sent.stream + sent.crypto + probes + flow
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(4);

    #[test]
    fn silence_alone_is_no_death() {
        let now = Instant::now();
        let mut liveness = Liveness::new(LIMIT);
        assert!(!liveness.observe(now, 10, 10));
        assert!(!liveness.observe(now + LIMIT * 100, 10, 10));
    }

    #[test]
    fn silence_after_a_question_is() {
        let now = Instant::now();
        let mut liveness = Liveness::new(LIMIT);
        assert!(!liveness.observe(now, 10, 10));
        assert!(!liveness.observe(now + LIMIT, 10, 11));
        assert!(!liveness.observe(now + LIMIT + LIMIT / 2, 10, 12));
        assert!(liveness.observe(now + LIMIT * 2, 10, 13));
    }

    #[test]
    fn any_answer_begins_anew() {
        let now = Instant::now();
        let mut liveness = Liveness::new(LIMIT);
        assert!(!liveness.observe(now, 10, 11));
        assert!(!liveness.observe(now + LIMIT / 2, 10, 12));
        assert!(!liveness.observe(now + LIMIT, 11, 12));
        assert!(!liveness.observe(now + LIMIT * 2, 11, 12));
        assert!(!liveness.observe(now + LIMIT * 3, 11, 13));
    }
}
