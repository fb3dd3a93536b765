//! The Quipu client: a cheap cloneable handle, an event stream, and the one task that pumps a session.
//!
//! `cargo run -p quipu-client --example hello` runs this against a gateway on this machine:
//!
//! ```no_run
#![doc = include_str!("../examples/hello.rs")]
//! ```
//!
//! What holds:
//!
//! - [`Client::send`] returns once the message is on disk. It goes out in order, now or when there is a connection, and is
//!   sent again under the same number until the gateway answers, so it is stored there once.
//! - The same holds for [`Client::change_message`]: an edit, a deletion or a reaction is carried out once, also when the client
//!   is killed in between.
//! - An event is in the cache before the application sees it and before the gateway may forget it. After a kill at any
//!   moment the client resumes behind the last event that it kept; what comes twice is shown once.
//! - A reader of [`Client::events`] that is too slow is told so. [`Client::tail`] gives every message, however slow.
//! - Everything is bounded: [`config`] names the limits and what happens at each.
//!
//! In reading order: [`Client`], `driver` (connection to connection), `driver/link` (one connection), `cache`.

pub mod backoff;
mod cache;
mod client;
pub mod config;
mod driver;
pub mod error;
pub mod events;
mod fleeting;
mod groups;
mod history;
mod listed;
pub mod media;
pub mod model;
mod net;
pub mod pin;
mod request;
mod token;

pub use client::Client;
pub use config::{CertificatePolicy, Config};
pub use error::{Error, Refusal};
pub use events::{ClientEvent, ConnectionState, EventStream, OfflineReason, Tail};
pub use groups::{
    CATCH_UP_PAGES_MAX, CATCH_UP_PAUSE_MAX, CATCH_UP_PAUSE_MIN, CATCH_UP_PAUSES_MAX,
    CATCH_UP_REFUSALS_MAX, CATCH_UPS_AT_ONCE, CATCH_UPS_WAITING_MAX, CatchUps,
};
pub use model::{
    About, Account, Arrival, ChangeId, ChangeState, ConversationSummary, HistoryRange, LocalChange,
    LocalMessage, LocalState, MessageChange, Page, Taken, Target,
};
pub use net::shared_endpoint;
pub use pin::{CertificateChanged, Fingerprint};
pub use quipu_protocol as protocol;
pub use quipu_protocol::history::HistoryPage;
