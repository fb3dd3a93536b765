//! Raw clients, well-behaved and hostile, against the edge of a gateway without disks.

mod hostile;
mod peer;
mod restart;
mod sessions;
