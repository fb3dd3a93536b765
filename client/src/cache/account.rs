//! Who this device is, how far its inbox is kept, and which client seqs it has used.

use std::fmt;
use std::path::{Path, PathBuf};

use quipu_protocol::credentials::{Resume, Token};
use quipu_protocol::error::RejectCode;
use quipu_protocol::id::{ClientSeq, Cursor, DeviceId};
use quipu_protocol::welcome::Welcome;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Tables, outbox, row};
use crate::error::{Error, Refusal};
use crate::events::ClientEvent;
use crate::model::Account;

/// Client seqs that are reserved with one synced write.
const CLIENT_SEQ_RESERVE: u64 = 4096;

/// What a device needs to resume.
#[derive(Clone, Copy)]
pub(crate) struct StoredSession {
    pub(crate) account: Account,
    pub(crate) token: Token,
    pub(crate) resume: Resume,
}

impl fmt::Debug for StoredSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSession")
            .field("account", &self.account)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}

/// What a WELCOME changed.
#[derive(Debug, Clone)]
pub(crate) struct Welcomed {
    pub(crate) session: StoredSession,
    /// Cached messages were dropped.
    pub(crate) resynced: bool,
    /// Events began in the middle, at this cursor, and the list of conversations is not here yet.
    pub(crate) list_due: Option<Cursor>,
    /// What of it is to be announced.
    pub(crate) news: Vec<ClientEvent>,
}

/// Gives out client seqs, each once, also after a kill or a power loss.
///
/// The gateway answers a client seq that it has seen with the seq of the message it belonged to then. If a power loss took
/// back a number that was sent, the next message under it would be answered as that older one and never be stored.
#[derive(Debug)]
pub(super) struct ClientSeqs {
    next: u64,
    free: u64,
}

pub(super) fn load(db: &Connection) -> Result<(Option<StoredSession>, ClientSeqs), Error> {
    let mut statement =
        db.prepare("SELECT user, device, token, life, cursor, client_seq_free FROM account")?;
    let mut rows = statement.query([])?;
    let Some(found) = rows.next()? else {
        return Ok((None, ClientSeqs { next: 1, free: 1 }));
    };
    let session = StoredSession {
        account: Account {
            user: row::user(found, 0)?,
            device: DeviceId::new(row::number(found, 1)?).map_err(row::damaged)?,
        },
        token: found.get(2)?,
        resume: Resume {
            life: row::number(found, 3)?,
            cursor: Cursor(row::number(found, 4)?),
        },
    };
    let free = row::number(found, 5)?.max(1);
    Ok((Some(session), ClientSeqs { next: free, free }))
}

/// Where the tokens of the account's issuer are.
pub(super) fn load_token_file(db: &Connection) -> Result<Option<PathBuf>, Error> {
    let file: Option<Option<String>> = db
        .query_row("SELECT token_file FROM account", [], |row| row.get(0))
        .optional()?;
    Ok(file.flatten().map(PathBuf::from))
}

/// The cursor at which events began in the middle, if the list of conversations is not here yet.
pub(super) fn load_list_due(db: &Connection) -> Result<Option<Cursor>, Error> {
    let due: Option<i64> = db
        .query_row("SELECT list_due FROM account", [], |row| row.get(0))
        .optional()?;
    Ok(due
        .filter(|due| *due != 0)
        .map(|due| Cursor(due.cast_unsigned())))
}

impl Tables {
    /// Who this client is.
    pub(crate) fn account(&self) -> Option<Account> {
        self.session.map(|session| session.account)
    }

    /// What to resume with.
    pub(crate) fn session(&self) -> Option<StoredSession> {
        self.session
    }

    /// Who this client is, or the error that says that it is nobody yet.
    pub(super) fn signed_in(&self) -> Result<StoredSession, Error> {
        self.session.ok_or(Error::NotSignedIn)
    }

    /// Where the tokens of the account's issuer are; `None`: there is no account, or it has a password.
    pub(crate) fn token_file(&self) -> Option<PathBuf> {
        self.token_file.clone()
    }

    /// The tokens of this account are in another file from now on.
    pub(crate) fn set_token_file(&mut self, file: &Path) -> Result<(), Error> {
        self.db
            .execute("UPDATE account SET token_file = ?1", [file.to_str()])?;
        self.token_file = Some(file.to_owned());
        Ok(())
    }

    /// Takes over what WELCOME said, to a device that showed a token of `token_file` if there is one, and begins to collect what must go out.
    pub(crate) fn welcome(
        &mut self,
        welcome: &Welcome,
        token_file: Option<&Path>,
    ) -> Result<Welcomed, Error> {
        let resume = Resume {
            life: welcome.life,
            cursor: welcome.cursor,
        };
        let mut news = Vec::new();
        let (session, resynced) = match (self.session, welcome.token) {
            (Some(session), None) if welcome.resumed && session.resume == resume => {
                (session, false)
            }
            (Some(session), None) => {
                news = self.resync(resume, session.resume.life != resume.life)?;
                (StoredSession { resume, ..session }, true)
            }
            (_, Some(token)) => {
                let account = Account {
                    user: welcome.user,
                    device: welcome.device,
                };
                let session = StoredSession {
                    account,
                    token,
                    resume,
                };
                self.sign_in(&session, token_file)?;
                (session, false)
            }
            (None, None) => return Err(Error::Offline("the gateway gave no session token".into())),
        };
        self.session = Some(session);
        self.outbound.listen();
        Ok(Welcomed {
            session,
            resynced,
            list_due: load_list_due(&self.db)?,
            news,
        })
    }

