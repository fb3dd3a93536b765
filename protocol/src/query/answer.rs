//! The answers to queries, checked.

use bytes::Bytes;

use crate::event::{Content, Message, Privacy, Role};
use crate::id::{ChangeNumber, ConversationId, DeviceId, Seq, TimestampMs, UserId};
use crate::limits::CHANGES_PAGE_MAX;
use crate::violation::Violation;
use crate::wire;

/// The answer to a [`Query`](super::Query) of the same name (ANSWER).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A page of conversations.
    Conversations {
        /// Latest activity first.
        entries: Vec<ConversationEntry>,
        /// Whether there are others behind them.
        more: bool,
    },
    /// One conversation.
    Conversation(Box<ConversationEntry>),
    /// A page of members.
    Members {
        /// Ascending by name.
        members: Vec<MemberEntry>,
        /// Whether there are others behind them.
        more: bool,
    },
    /// What a message said, by version, the oldest first; version 0 is how it was sent.
    Versions(Vec<(u32, Content)>),
    /// The user's devices.
    Devices(Vec<DeviceEntry>),
    /// The user's settings.
    Settings(Settings),
    /// Users who may be told of.
    Presence(Vec<PresenceEntry>),
    /// What was changed in a pulled group.
    Changes(Box<Changes>),
}

/// A page of the changes of a pulled group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Each message once, in the order of their last changes; those that the user may see.
    pub messages: Vec<ChangedMessage>,
    /// All changes up to this one are here, or were before.
    pub through: ChangeNumber,
    /// Whether there are later ones.
    pub more: bool,
    /// Changes that were asked for are no longer kept: there are no messages here, and what the device keeps of the group may
    /// lack any change up to `through`.
    pub too_old: bool,
}

/// A message that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedMessage {
    /// As it is now.
    pub message: Message,
    /// Who made the last change of it.
    pub by: UserId,
    /// When the log took that.
    pub at: TimestampMs,
}

/// One conversation, as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationEntry {
    /// Which.
    pub conversation: ConversationId,
    /// The other member of a direct one.
    pub peer: Option<UserId>,
    /// What there is to say of a group.
    pub group: Option<GroupInfo>,
    /// Seq of the last message.
    pub head: Option<Seq>,
    /// The oldest seq that the user may see.
    pub first: Seq,
    /// How far the user's devices have received it.
    pub delivered: Option<Seq>,
    /// How far the user has read it.
    pub read: Option<Seq>,
    /// Messages of others above `read`. Exact up to 100; above that notes and own ones may be in it.
    pub unread: u64,
    /// The last message, if the user may see it.
    pub last: Option<Message>,
    /// When that was sent, or the conversation opened.
    pub activity: TimestampMs,
    /// How long new messages are kept, in milliseconds; 0: for good.
    pub keep_ms: u64,
    /// The other's position in a direct one.
    pub peer_delivered: Option<Seq>,
    /// The other's position in a direct one; `None` also when either side hides it.
    pub peer_read: Option<Seq>,
    /// Whether the user has blocked the other.
    pub blocked: bool,
    /// The last change of a pulled group.
    pub changes: ChangeNumber,
}

/// What a member sees of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its title.
    pub title: String,
    /// Its topic.
    pub topic: String,
    /// The user's role; `None`: invited and not joined yet.
    pub role: Option<Role>,
    /// Who invited the user, if that is how things are.
    pub invited_by: Option<UserId>,
    /// Members, the invited not counted.
    pub members: u32,
    /// Whether anybody may join.
    pub open: bool,
    /// Whether who joins sees what was said before.
    pub history_from_start: bool,
    /// Whether its messages come as notices.
    pub pulled: bool,
}

/// One member of a group, or somebody who is invited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberEntry {
    /// Who.
    pub user: UserId,
    /// What they may do; of the invited, what they will.
    pub role: Role,
    /// Whether they have not joined yet.
    pub invited: bool,
}

/// One of the user's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Which.
    pub device: DeviceId,
    /// For a person.
    pub label: String,
    /// When it was added.
    pub added_at: TimestampMs,
    /// When its last session ended, or began if it has not; `None`: not known.
    pub seen_at: Option<TimestampMs>,
    /// Whether it is connected now.
    pub connected: bool,
}

/// What a user has set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// What others do not learn.
    pub privacy: Privacy,
    /// Whom the user takes no messages from, ascending.
    pub blocked: Vec<UserId>,
}

/// Whether a user is here. Neither here nor seen: nothing is known, or told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceEntry {
    /// Who.
    pub user: UserId,
    /// Whether a device of theirs is connected.
    pub here: bool,
    /// When they were last here, if they are not here now and it is known and not hidden.
    pub seen_at: Option<TimestampMs>,
    /// Of two entries about one user on a connection the one with the higher order holds.
    pub order: u64,
}

const RULE: &str = "QP-QUERY-1";

fn wrong(what: &'static str) -> Violation {
    Violation::new(RULE, what)
}

fn user(name: &str) -> Result<UserId, Violation> {
    UserId::new(name).map_err(|_| wrong("a user is named by a user id"))
}

