//! The socket layer of the simulated clients: passes datagrams through, loses and delays them, or goes dark, without privileges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use crate::kernel::Inode;
use crate::scenario::Network;
use crate::seed::{Purpose, Seed};

/// Datagrams under way on one way of one socket; a network with more of them drops the newest, as a router does.
const UNDER_WAY_MAX: usize = 16_384;
/// What the kernel hands over at once at the most: datagrams that it has joined (GRO).
const JOINED_BYTES_MAX: usize = 64 << 10;

/// What is counted over all sockets of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    lost: AtomicU64,
    received: AtomicU64,
}

impl Tally {
    /// Datagrams that the simulated network dropped so far.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Datagrams that were taken out of the sockets so far, those included that the simulated network dropped then.
    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// The kernel hands over datagrams that it has joined; each counts.
    fn count_received(&self, meta: &[RecvMeta]) {
        let each = |one: &RecvMeta| one.len.div_ceil(one.stride.max(1)).max(1);
        let received = meta.iter().map(each).sum::<usize>() as u64;
        self.0.received.fetch_add(received, Ordering::Relaxed);
    }
}

/// A UDP socket behind a simulated network.
pub(crate) struct NetworkSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    /// By which the kernel's drops at it are found.
    inode: Option<Inode>,
    tally: Tally,
    /// Nothing goes out and nothing comes in any more, and nobody is told.
    dark: AtomicBool,
    /// `None`: a perfect network, which costs nothing.
    lossy: Option<Lossy>,
}

struct Lossy {
    network: Network,
    seed: Seed,
    /// Tells the sockets of a run apart.
    number: u64,
    tally: Tally,
    out: Mutex<Way>,
    back: Mutex<Way>,
    space: Mutex<Box<[u8]>>,
    /// Tells when a full socket takes datagrams again.
    writable: Mutex<Pin<Box<dyn UdpPoller>>>,
    /// Whoever receives: its timer is what sends a datagram on whose delay is over.
    receiver: Mutex<Option<Waker>>,
}

/// Datagrams on one way, by the time at which they arrive.
struct Way {
    decided: u64,
    under_way: BinaryHeap<Reverse<Datagram>>,
    timer: Pin<Box<dyn AsyncTimer>>,
}

#[derive(PartialEq, Eq)]
struct Datagram {
    arrives: Instant,
    /// Order of datagrams that arrive at one time.
    number: u64,
    bytes: Vec<u8>,
    peer: SocketAddr,
    ecn: Option<u8>,
}

impl PartialOrd for Datagram {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Datagram {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.arrives, self.number).cmp(&(other.arrives, other.number))
    }
}

impl NetworkSocket {
    /// Puts the network in front of `socket`. Must be called within a tokio runtime.
    pub(crate) fn wrap(
        socket: std::net::UdpSocket,
        network: Network,
        seed: Seed,
        number: u64,
        tally: &Tally,
    ) -> io::Result<Arc<Self>> {
        let inode = Inode::of(&socket);
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        let lossy = (!network.is_perfect()).then(|| Lossy {
            writable: Mutex::new(inner.clone().create_io_poller()),
            network,
            seed,
            number,
            tally: tally.clone(),
            out: Mutex::new(Way::new()),
            back: Mutex::new(Way::new()),
            space: Mutex::new(vec![0; JOINED_BYTES_MAX].into()),
            receiver: Mutex::new(None),
        });
        Ok(Arc::new(Self {
            inner,
            inode,
            tally: tally.clone(),
            dark: AtomicBool::new(false),
            lossy,
        }))
    }

    /// From now on it is as if the socket's host had vanished.
    pub(crate) fn go_dark(&self) {
        self.dark.store(true, Ordering::Relaxed);
    }

    /// What the kernel calls it.
    pub(crate) fn inode(&self) -> Option<Inode> {
        self.inode
    }

    fn is_dark(&self) -> bool {
        self.dark.load(Ordering::Relaxed)
    }

