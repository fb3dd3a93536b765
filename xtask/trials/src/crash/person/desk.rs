//! What a person remembers while its client restarts.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

use quipu_client::ChangeId;
use quipu_client::protocol::event::Message;
use quipu_client::protocol::id::{ConversationId, Cursor, MessageId};
use quipu_client::protocol::media::MediaHash;

use super::super::ledger::{Act, Made};

/// Messages that may be changed; older ones are left in peace.
const KNOWN_MAX: usize = 64;

/// A file that goes up, until it is there.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) to: ConversationId,
    pub(super) made: Made,
    pub(super) path: PathBuf,
}

/// A file that comes down, until it is here.
#[derive(Debug, Clone)]
pub(super) struct Download {
    pub(super) of: ConversationId,
    pub(super) hash: MediaHash,
    pub(super) made: Made,
    pub(super) path: PathBuf,
}

/// Messages by place, the latest last.
pub(super) type Places = VecDeque<(ConversationId, u64)>;

/// What is on the desk.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) read_up_to: Cursor,
    pub(super) unacked: VecDeque<(ConversationId, MessageId)>,
    /// A change that is asked for until it is answered.
    pub(super) act: Option<Act>,
    /// What the client's outbox calls it, if it is kept there: it is not asked for again.
    pub(super) queued: Option<ChangeId>,
    pub(super) upload: Option<Upload>,
    pub(super) download: Option<Download>,
    /// Files to fetch.
    pub(super) wanted: VecDeque<(ConversationId, MediaHash)>,
    /// Own texts and those of others, in conversations that it stays in.
    pub(super) own: Places,
    pub(super) others: Places,
    /// Groups that it is in for a while.
    pub(super) inside: BTreeSet<ConversationId>,
    /// For titles and edits that are all different.
    pub(super) counter: u64,
}

impl Desk {
    /// Remembers a message that was just read.
    pub(super) fn read(&mut self, message: &Message, is_own: bool) {
        let files = message.content.attachments();
        let is_text = files.is_empty() && !message.content.text().is_empty();
        if is_text {
            let known = if is_own {
                &mut self.own
            } else {
                &mut self.others
            };
            known.push_back((message.conversation, message.seq.get()));
            if known.len() > KNOWN_MAX {
                known.pop_front();
            }
        }
        for file in files.iter().filter(|_| !is_own) {
            if self.wanted.len() < KNOWN_MAX {
                let hash = MediaHash(file.hash);
                self.wanted.push_back((message.conversation, hash));
            }
        }
    }

    /// Whether a message to this conversation has no ack yet.
    pub(super) fn waits_for(&self, conversation: &ConversationId) -> bool {
        let mut unacked = self.unacked.iter();
        unacked.any(|(of, _)| of == conversation)
    }
}
