//! Questions to the gateway that a line of the composer asks, each with what the screen is told of its answer.

use quipu_client::{Client, Error};
use quipu_protocol::event::{Change, NewGroup, Privacy};
use quipu_protocol::id::ConversationId;
use quipu_protocol::query::{Answer, Query};

use crate::app::slash::Hide;
use crate::app::{EchoId, Event};

/// Asks for a change.
pub(super) async fn change(client: Client, asked: EchoId, change: Box<Change>) -> Event {
    match client.change(*change).await {
        Ok(()) => Event::ChangeDone(asked),
        Err(error) => failed(asked, &error),
    }
}

/// Makes a group that only the invited join, and whose members see what is said from then on.
pub(super) async fn make_group(client: Client, asked: EchoId, title: String) -> Event {
    let group = NewGroup {
        // The SDK draws the id.
        conversation: ConversationId([0x80; 16]),
        title: title.clone(),
        topic: String::new(),
        open: false,
        history_from_start: false,
        invite: Vec::new(),
    };
    match client.create_group(group).await {
        Ok(id) => Event::GroupMade(asked, id, title),
        Err(error) => failed(asked, &error),
    }
}

/// What others may learn of the user, after one thing of it is changed if that is asked for.
pub(super) async fn privacy(client: Client, asked: EchoId, hide: Option<Hide>) -> Event {
    match set_privacy(&client, hide).await {
        Ok(privacy) => Event::Privacy(asked, privacy),
        Err(error) => failed(asked, &error),
    }
}

async fn set_privacy(client: &Client, hide: Option<Hide>) -> Result<Privacy, Error> {
    let Answer::Settings(settings) = client.query(Query::Settings).await? else {
        return Err(Error::Invalid(
            "the gateway answered another question; it may be of another version".into(),
        ));
    };
    let Some(hide) = hide else {
        return Ok(settings.privacy);
    };
    let wanted = hide.of(settings.privacy);
    client.change(Change::SetPrivacy(wanted)).await?;
    Ok(wanted)
}

/// Has the cache ask which invitations there are. Without an answer it keeps what it knows.
pub(super) async fn ask_invitations(client: Client) -> Event {
    if let Err(error) = client.fetch_invitations().await {
        tracing::warn!(%error, "ask for the invitations");
    }
    Event::InvitationsAsked
}

fn failed(asked: EchoId, error: &Error) -> Event {
    Event::ChangeFailed(asked, format!("Not done: {error}"))
}
