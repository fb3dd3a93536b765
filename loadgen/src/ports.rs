//! The sockets of the simulated clients: dealt out in turn, given new ports, or made to vanish.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::network::{Drops, NetworkSocket};
use crate::scenario::Network;
use crate::seed::Seed;
use crate::transport::{self, SERVER_NAME};

/// One socket for so many connections: few enough that none overflows, enough that the buffers of a socket do not count.
const CONNECTIONS_PER_SOCKET: usize = 2_500;
/// Sockets of a small run, so that a share of them means something.
const SOCKETS_MIN: usize = 8;

/// Sockets of a run of so many connections.
pub(crate) fn count(connections: usize) -> usize {
    connections
        .div_ceil(CONNECTIONS_PER_SOCKET)
        .max(SOCKETS_MIN.min(connections))
        .max(1)
}

/// The sockets of the simulated clients of one server.
///
/// Their connection ids have the usual 8 bytes; with empty ones a socket could hold one connection to a server only.
pub(crate) struct Ports {
    ports: Vec<RefCell<Port>>,
    config: quinn::ClientConfig,
    server: SocketAddr,
    network: Network,
    seed: Seed,
    drops: Drops,
    opened: Cell<u64>,
}

struct Port {
    endpoint: quinn::Endpoint,
    socket: Arc<NetworkSocket>,
}

impl Ports {
    /// Opens the sockets that `connections` to a server of this protocol need.
    pub(crate) fn open(
        server: SocketAddr,
        alpn: &[u8],
        connections: usize,
        network: Network,
        seed: Seed,
    ) -> anyhow::Result<Self> {
        let mut ports = Self {
            ports: Vec::new(),
            config: transport::client_config(alpn)?,
            server,
            network,
            seed,
            drops: Drops::default(),
            opened: Cell::new(0),
        };
        for _ in 0..count(connections) {
            let port = ports.port()?;
            ports.ports.push(RefCell::new(port));
        }
        Ok(ports)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ports.len()
    }

    /// The socket of a device.
    pub(crate) fn of(&self, device: usize) -> usize {
        device % self.ports.len()
    }

    /// Datagrams that the simulated network dropped.
    pub(crate) fn drops(&self) -> u64 {
        self.drops.count()
    }

    /// Connects a device over its socket.
    pub(crate) fn connect(&self, device: usize) -> anyhow::Result<quinn::Connecting> {
        let port = self.ports[self.of(device)].borrow();
        let config = self.config.clone();
        Ok(port
            .endpoint
            .connect_with(config, self.server, SERVER_NAME)?)
    }

    /// Gives a socket a new port. Its connections go on from there.
    pub(crate) fn rebind(&self, number: usize) -> anyhow::Result<()> {
        let socket = self.socket()?;
        let mut port = self.ports[number].borrow_mut();
        port.endpoint
            .rebind_abstract(socket.clone())
            .context("rebind a socket")?;
        port.socket = socket;
        Ok(())
    }

    /// Cuts a socket off without a word; the devices on it connect over a new one.
    pub(crate) fn vanish(&self, number: usize) -> anyhow::Result<()> {
        let fresh = self.port()?;
        let old = self.ports[number].replace(fresh);
        old.socket.go_dark();
        Ok(())
    }

    /// Tells the server that every connection is over, and waits for a moment.
    pub(crate) async fn close(&self) {
        let endpoints: Vec<_> = self
            .ports
            .iter()
            .map(|port| port.borrow().endpoint.clone())
            .collect();
        for endpoint in &endpoints {
            endpoint.close(0_u32.into(), b"run over");
        }
        let idle = async {
            for endpoint in &endpoints {
                endpoint.wait_idle().await;
            }
        };
        // Closing packets are not worth more than a moment: the run has its time.
        let _ = tokio::time::timeout(Duration::from_secs(1), idle).await;
    }

    fn port(&self) -> anyhow::Result<Port> {
        let socket = self.socket()?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            quinn::EndpointConfig::default(),
            None,
            socket.clone(),
            Arc::new(quinn::TokioRuntime),
        )?;
        Ok(Port { endpoint, socket })
    }

    fn socket(&self) -> anyhow::Result<Arc<NetworkSocket>> {
        let number = self.opened.get();
        self.opened.set(number + 1);
        let socket = transport::socket(transport::any_address(self.server))?;
        Ok(NetworkSocket::wrap(
            socket,
            self.network,
            self.seed,
            number,
            &self.drops,
        )?)
    }
}
