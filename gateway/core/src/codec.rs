//! Writes and reads protobuf over borrowed bytes: the log's hot path makes no allocation per id, name or nested message.
//!
//! The schema is `proto/log.proto`. Scalars that are zero are left out, as proto3 wants; fields that this version does not
//! know are skipped.

pub(crate) mod event;

use quipu_protocol::id::{ConversationId, DeviceId, MessageId, Seq, UserId};

use crate::row::CorruptRow;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// Appends protobuf fields to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
        }
    }

    pub(crate) fn into_bytes(self) -> bytes::Bytes {
        self.bytes.into()
    }

    /// A number; nothing when it is 0.
    pub(crate) fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.uint_present(field, value);
        }
    }

    /// A number whose presence says something: one arm of a `oneof`, or an element.
    pub(crate) fn uint_present(&mut self, field: u32, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    /// Eight bytes; nothing when they are 0.
    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, FIXED64);
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Bytes or text; nothing when empty.
    pub(crate) fn slice(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.slice_present(field, value);
        }
    }

    /// Bytes or text whose presence says something.
    pub(crate) fn slice_present(&mut self, field: u32, value: &[u8]) {
        self.key(field, LENGTH);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn user(&mut self, field: u32, user: &UserId) {
        self.slice(field, user.as_str().as_bytes());
    }

    pub(crate) fn conversation(&mut self, field: u32, conversation: &ConversationId) {
        self.slice(field, conversation.as_bytes());
    }

    pub(crate) fn seq(&mut self, field: u32, seq: Option<Seq>) {
        self.uint(field, seq.map_or(0, Seq::get));
    }

    /// A message of the wire protocol, as it travels there.
    pub(crate) fn wire(&mut self, field: u32, message: &impl prost::Message) {
        self.slice_present(field, &message.encode_to_vec());
    }

    /// A nested message, or a packed field, written by `body`; present even when empty.
    pub(crate) fn nested(&mut self, field: u32, body: impl FnOnce(&mut Self)) {
        self.key(field, LENGTH);
        // One byte is set aside for the length. Only a body of 128 bytes or more has to be moved to make room for another,
        // which is cheaper than measuring every body before writing it.
        let length_at = self.bytes.len();
        self.bytes.push(0);
        body(self);
        let length = self.bytes.len() - length_at - 1;
        let more = varint_bytes(length as u64) - 1;
        if more > 0 {
            let end = self.bytes.len();
            self.bytes.resize(end + more, 0);
            self.bytes
                .copy_within(length_at + 1..end, length_at + 1 + more);
        }
        let mut rest = length as u64;
        for byte in &mut self.bytes[length_at..=length_at + more] {
            *byte = (rest & 0x7f) as u8 | 0x80;
            rest >>= 7;
        }
        self.bytes[length_at + more] &= 0x7f;
    }

    /// An element of a packed field: a bare varint.
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn key(&mut self, field: u32, kind: u8) {
        self.varint(u64::from(field << 3 | u32::from(kind)));
    }
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The value of one field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Slice(&'a [u8]),
}

/// Walks the fields of one message; every complaint names `what` is being read.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// The next field that this version may know: its number and value.
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, CorruptRow> {
        while !self.rest.is_empty() {
            let key = self.varint()?;
            let Some(number) = u32::try_from(key >> 3).ok().filter(|n| *n != 0) else {
                return Err(corrupt(self.what, "a field number is out of range"));
            };
            let value = match key as u8 & 7 {
                VARINT => Value::Varint(self.varint()?),
                FIXED64 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
                LENGTH => {
                    let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                    Value::Slice(self.take(length)?)
                }
                // No field of ours has four fixed bytes: it is from a later version.
                FIXED32 => {
                    let _: [u8; 4] = self.array()?;
                    continue;
                }
                _ => return Err(corrupt(self.what, "a field has an unknown wire type")),
            };
            return Ok(Some(Field {
                what: self.what,
                number,
                value,
            }));
        }
        Ok(None)
    }

    /// The next bare varint of a packed field.
    pub(crate) fn packed(&mut self) -> Result<Option<u64>, CorruptRow> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.varint().map(Some)
    }

    fn varint(&mut self) -> Result<u64, CorruptRow> {
        let mut value = 0u64;
        for (i, byte) in self.rest.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if i == 9 && bits > 1 {
                break;
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(corrupt(self.what, "a number is cut off or too long"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CorruptRow> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(corrupt(self.what, "it ends in the middle of a field"));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CorruptRow> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

/// One field, with the readings that our types need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    what: &'static str,
    pub(crate) number: u32,
    value: Value<'a>,
}

impl<'a> Field<'a> {
    pub(crate) fn uint(&self) -> Result<u64, CorruptRow> {
        match self.value {
            Value::Varint(value) => Ok(value),
            Value::Fixed64(_) | Value::Slice(_) => Err(self.mistyped()),
        }
    }

    pub(crate) fn fixed64(&self) -> Result<u64, CorruptRow> {
        match self.value {
            Value::Fixed64(value) => Ok(value),
            Value::Varint(_) | Value::Slice(_) => Err(self.mistyped()),
        }
    }

    pub(crate) fn slice(&self) -> Result<&'a [u8], CorruptRow> {
        match self.value {
            Value::Slice(value) => Ok(value),
            Value::Varint(_) | Value::Fixed64(_) => Err(self.mistyped()),
        }
    }

    /// The fields of a nested message, or the elements of a packed field.
    pub(crate) fn nested(&self) -> Result<Fields<'a>, CorruptRow> {
        Ok(Fields::new(self.what, self.slice()?))
    }

    /// A number of 32 or 16 bits.
    pub(crate) fn narrow<T: TryFrom<u64>>(&self) -> Result<T, CorruptRow> {
        T::try_from(self.uint()?).map_err(|_| {
            corrupt(
                self.what,
                format_args!("the number in field {} is out of range", self.number),
            )
        })
    }

    pub(crate) fn text(&self) -> Result<&'a str, CorruptRow> {
        std::str::from_utf8(self.slice()?).map_err(|_| {
            corrupt(
                self.what,
                format_args!("the text in field {} is not UTF-8", self.number),
            )
        })
    }

    /// A message of the wire protocol, checked as if it had come from there.
    pub(crate) fn wire<M, T>(&self) -> Result<T, CorruptRow>
    where
        M: prost::Message + Default,
        T: TryFrom<M, Error: std::fmt::Debug>,
    {
        let message = M::decode(self.slice()?)
            .map_err(|e| corrupt(self.what, format_args!("field {}: {e}", self.number)))?;
        T::try_from(message)
            .map_err(|e| corrupt(self.what, format_args!("field {}: {e:?}", self.number)))
    }

    pub(crate) fn hash(&self) -> Result<[u8; 32], CorruptRow> {
        self.slice()?.try_into().map_err(|_| {
            corrupt(
                self.what,
                format_args!("the hash in field {} has not 32 bytes", self.number),
            )
        })
    }

    pub(crate) fn user(&self) -> Result<UserId, CorruptRow> {
        self.checked(UserId::new(self.text()?))
    }

    pub(crate) fn device(&self) -> Result<DeviceId, CorruptRow> {
        self.checked(DeviceId::new(self.fixed64()?))
    }

    pub(crate) fn conversation(&self) -> Result<ConversationId, CorruptRow> {
        self.checked(ConversationId::from_slice(self.slice()?))
    }

    pub(crate) fn message_id(&self) -> Result<MessageId, CorruptRow> {
        self.checked(MessageId::from_slice(self.slice()?))
    }

    /// A seq, where 0 means none.
    pub(crate) fn seq(&self) -> Result<Option<Seq>, CorruptRow> {
        Ok(Seq::new(self.uint()?).ok())
    }

    /// Wraps the complaint of a newtype.
    pub(crate) fn checked<T, E: std::fmt::Display>(
        &self,
        result: Result<T, E>,
    ) -> Result<T, CorruptRow> {
        result.map_err(|e| corrupt(self.what, format_args!("field {}: {e}", self.number)))
    }

    fn mistyped(&self) -> CorruptRow {
        corrupt(
            self.what,
            format_args!("field {} has the wrong wire type", self.number),
        )
    }
}

/// The field that has to be there.
pub(crate) fn required<T>(
    what: &'static str,
    field: &'static str,
    value: Option<T>,
) -> Result<T, CorruptRow> {
    value.ok_or_else(|| corrupt(what, format_args!("{field} is missing")))
}

pub(crate) fn corrupt(what: &'static str, why: impl std::fmt::Display) -> CorruptRow {
    CorruptRow {
        what,
        why: why.to_string(),
    }
}
