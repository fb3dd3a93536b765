//! A conversation: its members, its head, how far each has come and what each device has sent.

use bytes::Bytes;
use quipu_protocol::id::{DeviceId, Seq, TimestampMs, UserId};

use super::{CorruptRow, Group};
use crate::codec::{Field, Fields, Writer, corrupt, required};
use crate::dedup::{DedupWindow, Sent};
use crate::limits::REPORTS_PER_CONVERSATION_MAX;

const WHAT: &str = "conversation";

/// Members, head, receipts and dedup windows of a conversation. Whether it is a direct one or a group, its id says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversation {
    /// Seq of the last message; `None`: it is empty.
    pub head: Option<Seq>,
    /// Who takes part in a direct one, ascending by user. One member: notes to oneself. Empty in a group, whose members have
    /// rows of their own.
    pub members: Vec<Member>,
    /// How long new messages are kept, in milliseconds; 0: for good.
    pub keep_ms: u64,
    /// Whether it exists only because one side has blocked the other: nobody has opened it, and nobody can send to it.
    pub unopened: bool,
    /// When the last message was sent, or the conversation made.
    pub activity: TimestampMs,
    /// What it is as a group; `None`: it is a direct one.
    pub group: Option<Box<Group>>,
}

/// What a conversation keeps of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// Every message up to this one has reached a device of theirs.
    pub delivered: Option<Seq>,
    /// Every message up to this one was read; never above `delivered`.
    pub read: Option<Seq>,
    /// How far of it others may see; behind `read` when the user hides it, never above.
    pub shown_read: Option<Seq>,
    /// Takes no messages from the other side of this direct conversation.
    pub blocks: bool,
    /// The messages that the user has complained about, 0 for the conversation itself; ascending, at most
    /// [`REPORTS_PER_CONVERSATION_MAX`](crate::limits::REPORTS_PER_CONVERSATION_MAX).
    pub(crate) reports: Vec<u64>,
    /// The devices that have sent something, ascending; at most
    /// [`DEVICES_PER_ACCOUNT_MAX`](crate::limits::DEVICES_PER_ACCOUNT_MAX).
    pub(crate) senders: Vec<(DeviceId, DedupWindow<Sent>)>,
}

impl Conversation {
    /// A new conversation of these users, in whatever order and however often they are named.
    pub fn new(users: impl IntoIterator<Item = UserId>, made: TimestampMs) -> Self {
        let mut members: Vec<Member> = users.into_iter().map(Member::new).collect();
        members.sort_unstable_by_key(|member| member.user);
        members.dedup_by_key(|member| member.user);
        Self {
            head: None,
            members,
            activity: made,
            ..Self::default()
        }
    }

    /// A new group, without members yet.
    pub fn of_group(group: Group, made: TimestampMs) -> Self {
        Self {
            activity: made,
            group: Some(Box::new(group)),
            ..Self::default()
        }
    }

    /// What it keeps of this user; `None`: not a member.
    pub fn member(&self, user: &UserId) -> Option<&Member> {
        let at = self.find(user)?;
        self.members.get(at)
    }

    /// Whether the other side of this direct conversation takes no messages from the user.
    pub fn has_blocked(&self, user: &UserId) -> bool {
        let mut others = self.members.iter().filter(|member| member.user != *user);
        others.any(|member| member.blocks)
    }

    pub(crate) fn member_mut(&mut self, user: &UserId) -> Option<&mut Member> {
        let at = self.find(user)?;
        self.members.get_mut(at)
    }

    fn find(&self, user: &UserId) -> Option<usize> {
        self.members.binary_search_by_key(user, |m| m.user).ok()
    }

    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(64 + self.members.len() * 224);
        out.seq(1, self.head);
        for member in &self.members {
            out.nested(2, |out| {
                out.user(1, &member.user);
                write_member(out, member);
                write_reports(out, member);
            });
        }
        out.uint(3, self.keep_ms);
        out.uint(4, u64::from(self.unopened));
        out.uint(5, self.activity.0);
        if let Some(group) = &self.group {
            out.nested(6, |out| group.write(out));
        }
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new(WHAT, value);
        let mut conversation = Self::default();
        while let Some(field) = fields.next()? {
            match field.number {
                1 => conversation.head = field.seq()?,
                2 => conversation
                    .members
                    .push(read_member(field.nested()?, None, |_| Ok(()))?),
                3 => conversation.keep_ms = field.uint()?,
                4 => conversation.unopened = field.uint()? != 0,
                5 => conversation.activity = TimestampMs(field.uint()?),
                6 => conversation.group = Some(Box::new(Group::read(field.nested()?)?)),
                _ => {}
            }
        }
        if !conversation.members.is_sorted_by(|a, b| a.user < b.user) {
            return Err(corrupt(WHAT, "its members are not in ascending order"));
        }
        if !conversation
            .members
            .iter()
            .all(|m| m.is_within(conversation.head))
        {
            return Err(corrupt(WHAT, "a member is ahead of its head"));
        }
        Ok(conversation)
    }
}

