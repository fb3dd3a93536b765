//! A gateway proxy that ends QUIC on both sides, speaks the protocol towards device and gateway, and breaks promises by plan.

#![allow(dead_code, reason = "each test program uses a part of it")]

#[path = "../../src/any_certificate.rs"]
mod any_certificate;
mod saboteur;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quipu_protocol::frame::{self, FrameDecoder, FrameType, RawFrame, StreamKind};
use quipu_protocol::limits::STREAM_WINDOW_BYTES;
use quipu_protocol::{varint, wire};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::sync::{Mutex, mpsc, oneshot};

use any_certificate::AnyCertificate;
pub(crate) use saboteur::Sabotage;
use saboteur::{Saboteur, Show};

const ALPN: &[u8] = b"quipu/1";
/// Events on their way to one device; a device that reads none for so long makes its gateway wait.
const LANE_EVENTS_MAX: usize = 1_024;
/// How long [`Sabotage::Late`] keeps what a returned device has missed from it: longer than the scenario allows.
const LATE: Duration = Duration::from_millis(1_500);
/// How long [`Sabotage::Trickle`] makes each event of a device wait behind the one before it.
const TRICKLE: Duration = Duration::from_millis(300);

/// A running proxy, on a thread of its own.
pub(crate) struct Proxy {
    /// Where devices connect.
    pub(crate) address: SocketAddr,
    events: Arc<AtomicU64>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<u64>,
}

impl Proxy {
    /// Starts one in front of `gateway`.
    pub(crate) fn start(gateway: SocketAddr, sabotage: Sabotage) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (started, address) = std::sync::mpsc::sync_channel(1);
        let events = Arc::new(AtomicU64::new(0));
        let counted = events.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
                let devices = quinn::Endpoint::server(server_config().unwrap(), any).unwrap();
                started.send(devices.local_addr().unwrap()).unwrap();
                let shared = Rc::new(Shared {
                    gateway,
                    client: client_endpoint().unwrap(),
                    saboteur: RefCell::new(Saboteur::new(sabotage)),
                    inboxes: RefCell::default(),
                    events: counted,
                });
                tokio::select! {
                    () = accept(&devices, &shared) => {}
                    _ = stopped => {}
                }
                shared.saboteur.borrow().struck()
            })
        });
        Self {
            address: address.recv().unwrap(),
            events,
            stop,
            thread,
        }
    }

    /// Events that it has passed on so far.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Ends it and says how often it struck.
    pub(crate) fn stop(self) -> u64 {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// What all connections share.
struct Shared {
    gateway: SocketAddr,
    client: quinn::Endpoint,
    saboteur: RefCell<Saboteur>,
    inboxes: RefCell<BTreeMap<String, Inbox>>,
    events: Arc<AtomicU64>,
}

/// A user's inbox as its device sees it: its numbers have no gaps, whatever was left out or slipped in.
struct Inbox {
    /// The device's cursor below its first event.
    base: u64,
    /// For each event shown, the gateway's highest number so far.
    shown: Vec<u64>,
    /// Where the next events go; the device's connection takes them.
    lane: mpsc::Sender<Show>,
}

impl Inbox {
    /// The gateway's cursor for one of the device's.
    fn upstream(&self, cursor: u64) -> u64 {
        match cursor.checked_sub(self.base + 1) {
            Some(at) => self.shown[at as usize],
            None => self.base,
        }
    }

    /// Numbers the next event.
    fn number(&mut self, event: &mut wire::Event, is_of_gateway: bool) {
        let before = self.shown.last().copied().unwrap_or(self.base);
        let above = if is_of_gateway { event.inbox_seq } else { 0 };
        self.shown.push(before.max(above));
        event.inbox_seq = self.base + self.shown.len() as u64;
    }
}

async fn accept(devices: &quinn::Endpoint, shared: &Rc<Shared>) {
    while let Some(incoming) = devices.accept().await {
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            // A connection that ends is the generator's to notice, and to complain of.
            let _ = serve(&shared, incoming).await;
        });
    }
}

/// Carries one connection, until either side ends it; then ends the other.
async fn serve(shared: &Rc<Shared>, incoming: quinn::Incoming) -> anyhow::Result<()> {
    let device = incoming.await?;
    let gateway = shared.client.connect(shared.gateway, "localhost")?.await?;
    let carried = tokio::select! {
        carried = carry(shared, &device, &gateway) => carried,
        _ = device.closed() => Ok(()),
        _ = gateway.closed() => Ok(()),
    };
    match gateway.close_reason() {
        Some(quinn::ConnectionError::ApplicationClosed(close)) => {
            device.close(close.error_code, &close.reason);
        }
        Some(_) | None => device.close(0_u32.into(), b"the proxy's gateway is gone"),
    }
    gateway.close(0_u32.into(), b"the proxy's device is gone");
    carried
}

