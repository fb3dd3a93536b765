//! Properties of the machines over random histories. A failure prints one seed's smallest case, which becomes a script.

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod bytes;
mod cluster;
mod delivery;
mod shard;
mod story;
