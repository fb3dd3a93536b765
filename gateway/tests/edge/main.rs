//! Raw clients, well-behaved and hostile, against the edge of a gateway without disks.

#[path = "../bucket/mod.rs"]
mod bucket;
mod buckets;
mod changes;
mod groups;
mod hostile;
mod media;
mod peer;
mod presence;
mod proxy;
mod rates;
mod restart;
mod retention;
mod sessions;
mod sick_buckets;
mod tokens;
mod typing;
