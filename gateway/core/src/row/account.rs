//! The bytes of an account.

use bytes::Bytes;
use quipu_protocol::id::{DeviceId, TimestampMs};

use super::{Account, CorruptRow, Device};
use crate::codec::{Fields, Writer, corrupt, required};

const WHAT: &str = "account";

impl Account {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(128 + self.devices.len() * 80);
        if let Some(password) = &self.password {
            out.slice_present(1, password.as_bytes());
        }
        out.uint(2, self.created_at.0);
        for device in &self.devices {
            out.nested(3, |out| {
                out.fixed64(1, device.id.get());
                out.slice(2, device.label.as_bytes());
                out.slice(3, &device.token_hash);
                out.uint(4, device.added_at.0);
            });
        }
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new(WHAT, value);
        let mut account = Self {
            password: None,
            created_at: TimestampMs::default(),
            devices: Vec::new(),
        };
        while let Some(field) = fields.next()? {
            match field.number {
                1 => account.password = Some(field.text()?.to_owned()),
                2 => account.created_at = TimestampMs(field.uint()?),
                3 => account.devices.push(read_device(field.nested()?)?),
                _ => {}
            }
        }
        if !account.devices.is_sorted_by(|a, b| a.id < b.id) {
            return Err(corrupt(WHAT, "its devices are not in ascending order"));
        }
        Ok(account)
    }

    /// The device with this id.
    pub fn device(&self, id: DeviceId) -> Option<&Device> {
        let at = self.devices.binary_search_by_key(&id, |d| d.id).ok()?;
        self.devices.get(at)
    }
}

fn read_device(mut fields: Fields) -> Result<Device, CorruptRow> {
    let (mut id, mut label, mut token_hash) = (None, String::new(), None);
    let mut added_at = TimestampMs::default();
    while let Some(field) = fields.next()? {
        match field.number {
            1 => id = Some(field.device()?),
            2 => field.text()?.clone_into(&mut label),
            3 => token_hash = Some(field.hash()?),
            4 => added_at = TimestampMs(field.uint()?),
            _ => {}
        }
    }
    Ok(Device {
        id: required(WHAT, "the id of a device", id)?,
        label,
        token_hash: required(WHAT, "the token hash of a device", token_hash)?,
        added_at,
    })
}
