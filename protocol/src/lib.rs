//! Everything both ends must agree on: frames, ids, limits, errors and the session machines.
//!
//! No I/O, no clock, no global randomness: time, random bytes and input are arguments. SPEC.md beside this crate states the
//! rules; this crate is one way to follow them.

pub mod error;
pub mod event;
pub mod frame;
pub mod id;
pub mod limits;
pub mod session;
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod wire;
