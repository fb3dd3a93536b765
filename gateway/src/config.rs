//! Every setting: unit, default, effect, since-version; defaults ← TOML file ← `QUIPU_*` ← flags, then validate.
//!
//! One table declares them ([`schema`]). Flags, environment variables, the file's keys, the sample file and the documentation
//! all come from it, so none can be forgotten.

mod load;
mod schema;
mod value;

pub use load::{ConfigError, Origin, Overrides, SAMPLE_PATH, sample};
pub use schema::{
    Accounts, Admin, Config, Edge, External, Inbox, Limits, Media, Notify, Registration, SETTINGS,
    Setting, Storage, Tls,
};
pub use value::{AdminListen, ByteCount, RateLimit, SecretText, SettingValue, Unit};
