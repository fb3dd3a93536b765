//! Every bound that the gateway's decisions keep, beside those of the protocol.

use quipu_protocol::limits::{DELIVERY_WINDOW_BYTES, FRAME_BYTES_MAX};

/// Devices of one account. Above it a log-in is refused with `TOO_MANY_DEVICES`.
pub const DEVICES_PER_ACCOUNT_MAX: usize = 32;

/// Webhooks given up that a shard keeps for an operator; above it the oldest give way.
pub const DEAD_LETTERS_PER_SHARD_MAX: usize = 64;

// A catch-up waits for half of the window; the other half has to take a frame of any size.
const _: () = assert!(FRAME_BYTES_MAX * 2 <= DELIVERY_WINDOW_BYTES);

/// Complaints of one user about one conversation and its messages. Above it REPORT is refused with `TOO_MANY`.
pub const REPORTS_PER_CONVERSATION_MAX: usize = 32;

/// Sessions that are told of changes of one user's presence. One more is answered and not told: it asks again now and then.
pub const WATCHERS_PER_USER_MAX: usize = 1024;

/// Members of a group up to which its messages go into every member's inbox, unless configured. Above it they are stored once
/// and each shard with members gets one notice.
pub const FAN_OUT_MAX_DEFAULT: u32 = 256;
