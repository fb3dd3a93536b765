//! Changes of messages that are not in the cache: a page of history under way may bring the message as it was before.

use std::collections::VecDeque;

use quipu_protocol::event::{Changed, Message};

use super::super::Tables;
use super::changes;

/// Changes that are remembered of messages that are not in the cache. A change and a page pass each other within moments, so that
/// the newest few are enough; a page during which one had to be forgotten is asked for again.
const AHEAD_CHANGES_MAX: usize = 64;

/// The newest changes of messages that were not in the cache when they came, in their order. In memory only: a page that was
/// under way when the process died is asked for again.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    held: VecDeque<Changed>,
    /// How many were forgotten to make room.
    forgotten: u64,
}

impl Ahead {
    /// Remembers a change; at the bound the oldest one is forgotten.
    pub(super) fn hold(&mut self, changed: Changed) {
        if self.held.len() >= AHEAD_CHANGES_MAX {
            self.held.pop_front();
            self.forgotten += 1;
        }
        self.held.push_back(changed);
    }

    /// Nothing of before counts any more.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
    }

    /// Brings a message to what is known of it. False: a change between is missing.
    fn bring(&self, message: &mut Message) -> bool {
        let of = |changed: &&Changed| {
            (changed.conversation, changed.seq) == (message.conversation, message.seq)
        };
        let held: Vec<&Changed> = self.held.iter().filter(of).collect();
        held.into_iter().all(|changed| {
            let version = changes::version(message);
            if changed.version > version.saturating_add(1) {
                return false;
            }
            changes::bring(message, changed);
            true
        })
    }
}

impl Tables {
    /// How many changes of messages that are not in the cache were forgotten; to be asked for before a page is.
    pub(crate) fn forgotten(&self) -> u64 {
        self.ahead.forgotten
    }

    /// Brings the messages of a page to what is known of them already, before they are kept and shown. False: not all of it is
    /// known, and the page has to be asked for again. `forgotten`: what [`forgotten`](Self::forgotten) said before it was asked for.
    pub(crate) fn overtake(&self, messages: &mut [Message], forgotten: u64) -> bool {
        let mut whole = self.ahead.forgotten == forgotten;
        for message in messages {
            whole &= self.ahead.bring(message);
        }
        whole
    }
}