fn optional_user(name: &str) -> Result<Option<UserId>, Violation> {
    if name.is_empty() {
        return Ok(None);
    }
    user(name).map(Some)
}

fn role(role: i32) -> Result<Role, Violation> {
    Role::from_wire(role).ok_or_else(|| wrong("a role is one of this version"))
}

fn time(ms: u64) -> Option<TimestampMs> {
    (ms != 0).then_some(TimestampMs(ms))
}

fn name(user: Option<UserId>) -> String {
    user.map(|user| user.to_string()).unwrap_or_default()
}

fn number(seq: Option<Seq>) -> u64 {
    seq.map_or(0, Seq::get)
}

impl TryFrom<wire::Answer> for Answer {
    type Error = Violation;

    fn try_from(answer: wire::Answer) -> Result<Self, Violation> {
        use wire::answer::Kind;
        Ok(match answer.kind {
            Some(Kind::Conversations(page)) => Self::Conversations {
                entries: all(page.entries)?,
                more: page.more,
            },
            Some(Kind::Conversation(entry)) => Self::Conversation(Box::new(entry.try_into()?)),
            Some(Kind::Members(page)) => Self::Members {
                members: all(page.members)?,
                more: page.more,
            },
            Some(Kind::Versions(of)) => {
                let versions = of.versions.into_iter().map(|version| {
                    let content = Content::try_from(version.content.unwrap_or_default());
                    Ok((version.version, content.map_err(|bad| wrong(bad.reason))?))
                });
                Self::Versions(versions.collect::<Result<_, Violation>>()?)
            }
            Some(Kind::Devices(of)) => Self::Devices(all(of.devices)?),
            Some(Kind::Settings(settings)) => Self::Settings(settings.try_into()?),
            Some(Kind::Presence(of)) => Self::Presence(all(of.users)?),
            Some(Kind::Changes(page)) => Self::Changes(Box::new(page.try_into()?)),
            None => return Err(wrong("an answer says something")),
        })
    }
}

fn all<W, T: TryFrom<W, Error = Violation>>(list: Vec<W>) -> Result<Vec<T>, Violation> {
    list.into_iter().map(T::try_from).collect()
}

impl TryFrom<wire::ConversationEntry> for ConversationEntry {
    type Error = Violation;

    fn try_from(entry: wire::ConversationEntry) -> Result<Self, Violation> {
        Ok(Self {
            conversation: ConversationId::from_slice(&entry.conversation)
                .map_err(|_| wrong("a conversation id has 16 bytes"))?,
            peer: optional_user(&entry.peer)?,
            group: entry.group.map(GroupInfo::try_from).transpose()?,
            head: Seq::new(entry.head).ok(),
            first: Seq::new(entry.first).map_err(|_| wrong("the first seq is not 0"))?,
            delivered: Seq::new(entry.delivered).ok(),
            read: Seq::new(entry.read).ok(),
            unread: entry.unread,
            last: entry.last.map(Message::try_from).transpose()?,
            activity: TimestampMs(entry.activity_ms),
            keep_ms: entry.keep_ms,
            peer_delivered: Seq::new(entry.peer_delivered).ok(),
            peer_read: Seq::new(entry.peer_read).ok(),
            blocked: entry.blocked,
            changes: ChangeNumber(entry.changes),
        })
    }
}

impl TryFrom<wire::Changes> for Changes {
    type Error = Violation;

    fn try_from(page: wire::Changes) -> Result<Self, Violation> {
        let messages: Vec<ChangedMessage> = all(page.messages)?;
        let ids =
            |two: &[ChangedMessage]| two[0].message.conversation == two[1].message.conversation;
        if messages.len() > CHANGES_PAGE_MAX || !messages.windows(2).all(ids) {
            return Err(Violation::new(
                "QP-QUERY-6",
                "a page of changes has at most 128 messages of one conversation",
            ));
        }
        Ok(Self {
            messages,
            through: ChangeNumber(page.through),
            more: page.more,
            too_old: page.too_old,
        })
    }
}

impl TryFrom<wire::ChangedMessage> for ChangedMessage {
    type Error = Violation;

    fn try_from(changed: wire::ChangedMessage) -> Result<Self, Violation> {
        Ok(Self {
            message: changed.message.unwrap_or_default().try_into()?,
            by: user(&changed.by)?,
            at: TimestampMs(changed.at_ms),
        })
    }
}

impl TryFrom<wire::GroupInfo> for GroupInfo {
    type Error = Violation;

    fn try_from(group: wire::GroupInfo) -> Result<Self, Violation> {
        Ok(Self {
            title: group.title,
            topic: group.topic,
            role: match group.invited {
                true => None,
                false => Some(role(group.role)?),
            },
            invited_by: optional_user(&group.invited_by)?,
            members: group.members,
            open: group.open,
            history_from_start: group.history_from_start,
            pulled: group.pulled,
        })
    }
}

impl TryFrom<wire::MemberEntry> for MemberEntry {
    type Error = Violation;

    fn try_from(member: wire::MemberEntry) -> Result<Self, Violation> {
        Ok(Self {
            user: user(&member.user)?,
            role: role(member.role)?,
            invited: member.invited,
        })
    }
}

