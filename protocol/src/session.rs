//! The two ends of a session as machines without I/O: bytes, time and decisions go in, outputs come out.
//!
//! Both have the same few verbs. `handle_*` takes what happened, `poll_output` says what to do until it says `None`, and
//! `poll_timeout` says when `handle_timeout` is due. A `handle_*` that takes bytes leaves some of them in its input when
//! the machine's outputs are full ([`SESSION_OUTPUTS_MAX`](crate::limits::SESSION_OUTPUTS_MAX)), so the shell's loop is
//!
//! ```text
//! while input.has_remaining() {
//!     session.handle_bytes(now, &mut input);
//!     while let Some(output) = session.poll_output() { perform(output) }
//! }
//! ```
//!
//! and each turn of it takes at least one frame. A shell that cannot perform an output waits before it reads more: that is
//! the back-pressure that reaches the peer through QUIC's flow control.
//!
//! After `Close` a machine is silent: it takes whatever comes and says nothing.
//!
//! Small machines help the client's half: [`Outbox`] decides what of the unanswered messages goes out when, [`Changes`] the same of
//! unanswered changes, [`Receipts`] when positions are reported, and [`ChangeMark`] which changes of a pulled group are missing.

mod changes;
mod client;
mod in_flight;
mod inbox;
mod mark;
mod outbox;
mod outputs;
mod receipts;
mod server;

pub use changes::{Answered, ChangeEnd, Changes, PumpedChanges, Unanswered};
pub use client::{ClientOutput, ClientSession, LaneId, SendBlocked};
pub use mark::ChangeMark;
pub use outbox::{Outbox, Pumped, Settled, Waiting};
pub use receipts::{Positions, Receipts};
pub use server::{ServerOutput, ServerSession};
