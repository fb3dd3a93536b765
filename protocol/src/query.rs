//! What a device can ask beside history, and the answers: conversations, members, versions, devices, settings, presence, changes.

mod answer;

use bytes::Bytes;

pub use self::answer::{
    Answer, ChangedMessage, Changes, ConversationEntry, DeviceEntry, GroupInfo, MemberEntry,
    PresenceEntry, Settings,
};
use crate::error::RejectCode;
use crate::event::Rejection;
use crate::id::{ChangeNumber, ConversationId, Seq, TimestampMs, UserId};
use crate::limits::{
    CHANGES_PAGE_MAX, CONVERSATIONS_PAGE_MAX, MEMBERS_PAGE_MAX, PRESENCE_USERS_MAX,
};
use crate::wire;

/// One question (QUERY), answered by the [`Answer`] of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// A page of the user's conversations, the latest activity first.
    Conversations {
        /// 1 to [`CONVERSATIONS_PAGE_MAX`].
        limit: u32,
        /// Activity and id of the last entry of the page before; `None`: the first page.
        after: Option<(TimestampMs, ConversationId)>,
    },
    /// One conversation.
    Conversation(ConversationId),
    /// A page of a group's members and invited users, ascending by name.
    Members {
        /// Which group.
        conversation: ConversationId,
        /// The last one of the page before; `None`: the first page.
        after: Option<UserId>,
        /// 1 to [`MEMBERS_PAGE_MAX`].
        limit: u32,
    },
    /// What a message said before it was edited.
    Versions(ConversationId, Seq),
    /// The user's devices.
    Devices,
    /// The user's privacy settings and blocks.
    Settings,
    /// Whether users are here.
    Presence {
        /// 1 to [`PRESENCE_USERS_MAX`]; none at all only to watch nobody any more.
        users: Vec<UserId>,
        /// Whether to be told of changes from now on, of these users and no others (QP-PRESENCE-3).
        watch: bool,
    },
    /// What was changed in a pulled group.
    Changes {
        /// Which group.
        conversation: ConversationId,
        /// The last change that the device has.
        after: ChangeNumber,
        /// How many changes the answer covers at most: 1 to [`CHANGES_PAGE_MAX`].
        limit: u32,
    },
}

fn invalid(what: &str) -> Rejection {
    Rejection::new(RejectCode::Invalid, format!("QP-QUERY-1: {what}"))
}

fn conversation(bytes: &[u8]) -> Result<ConversationId, Rejection> {
    ConversationId::from_slice(bytes).map_err(|error| invalid(&error.to_string()))
}

fn user(name: &str) -> Result<UserId, Rejection> {
    UserId::new(name).map_err(|error| invalid(&error.to_string()))
}

fn limit(limit: u32, max: usize) -> Result<u32, Rejection> {
    if !(1..=max).contains(&(limit as usize)) {
        return Err(invalid(&format!("limit is 1 to {max}")));
    }
    Ok(limit)
}

impl TryFrom<wire::Query> for Query {
    /// Answered with FAILURE on the same stream.
    type Error = Rejection;

    fn try_from(query: wire::Query) -> Result<Self, Rejection> {
        use wire::query::Kind;
        Ok(match query.kind {
            Some(Kind::Conversations(page)) => Self::Conversations {
                limit: limit(page.limit, CONVERSATIONS_PAGE_MAX)?,
                after: match &page.before[..] {
                    [] => None,
                    id => Some((TimestampMs(page.before_ms), conversation(id)?)),
                },
            },
            Some(Kind::Conversation(of)) => Self::Conversation(conversation(&of.conversation)?),
            Some(Kind::Members(page)) => Self::Members {
                conversation: conversation(&page.conversation)?,
                after: match page.after.as_str() {
                    "" => None,
                    name => Some(user(name)?),
                },
                limit: limit(page.limit, MEMBERS_PAGE_MAX)?,
            },
            Some(Kind::Versions(of)) => Self::Versions(
                conversation(&of.conversation)?,
                Seq::new(of.seq).map_err(|error| invalid(&error.to_string()))?,
            ),
            Some(Kind::Devices(_)) => Self::Devices,
            Some(Kind::Settings(_)) => Self::Settings,
            Some(Kind::Presence(of)) => {
                if !(of.watch && of.users.is_empty()) {
                    limit(of.users.len() as u32, PRESENCE_USERS_MAX)?;
                }
                let users = of.users.iter().map(|name| user(name));
                Self::Presence {
                    users: users.collect::<Result<_, _>>()?,
                    watch: of.watch,
                }
            }
            Some(Kind::Changes(of)) => Self::Changes {
                conversation: conversation(&of.conversation)?,
                after: ChangeNumber(of.after),
                limit: limit(of.limit, CHANGES_PAGE_MAX)?,
            },
            None => return Err(invalid("a query of this version says what it asks")),
        })
    }
}

impl From<&Query> for wire::Query {
    fn from(query: &Query) -> Self {
        use wire::query::Kind;
        let id = |id: &ConversationId| Bytes::copy_from_slice(id.as_bytes());
        let kind = match query {
            Query::Conversations { limit, after } => {
                let (before_ms, before) = match after {
                    Some((activity, conversation)) => (activity.0, id(conversation)),
                    None => (0, Bytes::new()),
                };
                Kind::Conversations(wire::ConversationsQuery {
                    limit: *limit,
                    before_ms,
                    before,
                })
            }
            Query::Conversation(conversation) => Kind::Conversation(wire::ConversationRef {
                conversation: id(conversation),
            }),
            Query::Members {
                conversation,
                after,
                limit,
            } => Kind::Members(wire::MembersQuery {
                conversation: id(conversation),
                after: after.map(|user| user.to_string()).unwrap_or_default(),
                limit: *limit,
            }),
            Query::Versions(conversation, seq) => Kind::Versions(wire::MessageRef {
                conversation: id(conversation),
                seq: seq.get(),
            }),
            Query::Devices => Kind::Devices(wire::DevicesQuery {}),
            Query::Settings => Kind::Settings(wire::SettingsQuery {}),
            Query::Presence { users, watch } => Kind::Presence(wire::PresenceQuery {
                users: users.iter().map(UserId::to_string).collect(),
                watch: *watch,
            }),
            Query::Changes {
                conversation,
                after,
                limit,
            } => Kind::Changes(wire::ChangesQuery {
                conversation: id(conversation),
                after: after.0,
                limit: *limit,
            }),
        };
        Self { kind: Some(kind) }
    }
}
