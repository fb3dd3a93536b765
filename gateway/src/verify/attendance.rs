//! Checks what is known of users' devices against their inboxes, and the rows of the index against it.

use std::collections::BTreeMap;

use quipu_core::row::{CorruptRow, IndexKey, OfflineRow, Presence};
use quipu_protocol::id::UserId;

use super::Report;

/// What rows say of one user.
#[derive(Debug, Default)]
struct Attendance {
    /// The highest inbox number that it speaks of.
    highest: u64,
    here: bool,
    offline: Option<OfflineRow>,
    row_here: bool,
    row_offline: Option<OfflineRow>,
}

/// What rows say of everybody.
#[derive(Debug, Default)]
pub(super) struct Attendances(BTreeMap<UserId, Attendance>);

impl Attendances {
    /// Takes an entity's row.
    pub(super) fn presence(&mut self, user: &UserId, value: &[u8]) -> Result<(), CorruptRow> {
        let presence = Presence::decode(value)?;
        let cursors = presence.devices.iter().map(|device| device.cursor.0);
        let waiting = presence.waiting.map_or(0, |waiting| waiting.on.get());
        let highest = cursors.chain([presence.acked.0, waiting]).max();
        let attendance = self.0.entry(*user).or_default();
        attendance.highest = highest.unwrap_or(0);
        attendance.here = presence.is_here();
        attendance.offline = presence.offline();
        Ok(())
    }

    /// Takes a row of the index; those about other things are none of its business.
    pub(super) fn index(&mut self, key: &IndexKey, value: &[u8]) -> Result<(), CorruptRow> {
        match key {
            IndexKey::Here(user) => self.0.entry(*user).or_default().row_here = true,
            IndexKey::Offline(user) => {
                let row = OfflineRow::decode(value)?;
                self.0.entry(*user).or_default().row_offline = Some(row);
            }
            IndexKey::Listed(..)
            | IndexKey::Version(..)
            | IndexKey::MediaRef(..)
            | IndexKey::Due(..)
            | IndexKey::Report(..)
            | IndexKey::Changed(..)
            | IndexKey::Seated(..) => {}
        }
        Ok(())
    }

    /// Compares, given each user's inbox head.
    pub(super) fn finish(&self, head_of: impl Fn(&UserId) -> Option<u64>, report: &mut Report) {
        for (user, attendance) in &self.0 {
            let head = head_of(user).unwrap_or(0);
            if attendance.highest > head {
                report.problem(format!(
                    "a device of {user} has event {} of an inbox that ends at {head}",
                    attendance.highest
                ));
            }
            // What a replay takes away stays in the store until the next start.
            if report.replayed_records > 0 {
                continue;
            }
            if attendance.here != attendance.row_here {
                report.problem(format!(
                    "{user} is here and not in the index, or the reverse"
                ));
            }
            if attendance.offline != attendance.row_offline {
                report.problem(format!(
                    "the offline topic says {:?} of {user} where {:?} is due",
                    attendance.row_offline, attendance.offline
                ));
            }
        }
    }
}
