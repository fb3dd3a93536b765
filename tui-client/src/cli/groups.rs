//! The arguments of `group` and of what changes messages, devices and settings.

use std::time::Duration;

use clap::{Args, Subcommand};
use quipu_protocol::event::Role;
use quipu_protocol::id::{ConversationId, DeviceId, Seq, UserId};

use super::parse::{self, Place};

/// What every command has that needs the gateway.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Ask {
    /// Print one JSON object a line (SCHEMA.md).
    #[arg(long)]
    pub(crate) json: bool,
    /// Give up with exit code 75 when the gateway does not answer for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse::seconds)]
    pub(crate) wait: Duration,
}

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Make a group with yourself as its owner; prints its id.
    Create {
        /// Its title.
        title: String,
        /// What it is about.
        #[arg(long, default_value = "")]
        topic: String,
        /// Let anybody join who knows the id.
        #[arg(long)]
        open: bool,
        /// Show those who join later what was said before.
        #[arg(long)]
        history: bool,
        /// Invite this user; may be given many times.
        #[arg(long, value_name = "USER")]
        invite: Vec<UserId>,
        /// How to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Ask users into a group.
    Invite {
        /// Which group.
        #[arg(value_name = "GROUP", value_parser = parse::group)]
        group: ConversationId,
        /// Whom.
        #[arg(required = true, value_name = "USER")]
        users: Vec<UserId>,
        /// How to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Accept an invitation, or join an open group.
    Join(GroupArgs),
    /// Leave a group, or decline an invitation.
    Leave(GroupArgs),
    /// Take a member out, or an invitation back.
    Remove {
        /// Which group.
        #[arg(value_name = "GROUP", value_parser = parse::group)]
        group: ConversationId,
        /// Whom.
        user: UserId,
        /// How to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Give a member a role: member, admin, or owner, who then is it instead of you.
    Role {
        /// Which group.
        #[arg(value_name = "GROUP", value_parser = parse::group)]
        group: ConversationId,
        /// Whom.
        user: UserId,
        /// Which role.
        #[arg(value_parser = parse::role)]
        role: Role,
        /// How to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Give a group another title.
    Title {
        /// Which group.
        #[arg(value_name = "GROUP", value_parser = parse::group)]
        group: ConversationId,
        /// Its title from now on.
        title: String,
        /// How to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Give a group another topic.
    Topic {
        /// Which group.
        #[arg(value_name = "GROUP", value_parser = parse::group)]
        group: ConversationId,
        /// Its topic from now on; may be empty.
        topic: String,
        /// How to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Print the members of a group and those who are invited, by name.
    Members(GroupArgs),
    /// Print what there is to know of a group.
    Info(GroupArgs),
}

/// A group, and nothing more.
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    /// Which group.
    #[arg(value_name = "GROUP", value_parser = parse::group)]
    pub(crate) group: ConversationId,
    /// How to ask.
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// A message, and nothing more.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// A user's name or a conversation's id.
    #[arg(value_name = "CONVERSATION")]
    pub(crate) place: Place,
    /// Which message.
    #[arg(value_parser = parse::seq)]
    pub(crate) seq: Seq,
    /// How to ask.
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// Arguments of `edit`.
#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    /// Which message.
    #[command(flatten)]
    pub(crate) message: MessageArgs,
    /// What it says from now on.
    pub(crate) text: String,
}

/// Arguments of `react`.
#[derive(Debug, Args)]
pub(crate) struct ReactArgs {
    /// Which message.
    #[command(flatten)]
    pub(crate) message: MessageArgs,
    /// The sign.
    pub(crate) emoji: String,
    /// Take it back.
    #[arg(long)]
    pub(crate) off: bool,
}

/// Arguments of `timer`.
#[derive(Debug, Args)]
pub(crate) struct TimerArgs {
    /// A user's name or a conversation's id.
    #[arg(value_name = "CONVERSATION")]
    pub(crate) place: Place,
    /// How long new messages are kept, such as 30s, 10m, 24h or 7d; or off.
    #[arg(value_name = "DURATION", value_parser = parse::keep)]
    pub(crate) keep_ms: u64,
    /// How to ask.
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// Arguments of `devices`.
#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    /// What to do with them; without it they are printed.
    #[command(subcommand)]
    pub(crate) command: Option<DeviceCommand>,
    /// How to ask.
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// What to do with devices.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Print them.
    List {
        /// How to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Give one another label.
    Rename {
        /// Which.
        #[arg(value_parser = parse::device)]
        device: DeviceId,
        /// Its label from now on.
        label: String,
        /// How to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Throw one out: it is cut off and its folder is of no use any more.
    Revoke {
        /// Which.
        #[arg(value_parser = parse::device)]
        device: DeviceId,
        /// How to ask.
        #[command(flatten)]
        ask: Ask,
    },
}

/// A user, and nothing more.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    /// Whom.
    pub(crate) user: UserId,
    /// How to ask.
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// Arguments of `presence`.
#[derive(Debug, Args)]
pub(crate) struct PresenceArgs {
    /// Whom.
    #[arg(required = true, value_name = "USER")]
    pub(crate) users: Vec<UserId>,
    /// How to ask.
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A user's name or a conversation's id.
    #[arg(value_name = "CONVERSATION")]
    pub(crate) place: Place,
    /// About which message, and why: `[SEQ] REASON`.
    #[arg(required = true, num_args = 1..=2, value_name = "[SEQ] REASON")]
    pub(crate) words: Vec<String>,
    /// How to ask.
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// Arguments of `privacy`: what is not given stays. Without any the settings are printed.
#[derive(Debug, Args)]
pub(crate) struct PrivacyArgs {
    /// Do not tell others how far you have read; you do not see it of them either.
    #[arg(long, value_name = "on|off", value_parser = parse::switch)]
    pub(crate) hide_read: Option<bool>,
    /// Do not tell others that you are writing.
    #[arg(long, value_name = "on|off", value_parser = parse::switch)]
    pub(crate) hide_typing: Option<bool>,
    /// Do not tell others that you are here.
    #[arg(long, value_name = "on|off", value_parser = parse::switch)]
    pub(crate) hide_presence: Option<bool>,
    /// Do not tell others when you were last here.
    #[arg(long, value_name = "on|off", value_parser = parse::switch)]
    pub(crate) hide_last_seen: Option<bool>,
    /// How to ask.
    #[command(flatten)]
    pub(crate) ask: Ask,
}

impl ReportArgs {
    /// About which message, and why.
    pub(crate) fn about(&self) -> anyhow::Result<(Option<Seq>, String)> {
        match &self.words[..] {
            [number, reason] => match parse::seq(number) {
                Ok(seq) => Ok((Some(seq), reason.clone())),
                Err(wrong) => anyhow::bail!("{number:?} is not the seq of a message: {wrong}"),
            },
            words => Ok((None, words.join(" "))),
        }
    }
}
