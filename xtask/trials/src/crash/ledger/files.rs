//! Files that were acked, whether they come down as they went up, and what cuts cost.

use std::collections::BTreeMap;

use quipu_client::protocol::id::{ConversationId, UserId};
use quipu_client::protocol::media::MediaHash;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Verdict;

/// Files of one run: each stays in the gateway's folder.
const UPLOADS_MAX: usize = 40;
/// An upload of which this much had gone out has something to go on from: what may wait on the way is far less.
const SOME_BYTES: u64 = 1 << 20;

/// A file that can be made again at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) seed: u64,
    pub(crate) size: usize,
}

impl Made {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size];
        StdRng::seed_from_u64(self.seed).fill_bytes(&mut bytes);
        bytes
    }
}

/// An acked file.
#[derive(Debug)]
struct Kept {
    made: Made,
    by: UserId,
    /// Somebody fetches it at the end.
    claimed: bool,
    /// It came down then, and was the same.
    checked: bool,
    complaint: Option<String>,
}

/// An upload that is under way.
#[derive(Debug, Clone, Copy)]
struct Under {
    size: u64,
    done: u64,
}

/// Every file of the run.
#[derive(Debug, Default)]
pub(crate) struct Files {
    kept: BTreeMap<(ConversationId, MediaHash), Kept>,
    under: BTreeMap<UserId, Under>,
    begun: usize,
    resumed: usize,
    anew: Vec<String>,
    /// Fetched by somebody who waits for it.
    fetching: usize,
}

impl Files {
    /// Whether one more may be begun.
    pub(crate) fn has_room(&self) -> bool {
        self.begun < UPLOADS_MAX
    }

    /// Files that the gateway has for good.
    pub(crate) fn count(&self) -> usize {
        self.kept.len()
    }

    /// Whether an upload is under way, or will be soon.
    pub(crate) fn goes_on(&self) -> bool {
        self.has_room() || !self.under.is_empty()
    }

    /// Somebody begins to upload a file.
    pub(crate) fn begins(&mut self, user: UserId, made: Made) {
        self.begun += 1;
        let size = made.size as u64;
        self.under.insert(user, Under { size, done: 0 });
    }

    /// So much has gone out. Not more than before: a new attempt says where the gateway lets it go on.
    pub(crate) fn progress(&mut self, user: UserId, done: u64) {
        let Some(under) = self.under.get_mut(&user) else {
            return;
        };
        if done <= under.done && done < under.size {
            if done > 0 {
                self.resumed += 1;
            } else if under.done >= SOME_BYTES && under.done < under.size {
                // One that was whole may have been cut while it was put in its place; then it is brought again.
                self.anew.push(format!(
                    "an upload of {user} began anew although {} of {} bytes had gone out",
                    under.done, under.size
                ));
            }
        }
        under.done = done;
    }

    /// Whether a kill now would cut an upload in its middle.
    pub(crate) fn is_midway(&self) -> bool {
        let mut under = self.under.values();
        under.any(|under| under.done >= SOME_BYTES && under.done + SOME_BYTES / 2 < under.size)
    }

    /// The gateway has the file for good.
    pub(crate) fn acked(
        &mut self,
        user: UserId,
        conversation: ConversationId,
        hash: MediaHash,
        made: Made,
    ) {
        self.under.remove(&user);
        let kept = Kept {
            made,
            by: user,
            claimed: false,
            checked: false,
            complaint: None,
        };
        self.kept.entry((conversation, hash)).or_insert(kept);
    }

    /// Somebody fetches a file while gateways die; gives what it must be.
    pub(crate) fn fetches(
        &mut self,
        conversation: ConversationId,
        hash: MediaHash,
    ) -> Option<Made> {
        let made = self.kept.get(&(conversation, hash))?.made;
        self.fetching += 1;
        Some(made)
    }

    /// That is done; at the end, this is what counts.
    pub(crate) fn fetched(
        &mut self,
        conversation: ConversationId,
        hash: MediaHash,
        end: Result<(), String>,
    ) {
        self.fetching -= 1;
        if let Some(kept) = self.kept.get_mut(&(conversation, hash)) {
            match end {
                Ok(()) => kept.checked |= kept.claimed,
                Err(complaint) => kept.complaint = Some(complaint),
            }
        }
    }

    /// Uploads and downloads that somebody waits for.
    pub(crate) fn pending(&self) -> usize {
        self.under.len() + self.fetching
    }

    /// A file of these conversations that somebody else brought and nobody looks at yet; it is this caller's to fetch.
    pub(crate) fn claim(
        &mut self,
        user: &UserId,
        is_member: impl Fn(&ConversationId) -> bool,
    ) -> Option<(ConversationId, MediaHash)> {
        let mut kept = self.kept.iter_mut();
        let found = kept.find(|((conversation, _), kept)| {
            !kept.claimed && kept.by != *user && is_member(conversation)
        });
        found.map(|(key, kept)| {
            kept.claimed = true;
            *key
        })
    }

    pub(super) fn judge(&self, verdict: &mut Verdict) {
        verdict.files = self.kept.len();
        verdict.resumed = self.resumed;
        for complaint in &self.anew {
            verdict.file_lost(complaint.clone());
        }
        for ((conversation, hash), kept) in &self.kept {
            let complaint = match &kept.complaint {
                Some(complaint) => complaint,
                None if !kept.checked => "nobody got it at the end",
                None => continue,
            };
            verdict.file_lost(format!("file {hash} of {conversation}: {complaint}"));
        }
    }
}
