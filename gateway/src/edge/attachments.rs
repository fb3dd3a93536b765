//! Checks the files that a message refers to, before the message goes to the log.

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{
    Attachment, Change, Content, DeviceCommand, Outcome, Rejection, Reply, ReplyTo,
};
use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::media::MediaHash;

use crate::media::Media;
use crate::media::partials::Refused;

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
    user: UserId,
    command: &DeviceCommand,
) -> Option<Reply> {
    let (conversation, files) = of_command(command)?;
    for file in files {
        let vouched = media.vouch(user, conversation, MediaHash(file.hash), file.size);
        let rejection = match vouched.await {
            Ok(()) => continue,
            Err(Refused::Rejected(rejection)) => rejection,
            Err(Refused::Failed(error)) => {
                tracing::error!(%error, "a file cannot be looked up");
                Rejection::new(RejectCode::Busy, "files cannot be looked up now")
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
