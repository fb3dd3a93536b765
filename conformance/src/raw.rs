//! Raw frames over QUIC: connects, writes whatever bytes a case wants, and reads frames and close codes back.
//!
//! Frames are made and taken apart here and not by `quipu_protocol::frame`: a fault of the codec must not excuse itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, ReadError, VarInt};
use quipu_protocol::error::{CloseCode, StreamCode};
use quipu_protocol::frame::FrameType;
use quipu_protocol::limits::DATAGRAM_BYTES_MAX;

use crate::trust::{Trust, tls_config};

/// The protocol under test.
pub const ALPN: &[u8] = b"quipu/1";
/// How long an answer may take. Generous: the gateway under test may be a debug build on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of datagrams that wait until a case reads them.
const DATAGRAMS_BYTES: usize = 1 << 20;

/// Makes connections to one gateway, all from one socket.
#[derive(Debug, Clone)]
pub struct Dialer {
    endpoint: quinn::Endpoint,
    server: SocketAddr,
    trust: Trust,
}

impl Dialer {
    /// Opens a socket. Must run inside a tokio runtime.
    pub fn new(server: SocketAddr, trust: Trust) -> anyhow::Result<Self> {
        let local: SocketAddr = match server.ip().is_loopback() {
            true => (Ipv4Addr::LOCALHOST, 0).into(),
            false => (Ipv4Addr::UNSPECIFIED, 0).into(),
        };
        Ok(Self {
            endpoint: quinn::Endpoint::client(local)?,
            server,
            trust,
        })
    }

    /// The same gateway from a socket of its own.
    pub fn another(&self) -> anyhow::Result<Self> {
        Self::new(self.server, self.trust.clone())
    }

    /// Moves all connections to a new local port, as a home router does that forgets its table.
    pub fn change_port(&self) -> anyhow::Result<()> {
        let mut local = self.endpoint.local_addr()?;
        local.set_port(0);
        Ok(self.endpoint.rebind(std::net::UdpSocket::bind(local)?)?)
    }

    /// Connects with the protocol's ALPN.
    pub async fn connect(&self) -> anyhow::Result<Peer> {
        self.connect_as(ALPN)
            .await?
            .context("the handshake with ALPN quipu/1 failed")
    }

    /// Connects as somebody whose QUIC takes no datagrams: one that comes all the same ends the connection.
    pub async fn connect_without_datagrams(&self) -> anyhow::Result<Peer> {
        let connected = self.connect_with(ALPN, None).await?;
        connected.context("the handshake without datagrams failed")
    }

    /// Connects with any ALPN; the inner result is the handshake's.
    pub async fn connect_as(&self, alpn: &[u8]) -> anyhow::Result<Result<Peer, ConnectionError>> {
        self.connect_with(alpn, Some(DATAGRAMS_BYTES)).await
    }

    /// `datagrams`: bytes of them that may wait to be read; `None`: none is taken.
    async fn connect_with(
        &self,
        alpn: &[u8],
        datagrams: Option<usize>,
    ) -> anyhow::Result<Result<Peer, ConnectionError>> {
        let tls = tls_config(&self.trust, alpn)?;
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let mut transport = quinn::TransportConfig::default();
        transport.max_idle_timeout(Some(PATIENCE.try_into()?));
        transport.keep_alive_interval(Some(PATIENCE / 4));
        transport.datagram_receive_buffer_size(datagrams);
        config.transport_config(Arc::new(transport));
        let connecting = self
            .endpoint
            .connect_with(config, self.server, "localhost")?;
        Ok(within("the handshake", connecting)
            .await?
            .map(|connection| Peer { connection }))
    }
}

/// One connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// For what this type does not offer.
    pub connection: quinn::Connection,
}

impl Peer {
    /// Opens a bidirectional stream: the first one is S0, later ones are request streams.
    pub async fn open(&self) -> anyhow::Result<Stream> {
        let (send, recv) = within("credit for a stream", self.connection.open_bi()).await??;
        Ok(Stream {
            send: Some(send),
            recv,
            buffer: BytesMut::new(),
        })
    }

    /// The next unidirectional stream that the gateway opens.
    pub async fn accept_lane(&self) -> anyhow::Result<Stream> {
        let recv = within("a lane", self.connection.accept_uni()).await??;
        Ok(Stream {
            send: None,
            recv,
            buffer: BytesMut::new(),
        })
    }

    /// Waits until the gateway closes the connection, with one of `codes`.
    pub async fn expect_close(&self, codes: &[CloseCode]) -> anyhow::Result<CloseCode> {
        let wanted = || {
            let names: Vec<_> = codes.iter().map(|code| code.name()).collect();
            names.join(" or ")
        };
        let closed = tokio::time::timeout(PATIENCE, self.connection.closed())
            .await
            .map_err(|_| anyhow!("the connection lives on; expected close {}", wanted()))?;
        let ConnectionError::ApplicationClosed(close) = &closed else {
            bail!("expected close {}, but: {closed}", wanted());
        };
        let reason = String::from_utf8_lossy(&close.reason);
        codes
            .iter()
            .copied()
            .find(|code| u64::from(code.code()) == close.error_code.into_inner())
            .ok_or_else(|| {
                anyhow!(
                    "expected close {}, got {} ({}: {reason})",
                    wanted(),
                    CloseCode::from_code(close.error_code.into_inner()),
                    close.error_code
                )
            })
    }

    /// Sends any bytes as a datagram.
    pub fn datagram(&self, bytes: Vec<u8>) -> anyhow::Result<()> {
        Ok(self.connection.send_datagram(bytes.into())?)
    }

