//! Everything both ends must agree on: frames, ids, limits, errors and the session machines.
//!
//! No I/O, no clock, no global randomness: time, random bytes and input are arguments. SPEC.md beside this crate states the
//! rules; this crate is one way to follow them.

pub mod credentials;
pub mod datagram;
pub mod error;
pub mod event;
pub mod frame;
pub mod history;
pub mod id;
pub mod limits;
pub mod media;
pub mod query;
mod redact;
pub mod retry_after;
pub mod session;
pub mod varint;
pub mod violation;
pub mod welcome;
#[allow(missing_docs, clippy::all, unreachable_pub)]
#[rustfmt::skip] // It stays as the generator wrote it, which `cargo xtask generate --check` compares.
pub mod wire;
