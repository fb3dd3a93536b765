//! Which connection attempts are answered, and how many connections may be without a welcomed device at once.
//!
//! The reply to a packet from an unproven address is never larger than a Retry, and costs no more than one. Only an address
//! that has proven itself is counted against its limit, so that nobody can use up somebody else's.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn::{Connection, Endpoint, Incoming};
use quipu_protocol::error::CloseCode;
use quipu_protocol::retry_after;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Shared, connection};

/// How long a handshake may take; its place is given to somebody else then.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// The places of connections that are not let in yet.
struct Places {
    /// `edge.max_handshakes`: they cost processor time.
    handshakes: Arc<Semaphore>,
    /// `edge.max_unwelcomed`: they cost memory, and hold it as long as HELLO and its judging may take.
    unwelcomed: Arc<Semaphore>,
    handshakes_max: usize,
    unwelcomed_max: usize,
}

impl Places {
    /// From here on strangers must prove their address first.
    fn are_scarce(&self) -> bool {
        self.handshakes.available_permits() <= self.handshakes_max / 2
            || self.unwelcomed.available_permits() <= self.unwelcomed_max / 2
    }
}

/// What becomes of an attempt.
enum Verdict {
    Accept {
        handshake: OwnedSemaphorePermit,
        unwelcomed: Unwelcomed,
    },
    Retry,
    /// Its address is proven and asks too often.
    Refuse,
    /// There is no place: it comes again by itself, as after a lost packet.
    Ignore,
}

/// Decides about each connection attempt.
pub(super) async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    let (handshakes_max, unwelcomed_max) = (
        shared.settings.max_handshakes as usize,
        shared.settings.max_unwelcomed as usize,
    );
    let places = Places {
        handshakes: Arc::new(Semaphore::new(handshakes_max)),
        unwelcomed: Arc::new(Semaphore::new(unwelcomed_max)),
        handshakes_max,
        unwelcomed_max,
    };
    while let Some(incoming) = endpoint.accept().await {
        match judge(&shared, &places, &incoming) {
            Verdict::Accept {
                handshake,
                unwelcomed,
            } => start_connection(incoming, handshake, unwelcomed, &shared),
            Verdict::Retry => {
                // Fails only where `may_retry` is false.
                let _ = incoming.retry();
            }
            Verdict::Refuse => incoming.refuse(),
            Verdict::Ignore => incoming.ignore(),
        }
    }
}

fn judge(shared: &Arc<Shared>, places: &Places, incoming: &Incoming) -> Verdict {
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
    if (too_often || places.are_scarce()) && !proven && incoming.may_retry() {
        metrics.incoming_retried.inc();
        return Verdict::Retry;
    }
    let Ok(handshake) = Arc::clone(&places.handshakes).try_acquire_owned() else {
        metrics.incoming_ignored_handshakes.inc();
        return Verdict::Ignore;
    };
    let Ok(place) = Arc::clone(&places.unwelcomed).try_acquire_owned() else {
        metrics.incoming_ignored_unwelcomed.inc();
        return Verdict::Ignore;
    };
    Verdict::Accept {
        handshake,
        unwelcomed: Unwelcomed::new(place, shared),
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

/// One of `edge.max_connections`, from the first packet on.
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

/// One of `edge.max_unwelcomed`, from the first packet until WELCOME or the end.
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
