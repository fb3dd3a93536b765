//! `edit`, `delete`, `react`, `timer`, `devices`, `block`, `report`, `privacy`: one change each.

use quipu_client::Client;
use quipu_protocol::event::{Change, Content, Privacy};
use quipu_protocol::query::{Answer, Query};

use super::ask::{change, odd, query};
use super::{Ended, lists, signed_in};
use crate::cli::{
    DeviceCommand, DevicesArgs, EditArgs, MessageArgs, PrivacyArgs, ReactArgs, ReportArgs,
    TimerArgs, UserArgs,
};

pub(super) async fn edit(client: &Client, arguments: &EditArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let MessageArgs { place, seq, ask } = arguments.message;
    let wanted = Change::Edit {
        conversation: place.id(&me),
        seq,
        content: Content::Text(arguments.text.clone()),
    };
    change(client, ask, "edit", wanted, Some(seq)).await
}

pub(super) async fn delete(client: &Client, message: &MessageArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let wanted = Change::Delete(message.place.id(&me), message.seq);
    change(client, message.ask, "delete", wanted, Some(message.seq)).await
}

pub(super) async fn react(client: &Client, arguments: &ReactArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let MessageArgs { place, seq, ask } = arguments.message;
    let wanted = Change::React {
        conversation: place.id(&me),
        seq,
        emoji: arguments.emoji.clone(),
        on: !arguments.off,
    };
    change(client, ask, "react", wanted, Some(seq)).await
}

pub(super) async fn timer(client: &Client, arguments: &TimerArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let wanted = Change::SetTimer(arguments.place.id(&me), arguments.keep_ms);
    change(client, arguments.ask, "timer", wanted, None).await
}

pub(super) async fn devices(client: &Client, arguments: &DevicesArgs) -> anyhow::Result<Ended> {
    let this = signed_in(client).await?.device;
    match &arguments.command {
        None => lists::devices(client, arguments.ask, this).await,
        Some(DeviceCommand::List { ask }) => lists::devices(client, *ask, this).await,
        Some(DeviceCommand::Rename { device, label, ask }) => {
            let wanted = Change::RenameDevice(*device, label.clone());
            change(client, *ask, "devices rename", wanted, None).await
        }
        Some(DeviceCommand::Revoke { device, ask }) => {
            change(
                client,
                *ask,
                "devices revoke",
                Change::RevokeDevice(*device),
                None,
            )
            .await
        }
    }
}

pub(super) async fn block(
    client: &Client,
    arguments: &UserArgs,
    on: bool,
) -> anyhow::Result<Ended> {
    signed_in(client).await?;
    let name = if on { "block" } else { "unblock" };
    let wanted = Change::Block(arguments.user, on);
    change(client, arguments.ask, name, wanted, None).await
}

pub(super) async fn report(client: &Client, arguments: &ReportArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let (seq, reason) = arguments.about()?;
    let wanted = Change::Report {
        conversation: arguments.place.id(&me),
        seq,
        reason,
    };
    change(client, arguments.ask, "report", wanted, seq).await
}

/// Prints the settings, or changes those that are given and leaves the others.
pub(super) async fn privacy(client: &Client, arguments: &PrivacyArgs) -> anyhow::Result<Ended> {
    signed_in(client).await?;
    let settings = match query(client, arguments.ask, Query::Settings).await? {
        Some(Answer::Settings(settings)) => settings,
        Some(_) => return Err(odd()),
        None => return Ok(Ended::Away),
    };
    let now = settings.privacy;
    let wanted = Privacy {
        hide_read: arguments.hide_read.unwrap_or(now.hide_read),
        hide_typing: arguments.hide_typing.unwrap_or(now.hide_typing),
        hide_presence: arguments.hide_presence.unwrap_or(now.hide_presence),
        hide_last_seen: arguments.hide_last_seen.unwrap_or(now.hide_last_seen),
    };
    let given = [
        arguments.hide_read,
        arguments.hide_typing,
        arguments.hide_presence,
        arguments.hide_last_seen,
    ];
    if given.iter().all(Option::is_none) {
        return lists::settings(arguments.ask, &settings);
    }
    change(
        client,
        arguments.ask,
        "privacy",
        Change::SetPrivacy(wanted),
        None,
    )
    .await
}
