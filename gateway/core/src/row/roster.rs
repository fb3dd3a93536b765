//! The roster of a group on one shard: which of its members live there. What a spread is expanded by.

use bytes::Bytes;
use quipu_protocol::event::Role;
use quipu_protocol::id::{Seq, UserId};

use super::CorruptRow;
use crate::codec::{Fields, Writer, corrupt, required};

const WHAT: &str = "roster";

/// The members and invited users of a group that live on one shard; in that shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    /// Ascending by user.
    pub entries: Vec<RosterEntry>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RosterEntry {
    /// Who.
    pub user: UserId,
    /// What to the group.
    pub place: Place,
}

/// What a user is to a group, as the user's shard has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A member.
    Member {
        /// Its role.
        role: Role,
        /// The oldest message that the member may see.
        first: Seq,
    },
    /// Invited, and told so.
    Invited,
    /// Invited, and not told: the user has blocked who invites, or has as many conversations as there may be.
    Untold,
}

impl Place {
    /// Whether the group is in the user's list of conversations.
    pub fn is_listed(self) -> bool {
        match self {
            Self::Member { .. } | Self::Invited => true,
            Self::Untold => false,
        }
    }
}

impl Roster {
    /// What a user is to the group; `None`: nothing.
    pub fn place(&self, user: &UserId) -> Option<Place> {
        let at = self.find(user).ok()?;
        self.entries.get(at).map(|entry| entry.place)
    }

    /// The members, ascending.
    pub fn members(&self) -> impl Iterator<Item = UserId> {
        self.entries.iter().filter_map(|entry| match entry.place {
            Place::Member { .. } => Some(entry.user),
            Place::Invited | Place::Untold => None,
        })
    }

    /// The members who may see a message, ascending.
    pub fn members_who_see(&self, seq: Seq) -> impl Iterator<Item = UserId> {
        let entries = self.entries.iter();
        entries.filter_map(move |entry| match entry.place {
            Place::Member { first, .. } => (first <= seq).then_some(entry.user),
            Place::Invited | Place::Untold => None,
        })
    }

    pub(crate) fn set(&mut self, user: UserId, place: Option<Place>) {
        match (self.find(&user), place) {
            (Ok(at), Some(place)) => self.entries[at].place = place,
            (Ok(at), None) => drop(self.entries.remove(at)),
            (Err(at), Some(place)) => self.entries.insert(at, RosterEntry { user, place }),
            (Err(_), None) => {}
        }
    }

    fn find(&self, user: &UserId) -> Result<usize, usize> {
        self.entries.binary_search_by_key(user, |entry| entry.user)
    }

    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(self.entries.len() * 24);
        for entry in &self.entries {
            out.nested(1, |out| {
                out.user(1, &entry.user);
                match entry.place {
                    Place::Member { role, first } => {
                        out.uint(2, u64::from(role.to_wire().unsigned_abs()));
                        out.seq(4, (first > Seq::FIRST).then_some(first));
                    }
                    Place::Invited => {}
                    Place::Untold => out.uint(3, 1),
                }
            });
        }
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new(WHAT, value);
        let mut roster = Self::default();
        while let Some(field) = fields.next()? {
            if field.number == 1 {
                roster.entries.push(read_entry(field.nested()?)?);
            }
        }
        if !roster.entries.is_sorted_by(|a, b| a.user < b.user) {
            return Err(corrupt(WHAT, "its users are not in ascending order"));
        }
        Ok(roster)
    }
}

fn read_entry(mut fields: Fields) -> Result<RosterEntry, CorruptRow> {
    let (mut user, mut place) = (None, Place::Invited);
    let mut seen_from = Seq::FIRST;
    while let Some(field) = fields.next()? {
        match field.number {
            1 => user = Some(field.user()?),
            2 => {
                let role = Role::from_wire(field.narrow()?);
                place = Place::Member {
                    role: required(WHAT, "a role of this version", role)?,
                    first: Seq::FIRST,
                };
            }
            4 => seen_from = field.seq()?.unwrap_or(Seq::FIRST),
            3 if field.uint()? != 0 => place = Place::Untold,
            _ => {}
        }
    }
    if let Place::Member { first, .. } = &mut place {
        *first = seen_from;
    }
    Ok(RosterEntry {
        user: required(WHAT, "the user of an entry", user)?,
        place,
    })
}
