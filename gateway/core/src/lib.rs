//! The gateway's decisions as deterministic machines; it does not know QUIC, Kafka or disks exist.

mod codec;
mod dedup;
pub mod delivery;
pub mod limits;
pub mod record;
pub mod retention;
pub mod row;
pub mod shard;
pub mod watch;
