//! Lists webhooks that were given up, and has them tried again.

use std::collections::BTreeMap;
use std::path::Path;

use quipu_core::record::{Entry, EntryBody, Fact, Record};
use quipu_core::row::{DeadLetter, DeadLetters, EntityKey};
use quipu_core::shard::{ShardCount, ShardId};
use quipu_protocol::id::{Cursor, UserId};
use serde::Serialize;

use super::letters::rfc3339;
use crate::folder::DataFolder;
use crate::log::Log;
use crate::offline::{self, DataError};
use crate::store::{Store, StoreError};

/// One line of the list.
#[derive(Serialize)]
struct Line<'a> {
    user: &'a str,
    conversation: String,
    first_seq: u64,
    last_seq: u64,
    count: u32,
    died_at: String,
    tries: u32,
    why: &'a str,
}

/// All dead letters of a store, by shard and within a shard oldest first.
pub fn list(store: &dyn Store, shards: ShardCount) -> Result<Vec<DeadLetter>, StoreError> {
    let keys: Vec<EntityKey> = shards.iter().map(EntityKey::DeadLetters).collect();
    let mut letters = Vec::new();
    for row in store.entities(&keys)?.into_iter().flatten() {
        letters.extend(DeadLetters::decode(&row)?.letters);
    }
    Ok(letters)
}

/// Dead letters as lines of JSON.
pub fn lines(letters: &[DeadLetter]) -> String {
    let line = |letter: &DeadLetter| {
        let line = Line {
            user: letter.user.as_str(),
            conversation: letter.given_up.conversation.to_string(),
            first_seq: letter.given_up.first.get(),
            last_seq: letter.given_up.last.get(),
            count: letter.given_up.count,
            died_at: rfc3339(letter.died_at),
            tries: letter.given_up.tries,
            why: &letter.given_up.why,
        };
        // Names, numbers and texts: this does not fail.
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    };
    letters.iter().map(line).collect()
}

/// Lists the dead letters of a gateway that does not run. `retry`: has them tried again when it starts next, together with
/// what came after them in their users' inboxes and no device has; each is dead no more then.
pub fn run(data: &Path, retry: bool) -> Result<String, DataError> {
    let folder = DataFolder::open_existing(data)?;
    let (log, store) = offline::open(&folder)?;
    let shards = log.identity().shards;
    let letters = list(&store, shards)?;
    if retry {
        tell_again(&log, shards, &letters)?;
    }
    Ok(lines(&letters))
}

fn tell_again(log: &dyn Log, shards: ShardCount, letters: &[DeadLetter]) -> Result<(), DataError> {
    let mut users: BTreeMap<UserId, Cursor> = BTreeMap::new();
    for DeadLetter { user, given_up, .. } in letters {
        let after = users.entry(*user).or_insert(given_up.after);
        *after = given_up.after.min(*after);
    }
    let mut entries: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
    for (user, after) in users {
        let fact = Fact::TellAgain { after };
        let body = EntryBody::Fact { user, fact };
        let entry = Entry { source: None, body };
        entries
            .entry(shards.of_user(&user))
            .or_default()
            .push(entry);
    }
    // A shard's dead letters are few, so that each record is small.
    let records: Vec<_> = entries
        .iter()
        .map(|(shard, entries)| (*shard, Record::encode_entries(entries)))
        .collect();
    if records.is_empty() {
        return Ok(());
    }
    log.append_and_wait(records)?;
    Ok(())
}
