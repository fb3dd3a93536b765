//! What is known of a user's devices, and of messages that wait for one of them.

use bytes::Bytes;
use quipu_protocol::id::{Cursor, DeviceId, InboxSeq, TimestampMs};

use super::CorruptRow;
use crate::codec::{Fields, Writer, corrupt, required};
use crate::limits::DEVICES_PER_ACCOUNT_MAX;
use crate::record::SessionId;

const WHAT: &str = "presence";

/// A user's devices as the log knows them: who is here, how far each has come, and whether messages wait that none of them
/// has. What a live session acks is not logged, so a cursor here is that of the session's beginning or end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Presence {
    /// The devices that had a session, ascending by id; at most [`DEVICES_PER_ACCOUNT_MAX`].
    pub devices: Vec<PresentDevice>,
    /// Some device has had everything up to here.
    pub acked: Cursor,
    /// Somebody else was told about everything up to here, or it was given up.
    pub told: Cursor,
    /// A message above both.
    pub waiting: Option<Waiting>,
}

/// What is known of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentDevice {
    /// Its id.
    pub id: DeviceId,
    /// Its session; `None`: it is not here.
    pub session: Option<SessionId>,
    /// Whether the session does not ack what it is sent.
    pub stalled: bool,
    /// Everything up to here has reached it.
    pub cursor: Cursor,
    /// When its last session began or, if later, ended.
    pub seen_at: TimestampMs,
}

/// Since when a message waits for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// A message that has waited since then; there may be others, before and behind it.
    pub on: InboxSeq,
    /// Since when.
    pub since: TimestampMs,
}

/// What the offline topic says of a user: the value of an [`Offline`](super::IndexKey::Offline) row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfflineRow {
    /// Messages after this one wait.
    pub after: Cursor,
    /// Since when.
    pub since: TimestampMs,
}

impl Presence {
    /// Whether a session is here, stalled or not.
    pub fn is_here(&self) -> bool {
        self.devices.iter().any(|device| device.session.is_some())
    }

    /// Whether a session is here that keeps up, so that messages need nobody else's help.
    pub fn is_listening(&self) -> bool {
        let listens = |device: &PresentDevice| device.session.is_some() && !device.stalled;
        self.devices.iter().any(listens)
    }

    /// When a device was here last; `None`: never. Says nothing while one [`is_here`](Self::is_here).
    pub fn last_seen(&self) -> Option<TimestampMs> {
        self.devices.iter().map(|device| device.seen_at).max()
    }

    /// What is known of a device.
    pub fn device(&self, id: DeviceId) -> Option<&PresentDevice> {
        let at = self.devices.binary_search_by_key(&id, |d| d.id).ok()?;
        self.devices.get(at)
    }

    /// What has to be told about, once it has waited for long enough.
    pub fn offline(&self) -> Option<OfflineRow> {
        let waiting = self.waiting.filter(|_| !self.is_listening())?;
        Some(OfflineRow {
            after: self.settled(),
            since: waiting.since,
        })
    }

    /// Everything up to here needs no telling any more.
    pub fn settled(&self) -> Cursor {
        self.acked.max(self.told)
    }

    /// Judges anew whether a message waits. `incoming`: the last message in the inbox that is not the user's own; `since`:
    /// when the wait began, if it begins now.
    pub(crate) fn settle(&mut self, incoming: Option<InboxSeq>, since: TimestampMs) {
        let settled = self.settled();
        let waits = |on: InboxSeq| on.cursor() > settled;
        let on = incoming.filter(|on| waits(*on));
        let earlier = self.waiting.filter(|waiting| waits(waiting.on));
        self.waiting = on.map(|on| earlier.unwrap_or(Waiting { on, since }));
    }

