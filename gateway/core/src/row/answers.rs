//! What was answered to the changes of a user's devices on one shard, so that a change that is asked for again is not made again.

use bytes::Bytes;
use quipu_protocol::error::RejectCode;
use quipu_protocol::id::{ClientSeq, DeviceId, Seq};
use quipu_protocol::limits::DEDUP_WINDOW;

use super::CorruptRow;
use crate::codec::{Fields, Writer, corrupt, required};
use crate::dedup::{DedupWindow, Known};
use crate::limits::DEVICES_PER_ACCOUNT_MAX;
use crate::record::Position;

const WHAT: &str = "row of answers";

/// What the devices of a user have asked for on one shard and were answered. It is kept beside what the changes are about, so
/// that it also knows those that were refused, of whatever there is not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// Ascending by device; at most [`DEVICES_PER_ACCOUNT_MAX`].
    pub devices: Vec<AnsweredDevice>,
}

/// One device of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweredDevice {
    /// Which.
    pub device: DeviceId,
    /// The record with its last change.
    pub last: Position,
    /// Its last changes.
    pub(crate) answered: DedupWindow<FirstAnswer>,
}

/// How a change was answered when it was asked for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstAnswer {
    /// It was made, or nothing was to be changed.
    Done,
    /// The conversation that it is about is there, with this head.
    Opened(Option<Seq>),
    /// It was not made.
    Rejected(RejectCode),
}

impl Answers {
    /// What a change of a device is to what was answered.
    pub(crate) fn look_up(&self, device: DeviceId, client_seq: ClientSeq) -> Known<FirstAnswer> {
        match self.find(device) {
            Ok(at) => self.devices[at].answered.look_up(client_seq),
            Err(_) => Known::New,
        }
    }

    /// Remembers the answer to a change whose client seq is above all that the device was answered. When there are too many
    /// devices, the one silent for the longest time gives way: that many are only reached after some were replaced.
    pub(crate) fn remember(
        &mut self,
        (device, at): (DeviceId, Position),
        client_seq: ClientSeq,
        answer: FirstAnswer,
    ) {
        if self.devices.len() >= DEVICES_PER_ACCOUNT_MAX
            && self.find(device).is_err()
            && let Some(silent) = (0..self.devices.len()).min_by_key(|i| self.devices[*i].last)
        {
            self.devices.remove(silent);
        }
        let found = self.find(device).unwrap_or_else(|new| {
            let one = AnsweredDevice {
                device,
                last: at,
                answered: DedupWindow::default(),
            };
            self.devices.insert(new, one);
            new
        });
        let one = &mut self.devices[found];
        one.last = at;
        one.answered.remember(client_seq, answer);
    }

    fn find(&self, device: DeviceId) -> Result<usize, usize> {
        self.devices.binary_search_by_key(&device, |one| one.device)
    }

    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(self.devices.len() * 208);
        for one in &self.devices {
            out.nested(1, |out| {
                out.fixed64(1, one.device.get());
                out.uint(2, one.last.0);
                if one.answered.iter().next().is_none() {
                    return;
                }
                out.nested(3, |out| {
                    let mut before = 0;
                    for (client_seq, answer) in one.answered.iter() {
                        out.varint(client_seq.get() - before);
                        out.varint(answer.to_number());
                        before = client_seq.get();
                    }
                });
            });
        }
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new(WHAT, value);
        let mut devices: Vec<AnsweredDevice> = Vec::new();
        while let Some(field) = fields.next()? {
            if field.number == 1 {
                devices.push(read_device(field.nested()?)?);
            }
        }
        let ascending = devices.is_sorted_by(|a, b| a.device < b.device);
        if !ascending || devices.len() > DEVICES_PER_ACCOUNT_MAX {
            return Err(corrupt(WHAT, "its devices are too many or unordered"));
        }
        Ok(Self { devices })
    }
}

fn read_device(mut fields: Fields) -> Result<AnsweredDevice, CorruptRow> {
    let (mut device, mut last) = (None, Position::START);
    let mut answered = DedupWindow::default();
    while let Some(field) = fields.next()? {
        match field.number {
            1 => device = Some(field.device()?),
            2 => last = Position(field.uint()?),
            3 => answered = read_answered(field.nested()?)?,
            _ => {}
        }
    }
    Ok(AnsweredDevice {
        device: required(WHAT, "the device of an answer", device)?,
        last,
        answered,
    })
}

fn read_answered(mut steps: Fields) -> Result<DedupWindow<FirstAnswer>, CorruptRow> {
    let mut answered = DedupWindow::default();
    let (mut client_seq, mut count) = (0u64, 0);
    while let Some(step) = steps.packed()? {
        let number = steps.packed()?.unwrap_or(0);
        let next = client_seq.checked_add(step).filter(|_| step != 0);
        let next = next.and_then(|next| ClientSeq::new(next).ok());
        let (Some(next), true) = (next, count < DEDUP_WINDOW) else {
            return Err(corrupt(WHAT, "its answers do not ascend or are too many"));
        };
        answered.remember(next, FirstAnswer::from_number(number)?);
        (client_seq, count) = (next.get(), count + 1);
    }
    Ok(answered)
}

impl FirstAnswer {
    /// 0 done, odd numbers opened, even ones rejected. A head above 63 bits is kept as none: nothing gets there.
    fn to_number(self) -> u64 {
        match self {
            Self::Done => 0,
            Self::Opened(head) => {
                let head = head.map_or(0, Seq::get).checked_mul(2);
                head.map_or(1, |twice| twice + 1)
            }
            Self::Rejected(code) => u64::from(code.code()) * 2,
        }
    }

    fn from_number(number: u64) -> Result<Self, CorruptRow> {
        Ok(match number {
            0 => Self::Done,
            odd if odd % 2 == 1 => Self::Opened(Seq::new(odd / 2).ok()),
            even => Self::Rejected(RejectCode::from_code(even / 2)),
        })
    }
}
