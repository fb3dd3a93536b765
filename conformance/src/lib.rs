//! Raw frames against any Quipu gateway: one case per rule of SPEC.md, hostile peers included.
//!
//! `quipu-conformance --server HOST:PORT` runs the cases against a gateway that is there; the tests of this crate run them
//! against this repository's own.

pub mod cases;
pub mod expected;
pub mod raw;
pub mod report;
pub mod session;
pub mod suite;
pub mod trust;
pub mod witness;
