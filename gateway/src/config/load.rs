//! Brings the layers together: defaults, then a TOML file, then `QUIPU_*`, then flags; and checks the result.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu_protocol::limits::{AUTH_TIMEOUT_MS, FRAME_BYTES_MAX, INVITATION_BYTES_MAX};

use super::schema::{Config, Notify, Registration, SECTIONS, SETTINGS, SetError};
use super::value::ByteCount;
use crate::notify::post::parse_url;
use crate::notify::sign::Signer;

/// Where the documented sample is kept in the source tree.
pub const SAMPLE_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/quipu-gateway.toml");

/// Largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a value came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
    /// The flag of this name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "configuration file {}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// Why there is no configuration. The operator must change something; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {}: {why}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The file is not TOML.
    #[error("configuration file {}: {why}", path.display())]
    NotToml {
        /// Which file.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
    /// A name that is not a setting.
    #[error("{origin}: there is no setting {key:?}; did you mean {nearest:?}?")]
    Unknown {
        /// Where it was found.
        origin: Origin,
        /// What was written.
        key: String,
        /// The nearest setting there is.
        nearest: String,
    },
    /// A value of the wrong form.
    #[error("{origin}: {key} is {given:?}; expected {expected}")]
    Value {
        /// Where it was found.
        origin: Origin,
        /// Which setting.
        key: String,
        /// What was given.
        given: String,
        /// What would be right.
        expected: String,
    },
    /// Values that do not work, or not together.
    #[error("{0}")]
    Invalid(String),
}

/// The layers above the defaults.
#[derive(Debug, Default)]
pub struct Overrides {
    /// The configuration file, if any.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `QUIPU_` are skipped.
    pub variables: Vec<(String, String)>,
    /// Flags: setting key and text.
    pub flags: Vec<(String, String)>,
}

/// Variables that begin with `QUIPU_` and look like settings, but are not: the file's path, and what the client reads.
const OTHER_VARIABLES: &[&str] = &["QUIPU_CONFIG", "QUIPU_SERVER", "QUIPU_PASSWORD"];

/// Up to so many letters of difference, an unknown variable is taken for a setting that was mistyped. The client and the
/// tests have variables of their own under the same prefix, which are none of the gateway's business.
const MISTYPED_LETTERS_MAX: usize = 3;

