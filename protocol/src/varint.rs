//! QUIC's variable-length integers (RFC 9000, section 16).

use bytes::BufMut;

/// Largest number that a varint can hold.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Longest encoding, in bytes.
pub(crate) const VARINT_BYTES_MAX: usize = 8;

/// How many bytes the varint has that starts with `first`: 1, 2, 4 or 8.
pub(crate) const fn encoded_len(first: u8) -> usize {
    1 << (first >> 6)
}

/// Reads one varint and says how many bytes it took; `None` when `bytes` ends within it.
///
/// Every length is accepted, not only the shortest (QP-FRAME-2): nothing is compared or signed as bytes, so a long form
/// does no harm, and RFC 9000 demands the shortest for its frame types only.
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let len = encoded_len(*bytes.first()?);
    let encoded = bytes.get(..len)?;
    let value = encoded
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    // The two bits on top of the first byte are the length.
    Some((value & (u64::MAX >> (64 - (8 * len - 2))), len))
}

/// Writes `value` in its shortest form. Numbers above [`VARINT_MAX`] have none: the caller never has any.
pub fn write(value: u64, out: &mut impl BufMut) {
    debug_assert!(value <= VARINT_MAX);
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value & VARINT_MAX | 0xc000_0000_0000_0000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_9000_appendix_a() {
        let examples: [(&[u8], u64); 5] = [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in examples {
            assert_eq!(read(bytes), Some((value, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn the_shortest_form_is_written() {
        for (value, len) in [
            (0, 1),
            (63, 1),
            (64, 2),
            (16_383, 2),
            (16_384, 4),
            ((1 << 30) - 1, 4),
            (1 << 30, 8),
            (VARINT_MAX, 8),
        ] {
            let mut out = Vec::new();
            write(value, &mut out);
            assert_eq!(out.len(), len, "{value}");
            assert_eq!(read(&out), Some((value, len)));
        }
    }
}
