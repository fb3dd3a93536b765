//! Makes sure that tmux is there: the end-to-end tests need real terminals.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell;

/// Installs tmux through apt-get when it is missing and we may; otherwise says what to do.
pub(crate) fn ensure_installed() -> Result<()> {
    if works("tmux", &["-V"]) {
        return Ok(());
    }
    if !works("apt-get", &["--version"]) || !is_root()? {
        bail!(
            "the end-to-end tests need tmux, and this is not a Debian-like machine where we are root: install tmux and run this again"
        );
    }
    // The package lists of a fresh image are often empty, so a first failure only means that they must be fetched.
    if shell::run(&mut apt_get(&[
        "install",
        "-y",
        "--no-install-recommends",
        "tmux",
    ]))
    .is_err()
    {
        shell::run(&mut apt_get(&["update"]))?;
        shell::run(&mut apt_get(&[
            "install",
            "-y",
            "--no-install-recommends",
            "tmux",
        ]))
        .context("install tmux by hand and run this again")?;
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("run id -u")?;
    Ok(output.stdout.trim_ascii() == b"0")
}
