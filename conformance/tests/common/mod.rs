//! What the tests of this crate share: how their gateways are configured.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use quipu_gateway::config::{AdminListen, ByteCount, Config};

/// A gateway on a free port with its data under `folder`. Password hashes are cheap, because the suite makes hundreds of
/// accounts and tests none of argon2.
pub(crate) fn config(folder: &Path) -> Config {
    let mut config = Config {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        data: folder.join("data"),
        ..Config::default()
    };
    config.accounts.hash_memory = ByteCount(64 << 10);
    config.accounts.hash_passes = 1;
    config.admin.listen = AdminListen::Off;
    config.edge.drain_timeout = Duration::from_millis(100);
    config
}
