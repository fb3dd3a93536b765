//! A record as raft-engine keeps it: a protobuf-2 message written by hand, because nothing else here needs that library.

use std::any::Any;

use bytes::Bytes;
use protobuf::reflect::MessageDescriptor;
use protobuf::{
    Clear, CodedInputStream, CodedOutputStream, Message, ProtobufError, ProtobufResult,
    UnknownFields,
};
use quipu_core::record::Position;
use quipu_protocol::id::TimestampMs;
use raft_engine::MessageExt;

use crate::log::StoredRecord;

const POSITION_FIELD: u32 = 1;
const TIME_FIELD: u32 = 2;
const PAYLOAD_FIELD: u32 = 3;

/// Field 1 the position, field 2 the time, field 3 the payload; all always present.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Entry {
    position: u64,
    time_ms: u64,
    payload: Bytes,
    /// The library wants a place for them; an entry of a newer format never gets this far (the folder's format says no).
    unknown: UnknownFields,
}

impl From<&StoredRecord> for Entry {
    fn from(record: &StoredRecord) -> Self {
        Self {
            position: record.position.0,
            time_ms: record.time.0,
            payload: record.payload.clone(),
            unknown: UnknownFields::default(),
        }
    }
}

impl From<Entry> for StoredRecord {
    fn from(entry: Entry) -> Self {
        Self {
            position: Position(entry.position),
            time: TimestampMs(entry.time_ms),
            payload: entry.payload,
        }
    }
}

/// Tells raft-engine where an entry carries its index.
pub(super) struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.position
    }
}

impl Clear for Entry {
    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for Entry {
    fn descriptor(&self) -> &'static MessageDescriptor {
        Self::descriptor_static()
    }

    fn is_initialized(&self) -> bool {
        true
    }

    fn merge_from(&mut self, stream: &mut CodedInputStream<'_>) -> ProtobufResult<()> {
        while !stream.eof()? {
            let (field, _) = stream.read_tag_unpack()?;
            match field {
                POSITION_FIELD => self.position = stream.read_fixed64()?,
                TIME_FIELD => self.time_ms = stream.read_fixed64()?,
                PAYLOAD_FIELD => self.payload = stream.read_bytes()?.into(),
                unknown => {
                    let why = format!("a record of the log has the unknown field {unknown}");
                    return Err(ProtobufError::IoError(std::io::Error::other(why)));
                }
            }
        }
        Ok(())
    }

    fn write_to_with_cached_sizes(&self, stream: &mut CodedOutputStream<'_>) -> ProtobufResult<()> {
        stream.write_fixed64(POSITION_FIELD, self.position)?;
        stream.write_fixed64(TIME_FIELD, self.time_ms)?;
        stream.write_bytes(PAYLOAD_FIELD, &self.payload)
    }

    fn compute_size(&self) -> u32 {
        // Two fixed fields of a tag and eight bytes, one tag and length of the payload.
        let payload = self.payload.len() as u32;
        2 * 9 + 1 + protobuf::rt::compute_raw_varint32_size(payload) + payload
    }

    fn get_cached_size(&self) -> u32 {
        self.compute_size()
    }

    fn get_unknown_fields(&self) -> &UnknownFields {
        &self.unknown
    }

    fn mut_unknown_fields(&mut self) -> &mut UnknownFields {
        &mut self.unknown
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn new() -> Self {
        Self::default()
    }

    fn default_instance() -> &'static Self {
        static DEFAULT: std::sync::OnceLock<Entry> = std::sync::OnceLock::new();
        DEFAULT.get_or_init(Self::default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &'static [u8]) -> StoredRecord {
        StoredRecord {
            position: Position(7),
            time: TimestampMs(0x0102),
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn an_entry_reads_back_and_has_the_size_it_computes() {
        for payload in [&b""[..], b"abc", &[7; 300]] {
            let record = record(payload);
            let entry = Entry::from(&record);
            let bytes = entry.write_to_bytes().unwrap();
            assert_eq!(bytes.len() as u32, entry.compute_size());
            assert_eq!(
                StoredRecord::from(Entry::parse_from_bytes(&bytes).unwrap()),
                record
            );
        }
    }

    #[test]
    fn the_bytes_on_disk_stay_what_they_are() {
        let bytes = Entry::from(&record(b"abc")).write_to_bytes().unwrap();
        let expected = b"\x09\x07\0\0\0\0\0\0\0\x11\x02\x01\0\0\0\0\0\0\x1a\x03abc";
        assert_eq!(bytes, expected);
    }
}
