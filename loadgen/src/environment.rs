//! What the engine knows of where it ran; the report adds what the machine says of itself.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::measure::Environment;

/// The programs of a run.
pub(crate) fn here(gateway_agent: &str, gateway_is_local: bool) -> Environment {
    Environment {
        generator: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: gateway_agent.to_owned(),
        gateway_is_local,
        optimised: !cfg!(debug_assertions),
        ..Environment::default()
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_millis() as u64)
}
