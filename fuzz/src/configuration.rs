//! Configuration files: any text is settings or an error that names the line or the setting.

use std::path::Path;

use quipu_gateway::config::Config;

/// The bytes are a file.
pub fn any_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let read = |text: &str| Config::parse(Path::new("quipu.toml"), text);
    match read(text) {
        // A comment behind it changes nothing.
        Ok(_) => assert!(read(&format!("{text}\n# the end\n")).is_ok()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
