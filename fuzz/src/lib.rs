//! What must hold for any bytes: each function takes an input of a fuzzer and panics where a promise is broken.

pub mod configuration;
pub mod datagrams;
pub mod frames;
pub mod keys;
pub mod rows;
pub mod sessions;
pub mod wire;
