//! What nobody could be told about, of the users of one shard; kept for an operator.

use bytes::Bytes;
use quipu_protocol::id::{TimestampMs, UserId};

use super::CorruptRow;
use crate::codec::{Fields, Writer, required};
use crate::limits::DEAD_LETTERS_PER_SHARD_MAX;
use crate::record::GivenUp;
use crate::record::fact::{read_given_up, write_given_up};

const WHAT: &str = "dead letters";

/// The dead letters of a shard. At [`DEAD_LETTERS_PER_SHARD_MAX`] the oldest give way and are counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetters {
    /// The latest ones, oldest first.
    pub letters: Vec<DeadLetter>,
    /// How many have given way.
    pub dropped: u64,
}

/// One webhook that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Whose messages.
    pub user: UserId,
    /// When it was given up.
    pub died_at: TimestampMs,
    /// Which messages, and why.
    pub given_up: GivenUp,
}

impl DeadLetters {
    pub(crate) fn push(&mut self, letter: DeadLetter) {
        if self.letters.len() >= DEAD_LETTERS_PER_SHARD_MAX {
            self.letters.remove(0);
            self.dropped += 1;
        }
        self.letters.push(letter);
    }

    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(16 + self.letters.len() * 128);
        for letter in &self.letters {
            out.nested(1, |out| {
                out.user(1, &letter.user);
                out.uint(2, letter.died_at.0);
                out.nested(3, |out| write_given_up(out, &letter.given_up));
            });
        }
        out.uint(2, self.dropped);
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new(WHAT, value);
        let mut dead = Self::default();
        while let Some(field) = fields.next()? {
            match field.number {
                1 => dead.letters.push(read_letter(field.nested()?)?),
                2 => dead.dropped = field.uint()?,
                _ => {}
            }
        }
        Ok(dead)
    }
}

fn read_letter(mut fields: Fields) -> Result<DeadLetter, CorruptRow> {
    let (mut user, mut died_at, mut given_up) = (None, TimestampMs::default(), None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => user = Some(field.user()?),
            2 => died_at = TimestampMs(field.uint()?),
            3 => given_up = Some(read_given_up(WHAT, field.nested()?)?),
            _ => {}
        }
    }
    Ok(DeadLetter {
        user: required(WHAT, "the user of a dead letter", user)?,
        died_at,
        given_up: required(WHAT, "what a dead letter is about", given_up)?,
    })
}