    /// The device's entry. Above the limit the one that was seen least recently gives way, first among those that are not
    /// here: that many are only reached after some were removed from the account.
    pub(crate) fn device_mut(&mut self, id: DeviceId) -> &mut PresentDevice {
        let at = match self.devices.binary_search_by_key(&id, |d| d.id) {
            Ok(at) => at,
            Err(_) => {
                if self.devices.len() >= DEVICES_PER_ACCOUNT_MAX {
                    let oldest = (0..self.devices.len()).min_by_key(|at| {
                        let device = &self.devices[*at];
                        (device.session.is_some(), device.seen_at)
                    });
                    oldest.map(|at| self.devices.remove(at));
                }
                let at = self.devices.partition_point(|device| device.id < id);
                let device = PresentDevice {
                    id,
                    session: None,
                    stalled: false,
                    cursor: Cursor::START,
                    seen_at: TimestampMs::default(),
                };
                self.devices.insert(at, device);
                at
            }
        };
        &mut self.devices[at]
    }

    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(48 + self.devices.len() * 48);
        for device in &self.devices {
            out.nested(1, |out| write_device(out, device));
        }
        out.uint(2, self.acked.0);
        out.uint(3, self.told.0);
        if let Some(waiting) = &self.waiting {
            out.nested(4, |out| {
                out.uint(1, waiting.on.get());
                out.uint(2, waiting.since.0);
            });
        }
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new(WHAT, value);
        let mut presence = Self::default();
        while let Some(field) = fields.next()? {
            match field.number {
                1 => presence.devices.push(read_device(field.nested()?)?),
                2 => presence.acked = Cursor(field.uint()?),
                3 => presence.told = Cursor(field.uint()?),
                4 => presence.waiting = Some(read_waiting(field.nested()?)?),
                _ => {}
            }
        }
        if !presence.devices.is_sorted_by(|a, b| a.id < b.id) {
            return Err(corrupt(WHAT, "its devices are not in ascending order"));
        }
        Ok(presence)
    }
}

fn write_device(out: &mut Writer, device: &PresentDevice) {
    out.fixed64(1, device.id.get());
    if let Some(session) = &device.session {
        out.nested(2, |out| {
            out.fixed64(1, session.boot);
            out.uint(2, session.number);
        });
    }
    out.uint(3, u64::from(device.stalled));
    out.uint(4, device.cursor.0);
    out.uint(5, device.seen_at.0);
}

fn read_device(mut fields: Fields) -> Result<PresentDevice, CorruptRow> {
    let (mut id, mut session, mut stalled) = (None, None, false);
    let (mut cursor, mut seen_at) = (Cursor::START, TimestampMs::default());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => id = Some(field.device()?),
            2 => session = Some(read_session(field.nested()?)?),
            3 => stalled = field.uint()? != 0,
            4 => cursor = Cursor(field.uint()?),
            5 => seen_at = TimestampMs(field.uint()?),
            _ => {}
        }
    }
    Ok(PresentDevice {
        id: required(WHAT, "the id of a device", id)?,
        session,
        stalled,
        cursor,
        seen_at,
    })
}

fn read_session(mut fields: Fields) -> Result<SessionId, CorruptRow> {
    let mut session = SessionId { boot: 0, number: 0 };
    while let Some(field) = fields.next()? {
        match field.number {
            1 => session.boot = field.fixed64()?,
            2 => session.number = field.uint()?,
            _ => {}
        }
    }
    Ok(session)
}

fn read_waiting(mut fields: Fields) -> Result<Waiting, CorruptRow> {
    let (mut on, mut since) = (None, TimestampMs::default());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => on = Some(field.checked(InboxSeq::new(field.uint()?))?),
            2 => since = TimestampMs(field.uint()?),
            _ => {}
        }
    }
    Ok(Waiting {
        on: required(WHAT, "what waits", on)?,
        since,
    })
}

impl OfflineRow {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(20);
        out.uint(1, self.after.0);
        out.uint(2, self.since.0);
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new("offline row", value);
        let (mut after, mut since) = (Cursor::START, TimestampMs::default());
        while let Some(field) = fields.next()? {
            match field.number {
                1 => after = Cursor(field.uint()?),
                2 => since = TimestampMs(field.uint()?),
                _ => {}
            }
        }
        Ok(Self { after, since })
    }
}