    /// Sends what has arrived at the end of the way out. False: the socket is full, and some of it waits.
    fn send_arrived(&self, lossy: &Lossy) -> bool {
        let mut out = lock(&lossy.out);
        let now = Instant::now();
        while let Some(datagram) = out.take_arrived(now) {
            if self.is_dark() {
                continue;
            }
            let sent = self.inner.try_send(&Transmit {
                destination: datagram.peer,
                ecn: datagram.ecn.and_then(EcnCodepoint::from_bits),
                contents: &datagram.bytes,
                segment_size: None,
                src_ip: None,
            });
            // Any other error is one more place that loses datagrams; QUIC sends again.
            if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                out.under_way.push(Reverse(datagram));
                return false;
            }
        }
        true
    }

    /// Takes everything that the socket has into the way back. `Ready` only for an error.
    fn receive(&self, lossy: &Lossy, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut space = lock(&lossy.space);
        loop {
            let mut meta = [RecvMeta::default()];
            match self
                .inner
                .poll_recv(cx, &mut [IoSliceMut::new(&mut space)], &mut meta)
            {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Ready(Ok(_)) => {}
            }
            self.tally.count_received(&meta);
            let [meta] = meta;
            let mut back = lock(&lossy.back);
            for one in space[..meta.len].chunks(meta.stride.max(1)) {
                lossy.enter(&mut back, 1, one, meta.addr, meta.ecn);
            }
        }
    }
}

impl Lossy {
    /// Decides about a datagram: lost, or under way. `direction` tells the two ways apart.
    fn enter(
        &self,
        way: &mut Way,
        direction: u64,
        bytes: &[u8],
        peer: SocketAddr,
        ecn: Option<EcnCodepoint>,
    ) {
        let group = self.number << 1 | direction;
        let number = way.decided;
        way.decided += 1;
        let lost = self.seed.unit(Purpose::Network, group, number << 1) < self.network.loss;
        if lost || way.under_way.len() >= UNDER_WAY_MAX {
            self.tally.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let late = self.seed.unit(Purpose::Network, group, number << 1 | 1);
        way.under_way.push(Reverse(Datagram {
            arrives: Instant::now() + self.network.delay + self.network.jitter.mul_f64(late),
            number,
            bytes: bytes.to_vec(),
            peer,
            ecn: ecn.map(|ecn| ecn as u8),
        }));
    }
}

impl Way {
    fn new() -> Self {
        Self {
            decided: 0,
            under_way: BinaryHeap::new(),
            timer: TokioRuntime.new_timer(Instant::now()),
        }
    }

    fn take_arrived(&mut self, now: Instant) -> Option<Datagram> {
        let next = self.under_way.peek()?;
        if next.0.arrives > now {
            return None;
        }
        self.under_way.pop().map(|next| next.0)
    }

