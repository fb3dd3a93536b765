//! Walks a log and a store and proves that sequences are dense, inboxes complete and positions possible.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use quipu_core::row::Row;

use self::replay::Replay;
use self::tally::Tally;
use crate::folder::DataFolder;
use crate::log::Log;
use crate::offline::{self, DataError};
use crate::store::{Store, StoreError};

mod attendance;
mod changed;
mod extras;
mod group;
mod numbered;
mod replay;
mod tally;

/// Problems that a report names; those beyond are only counted.
pub const PROBLEMS_NAMED_MAX: usize = 100;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Accounts.
    pub accounts: u64,
    /// Conversations.
    pub conversations: u64,
    /// Messages in their histories.
    pub messages: u64,
    /// Entries of all inboxes.
    pub inbox_entries: u64,
    /// Shards of the log.
    pub shards: u64,
    /// Records that the log keeps.
    pub log_records: u64,
    /// Records that the log has and the store had not; they were applied in memory for the check.
    pub replayed_records: u64,
    /// The first [`PROBLEMS_NAMED_MAX`] problems, as sentences.
    pub problems: Vec<String>,
    /// All problems.
    pub problems_total: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems_total == 0
    }

    fn problem(&mut self, problem: impl Into<String>) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_NAMED_MAX {
            self.problems.push(problem.into());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "accounts        {}", self.accounts)?;
        writeln!(f, "conversations   {}", self.conversations)?;
        writeln!(f, "messages        {}", self.messages)?;
        writeln!(f, "inbox entries   {}", self.inbox_entries)?;
        writeln!(
            f,
            "log records     {} in {} shards, {} of them not in the store yet (applied in memory for this check)",
            self.log_records, self.shards, self.replayed_records
        )?;
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        match self.problems_total {
            0 => write!(f, "no problem found"),
            total => write!(f, "{total} problems found, {} named", self.problems.len()),
        }
    }
}

/// Checks the data folder of a gateway that does not run; what is wrong with the data itself is in the [`Report`]. Opening the engines may finish what a crash interrupted (cut a torn
/// end, replay the store's journal), as the next start of the gateway would; otherwise nothing is written.
pub fn run(data: &Path) -> Result<Report, DataError> {
    let folder = DataFolder::open_existing(data)?;
    let (log, store) = offline::open(&folder)?;
    verify(&log, &store)
}

/// Checks a store against its log while nobody writes to either. Takes memory for each user and conversation, and for each
/// message that was changed, not for the others.
///
/// 1. Every shard's applied position lies within its log, and its source marks within the logs of the sources.
/// 2. What the log has beyond that is applied in memory, together with what it sends to other shards, as the next start of
///    the gateway would do; rows that exist already must come out the same.
/// 3. In store and memory together, histories are dense from 1 to their head, and inboxes from what they no longer keep, every entity can be read, earlier
///    contents, references to files and ends of messages are there for the messages that have them and for no others, and
///    every message of a conversation is in the inbox of each of its members exactly once: of a group, from the member's
///    joining until the member left or the group became pulled. Rosters, lists and counts agree with the members' rows, and
///    each roster is on the shard of its users. Of a pulled group each of these shards was told as much as the history has. No message is behind what inboxes say has happened to it; of what was deleted
///    nothing is left. The last changes of a pulled group are found by their numbers, without a gap.
/// 4. No device has events that its user's inbox has not; and, unless the log has more, who is said to be here and who is in
///    the offline topic are those who should be.
pub fn verify(log: &dyn Log, store: &dyn Store) -> Result<Report, DataError> {
    let mut report = Report::default();
    let mut replay = Replay::new(log, store);
    replay.run(&mut report)?;
    let mut tally = Tally::new(log.identity().shards);
    let walked = store.scan(&mut |row| {
        if !replay.replaces(&row, &mut report) {
            tally.add(&row, &mut report);
        }
        ControlFlow::Continue(())
    });
    match walked {
        Ok(()) => {}
        Err(StoreError::Corrupt(error)) => {
            report.problem(format!("{error}; the walk through the store ended there"));
        }
        Err(error @ (StoreError::Closed(_) | StoreError::Backend(_))) => return Err(error.into()),
    }
    replay.rows().scan(&mut |row: Row| {
        tally.add(&row, &mut report);
        ControlFlow::Continue(())
    })?;
    tally.finish(&mut report);
    Ok(report)
}

#[cfg(test)]
mod tests;