impl Config {
    /// Defaults ← file ← environment ← flags, checked.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(path) = &overrides.file {
            config.apply_file(path)?;
        }
        for (name, text) in &overrides.variables {
            if !name.starts_with("QUIPU_") || OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let origin = Origin::Variable(name.clone());
            match SETTINGS.iter().find(|setting| setting.variable() == *name) {
                Some(setting) => config.apply(&origin, setting.key, text)?,
                None if meant_as_setting(name) => {
                    let names = SETTINGS.iter().map(|setting| setting.variable());
                    return Err(unknown(origin, name, names));
                }
                None => {}
            }
        }
        for (key, text) in &overrides.flags {
            config.apply(&Origin::Flag(key.replace(['.', '_'], "-")), key, text)?;
        }
        config.validate()?;
        Ok(config)
    }

    /// Defaults ← the text of a file, checked. The path is for errors only.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        config.apply_text(path, text)?;
        config.validate()?;
        Ok(config)
    }

    fn apply_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let unreadable = |why: String| ConfigError::Unreadable {
            path: path.into(),
            why,
        };
        let size = std::fs::metadata(path)
            .map_err(|error| unreadable(error.to_string()))?
            .len();
        if size > FILE_BYTES_MAX {
            return Err(unreadable(format!(
                "it is larger than {FILE_BYTES_MAX} bytes"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        self.apply_text(path, &text)
    }

    fn apply_text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table =
            text.parse()
                .map_err(|error: toml::de::Error| ConfigError::NotToml {
                    path: path.into(),
                    why: error.to_string().trim_end().to_owned(),
                })?;
        let mut found = BTreeMap::new();
        flatten("", &table, &mut found);
        let origin = Origin::File(path.into());
        found
            .iter()
            .try_for_each(|(key, text)| self.apply(&origin, key, text))
    }

    fn apply(&mut self, origin: &Origin, key: &str, text: &str) -> Result<(), ConfigError> {
        self.set(key, text).map_err(|error| match error {
            SetError::Unknown => unknown(
                origin.clone(),
                key,
                SETTINGS.iter().map(|s| s.key.to_owned()),
            ),
            SetError::Value(expected) => ConfigError::Value {
                origin: origin.clone(),
                key: key.to_owned(),
                given: text.to_owned(),
                expected: expected.to_owned(),
            },
        })
    }

    /// Refuses what would not work.
    fn validate(&self) -> Result<(), ConfigError> {
        within(
            "edge.max_connections",
            self.edge.max_connections,
            1..=10_000_000,
        )?;
        within(
            "edge.max_handshakes",
            self.edge.max_handshakes,
            1..=1_000_000,
        )?;
        within(
            "edge.max_unwelcomed",
            self.edge.max_unwelcomed,
            1..=1_000_000,
        )?;
        within("accounts.hash_passes", self.accounts.hash_passes, 1..=100)?;
        within("accounts.hash_threads", self.accounts.hash_threads, 1..=256)?;
        within("accounts.hash_queue", self.accounts.hash_queue, 1..=100_000)?;
        within("limits.queries", self.limits.queries, 1..=256)?;
        within("limits.requests", self.limits.requests, 1..=65_536)?;
        within("storage.shards", self.storage.shards, 1..=1024)?;
        within("storage.processors", self.storage.processors, 0..=256)?;
        self.validate_media()?;
        check(
            self.inbox.keep_events > 0 && self.inbox.keep_for > Duration::ZERO,
            "inbox.keep_events must be above 0 and inbox.keep_for above 0ms",
        )?;
        check(
            self.edge.send_window.as_usize() >= FRAME_BYTES_MAX * 2,
            "edge.send_window is below 64KiB; two frames must fit",
        )?;
        check(
            self.edge.socket_buffer <= ByteCount(1 << 30),
            "edge.socket_buffer is above 1GiB, which no kernel grants",
        )?;
        check(
            (ByteCount(64 << 10)..=ByteCount(1 << 30)).contains(&self.accounts.hash_memory),
            "accounts.hash_memory may be 64KiB to 1GiB",
        )?;
        check(
            self.limits.answer_timeout > Duration::ZERO
                && self.limits.answer_timeout < Duration::from_millis(AUTH_TIMEOUT_MS),
            "limits.answer_timeout must be above 0ms and below the 10s after which a client gives up",
        )?;
        check(
            self.storage.flush_interval > Duration::ZERO,
            "storage.flush_interval must be above 0ms",
        )?;
        check(
            self.tls.certificate.as_os_str().is_empty() == self.tls.key.as_os_str().is_empty(),
            "tls.certificate and tls.key are set together, or neither",
        )?;
        check(
            self.external.keys.as_os_str().is_empty()
                || !(self.external.issuer.is_empty() || self.external.audience.is_empty()),
            "external.keys needs external.issuer and external.audience",
        )?;
        check(
            self.external.leeway <= Duration::from_secs(300),
            "external.leeway is above 5m",
        )?;
        check(
            self.accounts.registration != Registration::Invitation
                || !self.accounts.invitation.is_empty(),
            "accounts.registration is invitation: set accounts.invitation to the code",
        )?;
        check(
            self.accounts.invitation.len() <= INVITATION_BYTES_MAX,
            "accounts.invitation may have at most 128 bytes",
        )?;
        self.notify.validate()
    }
}

impl Notify {
    /// Refuses what would not work; nothing is looked at without a url.
    fn validate(&self) -> Result<(), ConfigError> {
        if self.url.is_empty() {
            return Ok(());
        }
        let check = |holds: bool, message: &str| match holds {
            true => Ok(()),
            false => Err(ConfigError::Invalid(message.to_owned())),
        };
        check(
            parse_url(&self.url).is_some(),
            "notify.url is not http:// or https:// with a host and without a password; for example \
             https://push.example.org/quipu",
        )?;
        Signer::new(&self.secrets.0)
            .map_err(|error| ConfigError::Invalid(format!("notify.secrets: {error}")))?;
        check(
            (1..=100).contains(&self.tries),
            "notify.tries may be 1 to 100",
        )?;
        check(
            (1..=256).contains(&self.concurrency),
            "notify.concurrency may be 1 to 256",
        )?;
        let times = [self.after, self.timeout, self.backoff, self.backoff_max];
        check(
            times.iter().all(|time| !time.is_zero()),
            "notify.after, notify.timeout, notify.backoff and notify.backoff_max must be above 0ms",
        )
    }
}

impl Config {
    /// Refuses settings of files that would not work.
    fn validate_media(&self) -> Result<(), ConfigError> {
        within("media.transfers", self.media.transfers, 1..=4096)?;
        within("media.user_transfers", self.media.user_transfers, 1..=4096)?;
        within(
            "media.partials_per_user",
            self.media.partials_per_user,
            1..=1024,
        )?;
        check(
            self.media.unreferenced_after >= Duration::from_secs(60),
            "media.unreferenced_after is below 1m; a message follows its upload by a moment",
        )?;
        check(
            self.media.max_size <= self.media.staging,
            "media.max_size is above media.staging, where an upload waits until it is whole",
        )?;
        check(
            self.media.stall_timeout > Duration::ZERO,
            "media.stall_timeout must be above 0ms",
        )?;
        check(
            self.media.bucket.is_empty()
                || !(self.media.access_key.is_empty() || self.media.secret_key.0.is_empty()),
            "media.bucket is set: set media.access_key and media.secret_key (QUIPU_MEDIA_SECRET_KEY) as well",
        )?;
        Ok(())
    }
}

fn check(holds: bool, message: &str) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError::Invalid(message.to_owned()))
    }
}

