//! The form of the first start: register a name, or log in to one.

use std::fmt;

use quipu_protocol::id::UserId;
use quipu_protocol::limits::{PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN, USER_ID_BYTES_MAX};

use super::field::Field;
use super::{Command, Effect};

/// A password on its way to the gateway. Debug output hides it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What the form is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A new account: the password is asked for twice.
    Register,
    /// An account that exists.
    LogIn,
}

/// The form.
#[derive(Debug)]
pub(crate) struct Form {
    /// Register or log in.
    pub(crate) purpose: Purpose,
    /// Name, password, password again.
    pub(crate) fields: [Field; 3],
    /// Which of them is being written.
    pub(crate) at: usize,
    /// Whether the gateway is being asked.
    pub(crate) busy: bool,
    /// Why it did not work.
    pub(crate) error: Option<String>,
}

/// Names of the fields, as the form shows them.
pub(crate) const LABELS: [&str; 3] = ["Name", "Password", "Again"];

impl Default for Form {
    fn default() -> Self {
        Self {
            purpose: Purpose::Register,
            // A name may be typed longer than allowed, so that the rule is said rather than keys ignored.
            fields: [
                Field::new(USER_ID_BYTES_MAX * 2),
                Field::new(PASSWORD_BYTES_MAX),
                Field::new(PASSWORD_BYTES_MAX),
            ],
            at: 0,
            busy: false,
            error: None,
        }
    }
}

impl Form {
    /// How many fields are shown.
    pub(crate) fn shown(&self) -> usize {
        match self.purpose {
            Purpose::Register => 3,
            Purpose::LogIn => 2,
        }
    }

    /// Takes a paste into the field being written.
    pub(crate) fn paste(&mut self, pasted: &str) {
        if !self.busy {
            self.fields[self.at].insert(pasted.trim_end_matches(['\r', '\n']));
        }
    }

    /// Carries out a command.
    pub(crate) fn update(&mut self, command: Command) -> Option<Effect> {
        match command {
            Command::Edit(edit) if !self.busy => self.fields[self.at].edit(edit),
            Command::NextItem => self.at = (self.at + 1) % self.shown(),
            Command::PreviousItem => self.at = (self.at + self.shown() - 1) % self.shown(),
            Command::SwitchForm if !self.busy => {
                self.purpose = match self.purpose {
                    Purpose::Register => Purpose::LogIn,
                    Purpose::LogIn => Purpose::Register,
                };
                self.at = self.at.min(self.shown() - 1);
                self.error = None;
            }
            Command::Submit if !self.busy => {
                if self.at + 1 < self.shown() {
                    self.at += 1;
                } else {
                    return self.submit();
                }
            }
            Command::Cancel => self.error = None,
            Command::Interrupt if !self.fields[self.at].text().is_empty() && !self.busy => {
                self.fields[self.at].clear()
            }
            Command::Interrupt | Command::Quit => return Some(Effect::Quit),
            Command::Redraw => return Some(Effect::Redraw),
            Command::Submit
            | Command::Edit(_)
            | Command::Scroll(_)
            | Command::Either(..)
            | Command::Go(_)
            | Command::Switcher
            | Command::SwitchForm
            | Command::Help => {}
        }
        None
    }

    /// The gateway refused, or could not be asked.
    pub(crate) fn failed(&mut self, reason: String) {
        self.busy = false;
        self.error = Some(reason);
    }

    fn submit(&mut self) -> Option<Effect> {
        let [name, password, again] = &self.fields;
        let problem = match UserId::new(name.text().trim()) {
            Err(rule) => Some((0, rule.to_string())),
            Ok(_) if password.text().len() < PASSWORD_BYTES_MIN => Some((
                1,
                format!("A password has at least {PASSWORD_BYTES_MIN} characters."),
            )),
            Ok(_) if self.purpose == Purpose::Register && password.text() != again.text() => {
                Some((2, "The two passwords differ.".to_owned()))
            }
            Ok(name) => {
                let password = Secret(password.text().to_owned());
                self.busy = true;
                self.error = None;
                return Some(match self.purpose {
                    Purpose::Register => Effect::Register { name, password },
                    Purpose::LogIn => Effect::LogIn { name, password },
                });
            }
        };
        if let Some((field, words)) = problem {
            self.at = field;
            self.error = Some(capitalised(&words));
        }
        None
    }
}

fn capitalised(words: &str) -> String {
    let mut chars = words.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}
