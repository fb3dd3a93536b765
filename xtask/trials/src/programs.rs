//! Finds the programs on trial: those that were built together with this one.

use std::path::PathBuf;

use anyhow::{Result, ensure};

/// The program of that name beside this one.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    ensure!(
        program.is_file(),
        "{} is not built: start this through `cargo xtask`",
        program.display()
    );
    Ok(program)
}
