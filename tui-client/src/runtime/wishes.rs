//! What the reader wants done to messages: to the outbox, and back to the screen.

use quipu_client::{About, ChangeState, Client, LocalChange, MessageChange, Refusal, Taken};
use quipu_protocol::event::Content;
use quipu_protocol::id::ConversationId;

use crate::app::wish::{Target, What, Wish, WishId, WishNews};
use crate::app::{EchoId, Event};

/// Puts a wish into the outbox, which touches the data folder only.
pub(super) async fn wish(
    client: &Client,
    asked: EchoId,
    conversation: ConversationId,
    (target, what): (Target, What),
) -> Event {
    let about = match target {
        Target::Placed(seq) => About::Placed(conversation, seq),
        Target::Queued(id) => About::Queued(id),
    };
    let wanted = match what.clone() {
        What::Edit(words) => MessageChange::Edit(Content::Text(words)),
        What::Delete => MessageChange::Delete,
        What::React { emoji, on } => MessageChange::React { emoji, on },
    };
    match client.change_message(about, wanted).await {
        Ok(Taken::Queued(change)) => Event::Wish(WishNews::Taken(asked, shown(change))),
        Ok(Taken::Made) => Event::Wish(WishNews::Made(asked, target, what)),
        Err(error) => Event::ChangeFailed(asked, format!("Not done: {error}")),
    }
}

/// Why something was refused: in the gateway's words, or if it has none, by the name of the reason.
pub(super) fn why(refusal: Refusal) -> String {
    match refusal.reason.as_str() {
        "" => refusal.code.to_string(),
        _ => refusal.reason,
    }
}

/// A change of the outbox, as the screen shows it.
pub(super) fn shown(change: LocalChange) -> Wish {
    Wish {
        id: WishId(change.id.0),
        target: match change.about {
            About::Placed(_, seq) => Target::Placed(seq),
            About::Queued(id) => Target::Queued(id),
        },
        what: match change.what {
            MessageChange::Edit(content) => What::Edit(content.text().to_owned()),
            MessageChange::Delete => What::Delete,
            MessageChange::React { emoji, on } => What::React { emoji, on },
        },
        refused: match change.state {
            ChangeState::Queued => None,
            ChangeState::Refused(refusal) => Some(why(refusal)),
        },
    }
}
