//! Newtypes for every identifier and sequence number, with their ordering and text form.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::limits::{USER_ID_BYTES_MAX, USER_ID_BYTES_MIN};

/// Why bytes or a text are not the identifier they were taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The name breaks the rule for user ids (SPEC.md QP-ID-1).
    #[error(
        "a user name has {USER_ID_BYTES_MIN} to {USER_ID_BYTES_MAX} characters of a-z, 0-9, '.', '_' or '-' and starts with a letter or digit"
    )]
    UserId,
    /// A fixed-size identifier came with another size.
    #[error("{what} has {expected} bytes, not {actual}")]
    Length {
        /// Which identifier.
        what: &'static str,
        /// Bytes that it has.
        expected: usize,
        /// Bytes that came.
        actual: usize,
    },
    /// Zero where numbering starts at one.
    #[error("{0} is not 0")]
    Zero(&'static str),
    /// Hexadecimal text that is none.
    #[error("{what} is written in {digits} hexadecimal digits")]
    Hex {
        /// Which identifier.
        what: &'static str,
        /// How many it has.
        digits: usize,
    },
}

/// A user: the account's name, which never changes. 2 to 31 bytes of `a-z 0-9 . _ -`, starting with a letter or digit.
///
/// Kept inline (32 bytes, `Copy`) because every session, inbox and conversation holds some.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId {
    bytes: [u8; USER_ID_BYTES_MAX],
    len: u8,
}

impl UserId {
    /// Checks a name. Upper case is refused, not folded: two spellings of one user would be two strings on the wire.
    pub fn new(name: &str) -> Result<Self, InvalidId> {
        let source = name.as_bytes();
        let allowed = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let starts_well = source
            .first()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !(USER_ID_BYTES_MIN..=USER_ID_BYTES_MAX).contains(&source.len())
            || !starts_well
            || !source.iter().all(allowed)
        {
            return Err(InvalidId::UserId);
        }
        let mut bytes = [0; USER_ID_BYTES_MAX];
        bytes[..source.len()].copy_from_slice(source);
        Ok(Self {
            bytes,
            len: source.len() as u8,
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        // Only `new` makes a `UserId`, and it admits ASCII only.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for UserId {
    type Err = InvalidId;
    fn from_str(name: &str) -> Result<Self, InvalidId> {
        Self::new(name)
    }
}

/// Declares a 16-byte identifier written as 32 hexadecimal digits.
macro_rules! bytes16 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Takes the 16 bytes of a protobuf field.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
                bytes.try_into().map(Self).map_err(|_| InvalidId::Length {
                    what: $what,
                    expected: 16,
                    actual: bytes.len(),
                })
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.as_bytes();
                if digits.len() != 32 {
                    return Err(InvalidId::Hex { what: $what, digits: 32 });
                }
                let mut bytes = [0; 16];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or(InvalidId::Hex { what: $what, digits: 32 });
                    *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
                }
                Ok(Self(bytes))
            }
        }
    };
}

bytes16! {
    /// A conversation. The top bit of the first byte is 0 for a direct one and 1 for a group.
    ConversationId, "a conversation id"
}
bytes16! {
    /// A message, as its sender named it: 16 random bytes, the same on every retry.
    MessageId, "a message id"
}

impl ConversationId {
    /// The direct conversation of two users, in either order: the first 16 bytes of
    /// SHA-256(`"quipu direct"` 0 `lower` 0 `higher`) with the top bit cleared (SPEC.md QP-ID-3).
    ///
    /// A function of the names, so that a client can write into a conversation that it has not opened yet.
    pub fn direct(a: &UserId, b: &UserId) -> Self {
        let (lower, higher) = if a <= b { (a, b) } else { (b, a) };
        let digest = Sha256::new()
            .chain_update(b"quipu direct\0")
            .chain_update(lower.as_str())
            .chain_update([0])
            .chain_update(higher.as_str())
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[0] &= 0x7f;
        Self(bytes)
    }

    /// Whether this is a group's id.
    pub fn is_group(&self) -> bool {
        self.0[0] & 0x80 != 0
    }
}

impl MessageId {
    /// The name of a note: the first 16 bytes of SHA-256(`"quipu note"` 0 `conversation` `seq`), the seq in 8 bytes big-endian
    /// (SPEC.md QP-GROUP-2).
    pub fn note(conversation: &ConversationId, seq: Seq) -> Self {
        let digest = Sha256::new()
            .chain_update(b"quipu note\0")
            .chain_update(conversation.as_bytes())
            .chain_update(seq.get().to_be_bytes())
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }
}

impl ClientSeq {
    /// Of every note; no device uses it (SPEC.md QP-GROUP-2).
    pub const NOTE: Self = Self(NonZeroU64::MAX);
}

/// Declares a number that starts at one.
macro_rules! nonzero {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// The first one.
            pub const FIRST: Self = Self(NonZeroU64::MIN);

            /// Takes a protobuf field, where 0 would mean "absent".
            pub fn new(value: u64) -> Result<Self, InvalidId> {
                NonZeroU64::new(value).map(Self).ok_or(InvalidId::Zero($what))
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0.get()
            }

            /// The one after it. Saturates at the end of 64 bits, which no deployment reaches.
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

nonzero! {
    /// A message's gap-free position in its conversation, from 1.
    Seq, "a seq"
}
nonzero! {
    /// An event's gap-free position in a user's inbox, from 1.
    InboxSeq, "an inbox seq"
}
nonzero! {
    /// A device's own number for a message or a change: grows with every one, whatever it is about, and is never used twice.
    ClientSeq, "a client seq"
}

/// The last inbox event that a device has kept; 0 before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor(pub u64);

impl Cursor {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The event after it.
    pub const fn next(self) -> InboxSeq {
        InboxSeq::FIRST.offset(self.0)
    }
}

impl InboxSeq {
    const fn offset(self, by: u64) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// The cursor of a device that has kept this event and all before it.
    pub const fn cursor(self) -> Cursor {
        Cursor(self.get())
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A change of a pulled group, by its number there: gap-free from 1; 0: there was none yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChangeNumber(pub u64);

impl ChangeNumber {
    /// Before the first change.
    pub const START: Self = Self(0);

    /// The change after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for ChangeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for ChangeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One device of a user; random, unique within the user, never 0. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(NonZeroU64);

impl DeviceId {
    /// Takes a protobuf field or a random number.
    pub fn new(value: u64) -> Result<Self, InvalidId> {
        NonZeroU64::new(value)
            .map(Self)
            .ok_or(InvalidId::Zero("a device id"))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A request's number on its connection, chosen by the client and echoed in the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Unix time in milliseconds; only ever data, never compared with a clock to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimestampMs(pub u64);
