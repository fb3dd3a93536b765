//! `group`: make groups, and change who is in them and what they are called.

use std::io::{self, Write};

use quipu_client::Client;
use quipu_protocol::event::{Change, NewGroup};
use quipu_protocol::id::{ConversationId, UserId};

use super::ask::{change, done, with_gateway};
use super::{Ended, lists};
use crate::cli::{Ask, GroupArgs, GroupCommand};

/// Carries one of them out.
pub(super) async fn run(client: &Client, command: &GroupCommand) -> anyhow::Result<Ended> {
    match command {
        GroupCommand::Create { .. } => create(client, command).await,
        GroupCommand::Invite { group, users, ask } => {
            let wanted = Change::Invite {
                conversation: *group,
                users: ascending(users),
            };
            change(client, *ask, "group invite", wanted, None).await
        }
        GroupCommand::Join(GroupArgs { group, ask }) => {
            change(client, *ask, "group join", Change::Join(*group), None).await
        }
        GroupCommand::Leave(GroupArgs { group, ask }) => {
            change(client, *ask, "group leave", Change::Leave(*group), None).await
        }
        GroupCommand::Remove { group, user, ask } => {
            let wanted = Change::Remove(*group, *user);
            change(client, *ask, "group remove", wanted, None).await
        }
        GroupCommand::Role {
            group,
            user,
            role,
            ask,
        } => {
            let wanted = Change::SetRole(*group, *user, *role);
            change(client, *ask, "group role", wanted, None).await
        }
        GroupCommand::Title { group, title, ask } => {
            let wanted = set(*group, Some(title), None);
            change(client, *ask, "group title", wanted, None).await
        }
        GroupCommand::Topic { group, topic, ask } => {
            let wanted = set(*group, None, Some(topic));
            change(client, *ask, "group topic", wanted, None).await
        }
        GroupCommand::Members(GroupArgs { group, ask }) => {
            lists::members(client, *ask, *group).await
        }
        GroupCommand::Info(GroupArgs { group, ask }) => lists::info(client, *ask, *group).await,
    }
}

async fn create(client: &Client, command: &GroupCommand) -> anyhow::Result<Ended> {
    let GroupCommand::Create {
        title,
        topic,
        open,
        history,
        invite,
        ask,
    } = command
    else {
        return Ok(Ended::Done);
    };
    let group = NewGroup {
        // The SDK draws the id.
        conversation: ConversationId([0x80; 16]),
        title: title.clone(),
        topic: topic.clone(),
        open: *open,
        history_from_start: *history,
        invite: ascending(invite),
    };
    match with_gateway(client, *ask, client.create_group(group)).await? {
        Some(id) => created(*ask, id),
        None => Ok(Ended::Away),
    }
}

fn created(ask: Ask, id: ConversationId) -> anyhow::Result<Ended> {
    if !ask.json {
        let mut out = io::stdout().lock();
        writeln!(out, "{id}")?;
        out.flush()?;
    }
    done(ask, "group create", Some(id), None)
}

fn set(conversation: ConversationId, title: Option<&String>, topic: Option<&String>) -> Change {
    Change::SetGroup {
        conversation,
        title: title.cloned(),
        topic: topic.cloned(),
    }
}

fn ascending(users: &[UserId]) -> Vec<UserId> {
    let mut users = users.to_vec();
    users.sort_unstable();
    users.dedup();
    users
}
