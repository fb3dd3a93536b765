//! Starts a gateway inside any process: `Gateway::start(&config)`.

pub mod access;
pub mod accounts;
pub mod admin;
mod batch;
pub mod checkpoint;
pub mod config;
#[cfg(any(test, feature = "test-util"))]
pub mod contract;
mod counters;
pub mod edge;
pub mod ephemeral;
pub mod expiry;
pub mod external;
pub mod folder;
mod gateway;
mod in_place;
pub mod log;
pub mod media;
pub mod notify;
pub mod offline;
mod pace;
pub mod password;
mod periodic;
pub mod processor;
pub mod provision;
pub mod queries;
pub mod rates;
pub mod registry;
pub mod reports;
pub mod retention;
pub mod router;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod verify;

pub use gateway::{Gateway, StartError};
