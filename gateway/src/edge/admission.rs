//! Which connection attempts are answered and when, and how many connections may be without a welcomed device at once.
//!
//! A log-in costs some hundred times what it takes to ask for one, so a storm of them is a queue, whatever we do. The queue is
//! better here than in the clients' timers: an attempt that waits costs a few kilobytes and is served in its turn, while one
//! that is ignored comes back several times, each time in front of the packets of those that are being served.
//!
//! The reply to a packet from an unproven address is never larger than a Retry, and costs no more than one. Only an address
//! that has proven itself is counted against its limit, so that nobody can use up somebody else's.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, Incoming};
use quipu_protocol::error::CloseCode;
use quipu_protocol::retry_after;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Shared, connection};

/// How long a handshake may take; its place is given to somebody else then.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Connection attempts that wait for a place; further ones are ignored and come again. Each takes about 3 KiB, and they are a
/// few seconds of log-ins.
pub(super) const WAITING_MAX: usize = 8_192;
/// Strangers are still asked for a Retry this long after places were scarce: one and the same client should not be asked and
/// then not be asked.
const RETRY_LINGERS: Duration = Duration::from_secs(5);
/// An attempt that has waited longer is ignored: its client has given up, or sends again.
const WAITING_TIME_MAX: Duration = Duration::from_secs(10);

/// The places of connections that are not let in yet.
struct Places {
    /// `edge.max_handshakes`: they cost processor time.
    handshakes: Arc<Semaphore>,
    /// `edge.max_unwelcomed`: they cost memory, and hold it as long as HELLO and its judging may take.
    unwelcomed: Arc<Semaphore>,
    handshakes_max: usize,
    unwelcomed_max: usize,
}

/// When strangers have to prove their address: a packet from anywhere must not take a place that is scarce.
#[derive(Default)]
struct Doubt(Option<Instant>);

impl Doubt {
    fn asks_for_retry(&mut self, now: Instant, places_are_scarce: bool) -> bool {
        if places_are_scarce {
            self.0 = Some(now + RETRY_LINGERS);
        }
        self.0.is_some_and(|until| now < until)
    }
}

/// The places of one connection.
struct Place {
    handshake: OwnedSemaphorePermit,
    unwelcomed: OwnedSemaphorePermit,
}

impl Places {
    fn new(shared: &Shared) -> Self {
        let (handshakes_max, unwelcomed_max) = (
            shared.settings.max_handshakes as usize,
            shared.settings.max_unwelcomed as usize,
        );
        Self {
            handshakes: Arc::new(Semaphore::new(handshakes_max)),
            unwelcomed: Arc::new(Semaphore::new(unwelcomed_max)),
            handshakes_max,
            unwelcomed_max,
        }
    }

    fn are_scarce(&self) -> bool {
        self.handshakes.available_permits() <= self.handshakes_max / 2
            || self.unwelcomed.available_permits() <= self.unwelcomed_max / 2
    }

    /// Waits for one of both; `None`: never, they are not closed.
    async fn take(&self) -> Option<Place> {
        Some(Place {
            unwelcomed: Arc::clone(&self.unwelcomed).acquire_owned().await.ok()?,
            handshake: Arc::clone(&self.handshakes).acquire_owned().await.ok()?,
        })
    }
}

/// Attempts that wait for a place, the oldest first.
struct Line<T> {
    waiting: VecDeque<(Instant, T)>,
}

impl<T> Line<T> {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    fn push(&mut self, now: Instant, attempt: T) {
        self.waiting.push_back((now, attempt));
    }

    /// The next one, and whether it has waited too long.
    fn pop(&mut self, now: Instant) -> Option<(T, bool)> {
        let (since, attempt) = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            // A storm's room is not kept.
            self.waiting = VecDeque::new();
        }
        Some((attempt, now.duration_since(since) > WAITING_TIME_MAX))
    }
}

/// What becomes of an attempt.
enum Verdict {
    Wait,
    Retry,
    /// Its address is proven and asks too often.
    Refuse,
    /// There is no room: it comes again by itself, as after a lost packet.
    Ignore,
}

/// Decides about each connection attempt, until the endpoint is closed.
pub(super) async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    let places = Places::new(&shared);
    let (mut line, mut doubt) = (Line::new(), Doubt::default());
    loop {
        tokio::select! {
            biased;
            Some(place) = places.take(), if !line.is_empty() => start_next(&mut line, place, &shared),
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                let doubted = doubt.asks_for_retry(Instant::now(), places.are_scarce());
                match judge(&shared, &line, doubted, &incoming) {
                    Verdict::Wait => line.push(Instant::now(), incoming),
                    Verdict::Retry => {
                        // Fails only where `may_retry` is false.
                        let _ = incoming.retry();
                    }
                    Verdict::Refuse => incoming.refuse(),
                    Verdict::Ignore => incoming.ignore(),
                }
            }
        }
        let waiting = i64::try_from(line.waiting.len()).unwrap_or(i64::MAX);
        shared.with.metrics.incoming_waiting.set(waiting);
    }
}

