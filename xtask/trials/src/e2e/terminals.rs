//! Real terminals for programs: a tmux server of our own, typed into and looked at.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Size of each terminal, in cells.
const COLUMNS: &str = "100";
const ROWS: &str = "30";
/// How long something may take to appear.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// What a shell adds to 128 for a program that was killed.
const SIGKILL: i32 = 9;
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Starts a program in a terminal and keeps its process id and its exit code in files: a tmux that misses a SIGCHLD never
/// learns that a program has ended. Arguments: the two files, the program, its arguments.
const KEEPER: &str = r#"pid=$1 code=$2; shift 2
sh -c 'echo $$ > "$0.new" && mv "$0.new" "$0" && exec "$@"' "$pid" "$@"
echo $? > "$code.new" && mv "$code.new" "$code""#;

/// A tmux server that nobody else knows; it ends with this value.
pub(crate) struct Terminals {
    folder: PathBuf,
}

impl Terminals {
    /// Keeps the server's socket and settings in `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        // A program that has ended stays visible, so that its last words and its exit code can be asked for. Without the
        // escape delay, Escape and what follows would be taken for one key.
        std::fs::write(
            folder.join("tmux.conf"),
            "set -g remain-on-exit on\nset -g default-terminal screen-256color\nset -s escape-time 0\nset -g status off\n",
        )?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Starts a program in a new terminal.
    pub(crate) fn open(
        &self,
        name: &str,
        program: &Path,
        arguments: &[&str],
    ) -> Result<Screen<'_>> {
        let screen = Screen {
            terminals: self,
            name: name.to_owned(),
            pid: self.folder.join(format!("{name}.pid")),
            code: self.folder.join(format!("{name}.code")),
        };
        for file in [&screen.pid, &screen.code] {
            if file.exists() {
                std::fs::remove_file(file)?;
            }
        }
        let utf8 = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
        let (pid, code, program) = (utf8(&screen.pid)?, utf8(&screen.code)?, utf8(program)?);
        let mut words = vec![
            "new-session",
            "-d",
            "-s",
            name,
            "-x",
            COLUMNS,
            "-y",
            ROWS,
            "--",
            "sh",
            "-c",
            KEEPER,
            "keeper",
            &pid,
            &code,
            &program,
        ];
        words.extend(arguments);
        self.tmux(&words)?;
        Ok(screen)
    }

    fn tmux(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("tmux")
            .args(["-u", "-L", "quipu", "-f"])
            .arg(self.folder.join("tmux.conf"))
            .args(words)
            .env_remove("TMUX")
            .env("TMUX_TMPDIR", &self.folder)
            .env("LC_ALL", "C.UTF-8")
            // The programs inherit it: what they show must not depend on where the machine is.
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .output()
            .context("run tmux")?;
        ensure!(
            output.status.success(),
            "tmux {}: {}",
            words.first().copied().unwrap_or_default(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Terminals {
    fn drop(&mut self) {
        // Only our own server listens on this socket. It may have ended already.
        let _ = self.tmux(&["kill-server"]);
    }
}

/// One terminal and the program in it.
pub(crate) struct Screen<'a> {
    terminals: &'a Terminals,
    name: String,
    pid: PathBuf,
    code: PathBuf,
}

impl Screen<'_> {
    /// Types text as it is.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-t", &self.name, "-l", "--", text])
            .map(drop)
    }

    /// Presses keys by their tmux names: `Enter`, `C-k`.
    pub(crate) fn press(&self, keys: &[&str]) -> Result<()> {
        let mut words = vec!["send-keys", "-t", self.name.as_str()];
        words.extend(keys);
        self.tmux(&words).map(drop)
    }

    /// Types text and presses Enter.
    pub(crate) fn enter(&self, text: &str) -> Result<()> {
        self.write(text)?;
        self.press(&["Enter"])
    }

    /// What the terminal shows now, one row a line.
    pub(crate) fn text(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p", "-t", &self.name])
    }

    /// Waits until the terminal shows what `found` looks for, and gives what it found.
    pub(crate) fn wait<T>(&self, what: &str, found: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + SHOWN_WITHIN;
        loop {
            let text = self.text()?;
            if let Some(found) = found(&text) {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                bail!("{} does not show {what}. It shows:\n{text}", self.name);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until a text is to be seen.
    pub(crate) fn wait_for(&self, text: &str) -> Result<()> {
        self.wait(&format!("`{text}`"), |shown| {
            shown.contains(text).then_some(())
        })
    }

    /// Waits until the program has ended, and gives its exit code as a shell sees it.
    pub(crate) fn wait_end(&self) -> Result<i32> {
        number_in(&self.code, || {
            Ok(format!(
                "{} does not end. It shows:\n{}",
                self.name,
                self.text()?
            ))
        })
    }

    /// Kills the program with SIGKILL and closes the terminal.
    pub(crate) fn kill(self) -> Result<()> {
        let pid = number_in(&self.pid, || Ok(format!("{} did not start", self.name)))?;
        let killed = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .status()
            .context("run kill")?;
        ensure!(killed.success(), "kill {pid}: {killed}");
        let code = self.wait_end()?;
        ensure!(
            code == 128 + SIGKILL,
            "killed, {} ended with {code}",
            self.name
        );
        self.close()
    }

    /// Closes the terminal.
    pub(crate) fn close(self) -> Result<()> {
        self.tmux(&["kill-session", "-t", &self.name]).map(drop)
    }

    fn tmux(&self, words: &[&str]) -> Result<String> {
        self.terminals.tmux(words)
    }
}

/// Waits until a file is there and reads the number in it.
fn number_in(file: &Path, complaint: impl Fn() -> Result<String>) -> Result<i32> {
    let deadline = Instant::now() + SHOWN_WITHIN;
    while !file.exists() {
        if Instant::now() >= deadline {
            bail!("{}", complaint()?);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let text = std::fs::read_to_string(file)?;
    text.trim()
        .parse()
        .with_context(|| format!("{} holds `{text}`", file.display()))
}
