//! The bytes of a user's settings: what others do not learn, and whom the user has blocked.

use bytes::Bytes;
use quipu_protocol::event::Privacy;
use quipu_protocol::id::UserId;
use quipu_protocol::limits::BLOCKS_MAX;

use super::CorruptRow;
use crate::codec::{Fields, Writer, corrupt};

const WHAT: &str = "settings";

/// What a user has decided about others. A user without this row hides nothing and has blocked nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// What others do not learn.
    pub privacy: Privacy,
    /// Whom the user takes no messages from, ascending; at most [`BLOCKS_MAX`].
    pub blocked: Vec<UserId>,
}

impl Settings {
    /// Whether the user has blocked this one.
    pub fn blocks(&self, user: &UserId) -> bool {
        self.blocked.binary_search(user).is_ok()
    }

    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(8 + self.blocked.len() * 24);
        out.uint(1, u64::from(self.privacy.hide_read));
        out.uint(2, u64::from(self.privacy.hide_typing));
        out.uint(3, u64::from(self.privacy.hide_presence));
        out.uint(4, u64::from(self.privacy.hide_last_seen));
        for user in &self.blocked {
            out.user(5, user);
        }
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new(WHAT, value);
        let mut settings = Self::default();
        while let Some(field) = fields.next()? {
            match field.number {
                1 => settings.privacy.hide_read = field.uint()? != 0,
                2 => settings.privacy.hide_typing = field.uint()? != 0,
                3 => settings.privacy.hide_presence = field.uint()? != 0,
                4 => settings.privacy.hide_last_seen = field.uint()? != 0,
                5 => settings.blocked.push(field.user()?),
                _ => {}
            }
        }
        if !settings.blocked.is_sorted_by(|a, b| a < b) || settings.blocked.len() > BLOCKS_MAX {
            return Err(corrupt(
                WHAT,
                "the blocked users are too many, or not in ascending order",
            ));
        }
        Ok(settings)
    }
}