fn judge<T>(shared: &Shared, line: &Line<T>, doubted: bool, incoming: &Incoming) -> Verdict {
    let metrics = &shared.with.metrics;
    if shared.draining.load(Ordering::SeqCst) {
        metrics.incoming_ignored_draining.inc();
        return Verdict::Ignore;
    }
    if metrics.connections.get() >= i64::from(shared.settings.max_connections) {
        metrics.incoming_ignored_connections.inc();
        return Verdict::Ignore;
    }
    let proven = incoming.remote_address_validated();
    let from = incoming.remote_address().ip();
    let too_often = shared.with.rates.is_refused(from);
    if too_often && proven {
        metrics.incoming_refused_rate.inc();
        return Verdict::Refuse;
    }
    if (too_often || doubted) && !proven && incoming.may_retry() {
        metrics.incoming_retried.inc();
        return Verdict::Retry;
    }
    if line.is_full() {
        metrics.incoming_ignored_waiting.inc();
        return Verdict::Ignore;
    }
    Verdict::Wait
}

/// Gives a place to the attempt that has waited longest, if its client still waits.
fn start_next(line: &mut Line<Incoming>, place: Place, shared: &Arc<Shared>) {
    while let Some((incoming, too_long)) = line.pop(Instant::now()) {
        if !too_long {
            let unwelcomed = Unwelcomed::new(place.unwelcomed, shared);
            return start_connection(incoming, place.handshake, unwelcomed, shared);
        }
        shared.with.metrics.incoming_ignored_late.inc();
        incoming.ignore();
    }
}

fn start_connection(
    incoming: Incoming,
    handshake: OwnedSemaphorePermit,
    unwelcomed: Unwelcomed,
    shared: &Arc<Shared>,
) {
    let counted = Counted::new(shared);
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => {
            shared.with.metrics.handshakes_failed.inc();
            tracing::debug!(%error, "a connection attempt failed");
            return;
        }
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let _counted = counted;
        let metrics = &shared.with.metrics;
        metrics.handshakes_running.inc();
        let done = tokio::time::timeout(HANDSHAKE_TIME_MAX, connecting).await;
        metrics.handshakes_running.dec();
        drop(handshake);
        match done {
            Ok(Ok(connection)) => {
                metrics.handshakes_completed.inc();
                let from = connection.remote_address().ip();
                if let Err(wait) = shared.with.rates.connection(from) {
                    turn_away(&connection, from, wait);
                } else {
                    connection::serve(Arc::clone(&shared), connection, unwelcomed).await;
                }
            }
            Ok(Err(error)) => {
                metrics.handshakes_failed.inc();
                tracing::debug!(%error, "a handshake failed");
            }
            Err(_) => {
                metrics.handshakes_failed.inc();
            }
        }
    });
}

/// Says how long to stay away. Who comes again and again gets a Retry and a refusal, and no handshake.
fn turn_away(connection: &Connection, from: IpAddr, wait: Duration) {
    tracing::debug!(%from, ?wait, "an address connects too often");
    let reason = retry_after::reason(wait, "this address connects too often");
    connection::close(connection, CloseCode::RateLimited, &reason);
}

/// One of `edge.max_connections`, from the handshake on.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.with.metrics.connections.inc();
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.with.metrics.connections.dec();
    }
}

/// One of `edge.max_unwelcomed`, from the handshake until WELCOME or the end.
pub(super) struct Unwelcomed {
    shared: Arc<Shared>,
    _place: OwnedSemaphorePermit,
}

impl Unwelcomed {
    fn new(place: OwnedSemaphorePermit, shared: &Arc<Shared>) -> Self {
        shared.with.metrics.connections_unwelcomed.inc();
        Self {
            shared: Arc::clone(shared),
            _place: place,
        }
    }
}

impl Drop for Unwelcomed {
    fn drop(&mut self) {
        self.shared.with.metrics.connections_unwelcomed.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_serves_the_oldest_first_and_tells_who_waited_too_long() {
        let mut line = Line::new();
        let start = Instant::now();
        line.push(start, 1);
        line.push(start + WAITING_TIME_MAX, 2);
        let later = start + WAITING_TIME_MAX + Duration::from_millis(1);
        assert_eq!(line.pop(later), Some((1, true)));
        assert_eq!(line.pop(later), Some((2, false)));
        assert_eq!(line.pop(later), None);
        assert_eq!(line.waiting.capacity(), 0, "an empty line holds nothing");
    }

    #[test]
    fn strangers_are_asked_for_a_retry_while_places_are_scarce_and_a_while_longer() {
        let mut doubt = Doubt::default();
        let start = Instant::now();
        assert!(!doubt.asks_for_retry(start, false));
        assert!(doubt.asks_for_retry(start, true));
        assert!(doubt.asks_for_retry(start + RETRY_LINGERS / 2, false));
        assert!(!doubt.asks_for_retry(start + RETRY_LINGERS, false));
    }

    #[test]
    fn the_line_is_full_at_its_bound() {
        let mut line = Line::new();
        let start = Instant::now();
        (0..WAITING_MAX).for_each(|_| line.push(start, ()));
        assert!(line.is_full());
        line.pop(start);
        assert!(!line.is_full());
    }
}