fn within(key: &str, value: u32, range: std::ops::RangeInclusive<u32>) -> Result<(), ConfigError> {
    let message = format!(
        "{key} is {value}; it may be {} to {}",
        range.start(),
        range.end()
    );
    check(range.contains(&value), &message)
}

/// Turns nested tables into `section.key` and text.
fn flatten(prefix: &str, table: &toml::Table, found: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, found),
            toml::Value::String(text) => {
                found.insert(key, text.clone());
            }
            other => {
                found.insert(key, other.to_string());
            }
        }
    }
}

/// Whether a variable that is no setting was probably meant as one: it names a section, or nearly a setting.
fn meant_as_setting(variable: &str) -> bool {
    let in_section = |(section, _): &(&str, &[&str])| {
        let prefix = format!("QUIPU_{}_", section.to_uppercase());
        variable.starts_with(&prefix)
    };
    SECTIONS.iter().any(in_section)
        || SETTINGS.iter().any(|setting| {
            variable.len() <= 64
                && edit_distance(variable, &setting.variable()) <= MISTYPED_LETTERS_MAX
        })
}

fn unknown(origin: Origin, key: &str, names: impl Iterator<Item = String>) -> ConfigError {
    // A settings name is short; a longer one is not worth comparing.
    let written: String = key.chars().take(64).collect();
    let nearest = names
        .min_by_key(|name| edit_distance(&written, name))
        .unwrap_or_default();
    ConfigError::Unknown {
        origin,
        key: written,
        nearest,
    }
}

