//! The gateway's decisions as deterministic machines; it does not know QUIC, Kafka or disks exist.

pub mod delivery;
pub mod record;
pub mod row;
pub mod shard;
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod wire;
