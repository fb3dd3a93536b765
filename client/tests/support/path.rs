//! A stretch of network that a test can cut: forwards datagrams between one client and one gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Forwards until it is dropped.
pub(crate) struct Path {
    /// Where the client connects to.
    pub(crate) address: SocketAddr,
    cut: Arc<AtomicBool>,
    forwarding: JoinHandle<()>,
}

impl Path {
    pub(crate) async fn to(gateway: SocketAddr) -> Self {
        let front = UdpSocket::bind(super::any()).await.expect("a socket");
        let back = UdpSocket::bind(super::any()).await.expect("a socket");
        let address = front.local_addr().expect("is bound");
        let cut = Arc::new(AtomicBool::new(false));
        let forwarding = tokio::spawn(forward(front, back, gateway, Arc::clone(&cut)));
        Self {
            address,
            cut,
            forwarding,
        }
    }

    /// Drops everything, or nothing.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

async fn forward(front: UdpSocket, back: UdpSocket, gateway: SocketAddr, cut: Arc<AtomicBool>) {
    let (mut up, mut down) = ([0; 2048], [0; 2048]);
    let mut client = None;
    loop {
        let (socket, bytes, to) = tokio::select! {
            Ok((read, from)) = front.recv_from(&mut up) => {
                client = Some(from);
                (&back, &up[..read], gateway)
            }
            Ok((read, _)) = back.recv_from(&mut down) => {
                let Some(client) = client else { continue };
                (&front, &down[..read], client)
            }
        };
        if !cut.load(Ordering::SeqCst) {
            // What the network cannot take is lost, as on any network.
            let _ = socket.send_to(bytes, to).await;
        }
    }
}