/// Levenshtein distance, by rows.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The documented sample file: every setting, commented out at its default.
pub fn sample() -> String {
    let defaults = Config::default();
    let mut page = String::from(
        "# Settings of quipu-gateway, each at its default. `quipu-gateway config print-sample` writes this file.\n\
         # A setting is taken from, in rising order: the default, this file (--config FILE or QUIPU_CONFIG), an\n\
         # environment variable (edge.max_connections is QUIPU_EDGE_MAX_CONNECTIONS), a flag (--edge-max-connections).\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let (prefix, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if prefix != section {
            section = prefix;
            let about = SECTIONS.iter().find(|(name, _)| *name == prefix);
            page.push('\n');
            for line in about.map_or(&[][..], |(_, lines)| *lines) {
                page.push_str(&format!("# {}\n", line.trim()));
            }
            page.push_str(&format!("[{prefix}]\n"));
        }
        let value = defaults.to_toml(setting.key).unwrap_or_default();
        page.push_str(&format!(
            "\n# {}\n# {} Since {}.\n# {name} = {value}\n",
            setting.what.trim(),
            setting.effect,
            setting.since
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTIFY: (&str, &str) = ("notify.url", "https://example.org/hook");
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn with_file(text: &str) -> (tempfile::TempDir, Overrides) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("gateway.toml");
        std::fs::write(&path, text).expect("writable");
        let overrides = Overrides {
            file: Some(path),
            ..Overrides::default()
        };
        (folder, overrides)
    }

    #[test]
    fn each_layer_wins_over_the_one_before() {
        let (_folder, mut overrides) = with_file(
            "listen = \"127.0.0.1:1\"\n[edge]\nmax_connections = 11\nmax_handshakes = 12\n",
        );
        let from_file = Config::load(&overrides).expect("valid");
        assert_eq!(
            (from_file.listen.port(), from_file.edge.max_connections),
            (1, 11)
        );

        overrides.variables = vec![
            ("QUIPU_EDGE_MAX_CONNECTIONS".into(), "21".into()),
            ("QUIPU_LISTEN".into(), "127.0.0.1:2".into()),
            ("PATH".into(), "/bin".into()),
        ];
        let from_env = Config::load(&overrides).expect("valid");
        assert_eq!(
            (from_env.listen.port(), from_env.edge.max_connections),
            (2, 21)
        );
        assert_eq!(from_env.edge.max_handshakes, 12);

        overrides.flags = vec![("listen".into(), "127.0.0.1:3".into())];
        let from_flags = Config::load(&overrides).expect("valid");
        assert_eq!(
            (from_flags.listen.port(), from_flags.edge.max_connections),
            (3, 21)
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        let (_folder, overrides) = with_file("[edge]\nmax_conections = 11\n");
        let message = Config::load(&overrides).expect_err("unknown").to_string();
        assert!(message.contains("\"edge.max_connections\""), "{message}");

        let overrides = Overrides {
            variables: vec![("QUIPU_LISTENS".into(), "x".into())],
            ..Overrides::default()
        };
        let message = Config::load(&overrides).expect_err("unknown").to_string();
        assert!(message.contains("\"QUIPU_LISTEN\""), "{message}");

        let variables = |names: &[&str]| Overrides {
            variables: names
                .iter()
                .map(|name| ((*name).into(), "x".into()))
                .collect(),
            ..Overrides::default()
        };
        assert!(Config::load(&variables(&["QUIPU_EDGE_SIZE"])).is_err());
        assert!(Config::load(&variables(&["QUIPU_BLESS", "QUIPU_SERVER"])).is_ok());
    }

    #[test]
    fn a_wrong_value_says_where_and_what_is_expected() {
        let (_folder, overrides) = with_file("[edge]\ndrain_timeout = 5\n");
        let message = Config::load(&overrides).expect_err("no unit").to_string();
        assert!(message.contains("gateway.toml"), "{message}");
        assert!(
            message.contains("edge.drain_timeout is \"5\"; expected a time with its unit"),
            "{message}"
        );
        let (_folder, overrides) = with_file("[edge\n");
        let message = Config::load(&overrides).expect_err("not TOML").to_string();
        assert!(message.contains("gateway.toml"), "{message}");
    }

    #[test]
    fn values_that_do_not_work_together_are_refused() {
        for flags in [
            vec![("accounts.registration", "invitation")],
            vec![("tls.certificate", "cert.pem")],
            vec![("edge.max_connections", "0")],
            vec![("limits.answer_timeout", "10s")],
            vec![("edge.send_window", "1KiB")],
            vec![("storage.shards", "0")],
            vec![("notify.url", "https://example.org")],
            vec![("notify.url", "example.org"), ("notify.secrets", SECRET)],
            vec![NOTIFY, ("notify.secrets", "whsec_short")],
            vec![NOTIFY, ("notify.secrets", SECRET), ("notify.tries", "0")],
            vec![
                NOTIFY,
                ("notify.secrets", SECRET),
                ("notify.concurrency", "0"),
            ],
            vec![NOTIFY, ("notify.secrets", SECRET), ("notify.after", "0ms")],
        ] {
            let overrides = Overrides {
                flags: flags
                    .iter()
                    .map(|(k, v)| ((*k).into(), (*v).into()))
                    .collect(),
                ..Overrides::default()
            };
            let error = Config::load(&overrides).expect_err("not valid");
            assert!(
                matches!(error, ConfigError::Invalid(_)),
                "{flags:?}: {error}"
            );
            assert!(!error.to_string().contains("whsec_short"), "{error}");
        }
    }

    #[test]
    fn every_default_is_written_in_the_table_as_it_is_printed() {
        let defaults = Config::default();
        for setting in SETTINGS {
            let printed = defaults.to_toml(setting.key).expect("a setting");
            assert_eq!(
                printed.trim_matches('"'),
                setting.default,
                "{}",
                setting.key
            );
            assert!(
                setting.what.trim().ends_with('.') && setting.effect.ends_with('.'),
                "{}",
                setting.key
            );
        }
        assert!(Config::load(&Overrides::default()).is_ok());
    }

    #[test]
    fn the_sample_file_is_in_step_and_says_the_defaults() {
        let kept = std::fs::read_to_string(SAMPLE_PATH).unwrap_or_default();
        assert_eq!(
            kept,
            sample(),
            "gateway/quipu-gateway.toml is out of step; run: cargo run -- config print-sample > gateway/quipu-gateway.toml"
        );
        let is_name = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let uncommented: Vec<String> = sample()
            .lines()
            .filter_map(|line| match line.strip_prefix("# ") {
                Some(rest) => {
                    let (name, _) = rest.split_once(" = ")?;
                    is_name(name).then(|| rest.to_owned())
                }
                None => Some(line.to_owned()),
            })
            .collect();
        assert_eq!(
            uncommented
                .iter()
                .filter(|line| line.contains(" = "))
                .count(),
            SETTINGS.len()
        );
        let (_folder, overrides) = with_file(&uncommented.join("\n"));
        assert_eq!(Config::load(&overrides).expect("valid"), Config::default());
    }
}