    fn sign_in(&mut self, session: &StoredSession, token_file: Option<&Path>) -> Result<(), Error> {
        let StoredSession {
            account,
            token,
            resume,
        } = session;
        self.synced(|db| {
            db.execute(
                "INSERT OR REPLACE INTO account VALUES (1, ?1, ?2, ?3, ?4, ?5, 1, ?6, ?5)",
                params![
                    account.user.as_str(),
                    account.device.get().cast_signed(),
                    token.as_slice(),
                    resume.life.cast_signed(),
                    resume.cursor.0.cast_signed(),
                    token_file.and_then(Path::to_str)
                ],
            )
        })?;
        self.token_file = token_file.map(Path::to_owned);
        self.client_seqs = ClientSeqs { next: 1, free: 1 };
        Ok(())
    }

    /// The inbox begins anew: what it brought is dropped, what this device wants to send stays. So do changes of messages, unless
    /// the inbox has another life: then their seqs are those of other messages.
    fn resync(&mut self, resume: Resume, lives_anew: bool) -> Result<Vec<ClientEvent>, Error> {
        let tx = self.db.transaction()?;
        let refusal = Refusal {
            code: RejectCode::UnknownMessage,
            reason: "the gateway lost its data and began anew, and the message with it".into(),
        };
        let refused = match lives_anew {
            true => outbox::changes::refuse_placed(&tx, &refusal)?,
            false => Vec::new(),
        };
        tx.execute_batch(
            "DELETE FROM message;
             DELETE FROM receipt;
             DELETE FROM bookmark;
             DELETE FROM invitation;
             DELETE FROM outbox WHERE state = 1;
             DELETE FROM conversation WHERE id NOT IN (SELECT conversation FROM outbox);
             UPDATE conversation SET head = 0, opened = 0, want_delivered = 0, want_read = 0, own_delivered = 0, own_read = 0,
             gap_after = NULL, listed_head = 0, listed_unread = 0, listed_read = 0;",
        )?;
        tx.execute(
            "UPDATE account SET life = ?1, cursor = ?2, list_due = ?2",
            params![resume.life.cast_signed(), resume.cursor.0.cast_signed()],
        )?;
        tx.commit()?;
        self.messages = 0;
        self.ahead.clear();
        self.outbox = outbox::count(&self.db)?;
        let (ended, news) = refused.into_iter().unzip();
        self.tell_waiters(Vec::new(), ended);
        Ok(news)
    }

    /// A number for a change of the account that is signed in.
    pub(crate) fn next_client_seq(&mut self) -> Result<ClientSeq, Error> {
        self.signed_in()?;
        let taken = self.take_client_seqs(1)?;
        taken.first().copied().ok_or(Error::NotSignedIn)
    }

    /// The next `count` client seqs, ascending and without gaps.
    pub(super) fn take_client_seqs(&mut self, count: usize) -> Result<Vec<ClientSeq>, Error> {
        let first = self.client_seqs.next;
        let end = first + count as u64;
        if end > self.client_seqs.free {
            let free = end + CLIENT_SEQ_RESERVE;
            self.synced(|db| {
                db.execute(
                    "UPDATE account SET client_seq_free = ?1",
                    [free.cast_signed()],
                )
            })?;
            self.client_seqs.free = free;
        }
        self.client_seqs.next = end;
        (first..end)
            .map(|seq| ClientSeq::new(seq).map_err(row::damaged))
            .collect()
    }

    /// Puts everything that was committed on the disk.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.synced(|db| db.execute("UPDATE account SET cursor = cursor", []))
    }

    /// One write that is on the disk when it returns, and with it all that were made before.
    fn synced(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
    ) -> Result<(), Error> {
        self.db.pragma_update(None, "synchronous", "FULL")?;
        let written = write(&self.db);
        self.db.pragma_update(None, "synchronous", "NORMAL")?;
        written?;
        Ok(())
    }

    /// A cursor that the application stored.
    pub(crate) fn bookmark(&self, name: &str) -> Result<Option<Cursor>, Error> {
        let mut statement = self
            .db
            .prepare_cached("SELECT cursor FROM bookmark WHERE name = ?1")?;
        let cursor: Option<i64> = statement.query_row([name], |row| row.get(0)).optional()?;
        Ok(cursor.map(|cursor| Cursor(cursor.cast_unsigned())))
    }

    /// Stores a cursor for the application.
    pub(crate) fn set_bookmark(&self, name: &str, cursor: Cursor) -> Result<(), Error> {
        let mut statement = self
            .db
            .prepare_cached("INSERT OR REPLACE INTO bookmark VALUES (?1, ?2)")?;
        statement.execute(params![name, cursor.0.cast_signed()])?;
        Ok(())
    }
}
