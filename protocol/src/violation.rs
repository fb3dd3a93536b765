//! What a peer did wrong, which rule of SPEC.md it broke, and the code to close with.

use crate::error::CloseCode;

/// A peer broke a rule of SPEC.md. The connection is closed with `code`; the text of this error is the reason it gives.
///
/// The peer is at fault and nothing of its frame has taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
pub struct Violation {
    /// The code to close the connection with.
    pub code: CloseCode,
    /// The rule, for example `QP-SEND-2`.
    pub rule: &'static str,
    /// What was expected. Never repeats bytes of the peer.
    pub what: &'static str,
}

impl Violation {
    /// A violation that closes with `PROTOCOL_VIOLATION`, as most do.
    pub const fn new(rule: &'static str, what: &'static str) -> Self {
        Self {
            code: CloseCode::ProtocolViolation,
            rule,
            what,
        }
    }

    /// The same with another code.
    pub const fn with_code(self, code: CloseCode) -> Self {
        Self { code, ..self }
    }
}