impl Member {
    pub(super) fn new(user: UserId) -> Self {
        Self {
            user,
            delivered: None,
            read: None,
            shown_read: None,
            blocks: false,
            reports: Vec::new(),
            senders: Vec::new(),
        }
    }

    fn is_within(&self, head: Option<Seq>) -> bool {
        let mut windows = self.senders.iter().map(|(_, window)| window);
        self.shown_read <= self.read
            && self.read <= self.delivered
            && self.delivered <= head
            && windows.all(|window| window.last_seq() <= head)
    }
}

/// Writes what a member has; who it is comes before it, or is in the key of the row.
pub(super) fn write_member(out: &mut Writer, member: &Member) {
    out.seq(2, member.delivered);
    out.seq(3, member.read);
    for (device, window) in &member.senders {
        out.nested(4, |out| {
            out.fixed64(1, device.get());
            window.write(out, 2);
        });
    }
    // In most rows the others see all of it, which then costs nothing.
    if member.shown_read != member.read {
        out.uint_present(5, member.shown_read.map_or(0, Seq::get));
    }
    out.uint(6, u64::from(member.blocks));
}

/// Writes the last field of a member, behind those that a membership has of its own.
pub(super) fn write_reports(out: &mut Writer, member: &Member) {
    if !member.reports.is_empty() {
        let reports = member.reports.iter();
        out.nested(12, |out| reports.for_each(|seq| out.varint(*seq)));
    }
}

fn read_reports(field: &Field) -> Result<Vec<u64>, CorruptRow> {
    let (mut reports, mut packed) = (Vec::new(), field.nested()?);
    while let Some(seq) = packed.packed()? {
        reports.push(seq);
    }
    if !reports.is_sorted_by(|a, b| a < b) || reports.len() > REPORTS_PER_CONVERSATION_MAX {
        return Err(corrupt(
            WHAT,
            "a member's complaints are too many or unordered",
        ));
    }
    Ok(reports)
}

/// Reads a member, whose user is in the fields or given, and passes on the fields that are not a member's.
pub(super) fn read_member(
    mut fields: Fields,
    mut user: Option<UserId>,
    mut other: impl FnMut(&Field) -> Result<(), CorruptRow>,
) -> Result<Member, CorruptRow> {
    let (mut delivered, mut read, mut senders) = (None, None, Vec::new());
    let (mut shown_read, mut blocks, mut reports) = (None, false, Vec::new());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => user = Some(field.user()?),
            2 => delivered = field.seq()?,
            3 => read = field.seq()?,
            4 => senders.push(read_sender(field.nested()?)?),
            5 => shown_read = Some(field.seq()?),
            6 => blocks = field.uint()? != 0,
            12 => reports = read_reports(&field)?,
            _ => other(&field)?,
        }
    }
    if !senders.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(corrupt(
            WHAT,
            "a member's devices are not in ascending order",
        ));
    }
    Ok(Member {
        user: required(WHAT, "the user of a member", user)?,
        delivered,
        read,
        shown_read: shown_read.unwrap_or(read),
        blocks,
        reports,
        senders,
    })
}

fn read_sender(mut fields: Fields) -> Result<(DeviceId, DedupWindow<Sent>), CorruptRow> {
    let (mut device, mut window) = (None, DedupWindow::default());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => device = Some(field.device()?),
            2 => window = DedupWindow::read(WHAT, field.nested()?)?,
            _ => {}
        }
    }
    Ok((required(WHAT, "the device of a sender", device)?, window))
}