async fn carry(
    shared: &Rc<Shared>,
    device: &quinn::Connection,
    gateway: &quinn::Connection,
) -> anyhow::Result<()> {
    let (to_device, from_device) = device.accept_bi().await?;
    let (mut to_gateway, from_gateway) = gateway.open_bi().await?;
    let mut from_device = Frames::new(from_device, StreamKind::S0FromClient);
    let mut from_gateway = Frames::new(from_gateway, StreamKind::S0FromGateway);
    let mut to_device = to_device;

    let mut hello: wire::Hello = from_device.expect(FrameType::Hello).await?.message()?;
    let Some(wire::hello::Auth::Session(auth)) = &hello.auth else {
        bail!("the generator's devices have tokens");
    };
    let user = auth.name.clone();
    let said = hello.resume.map(|resume| resume.cursor);
    if let (Some(resume), Some(inbox)) = (&mut hello.resume, shared.inboxes.borrow().get(&user)) {
        resume.cursor = inbox.upstream(resume.cursor);
    }
    write(&mut to_gateway, FrameType::Hello, &hello).await?;

    let mut welcome: wire::Welcome = from_gateway.expect(FrameType::Welcome).await?.message()?;
    let resumed = welcome.resume == wire::ResumeResult::Resumed as i32;
    let cursor = said.filter(|_| resumed).unwrap_or(welcome.cursor);
    let shows = shared.attach(&user, resumed, cursor);
    welcome.cursor = cursor;
    write(&mut to_device, FrameType::Welcome, &welcome).await?;

    let to_device = Mutex::new(to_device);
    let mut lane_in = Frames::new(gateway.accept_uni().await?, StreamKind::Lane);
    let mut lane_out = device.open_uni().await?;
    let lane: wire::Lane = lane_in.expect(FrameType::Lane).await?.message()?;
    write(&mut lane_out, FrameType::Lane, &lane).await?;
    tokio::try_join!(
        shared.commands(&user, from_device, to_gateway, &to_device),
        replies(from_gateway, &to_device),
        shared.events(&user, said.is_some(), lane_in),
        shared.show(&user, shows, lane_out),
        requests(shared, device, gateway),
    )?;
    Ok(())
}

/// Carries the device's further streams: what is asked on them, and files.
async fn requests(
    shared: &Rc<Shared>,
    device: &quinn::Connection,
    gateway: &quinn::Connection,
) -> anyhow::Result<()> {
    loop {
        let (to_device, from_device) = device.accept_bi().await?;
        let (to_gateway, from_gateway) = gateway.open_bi().await?;
        tokio::task::spawn_local(copy(from_device, to_gateway, None));
        tokio::task::spawn_local(copy(from_gateway, to_device, Some(shared.clone())));
    }
}

/// Copies a stream. One of the gateway may bring a file.
async fn copy(
    mut from: quinn::RecvStream,
    mut to: quinn::SendStream,
    shared: Option<Rc<Shared>>,
) -> anyhow::Result<()> {
    let (mut head, mut shared) = (BytesMut::new(), shared);
    while let Some(chunk) = from.read_chunk(usize::MAX, true).await? {
        let Some(known) = &shared else {
            to.write_chunk(chunk.bytes).await?;
            continue;
        };
        // The first frame and a byte after it are waited for: a file begins there.
        head.extend_from_slice(&chunk.bytes);
        let read = |from: usize| varint::read(head.get(from..).unwrap_or_default());
        let length = read(0);
        let kind = length.and_then(|(_, bytes)| Some((read(bytes)?, bytes)));
        let (Some((length, _)), Some(((kind, more), bytes))) = (length, kind) else {
            continue;
        };
        let first = bytes + more + usize::try_from(length)?;
        let is_file = kind == FrameType::Blob as u64;
        if is_file && head.len() <= first {
            continue;
        }
        if is_file && known.saboteur.borrow_mut().strikes_file() {
            head[first] ^= 1;
        }
        to.write_all(&std::mem::take(&mut head)).await?;
        shared = None;
    }
    to.write_all(&head).await?;
    Ok(to.finish()?)
}

impl Shared {
    /// A device was let in, at this cursor of its own.
    fn attach(&self, user: &str, resumed: bool, cursor: u64) -> mpsc::Receiver<Show> {
        let (lane, shows) = mpsc::channel(LANE_EVENTS_MAX);
        let mut inboxes = self.inboxes.borrow_mut();
        match inboxes.get_mut(user).filter(|_| resumed) {
            Some(inbox) => {
                inbox.lane = lane;
                // What came after it comes again.
                inbox.shown.truncate((cursor - inbox.base) as usize);
            }
            None => {
                let inbox = Inbox {
                    base: cursor,
                    shown: Vec::new(),
                    lane,
                };
                inboxes.insert(user.to_owned(), inbox);
            }
        }
        shows
    }

