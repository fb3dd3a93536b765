//! The sockets of the simulated clients: dealt out in turn, given new ports, or made to vanish.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::kernel::{self, Inode};
use crate::network::{NetworkSocket, Tally};
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
    tally: Tally,
    /// Datagrams that the kernel dropped at sockets that are in use no more.
    dropped_before: Cell<u64>,
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
            tally: Tally::default(),
            dropped_before: Cell::new(0),
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

    /// Datagrams that were lost or came so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Datagrams that the kernel dropped so far because one of the sockets was full: we were too slow to take them out.
    pub(crate) fn dropped_by_kernel(&self) -> u64 {
        let ports = self.ports.iter();
        let in_use: BTreeSet<Inode> = ports
            .filter_map(|port| port.borrow().socket.inode())
            .collect();
        self.dropped_before.get() + kernel::drops_at(&in_use)
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
        self.retire(number);
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
        self.retire(number);
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

    /// Keeps in mind what was dropped at a socket that goes: the kernel forgets it with the socket.
    fn retire(&self, number: usize) {
        let inode = self.ports[number].borrow().socket.inode();
        let dropped = kernel::drops_at(&inode.into_iter().collect());
        self.dropped_before.set(self.dropped_before.get() + dropped);
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
            &self.tally,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sent to each socket of the test: more than the largest buffer holds, since a datagram takes 512 bytes of it at the least.
    const FLOOD: usize = 20_000;

    #[tokio::test]
    async fn what_was_dropped_at_a_socket_stays_counted_when_it_goes() {
        let server: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let network = Network::default();
        let ports = Ports::open(server, transport::ALPN_ECHO, 2, network, Seed(1)).unwrap();
        assert_eq!(ports.dropped_by_kernel(), 0);
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // Nobody reads meanwhile: the tasks that do are on this thread.
        let mut seen = 0;
        for number in 0..2 {
            let address = ports.ports[number].borrow().endpoint.local_addr().unwrap();
            for _ in 0..FLOOD {
                sender.send_to(&[0; 64], address).unwrap();
            }
            let dropped = ports.dropped_by_kernel();
            assert!(dropped > seen, "{dropped} after {seen}");
            seen = dropped;
        }
        ports.rebind(0).unwrap();
        ports.vanish(1).unwrap();
        assert_eq!(ports.dropped_by_kernel(), seen);
    }
}