    /// The next datagram within `time`, which must be one whole frame; `None`: none came.
    pub async fn next_datagram(&self, time: Duration) -> anyhow::Result<Option<RawFrame>> {
        let Ok(datagram) = tokio::time::timeout(time, self.connection.read_datagram()).await else {
            return Ok(None);
        };
        let mut buffer = BytesMut::from(&datagram?[..]);
        ensure!(
            buffer.len() <= DATAGRAM_BYTES_MAX,
            "a datagram of {} bytes",
            buffer.len()
        );
        let frame = take_frame(&mut buffer)?.context("a datagram without a whole frame")?;
        ensure!(buffer.is_empty(), "a datagram with more than a frame");
        Ok(Some(frame))
    }

    /// Fails when the gateway has closed the connection.
    pub fn expect_open(&self) -> anyhow::Result<()> {
        match self.connection.close_reason() {
            None => Ok(()),
            Some(reason) => bail!("the connection should live on, but: {reason}"),
        }
    }
}

/// A frame as it came.
#[derive(Debug, Clone)]
pub struct RawFrame {
    /// Its type.
    pub kind: u64,
    /// Its protobuf body.
    pub body: Bytes,
}

/// One stream, or the receiving half of one.
#[derive(Debug)]
pub struct Stream {
    send: Option<quinn::SendStream>,
    recv: quinn::RecvStream,
    buffer: BytesMut,
}

impl Stream {
    /// Writes any bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let send = self.send.as_mut().context("a lane cannot be written")?;
        within("credit to write", send.write_all(bytes)).await??;
        Ok(())
    }

    /// Writes one frame.
    pub async fn send(&mut self, kind: FrameType, body: &impl Message) -> anyhow::Result<()> {
        self.write(&frame(kind as u64, &body.encode_to_vec())).await
    }

    /// Ends the sending half.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self
            .send
            .as_mut()
            .context("a lane cannot be finished")?
            .finish()?)
    }

    /// Resets the sending half.
    pub fn reset(&mut self, code: StreamCode) -> anyhow::Result<()> {
        let code = VarInt::from_u32(code.code());
        Ok(self
            .send
            .as_mut()
            .context("a lane cannot be reset")?
            .reset(code)?)
    }

    /// The next frame; `None` when the gateway has finished the stream between two frames.
    pub async fn next(&mut self) -> anyhow::Result<Option<RawFrame>> {
        within("a frame", self.read_frame()).await?
    }

    async fn read_frame(&mut self) -> anyhow::Result<Option<RawFrame>> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            match self.recv.read_chunk(usize::MAX, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => bail!("the gateway finished a stream inside a frame"),
            }
        }
    }

    /// The next frame, which must be of this type.
    pub async fn expect<M: Message + Default>(&mut self, kind: FrameType) -> anyhow::Result<M> {
        let frame = self
            .next()
            .await?
            .with_context(|| format!("expected {kind:?}, but the stream ended"))?;
        ensure!(
            frame.kind == kind as u64,
            "expected {kind:?}, got a frame of type {:#x}",
            frame.kind
        );
        Ok(M::decode(frame.body)?)
    }

    /// Everything up to the end of the stream, as it is: what follows the frame that was read last.
    pub async fn rest(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut rest = self.buffer.split().to_vec();
        while let Some(chunk) = within("bytes", self.recv.read_chunk(usize::MAX, true)).await?? {
            rest.extend_from_slice(&chunk.bytes);
        }
        Ok(rest)
    }

    /// Waits until the gateway resets this stream, or refuses to read on, with one of `codes`.
    pub async fn expect_reset(&mut self, codes: &[StreamCode]) -> anyhow::Result<StreamCode> {
        let wait = async {
            loop {
                match self.recv.read_chunk(usize::MAX, true).await {
                    Ok(Some(_)) => {}
                    Ok(None) => bail!("the stream ended without a reset"),
                    Err(ReadError::Reset(code)) => return Ok(code),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let code = within("a reset of the stream", wait).await??;
        codes
            .iter()
            .copied()
            .find(|wanted| u64::from(wanted.code()) == code.into_inner())
            .ok_or_else(|| anyhow!("expected a reset with one of {codes:?}, got {code}"))
    }
}

/// One frame: varint length of the body, varint type, body.
pub fn frame(kind: u64, body: &[u8]) -> Vec<u8> {
    let mut out = header(body.len() as u64, kind);
    out.put_slice(body);
    out
}

/// A frame header, whatever it announces.
pub fn header(length: u64, kind: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_varint(&mut out, length);
    put_varint(&mut out, kind);
    out
}

/// QUIC's variable-length integer (RFC 9000 section 16), in its shortest form.
pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

fn peek_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let size = 1 << (bytes.first()? >> 6);
    let mut encoded = bytes.get(..size)?;
    let value = encoded.get_uint(size);
    // The two bits on top are the size.
    Some((value & (u64::MAX >> (66 - 8 * size)), size))
}

fn take_frame(buffer: &mut BytesMut) -> anyhow::Result<Option<RawFrame>> {
    let Some((length, length_size)) = peek_varint(buffer) else {
        return Ok(None);
    };
    let Some((kind, kind_size)) = peek_varint(&buffer[length_size..]) else {
        return Ok(None);
    };
    let length = usize::try_from(length)?;
    if buffer.len() - length_size - kind_size < length {
        return Ok(None);
    }
    buffer.advance(length_size + kind_size);
    let body = buffer.split_to(length).freeze();
    Ok(Some(RawFrame { kind, body }))
}

/// Waits for `future`, but not longer than [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, future)
        .await
        .map_err(|_| anyhow!("waited {} s for {what}", PATIENCE.as_secs()))
}