    /// From the device's S0 to the gateway's.
    async fn commands(
        &self,
        user: &str,
        mut from_device: Frames,
        mut to_gateway: quinn::SendStream,
        to_device: &Mutex<quinn::SendStream>,
    ) -> anyhow::Result<()> {
        loop {
            let frame = from_device.next().await?;
            if frame.kind == FrameType::Ack {
                let device: wire::Ack = frame.message()?;
                let cursor = self.inboxes.borrow()[user].upstream(device.cursor);
                let ack = wire::Ack { cursor };
                write(&mut to_gateway, FrameType::Ack, &ack).await?;
                continue;
            }
            if frame.kind != FrameType::Send {
                write_raw(&mut to_gateway, &frame).await?;
                continue;
            }
            let fate = self.saboteur.borrow_mut().send(&frame.message()?);
            if let Some(reply) = fate.reply {
                write(&mut *to_device.lock().await, FrameType::Reply, &reply).await?;
            }
            if fate.forward {
                write_raw(&mut to_gateway, &frame).await?;
            }
        }
    }

    /// From the gateway's lane to the lanes of whoever is to see the event now.
    async fn events(&self, user: &str, is_back: bool, mut lane: Frames) -> anyhow::Result<()> {
        if is_back && self.saboteur.borrow().is_late() {
            // The delay is the sabotage itself.
            tokio::time::sleep(LATE).await;
        }
        loop {
            let event = lane.expect(FrameType::Event).await?.message()?;
            if self.saboteur.borrow().is_trickle() {
                // The delay is the sabotage itself.
                tokio::time::sleep(TRICKLE).await;
            }
            self.events.fetch_add(1, Ordering::Relaxed);
            let users: Vec<String> = self.inboxes.borrow().keys().cloned().collect();
            let shows = self.saboteur.borrow_mut().event(user, &users, event);
            for show in shows {
                let lane = self.inboxes.borrow()[&show.to].lane.clone();
                // A device that is gone gets it again when it is back.
                let _ = lane.send(show).await;
            }
        }
    }

    /// To the device's lane, numbered as the device expects it.
    async fn show(
        &self,
        user: &str,
        mut shows: mpsc::Receiver<Show>,
        mut lane: quinn::SendStream,
    ) -> anyhow::Result<()> {
        while let Some(mut show) = shows.recv().await {
            if let Some(inbox) = self.inboxes.borrow_mut().get_mut(user) {
                inbox.number(&mut show.event, show.is_of_gateway);
            }
            write(&mut lane, FrameType::Event, &show.event).await?;
        }
        Ok(())
    }
}

/// From the gateway's S0 to the device's.
async fn replies(
    mut from_gateway: Frames,
    to_device: &Mutex<quinn::SendStream>,
) -> anyhow::Result<()> {
    loop {
        let frame = from_gateway.next().await?;
        write_raw(&mut *to_device.lock().await, &frame).await?;
    }
}

/// The frames of a stream.
struct Frames {
    stream: quinn::RecvStream,
    decoder: FrameDecoder,
    input: Bytes,
}

impl Frames {
    fn new(stream: quinn::RecvStream, kind: StreamKind) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(kind),
            input: Bytes::new(),
        }
    }

    async fn next(&mut self) -> anyhow::Result<RawFrame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input)? {
                return Ok(frame);
            }
            let chunk = self.stream.read_chunk(usize::MAX, true).await?;
            self.input = chunk.context("the stream has ended")?.bytes;
        }
    }

    async fn expect(&mut self, kind: FrameType) -> anyhow::Result<RawFrame> {
        let frame = self.next().await?;
        anyhow::ensure!(frame.kind == kind, "{:?} in place of {kind:?}", frame.kind);
        Ok(frame)
    }
}

async fn write(
    stream: &mut quinn::SendStream,
    kind: FrameType,
    body: &impl prost::Message,
) -> anyhow::Result<()> {
    let mut bytes = BytesMut::new();
    frame::encode(kind, body, &mut bytes);
    Ok(stream.write_all(&bytes).await?)
}

async fn write_raw(stream: &mut quinn::SendStream, frame: &RawFrame) -> anyhow::Result<()> {
    let mut bytes = BytesMut::new();
    varint::write(frame.body.len() as u64, &mut bytes);
    varint::write(frame.kind as u64, &mut bytes);
    bytes.extend_from_slice(&frame.body);
    Ok(stream.write_all(&bytes).await?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(quinn::VarInt::from_u32(STREAM_WINDOW_BYTES as u32));
    Arc::new(transport)
}

fn server_config() -> anyhow::Result<quinn::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    Ok(config)
}

fn client_endpoint() -> anyhow::Result<quinn::Endpoint> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let mut endpoint = quinn::Endpoint::client(any)?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}
