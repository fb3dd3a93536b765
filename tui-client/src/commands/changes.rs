//! `edit`, `delete`, `react`, `timer`, `devices`, `block`, `report`, `privacy`: one change each.

use quipu_client::{About, ChangeState, Client, Error, MessageChange, Taken};
use quipu_protocol::event::{Change, Content, Privacy};
use quipu_protocol::id::ConversationId;
use quipu_protocol::query::{Answer, Query};

use tokio::time::timeout;

use super::ask::{change, done, odd, query};
use super::{Ended, gave_up, lists, signed_in, why};
use crate::cli::{
    DeviceCommand, DevicesArgs, EditArgs, MessageArgs, PrivacyArgs, ReactArgs, ReportArgs,
    TimerArgs, UserArgs,
};

pub(super) async fn edit(client: &Client, arguments: &EditArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let wanted = MessageChange::Edit(Content::Text(arguments.text.clone()));
    let message = &arguments.message;
    change_message(client, message, message.place.id(&me), ("edit", wanted)).await
}

pub(super) async fn delete(client: &Client, message: &MessageArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let wanted = MessageChange::Delete;
    change_message(client, message, message.place.id(&me), ("delete", wanted)).await
}

pub(super) async fn react(client: &Client, arguments: &ReactArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let wanted = MessageChange::React {
        emoji: arguments.emoji.clone(),
        on: !arguments.off,
    };
    let message = &arguments.message;
    change_message(client, message, message.place.id(&me), ("react", wanted)).await
}

/// Puts a change into the outbox of the data folder, and waits until it is made; if it is not in time, says that it will be.
async fn change_message(
    client: &Client,
    MessageArgs { seq, ask, .. }: &MessageArgs,
    conversation: ConversationId,
    (name, what): (&'static str, MessageChange),
) -> anyhow::Result<Ended> {
    tell_refused(client, conversation).await?;
    let about = About::Placed(conversation, *seq);
    let noun = noun(&what);
    let Taken::Queued(queued) = client.change_message(about, what).await? else {
        return done(*ask, name, Some(conversation), Some(*seq));
    };
    let mut connection = client.connection();
    let made = tokio::select! {
        biased;
        made = timeout(ask.wait, client.wait_changed(queued.id)) => made,
        reason = gave_up(&mut connection) => {
            return Err(reason.context(format!("the {noun} is kept in the outbox")));
        }
    };
    match made {
        Ok(Ok(())) => done(*ask, name, Some(conversation), Some(*seq)),
        Ok(Err(error)) => {
            if matches!(error, Error::Refused(_)) {
                client.forget_change(queued.id).await?;
            }
            Err(error.into())
        }
        Err(_) => {
            eprintln!(
                "quipu: the {noun} is queued, the gateway is away: {}; it is made when a quipu of this folder is connected, do not \
                 ask again",
                why(&connection)
            );
            Ok(Ended::Away)
        }
    }
}

/// Says which changes of an earlier call were refused after it had ended.
async fn tell_refused(client: &Client, conversation: ConversationId) -> anyhow::Result<()> {
    for change in client.changes(conversation).await? {
        let (ChangeState::Refused(refusal), About::Placed(_, seq)) = (&change.state, change.about)
        else {
            continue;
        };
        let what = noun(&change.what);
        eprintln!(
            "quipu: an earlier {what} of message {seq} was refused ({}): {}",
            refusal.code, refusal.reason
        );
        client.forget_change(change.id).await?;
    }
    Ok(())
}

fn noun(change: &MessageChange) -> &'static str {
    match change {
        MessageChange::Edit(_) => "edit",
        MessageChange::Delete => "deletion",
        MessageChange::React { .. } => "reaction",
    }
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
