//! The Quipu client: a cheap cloneable handle, an event stream, and the one task that pumps a session.

pub mod backoff;
mod cache;
mod client;
pub mod config;
mod driver;
pub mod error;
pub mod events;
mod history;
pub mod model;
mod net;
pub mod pin;

pub use client::Client;
pub use config::{CertificatePolicy, Config};
pub use error::{Error, Refusal};
pub use events::{ClientEvent, ConnectionState, EventStream, OfflineReason, Tail};
pub use model::{
    Account, Arrival, ConversationSummary, HistoryPage, HistoryRange, LocalMessage, LocalState,
    Page, Target,
};
pub use net::shared_endpoint;
pub use pin::{CertificateChanged, Fingerprint};
pub use quipu_protocol as protocol;
