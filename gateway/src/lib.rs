//! Starts a gateway inside any process: `Gateway::start(config) -> GatewayHandle`.

pub mod admin;
pub mod config;
pub mod log;
pub mod password;
pub mod store;
pub mod telemetry;
pub mod tls;
