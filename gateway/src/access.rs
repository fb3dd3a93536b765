//! What a user is to a conversation: asked before anything of it is read for the user.

use quipu_core::row::{Conversation, EntityKey, Membership, Seat};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Rejection, Role};
use quipu_protocol::id::{ConversationId, Seq, UserId};

use crate::store::{Store, StoreError};

/// What a user is to a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// There is no such conversation, or it is none of this user's: to the user both look alike (QP-HISTORY-2).
    Unknown,
    /// The user was a member of this group.
    Former,
    /// The user is asked into this group and has not joined. Only its title and who asks are for the user.
    Invited {
        /// The group.
        conversation: Box<Conversation>,
        /// Who asks.
        by: UserId,
    },
    /// A member.
    Member(Box<Member>),
}

/// What a member may see of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The conversation's row.
    pub conversation: Conversation,
    /// In a direct one always [`Role::Member`].
    pub role: Role,
    /// The oldest message that the user may see.
    pub first: Seq,
    /// Every message up to this one has reached a device of the user.
    pub delivered: Option<Seq>,
    /// The user has read up to here.
    pub read: Option<Seq>,
}

impl Access {
    /// The member, or what to answer to anybody else.
    pub fn member(self) -> Result<Member, Rejection> {
        match self {
            Self::Member(member) => Ok(*member),
            Self::Unknown => Err(Rejection::new(
                RejectCode::UnknownConversation,
                "you have no such conversation",
            )),
            Self::Former => Err(Rejection::new(
                RejectCode::NotAMember,
                "you are not a member of this group any more",
            )),
            Self::Invited { .. } => Err(Rejection::new(
                RejectCode::NotAMember,
                "you are invited to this group; join it first",
            )),
        }
    }
}

/// Looks up what a user is to a conversation now.
pub fn access(store: &dyn Store, user: &UserId, id: &ConversationId) -> Result<Access, StoreError> {
    let keys = [EntityKey::Conversation(*id), EntityKey::Member(*id, *user)];
    let wanted = if id.is_group() { &keys[..] } else { &keys[..1] };
    let mut rows = store.entities(wanted)?.into_iter();
    let Some(row) = rows.next().flatten() else {
        return Ok(Access::Unknown);
    };
    let conversation = Conversation::decode(&row)?;
    let Some(group) = &conversation.group else {
        let member = conversation.member(user).filter(|_| !conversation.unopened);
        let Some(member) = member.cloned() else {
            return Ok(Access::Unknown);
        };
        return Ok(Access::Member(Box::new(Member {
            conversation,
            role: Role::Member,
            first: Seq::FIRST,
            delivered: member.delivered,
            read: member.read,
        })));
    };
    let Some(row) = rows.next().flatten() else {
        return Ok(Access::Unknown);
    };
    let membership = Membership::decode(*user, &row)?;
    Ok(match membership.seat {
        Seat::In(role) => Access::Member(Box::new(Member {
            role,
            first: membership.first(group),
            delivered: membership.member.delivered,
            read: membership.member.read,
            conversation,
        })),
        Seat::Invited(by) => Access::Invited {
            conversation: Box::new(conversation),
            by,
        },
        Seat::Out if membership.joined.is_some() => Access::Former,
        Seat::Out => Access::Unknown,
    })
}
