//! The tables, and how an older file becomes a newer one.

use std::path::PathBuf;

use rusqlite::Connection;

use crate::error::Error;

/// Version of the tables below, kept in SQLite's `user_version`. A change of them adds a step to [`STEPS`].
const VERSION: i64 = STEPS.len() as i64;

/// Step `n` turns version `n` into `n + 1`. Numbers are stored as SQLite's signed 64 bits, bit for bit.
const STEPS: &[&str] = &["
CREATE TABLE account (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    user TEXT NOT NULL,
    device INTEGER NOT NULL,
    token BLOB NOT NULL,
    life INTEGER NOT NULL,
    cursor INTEGER NOT NULL,
    -- No client seq from here on was used yet; written and synced before one below it is.
    client_seq_free INTEGER NOT NULL
);
CREATE TABLE conversation (
    id BLOB PRIMARY KEY,
    peer TEXT,
    head INTEGER NOT NULL DEFAULT 0,
    last_at INTEGER NOT NULL DEFAULT 0,
    -- Whether the gateway is known to have it.
    opened INTEGER NOT NULL DEFAULT 0,
    -- What this device wants to be known of this user's positions, and what the gateway has said they are.
    want_delivered INTEGER NOT NULL DEFAULT 0,
    want_read INTEGER NOT NULL DEFAULT 0,
    own_delivered INTEGER NOT NULL DEFAULT 0,
    own_read INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX conversation_unreported ON conversation (id) WHERE want_delivered > own_delivered OR want_read > own_read;
CREATE TABLE message (
    conversation BLOB NOT NULL,
    seq INTEGER NOT NULL,
    id BLOB NOT NULL,
    sender TEXT NOT NULL,
    device INTEGER NOT NULL,
    client_seq INTEGER NOT NULL,
    recipient TEXT,
    sent_at INTEGER NOT NULL,
    text TEXT NOT NULL,
    -- Whether this device sent it.
    mine INTEGER NOT NULL,
    -- Empty when it came as history and not as an event.
    inbox_seq INTEGER,
    PRIMARY KEY (conversation, seq)
) WITHOUT ROWID;
CREATE INDEX message_inbox ON message (inbox_seq);
-- Only what this device sent is ever looked for by its random id.
CREATE INDEX message_mine ON message (id) WHERE mine = 1;
CREATE TABLE outbox (
    local INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    conversation BLOB NOT NULL,
    peer TEXT,
    text TEXT NOT NULL,
    queued_at INTEGER NOT NULL,
    client_seq INTEGER NOT NULL UNIQUE,
    -- 0 queued, 1 acked and waiting for its event, 2 refused.
    state INTEGER NOT NULL DEFAULT 0,
    seq INTEGER NOT NULL DEFAULT 0,
    code INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX outbox_conversation ON outbox (conversation, local);
CREATE TABLE receipt (
    conversation BLOB NOT NULL,
    user TEXT NOT NULL,
    delivered INTEGER NOT NULL,
    read INTEGER NOT NULL,
    PRIMARY KEY (conversation, user)
) WITHOUT ROWID;
CREATE TABLE bookmark (
    name TEXT PRIMARY KEY,
    cursor INTEGER NOT NULL
) WITHOUT ROWID;
", "
-- What is more than a text, as it travels; `text` has its words all the same.
ALTER TABLE message ADD COLUMN content BLOB;
-- What happened to it since: the version, and the state as it travels.
ALTER TABLE message ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN state BLOB;
ALTER TABLE outbox ADD COLUMN content BLOB;
ALTER TABLE conversation ADD COLUMN title TEXT;
-- A group whose messages come as notices; 2: it may be one, ask.
ALTER TABLE conversation ADD COLUMN pulled INTEGER NOT NULL DEFAULT 0;
-- The user is no longer in it.
ALTER TABLE conversation ADD COLUMN gone INTEGER NOT NULL DEFAULT 0;
", "
-- Where the tokens of an external issuer are; empty: the account has a password.
ALTER TABLE account ADD COLUMN token_file TEXT;
", "
-- Groups that the user is asked into and has not answered.
CREATE TABLE invitation (
    conversation BLOB PRIMARY KEY,
    by_user TEXT NOT NULL,
    title TEXT NOT NULL,
    at INTEGER NOT NULL
) WITHOUT ROWID;
-- Of a group whose messages come as notices: some are missing behind this seq, 0 for all but the newest; empty: none are.
ALTER TABLE conversation ADD COLUMN gap_after INTEGER;
", "
-- The cursor at which events began in the middle, until the gateway's list of conversations is here; 0: nothing is missing.
ALTER TABLE account ADD COLUMN list_due INTEGER NOT NULL DEFAULT 0;
-- What that list said: how many messages up to which seq were unread. The cache does not have them all.
ALTER TABLE conversation ADD COLUMN listed_head INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversation ADD COLUMN listed_unread INTEGER NOT NULL DEFAULT 0;
", "
-- Of a group whose messages come as notices: all that is here has the changes up to this number, and the last that was told of.
ALTER TABLE conversation ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversation ADD COLUMN changes_told INTEGER NOT NULL DEFAULT 0;
-- Messages up to this seq may lack changes that the gateway has forgotten, and are read again; empty: none.
ALTER TABLE conversation ADD COLUMN stale_to INTEGER;
", "
-- Changes of messages that the gateway has not answered, or has refused.
CREATE TABLE change (
    local INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation BLOB NOT NULL,
    -- 0: its message has no place yet; `message` says which.
    seq INTEGER NOT NULL,
    message BLOB,
    -- Empty until the message has its place, and when it was refused.
    client_seq INTEGER UNIQUE,
    -- 0 edit, with the content; 1 delete; 2 react, with the sign; 3 take it back.
    kind INTEGER NOT NULL,
    content BLOB,
    queued_at INTEGER NOT NULL,
    -- 0 queued, 2 refused, as in the outbox.
    state INTEGER NOT NULL DEFAULT 0,
    code INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX change_conversation ON change (conversation, local);
CREATE INDEX change_of_unplaced ON change (message) WHERE seq = 0;
-- 0: certainly nobody but this device knows of it.
ALTER TABLE outbox ADD COLUMN may_be_sent INTEGER NOT NULL DEFAULT 1;
-- How far the user had read when the list of the gateway was taken over.
ALTER TABLE conversation ADD COLUMN listed_read INTEGER NOT NULL DEFAULT 0;
"];

/// Brings the tables to the newest version, or refuses a file that is newer.
pub(super) fn migrate(db: &Connection, file: Option<PathBuf>) -> Result<(), Error> {
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let Some(steps) = usize::try_from(found)
        .ok()
        .and_then(|found| STEPS.get(found..))
    else {
        let path = file.unwrap_or_default();
        return Err(Error::FolderVersion {
            path,
            found,
            known: VERSION,
        });
    };
    for (at, step) in steps.iter().enumerate() {
        let version = found + at as i64 + 1;
        db.execute_batch(&format!(
            "BEGIN; {step} PRAGMA user_version = {version}; COMMIT"
        ))?;
    }
    Ok(())
}
