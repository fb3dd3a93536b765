//! A group: what the row of its conversation says of it, and the row that each member or invited user has beside it.

use bytes::Bytes;
use quipu_protocol::event::Role;
use quipu_protocol::id::{ChangeNumber, Seq, UserId};

use super::CorruptRow;
use super::conversation::{Member, read_member, write_member, write_reports};
use crate::codec::{Field, Fields, Writer, corrupt, required};
use crate::shard::ShardId;

const GROUP: &str = "group";
const MEMBERSHIP: &str = "membership";

/// What a conversation keeps of itself as a group. Its members have rows of their own ([`Membership`]), so that this one does
/// not grow with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// 1 to [`TITLE_BYTES_MAX`](quipu_protocol::limits::TITLE_BYTES_MAX) bytes.
    pub title: String,
    /// At most [`TOPIC_BYTES_MAX`](quipu_protocol::limits::TOPIC_BYTES_MAX) bytes.
    pub topic: String,
    /// Whether anybody who knows the id may join.
    pub open: bool,
    /// Whether who joins later sees what was said before.
    pub history_from_start: bool,
    /// The note that made it pulled: what comes after it is in no inbox. `None`: it is pushed.
    pub pulled: Option<Seq>,
    /// The last change of a message since it is pulled.
    pub changes: ChangeNumber,
    /// Members up to which it is pushed.
    pub fan_out_max: u32,
    /// Who made it.
    pub creator: UserId,
    /// Who has it now. Without members nobody has it, and this is who had it last.
    pub owner: UserId,
    /// How many are invited and have not joined.
    pub invited: u32,
    /// How many members live on each shard that has some, ascending by shard.
    pub shards: Vec<(ShardId, u32)>,
}

/// What a group keeps of a user who is, was, or is asked to be a member, or has sent it something as a stranger; in the shard
/// of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// What the user is to the group now.
    pub seat: Seat,
    /// The note of the last joining; `None`: never a member.
    pub joined: Option<Seq>,
    /// The note of the last leaving or removal.
    pub left: Option<Seq>,
    /// The note of the last invitation that was declined or taken back.
    pub declined: Option<Seq>,
    /// How far the user has come, and what the user's devices have sent.
    pub member: Member,
}

/// What a user is to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seat {
    /// Nothing any more.
    Out,
    /// Asked in, by this member.
    Invited(UserId),
    /// A member.
    In(Role),
}

impl Group {
    /// How many members it has.
    pub fn members(&self) -> usize {
        let counts = self.shards.iter().map(|(_, count)| *count as usize);
        counts.sum()
    }

    /// Counts a new member who lives on `shard`.
    pub(crate) fn enter(&mut self, shard: ShardId) {
        match self.shards.binary_search_by_key(&shard, |(s, _)| *s) {
            Ok(at) => self.shards[at].1 += 1,
            Err(at) => self.shards.insert(at, (shard, 1)),
        }
    }

    /// Counts a member of `shard` out.
    pub(crate) fn leave(&mut self, shard: ShardId) {
        if let Ok(at) = self.shards.binary_search_by_key(&shard, |(s, _)| *s) {
            self.shards[at].1 -= 1;
            if self.shards[at].1 == 0 {
                self.shards.remove(at);
            }
        }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.slice(1, self.title.as_bytes());
        out.slice(2, self.topic.as_bytes());
        out.uint(3, u64::from(self.open));
        out.uint(4, u64::from(self.history_from_start));
        out.seq(5, self.pulled);
        out.uint(6, u64::from(self.fan_out_max));
        out.user(7, &self.creator);
        out.user(8, &self.owner);
        out.uint(9, u64::from(self.invited));
        if !self.shards.is_empty() {
            out.nested(10, |out| {
                for (shard, count) in &self.shards {
                    out.varint(u64::from(shard.0));
                    out.varint(u64::from(*count));
                }
            });
        }
        out.uint(11, self.changes.0);
    }

