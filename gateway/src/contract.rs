//! Suites that every log and every store must pass, callable by name over any back end.

pub mod log;
pub mod store;
