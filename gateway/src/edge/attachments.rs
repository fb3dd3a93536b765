//! Checks the files that a message refers to, before the message goes to the log.

use std::time::Duration;

use quipu_protocol::event::{Attachment, Change, Content, DeviceCommand, Outcome, Reply, ReplyTo};
use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::media::MediaHash;
use tokio::time::{Instant, timeout_at};

use crate::media::partials::Refused;
use crate::media::{self, Media};
use crate::telemetry::Metrics;

/// How long the files of one command may take to be looked up. The session's other commands wait behind it, and text must
/// not wait for a bucket. What was found by then is found at once when the device comes again.
const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(2);

/// The conversation and the files of a command that refers to some.
pub(super) fn of_command(command: &DeviceCommand) -> Option<(ConversationId, &[Attachment])> {
    let (conversation, content) = match command {
        DeviceCommand::Send {
            conversation,
            content,
            ..
        } => (conversation, content),
        DeviceCommand::Change { change, .. } => {
            let Change::Edit {
                conversation,
                content,
                ..
            } = &**change
            else {
                return None;
            };
            (conversation, content)
        }
        DeviceCommand::OpenDirect { .. } | DeviceCommand::Receipt { .. } => return None,
    };
    match content {
        Content::Rich(rich) if !rich.attachments.is_empty() => {
            Some((*conversation, &rich.attachments))
        }
        Content::Rich(_) | Content::Text(_) | Content::Note(_) | Content::Gone(_) => None,
    }
}

/// Answers a command that refers to a file which is not in its conversation; `None`: all are.
pub(super) async fn answer_instead(
    media: &Media,
    metrics: &Metrics,
    user: UserId,
    command: &DeviceCommand,
) -> Option<Reply> {
    let (conversation, files) = of_command(command)?;
    let until = Instant::now() + LOOK_UP_TIME_MAX;
    for file in files {
        let vouched = media.vouch(user, conversation, MediaHash(file.hash), file.size);
        let rejection = match timeout_at(until, vouched).await {
            Ok(Ok(())) => continue,
            Ok(Err(Refused::Rejected(rejection))) => rejection,
            Ok(Err(Refused::Failed(error))) => {
                tracing::error!(%error, "a file cannot be looked up");
                media::busy("files cannot be looked up now")
            }
            Err(_) => {
                metrics.media_lookups_late.inc();
                media::busy("files cannot be looked up in time")
            }
        };
        let to = match command {
            DeviceCommand::Send {
                conversation,
                client_seq,
                ..
            } => ReplyTo::Send {
                conversation: *conversation,
                client_seq: *client_seq,
            },
            DeviceCommand::Change { request, .. } | DeviceCommand::OpenDirect { request, .. } => {
                ReplyTo::Request(*request)
            }
            DeviceCommand::Receipt { .. } => return None,
        };
        let outcome = Outcome::Rejected(rejection);
        return Some(Reply { to, outcome });
    }
    None
}