    /// Has `cx` woken when the next datagram arrives. True: that is now.
    fn wait(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(next) = self.under_way.peek() else {
            return false;
        };
        self.timer.as_mut().reset(next.0.arrives);
        self.timer.as_mut().poll(cx).is_ready()
    }
}

impl AsyncUdpSocket for NetworkSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.is_dark() {
            return Ok(());
        }
        let Some(lossy) = &self.lossy else {
            return self.inner.try_send(transmit);
        };
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        let mut out = lock(&lossy.out);
        for one in transmit.contents.chunks(size.max(1)) {
            lossy.enter(&mut out, 0, one, transmit.destination, transmit.ecn);
        }
        drop(out);
        self.send_arrived(lossy);
        if !lock(&lossy.out).under_way.is_empty()
            && let Some(receiver) = &*lock(&lossy.receiver)
        {
            receiver.wake_by_ref();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Some(lossy) = &self.lossy else {
            return self.pass_up(cx, bufs, meta);
        };
        *lock(&lossy.receiver) = Some(cx.waker().clone());
        if let Poll::Ready(error) = self.receive(lossy, cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            let out_is_due = match self.send_arrived(lossy) {
                true => lock(&lossy.out).wait(cx),
                false => lock(&lossy.writable).as_mut().poll_writable(cx)?.is_ready(),
            };
            let mut back = lock(&lossy.back);
            let now = Instant::now();
            let mut count = 0;
            while count < bufs.len().min(meta.len()) {
                let Some(datagram) = back.take_arrived(now) else {
                    break;
                };
                if self.is_dark() {
                    continue;
                }
                meta[count] = datagram.fill(&mut bufs[count]);
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            if !back.wait(cx) && !out_is_due {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl NetworkSocket {
    /// Receives without a simulated network.
    fn pass_up(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let received = self.inner.poll_recv(cx, bufs, meta);
            if let Poll::Ready(Ok(count)) = &received {
                self.tally.count_received(&meta[..*count]);
            }
            if !self.is_dark() || !matches!(received, Poll::Ready(Ok(_))) {
                return received;
            }
        }
    }
}

impl Datagram {
    fn fill(&self, buffer: &mut [u8]) -> RecvMeta {
        let len = self.bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.bytes[..len]);
        RecvMeta {
            addr: self.peer,
            len,
            stride: len,
            ecn: self.ecn.and_then(EcnCodepoint::from_bits),
            dst_ip: None,
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for NetworkSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkSocket")
            .field("dark", &self.is_dark())
            .field("lossy", &self.lossy.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    /// Sends `count` datagrams (no more than a socket's usual buffer holds) through a network to a plain socket; says how many came, in which order, and how late the first.
    async fn send(network: Network, count: u32) -> (Vec<u32>, Duration, u64) {
        let tally = Tally::default();
        let bind = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let plain = bind();
        plain.set_nonblocking(true).unwrap();
        let plain = tokio::net::UdpSocket::from_std(plain).unwrap();
        let socket = NetworkSocket::wrap(bind(), network, Seed(1), 0, &tally).unwrap();
        let receiving = Arc::clone(&socket);
        let task = tokio::spawn(async move {
            let mut bytes = [0; 2_048];
            let mut metas = [RecvMeta::default()];
            poll_fn(|cx| receiving.poll_recv(cx, &mut [IoSliceMut::new(&mut bytes)], &mut metas))
                .await
                .unwrap();
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        for number in 0..count {
            let transmit = Transmit {
                destination: plain.local_addr().unwrap(),
                ecn: None,
                contents: &number.to_be_bytes(),
                segment_size: None,
                src_ip: None,
            };
            socket.try_send(&transmit).unwrap();
        }
        let mut came = Vec::new();
        let mut first = Duration::ZERO;
        while came.len() as u64 + tally.lost() < u64::from(count) {
            let mut bytes = [0; 4];
            plain.recv(&mut bytes).await.unwrap();
            if came.is_empty() {
                first = start.elapsed();
            }
            came.push(u32::from_be_bytes(bytes));
        }
        task.abort();
        (came, first, tally.lost())
    }

    #[tokio::test]
    async fn a_share_vanishes() {
        let network = Network {
            loss: 0.25,
            ..Network::default()
        };
        let (came, _, drops) = send(network, 200).await;
        assert!((25..75).contains(&drops), "{drops}");
        assert!(came.is_sorted());
        let again = send(network, 200).await;
        assert_eq!(again.0, came, "one seed loses the same datagrams");
    }

    #[tokio::test]
    async fn each_way_takes_its_time_and_jitter_overtakes() {
        let network = Network {
            delay: Duration::from_millis(30),
            jitter: Duration::from_millis(20),
            ..Network::default()
        };
        let (came, first, drops) = send(network, 100).await;
        assert!(first >= Duration::from_millis(30), "{first:?}");
        assert_eq!((came.len(), drops), (100, 0));
        assert!(!came.is_sorted());
    }

    #[tokio::test]
    async fn a_dark_socket_swallows() {
        let bind = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tally, plain) = (Tally::default(), bind());
        plain.set_nonblocking(true).unwrap();
        let socket = NetworkSocket::wrap(bind(), Network::default(), Seed(1), 0, &tally).unwrap();
        socket.go_dark();
        let transmit = Transmit {
            destination: plain.local_addr().unwrap(),
            ecn: None,
            contents: b"x",
            segment_size: None,
            src_ip: None,
        };
        socket.try_send(&transmit).unwrap();
        // On the loopback a datagram is there when the call that sent it returns.
        let nothing = plain.recv(&mut [0; 4]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}
