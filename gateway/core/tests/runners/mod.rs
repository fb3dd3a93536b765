//! The instructions that scripts know, one module for each machine.

mod changes;
pub(crate) mod delivery;
pub(crate) mod shard;
