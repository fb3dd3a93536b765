//! What a gateway tells the shard of a user without being asked: sessions that come and go, messages that were told about.

use quipu_protocol::id::{ConversationId, Cursor, DeviceId, Seq, TimestampMs};

use crate::codec::{Fields, Writer, required};
use crate::row::CorruptRow;

const WHAT: &str = "record";

/// Names one session of all that there ever were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// Drawn at random by the gateway process when it starts.
    pub boot: u64,
    /// Counted by that process.
    pub number: u64,
}

/// Something about a user that happened at a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A session began, or one that had stalled keeps up again.
    Attached {
        /// Whose.
        device: DeviceId,
        /// Which.
        session: SessionId,
        /// Everything up to here is on the device.
        cursor: Cursor,
    },
    /// The device of a session does not ack what it was sent.
    Stalled {
        /// Whose.
        device: DeviceId,
        /// Which.
        session: SessionId,
        /// Everything up to here is on the device.
        cursor: Cursor,
        /// When it acked last, or was sent the oldest event that it has not acked; by the gateway's clock.
        since: TimestampMs,
    },
    /// A session ended.
    Detached {
        /// Whose.
        device: DeviceId,
        /// Which.
        session: SessionId,
        /// Everything up to here is on the device.
        cursor: Cursor,
    },
    /// A gateway process is gone, and with it the sessions that it had not ended.
    Vanished {
        /// Of that process.
        boot: u64,
        /// When this was noticed; by the gateway's clock.
        since: TimestampMs,
    },
    /// Somebody else was told about the messages up to here, or cannot be.
    Told {
        /// Up to where in the inbox.
        through: Cursor,
        /// What was given up.
        given_up: Vec<GivenUp>,
    },
    /// Tell again about what comes after here, although it was given up.
    TellAgain {
        /// From where in the inbox.
        after: Cursor,
    },
}

/// Messages of one conversation that nobody could be told about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// Of which conversation.
    pub conversation: ConversationId,
    /// The first of them.
    pub first: Seq,
    /// The last of them.
    pub last: Seq,
    /// How many, without the user's own.
    pub count: u32,
    /// The inbox event before the first of them.
    pub after: Cursor,
    /// How often it was tried.
    pub tries: u32,
    /// How the last try failed.
    pub why: String,
}

pub(crate) fn write_fact(out: &mut Writer, fact: &Fact) {
    match fact {
        Fact::Attached {
            device,
            session,
            cursor,
        } => out.nested(2, |out| {
            write_session(out, *device, *session, *cursor);
        }),
        Fact::Stalled {
            device,
            session,
            cursor,
            since,
        } => out.nested(3, |out| {
            write_session(out, *device, *session, *cursor);
            out.uint(5, since.0);
        }),
        Fact::Detached {
            device,
            session,
            cursor,
        } => out.nested(4, |out| {
            write_session(out, *device, *session, *cursor);
        }),
        Fact::Vanished { boot, since } => out.nested(5, |out| {
            out.fixed64(1, *boot);
            out.uint(2, since.0);
        }),
        Fact::Told { through, given_up } => out.nested(6, |out| {
            out.uint(1, through.0);
            for given_up in given_up {
                out.nested(2, |out| write_given_up(out, given_up));
            }
        }),
        Fact::TellAgain { after } => out.nested(7, |out| out.uint(1, after.0)),
    }
}

fn write_session(out: &mut Writer, device: DeviceId, session: SessionId, cursor: Cursor) {
    out.fixed64(1, device.get());
    out.fixed64(2, session.boot);
    out.uint(3, session.number);
    out.uint(4, cursor.0);
}

/// Reads the fact in field `number` of a fact's message; `None`: it is of no kind that this version knows.
pub(crate) fn read_fact(number: u32, fields: Fields) -> Result<Option<Fact>, CorruptRow> {
    Ok(Some(match number {
        2..=4 => read_session_fact(number, fields)?,
        5 => read_vanished(fields)?,
        6 => read_told(fields)?,
        7 => read_tell_again(fields)?,
        _ => return Ok(None),
    }))
}

fn read_session_fact(number: u32, mut fields: Fields) -> Result<Fact, CorruptRow> {
    let (mut device, mut cursor, mut since) = (None, Cursor::START, TimestampMs::default());
    let mut session = SessionId { boot: 0, number: 0 };
    while let Some(field) = fields.next()? {
        match field.number {
            1 => device = Some(field.device()?),
            2 => session.boot = field.fixed64()?,
            3 => session.number = field.uint()?,
            4 => cursor = Cursor(field.uint()?),
            5 => since = TimestampMs(field.uint()?),
            _ => {}
        }
    }
    let device = required(WHAT, "the device of a session", device)?;
    Ok(match number {
        2 => Fact::Attached {
            device,
            session,
            cursor,
        },
        3 => Fact::Stalled {
            device,
            session,
            cursor,
            since,
        },
        _ => Fact::Detached {
            device,
            session,
            cursor,
        },
    })
}

fn read_vanished(mut fields: Fields) -> Result<Fact, CorruptRow> {
    let (mut boot, mut since) = (0, TimestampMs::default());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => boot = field.fixed64()?,
            2 => since = TimestampMs(field.uint()?),
            _ => {}
        }
    }
    Ok(Fact::Vanished { boot, since })
}

fn read_told(mut fields: Fields) -> Result<Fact, CorruptRow> {
    let (mut through, mut given_up) = (Cursor::START, Vec::new());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => through = Cursor(field.uint()?),
            2 => given_up.push(read_given_up(WHAT, field.nested()?)?),
            _ => {}
        }
    }
    Ok(Fact::Told { through, given_up })
}

fn read_tell_again(mut fields: Fields) -> Result<Fact, CorruptRow> {
    let mut after = Cursor::START;
    while let Some(field) = fields.next()? {
        if field.number == 1 {
            after = Cursor(field.uint()?);
        }
    }
    Ok(Fact::TellAgain { after })
}

pub(crate) fn write_given_up(out: &mut Writer, given_up: &GivenUp) {
    out.conversation(1, &given_up.conversation);
    out.uint(2, given_up.first.get());
    out.uint(3, given_up.last.get());
    out.uint(4, u64::from(given_up.count));
    out.uint(5, given_up.after.0);
    out.uint(6, u64::from(given_up.tries));
    out.slice(7, given_up.why.as_bytes());
}

pub(crate) fn read_given_up(what: &'static str, mut fields: Fields) -> Result<GivenUp, CorruptRow> {
    let (mut conversation, mut first, mut last) = (None, None, None);
    let (mut count, mut after, mut tries, mut why) = (0, Cursor::START, 0, String::new());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => conversation = Some(field.conversation()?),
            2 => first = field.seq()?,
            3 => last = field.seq()?,
            4 => count = field.narrow()?,
            5 => after = Cursor(field.uint()?),
            6 => tries = field.narrow()?,
            7 => field.text()?.clone_into(&mut why),
            _ => {}
        }
    }
    Ok(GivenUp {
        conversation: required(what, "the conversation of what was given up", conversation)?,
        first: required(what, "the first seq of what was given up", first)?,
        last: required(what, "the last seq of what was given up", last)?,
        count,
        after,
        tries,
        why,
    })
}
