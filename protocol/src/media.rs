//! Files: how they are named, and what is said on a blob stream before and after their bytes.

mod stream;

use std::fmt;
use std::str::FromStr;

use crate::id::InvalidId;
use crate::limits::{MEDIA_HASH_BYTES, MEDIA_TYPE_BYTES_MAX};

pub use stream::{Blob, Download, Upload};

/// The BLAKE3 hash of a file's bytes, which is its name within a conversation. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaHash(pub [u8; MEDIA_HASH_BYTES]);

impl MediaHash {
    /// Takes the bytes of a protobuf field.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
        bytes.try_into().map(Self).map_err(|_| InvalidId::Length {
            what: "a media hash",
            expected: MEDIA_HASH_BYTES,
            actual: bytes.len(),
        })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; MEDIA_HASH_BYTES] {
        &self.0
    }
}

impl fmt::Display for MediaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MediaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MediaHash {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        read_hex(text).map(Self).ok_or(InvalidId::Hex {
            what: "a media hash",
            digits: 64,
        })
    }
}

/// One attempt to bring a file to a conversation, over all its connections: 16 bytes that the device chose at random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub [u8; 16]);

impl UploadId {
    /// Takes the 16 bytes of a protobuf field.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
        bytes.try_into().map(Self).map_err(|_| InvalidId::Length {
            what: "an upload id",
            expected: 16,
            actual: bytes.len(),
        })
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UploadId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        read_hex(text).map(Self).ok_or(InvalidId::Hex {
            what: "an upload id",
            digits: 32,
        })
    }
}

/// Reads exactly `N` bytes from two hexadecimal digits each.
fn read_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
    }
    Some(bytes)
}

/// Why a text is no media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a media type is written type/subtype in lower case, without parameters, in at most {MEDIA_TYPE_BYTES_MAX} bytes"
)]
pub struct InvalidMediaType;

/// What kind of file it is, as its sender says: `image/jpeg`. Type and subtype, lower case, without parameters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaType(String);

impl MediaType {
    /// For a file that nothing is known of.
    pub const UNKNOWN: &str = "application/octet-stream";

    /// Checks a text. Upper case is refused, not folded: two spellings of one type would be two strings on the wire.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidMediaType> {
        let text = text.into();
        let allowed = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'&' | b'-' | b'^' | b'_' | b'.' | b'+');
        let name = |part: &str| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(u8::is_ascii_alphanumeric) && bytes.iter().all(allowed)
        };
        let fits = text.len() <= MEDIA_TYPE_BYTES_MAX;
        match text.split_once('/') {
            Some((kind, subtype)) if fits && name(kind) && name(subtype) => Ok(Self(text)),
            Some(_) | None => Err(InvalidMediaType),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What comes before the slash: `image`.
    pub fn kind(&self) -> &str {
        self.0.split_once('/').map_or("", |(kind, _)| kind)
    }
}

impl Default for MediaType {
    fn default() -> Self {
        Self(Self::UNKNOWN.to_owned())
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_from_its_text() {
        let hash = MediaHash(std::array::from_fn(|at| at as u8 * 8));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(MediaHash::from_slice(hash.as_bytes()), Ok(hash));
        for text in ["", "00", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<MediaHash>().is_err(), "{text}");
        }
        assert!(MediaHash::from_slice(&[0; 31]).is_err());
        assert!(UploadId::from_slice(&[0; 17]).is_err());
    }

    #[test]
    fn media_types_are_plain_names() {
        for text in [
            "image/jpeg",
            "application/vnd.api+json",
            "video/3gpp",
            MediaType::UNKNOWN,
        ] {
            assert_eq!(MediaType::new(text).map(|kind| kind.0).as_deref(), Ok(text));
        }
        let long = format!("image/{}", "x".repeat(MEDIA_TYPE_BYTES_MAX));
        for text in [
            "",
            "image",
            "image/",
            "/png",
            "Image/png",
            "image/p ng",
            "a/b/c",
            "text/html;q=1",
            "image/\u{1b}[2J",
            "../x",
            &long,
        ] {
            assert_eq!(MediaType::new(text), Err(InvalidMediaType), "{text}");
        }
    }
}
