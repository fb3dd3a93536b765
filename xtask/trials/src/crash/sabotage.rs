//! Ways to spoil a run, so that a test can show that the judge notices.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
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
    /// One message of a group that a device was shown is forgotten.
    LoseInGroup,
    /// One message of a pulled group that a device has kept is forgotten.
    LoseInPulled,
    /// Somebody is shown a message of a group from before it joined.
    Leak,
    /// What a message says in the history is not what it was changed to.
    Undo,
    /// After the last kill a byte of each file in the gateway's folder is another one.
    DamageFiles,
    /// At each kill what had come of unfinished uploads goes.
    ForgetUploads,
}

impl Sabotage {
    /// Touches the data folder of a gateway that was just killed for the `kill`th time of so many.
    pub(crate) fn after_kill(self, kill: u32, kills: u32, data: &Path) -> Result<()> {
        match self {
            Self::OldDisk if kill == 1 => copy(data, &spare(data)),
            Self::OldDisk if kill == 2 => {
                fs::remove_dir_all(data)?;
                copy(&spare(data), data)
            }
            Self::DamageFiles if kill == kills => {
                let damaged = damage(&data.join("media/objects"))?;
                ensure!(damaged > 0, "there was no file to damage");
                Ok(())
            }
            Self::ForgetUploads => empty(&data.join("media/partial")),
            Self::Lose
            | Self::Double
            | Self::Reorder
            | Self::OldDisk
            | Self::LoseInGroup
            | Self::LoseInPulled
            | Self::Leak
            | Self::Undo
            | Self::DamageFiles => Ok(()),
        }
    }

    /// Whether there must be a file that is there for good before this kill of so many.
    pub(crate) fn needs_a_file(self, kill: u32, kills: u32) -> bool {
        self == Self::DamageFiles && kill == kills
    }

    /// Touches what was written down.
    pub(crate) fn spoil(self, ledger: &mut Ledger) {
        match self {
            Self::LoseInGroup => return ledger.lose_in_group(),
            Self::LoseInPulled => return ledger.pulled.lose(),
            Self::Leak => return ledger.leak(),
            Self::Undo => return ledger.changes.forget_one(),
            Self::Lose
            | Self::Double
            | Self::Reorder
            | Self::OldDisk
            | Self::DamageFiles
            | Self::ForgetUploads => {}
        }
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
            Self::OldDisk
            | Self::LoseInGroup
            | Self::LoseInPulled
            | Self::Leak
            | Self::Undo
            | Self::DamageFiles
            | Self::ForgetUploads => {}
        }
    }
}

/// Turns the bits of one byte in the middle of each file below a folder; labels say what they said.
fn damage(folder: &Path) -> Result<usize> {
    let mut damaged = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            damaged += damage(&path)?;
        } else if path.extension().is_none() {
            let mut bytes = fs::read(&path)?;
            let middle = bytes.len() / 2;
            bytes[middle] = !bytes[middle];
            fs::write(&path, bytes)?;
            damaged += 1;
        }
    }
    Ok(damaged)
}

/// Removes the files of a folder.
fn empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
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