    pub(super) fn read(mut fields: Fields) -> Result<Self, CorruptRow> {
        let (mut title, mut topic) = (String::new(), String::new());
        let (mut open, mut history_from_start, mut pulled) = (false, false, None);
        let (mut fan_out_max, mut creator, mut owner) = (0, None, None);
        let (mut invited, mut shards, mut changes) = (0, Vec::new(), ChangeNumber::START);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => field.text()?.clone_into(&mut title),
                2 => field.text()?.clone_into(&mut topic),
                3 => open = field.uint()? != 0,
                4 => history_from_start = field.uint()? != 0,
                5 => pulled = field.seq()?,
                6 => fan_out_max = field.narrow()?,
                7 => creator = Some(field.user()?),
                8 => owner = Some(field.user()?),
                9 => invited = field.narrow()?,
                10 => shards = read_shards(&field)?,
                11 => changes = ChangeNumber(field.uint()?),
                _ => {}
            }
        }
        Ok(Self {
            title,
            topic,
            open,
            history_from_start,
            pulled,
            changes,
            fan_out_max,
            creator: required(GROUP, "who made it", creator)?,
            owner: required(GROUP, "the owner", owner)?,
            invited,
            shards,
        })
    }
}

fn read_shards(field: &Field) -> Result<Vec<(ShardId, u32)>, CorruptRow> {
    let out_of_range = || corrupt(GROUP, "a count of members is out of range");
    let mut shards = Vec::new();
    let mut pairs = field.nested()?;
    while let Some(shard) = pairs.packed()? {
        let shard = u16::try_from(shard).map_err(|_| out_of_range())?;
        let count = pairs.packed()?.unwrap_or(0);
        let count = u32::try_from(count).map_err(|_| out_of_range())?;
        if count == 0 {
            return Err(out_of_range());
        }
        shards.push((ShardId(shard), count));
    }
    if !shards.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(corrupt(GROUP, "its shards are not in ascending order"));
    }
    Ok(shards)
}

impl Membership {
    /// Of a user who was never a member.
    pub(crate) fn new(user: UserId, seat: Seat) -> Self {
        Self {
            seat,
            joined: None,
            left: None,
            declined: None,
            member: Member::new(user),
        }
    }

    /// Whether the user was ever a member or asked to be one. If not, the row only remembers which messages of a stranger were
    /// refused.
    pub fn was_there(&self) -> bool {
        self.seat != Seat::Out || self.joined.is_some() || self.declined.is_some()
    }

    /// The role of a member.
    pub fn role(&self) -> Option<Role> {
        match self.seat {
            Seat::In(role) => Some(role),
            Seat::Out | Seat::Invited(_) => None,
        }
    }

    /// The oldest message that a member may see.
    pub fn first(&self, group: &Group) -> Seq {
        match self.joined {
            Some(joined) if !group.history_from_start => joined,
            Some(_) | None => Seq::FIRST,
        }
    }

    /// The value of its row. The user is not in it, but in its key.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(64 + self.member.senders.len() * 144);
        write_member(&mut out, &self.member);
        match &self.seat {
            Seat::Out => {}
            Seat::In(role) => out.uint(7, u64::from(role.to_wire().unsigned_abs())),
            Seat::Invited(by) => out.user(8, by),
        }
        out.seq(9, self.joined);
        out.seq(10, self.left);
        out.seq(11, self.declined);
        write_reports(&mut out, &self.member);
        out.into_bytes()
    }

    /// Puts it together again from the user in its key, and its value.
    pub fn decode(user: UserId, value: &[u8]) -> Result<Self, CorruptRow> {
        let mut row = Self::new(user, Seat::Out);
        let (seat, joined, left) = (&mut row.seat, &mut row.joined, &mut row.left);
        let declined = &mut row.declined;
        row.member = read_member(Fields::new(MEMBERSHIP, value), Some(user), |field| {
            match field.number {
                7 => {
                    let role = Role::from_wire(field.narrow()?);
                    *seat = Seat::In(required(MEMBERSHIP, "a role of this version", role)?);
                }
                8 => *seat = Seat::Invited(field.user()?),
                9 => *joined = field.seq()?,
                10 => *left = field.seq()?,
                11 => *declined = field.seq()?,
                _ => {}
            }
            Ok(())
        })?;
        if row.member.read > row.member.delivered || row.member.shown_read > row.member.read {
            return Err(corrupt(MEMBERSHIP, "it is read further than delivered"));
        }
        if matches!(row.seat, Seat::In(_)) && row.joined.is_none() {
            return Err(corrupt(MEMBERSHIP, "a member has never joined"));
        }
        Ok(row)
    }
}