impl TryFrom<wire::DeviceEntry> for DeviceEntry {
    type Error = Violation;

    fn try_from(device: wire::DeviceEntry) -> Result<Self, Violation> {
        Ok(Self {
            device: DeviceId::new(device.device).map_err(|_| wrong("a device id is not 0"))?,
            label: device.label,
            added_at: TimestampMs(device.added_at_ms),
            seen_at: time(device.seen_at_ms),
            connected: device.connected,
        })
    }
}

impl TryFrom<wire::Settings> for Settings {
    type Error = Violation;

    fn try_from(settings: wire::Settings) -> Result<Self, Violation> {
        let blocked = settings.blocked.iter().map(|name| user(name));
        Ok(Self {
            privacy: settings.privacy.unwrap_or_default().into(),
            blocked: blocked.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<wire::PresenceEntry> for PresenceEntry {
    type Error = Violation;

    fn try_from(entry: wire::PresenceEntry) -> Result<Self, Violation> {
        Ok(Self {
            user: user(&entry.user)?,
            here: entry.here,
            seen_at: time(entry.seen_at_ms),
            order: entry.order,
        })
    }
}

// ---------------------------------------------------------------- to the wire

impl From<Answer> for wire::Answer {
    fn from(answer: Answer) -> Self {
        use wire::answer::Kind;
        let kind = match answer {
            Answer::Conversations { entries, more } => Kind::Conversations(wire::Conversations {
                entries: entries.into_iter().map(Into::into).collect(),
                more,
            }),
            Answer::Conversation(entry) => Kind::Conversation((*entry).into()),
            Answer::Members { members, more } => Kind::Members(wire::Members {
                members: members.into_iter().map(Into::into).collect(),
                more,
            }),
            Answer::Versions(versions) => {
                let versions = versions.into_iter();
                let versions = versions.map(|(version, content)| wire::Version {
                    version,
                    content: Some(content.into()),
                });
                Kind::Versions(wire::Versions {
                    versions: versions.collect(),
                })
            }
            Answer::Devices(devices) => Kind::Devices(wire::Devices {
                devices: devices.into_iter().map(Into::into).collect(),
            }),
            Answer::Settings(settings) => Kind::Settings(wire::Settings {
                privacy: Some(settings.privacy.into()),
                blocked: settings.blocked.iter().map(UserId::to_string).collect(),
            }),
            Answer::Presence(users) => Kind::Presence(wire::Presences {
                users: users.into_iter().map(Into::into).collect(),
            }),
            Answer::Changes(page) => Kind::Changes((*page).into()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Changes> for wire::Changes {
    fn from(page: Changes) -> Self {
        let messages = page
            .messages
            .into_iter()
            .map(|changed| wire::ChangedMessage {
                message: Some((&changed.message).into()),
                by: changed.by.to_string(),
                at_ms: changed.at.0,
            });
        Self {
            messages: messages.collect(),
            through: page.through.0,
            more: page.more,
            too_old: page.too_old,
        }
    }
}

impl From<ConversationEntry> for wire::ConversationEntry {
    fn from(entry: ConversationEntry) -> Self {
        Self {
            conversation: Bytes::copy_from_slice(entry.conversation.as_bytes()),
            peer: name(entry.peer),
            group: entry.group.map(Into::into),
            head: number(entry.head),
            first: entry.first.get(),
            delivered: number(entry.delivered),
            read: number(entry.read),
            unread: entry.unread,
            last: entry.last.as_ref().map(Into::into),
            activity_ms: entry.activity.0,
            keep_ms: entry.keep_ms,
            peer_delivered: number(entry.peer_delivered),
            peer_read: number(entry.peer_read),
            blocked: entry.blocked,
            changes: entry.changes.0,
        }
    }
}

impl From<GroupInfo> for wire::GroupInfo {
    fn from(group: GroupInfo) -> Self {
        Self {
            title: group.title,
            topic: group.topic,
            role: group.role.map_or(0, Role::to_wire),
            invited: group.role.is_none(),
            invited_by: name(group.invited_by),
            members: group.members,
            open: group.open,
            history_from_start: group.history_from_start,
            pulled: group.pulled,
        }
    }
}

impl From<MemberEntry> for wire::MemberEntry {
    fn from(member: MemberEntry) -> Self {
        Self {
            user: member.user.to_string(),
            role: member.role.to_wire(),
            invited: member.invited,
        }
    }
}

impl From<DeviceEntry> for wire::DeviceEntry {
    fn from(device: DeviceEntry) -> Self {
        Self {
            device: device.device.get(),
            label: device.label,
            added_at_ms: device.added_at.0,
            seen_at_ms: device.seen_at.map_or(0, |at| at.0),
            connected: device.connected,
        }
    }
}

impl From<PresenceEntry> for wire::PresenceEntry {
    fn from(entry: PresenceEntry) -> Self {
        Self {
            user: entry.user.to_string(),
            here: entry.here,
            seen_at_ms: entry.seen_at.map_or(0, |at| at.0),
            order: entry.order,
        }
    }
}
