//! Ways to spoil a run, so that a test can show that the judge notices.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::ledger::{Ledger, View};

/// What to spoil.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sabotage {
    /// One message that a device was shown is forgotten.
    Lose,
    /// One message that a device was shown is shown again.
    Double,
    /// Two messages that a device was shown change places.
    Reorder,
    /// After the second kill the gateway finds its disk as it was after the first.
    OldDisk,
}

impl Sabotage {
    /// Touches the data folder of a gateway that was just killed for the `kill`th time.
    pub(crate) fn after_kill(self, kill: u32, data: &Path) -> Result<()> {
        match (self, kill) {
            (Self::OldDisk, 1) => copy(data, &spare(data)),
            (Self::OldDisk, 2) => {
                fs::remove_dir_all(data)?;
                copy(&spare(data), data)
            }
            (Self::Lose | Self::Double | Self::Reorder | Self::OldDisk, _) => Ok(()),
        }
    }

    /// Touches what was written down.
    pub(crate) fn spoil(self, ledger: &mut Ledger) {
        let Some(shown) = ledger.view_mut(View::Tail) else {
            return;
        };
        let middle = shown.len() / 2;
        match self {
            Self::Lose => {
                shown.remove(middle);
            }
            Self::Double => shown.insert(middle, shown[middle]),
            Self::Reorder => shown.swap(middle, middle - 1),
            Self::OldDisk => {}
        }
    }
}

fn spare(data: &Path) -> PathBuf {
    data.with_extension("spare")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
