//! Metric names with units, and the set-up of logging.
//!
//! Counting happens at borders: one name for each limit and each behaviour at it. Names never change meaning; a new meaning
//! is a new name.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

use parking_lot::Mutex;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry as MetricNames;
use tracing_subscriber::EnvFilter;

/// Declares the metrics of the gateway: a field each, registered under `quipu_` and the field's name.
macro_rules! metrics {
    (
        counters { $( $counter:ident: $counter_help:literal; )* }
        gauges { $( $gauge:ident: $gauge_help:literal; )* }
        seconds { $( $seconds:ident: $seconds_help:literal; )* }
    ) => {
        /// Every metric of a gateway. Cheap to update from any task; shared behind one `Arc`.
        #[derive(Debug)]
        pub struct Metrics {
            $( #[doc = $counter_help] pub $counter: Counter, )*
            $( #[doc = $gauge_help] pub $gauge: Gauge, )*
            $( #[doc = $seconds_help] pub $seconds: Histogram, )*
            names: MetricNames,
            shown: Mutex<Vec<Shown>>,
        }

        impl Metrics {
            /// Registers every metric at zero.
            pub fn new() -> Self {
                let mut names = MetricNames::with_prefix("quipu");
                $(
                    let $counter = Counter::default();
                    names.register(stringify!($counter), $counter_help, $counter.clone());
                )*
                $(
                    let $gauge = Gauge::default();
                    names.register(stringify!($gauge), $gauge_help, $gauge.clone());
                )*
                $(
                    let $seconds = Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
                    names.register(stringify!($seconds), $seconds_help, $seconds.clone());
                )*
                Self { $( $counter, )* $( $gauge, )* $( $seconds, )* names, shown: Mutex::default() }
            }
        }
    };
}

metrics! {
    counters {
        incoming_retried: "Connection attempts answered with a QUIC Retry because places were scarce or their address came often";
        incoming_ignored_waiting: "Connection attempts ignored because too many waited for a place";
        incoming_ignored_late: "Connection attempts ignored because they had waited too long for a place";
        incoming_ignored_connections: "Connection attempts ignored because edge.max_connections was reached";
        incoming_ignored_draining: "Connection attempts ignored because the gateway was stopping";
        incoming_refused_rate: "Connection attempts refused because their proven address connects too often";
        rate_limited_connections: "Connections closed or refused with RATE_LIMITED because their address connects too often";
        rate_limited_registrations: "Registrations refused because their address registers too often";
        rate_limited_passwords: "Passwords not checked because too many were wrong for this user from this address";
        rate_limited_commands: "Commands rejected with RATE_LIMITED because their user gives too many";
        rate_limited_receipts: "Receipts ignored because their user gives too many commands";
        rate_limited_conversations: "Conversations not made because their user makes too many";
        sends_held_back: "Messages rejected because one before them in their conversation was: they keep their order";
        handshakes_completed: "QUIC handshakes that finished";
        handshakes_failed: "QUIC handshakes that failed or timed out";
        sessions_started: "Sessions that were answered with WELCOME";
        sessions_resumed: "Sessions that went on from the device's cursor";
        sessions_resynced: "Sessions that had to start over because their cursor was of another life, ahead, or no longer kept";
        sessions_resynced_for_age: "Of these, sessions whose next event is no longer kept (inbox.keep_events, inbox.keep_for)";
        sessions_closed_trimmed: "Sessions closed because what they had not read yet is no longer kept";
        sessions_replaced: "Sessions closed because the same device connected again";
        sessions_refused: "HELLOs refused for any reason";
        sessions_closed_for_violation: "Connections closed because the peer broke a rule";
        sessions_closed_unread_replies: "Connections closed because the peer did not read its replies";
        sessions_closed_unavailable: "Connections closed because the log or the store did not answer";
        stray_uni_streams: "Unidirectional streams opened by clients, stopped with UNKNOWN_STREAM";
        early_request_streams: "Request streams opened before WELCOME, reset with NOT_WELCOMED";
        datagrams_ignored: "Datagrams received that are none of this version, or came before WELCOME";
        datagrams_sent: "Datagrams with typing or presence handed to connections";
        datagrams_dropped: "Datagrams not sent because a connection or its device does not keep up";
        typing_received: "Datagrams of devices whose users type, or no longer do";
        typing_rate_limited: "Datagrams ignored because a device sends too many";
        typing_refused: "Typing not passed on: nobody is told of it in that conversation, or the user hides it";
        commands_accepted: "Commands handed to the router";
        events_pushed: "Events written to lanes as they happened";
        events_caught_up: "Events written to lanes from the store";
        notices_sent: "Notices of pulled groups written to lanes, each of them to one session";
        notices_dropped: "Notices dropped because a lane was full; the session is told to check";
        event_bytes: "Bytes of event frames written to lanes";
        acks_received: "ACKs taken from devices";
        acks_ahead: "ACKs beyond what was sent, which close the connection";
        catch_up_pages: "Inbox pages read for devices that were behind";
        catch_up_gaps: "Inbox pages cut short because a history row was not committed yet";
        queries_behind: "Reads of conversations that waited, because the reader was told of what is not committed yet";
        requests_served: "Request streams answered with what they asked for";
        requests_failed: "Request streams answered with FAILURE";
        requests_reset: "Request streams reset because of a frame that does not belong there or a time limit";
        requests_busy: "Request streams refused because too many were being served";
        registrations: "Accounts made";
        logins: "Devices added by password or by a token of the issuer";
        tokens_refreshed: "Newer tokens of the issuer that extended a session";
        passwords_hashed: "Password hashes computed";
        passwords_refused_busy: "Log-ins and registrations refused because the queue for password hashing was full";
        credentials_refused: "Log-ins and session tokens that were wrong";
        queries_failed: "Reads that the store could not answer";
        queries_in_place: "Reads of a row or two made without a blocking thread";
        admin_requests: "HTTP requests answered on the admin address";
        admin_refused: "HTTP requests refused on the admin address";
        facts_submitted: "Beginnings, stalls and ends of sessions handed to the router";
        sessions_stalled: "Sessions whose device acked nothing for notify.after although it was sent something";
        notify_delivered: "Webhooks that their receiver took";
        notify_retried: "Webhooks that were not taken and will be tried again";
        notify_dead: "Webhooks that became dead letters after notify.tries";
        notify_old: "Webhooks not posted because their messages had waited for a week";
        media_uploads: "Files that were uploaded whole";
        media_uploads_known: "Uploads that needed no bytes because the file was there already";
        media_uploads_refused: "Uploads refused before their first byte";
        media_uploads_broken: "Uploads whose bytes were not what was announced";
        media_upload_bytes: "Bytes of files received";
        media_downloads: "Files, or parts of them, sent whole";
        media_downloads_refused: "Downloads refused";
        media_download_bytes: "Bytes of files sent";
        media_transfers_busy: "Blob streams refused because too many were being served";
        media_transfers_stalled: "Blob streams ended because they moved too little";
        media_transfers_reset: "Blob streams reset for another reason: the peer gave up, or broke a rule";
        media_partials_removed: "Unfinished uploads removed because nobody went on with them";
        media_objects_removed: "Files removed because no message referred to them";
        media_store_failed: "Requests to the folder or the bucket of files that failed, after their repetitions";
        media_store_stalled: "Requests to the bucket of files that were given up after media.stall_timeout";
        media_lookups_late: "Messages told BUSY because their files could not be looked up in time";
        media_sweeps_failed: "Searches for unreferenced files that ended early";
        certificate_reloads: "Times the certificate was read anew";
    }
    gauges {
        connections: "QUIC connections open or being made";
        incoming_waiting: "Connection attempts that wait for a place among the log-ins";
        handshakes_running: "QUIC handshakes in progress";
        connections_unwelcomed: "QUIC connections whose device is not let in yet";
        sessions: "Sessions past WELCOME";
        queries_running: "Store reads in progress on blocking threads";
        media_transfers_running: "Uploads and downloads being served";
        password_hashes_waiting: "Password hashes waiting or being computed";
        notify_waiting: "Users with messages that no device of theirs has, as far as the notifier knows them";
        notify_posting: "Users whose webhooks are being posted";
        notify_stopped: "1: the receiver of webhooks has answered 410 Gone";
        udp_receive_buffer_bytes: "What the kernel granted for the UDP receive buffer";
        udp_send_buffer_bytes: "What the kernel granted for the UDP send buffer";
    }
    seconds {
        hello_seconds: "Time from HELLO to WELCOME";
        query_seconds: "Time of one store read, waiting included";
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// How a number behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A number that another part of the gateway keeps.
struct Shown {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    read: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Metrics {
    /// Adds a number to the page that another part keeps, under `quipu_` and `name`; counters get `_total` behind it. `read`
    /// is called for every page.
    pub fn show(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.shown.lock().push(Shown {
            kind,
            name,
            help,
            read: Box::new(read),
        });
    }

    /// All metrics in the OpenMetrics text format, as `/metrics` answers.
    pub fn render(&self) -> String {
        let mut page = String::with_capacity(16 * 1024);
        // Writing to a String does not fail; a metric that refuses to encode would be a bug, and the page says so.
        if self.render_to(&mut page).is_err() {
            page.push_str("# a metric could not be encoded\n");
        }
        page
    }

    fn render_to(&self, page: &mut String) -> fmt::Result {
        text::encode_registry(page, &self.names)?;
        for shown in self.shown.lock().iter() {
            let Shown {
                name,
                help,
                read,
                kind,
            } = shown;
            let (kind, suffix) = match kind {
                Kind::Counter => ("counter", "_total"),
                Kind::Gauge => ("gauge", ""),
            };
            writeln!(
                page,
                "# HELP quipu_{name} {help}.\n# TYPE quipu_{name} {kind}"
            )?;
            writeln!(page, "quipu_{name}{suffix} {}", read())?;
        }
        text::encode_eof(page)
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogSetupError {
    /// The filter is not one.
    #[error(
        "the log filter {filter:?} is not understood ({why}); write for example info or quipu_gateway=debug,warn"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What the parser says.
        why: String,
    },
    /// Somebody set it up before.
    #[error("logging is set up already")]
    Twice,
}

/// Sends log lines to standard error, filtered by `RUST_LOG` if it is set and by `filter` otherwise.
pub fn init_logging(filter: &str) -> Result<(), LogSetupError> {
    let chosen = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| filter.to_owned());
    let parsed = EnvFilter::builder()
        .parse(&chosen)
        .map_err(|error| LogSetupError::Filter {
            filter: chosen,
            why: error.to_string(),
        })?;
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        // Colours are for a person; a file or a collector would keep the escape codes.
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|_| LogSetupError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_counters_with_their_help() {
        let metrics = Metrics::new();
        metrics.sessions_started.inc();
        metrics.show(Kind::Counter, "elsewhere", "Kept elsewhere", || 7);
        let page = metrics.render();
        assert!(page.contains("quipu_sessions_started_total 1"), "{page}");
        assert!(
            page.contains("# HELP quipu_connections QUIC connections open"),
            "{page}"
        );
        assert!(
            page.contains("# TYPE quipu_elsewhere counter\nquipu_elsewhere_total 7\n"),
            "{page}"
        );
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}
