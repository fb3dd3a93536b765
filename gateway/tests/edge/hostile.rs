//! Peers that break rules: each gets its code, and a session beside it notices nothing.

use bytes::Bytes;
use quinn::{ReadError, VarInt, WriteError};
use quipu_protocol::error::{CloseCode, StreamCode};
use quipu_protocol::limits::FRAME_BYTES_MAX;
use rand::{Rng as _, SeedableRng as _};

use crate::peer::{Gateway, Peer, close_code, register, soon};

/// A witness that sends itself a message before and after, to show that others are unharmed.
async fn unharmed(gateway: &Gateway, hostile: impl AsyncFnOnce(&Gateway)) {
    let (mut witness, _other) = (
        gateway.register("witness").await,
        gateway.register("other").await,
    );
    let conversation = witness.open_direct("other").await;
    witness.send(conversation, "before").await;
    assert_eq!(witness.message().await.0, 1);
    hostile(gateway).await;
    witness.send(conversation, "after").await;
    assert_eq!(witness.message().await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_openings_are_closed_with_their_code() {
    let gateway = Gateway::start();
    unharmed(&gateway, async |gateway| {
        let openings: [(&[u8], CloseCode); 4] = [
            // ACK before HELLO.
            (&[2, 0x0b, 8, 1], CloseCode::ProtocolViolation),
            // A critical type that nobody knows.
            (&[0, 0x3f], CloseCode::Unsupported),
            // A body that is no protobuf.
            (&[2, 0x01, 0xff, 0xff], CloseCode::ProtocolViolation),
            // HELLO that says nothing.
            (&[0, 0x01], CloseCode::ProtocolViolation),
        ];
        for (bytes, code) in openings {
            let mut peer = Peer::on(gateway.connect().await).await;
            peer.write(bytes).await;
            assert_eq!(close_code(&peer.connection).await, code, "{bytes:x?}");
        }
        // A frame above the limit is refused by its header.
        let mut peer = Peer::on(gateway.connect().await).await;
        let length = (FRAME_BYTES_MAX as u32 + 1) | 0x8000_0000;
        peer.write(&[&length.to_be_bytes()[..], &[0x01]].concat())
            .await;
        assert_eq!(close_code(&peer.connection).await, CloseCode::FrameTooLarge);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_end_the_connection_and_nothing_else() {
    let gateway = Gateway::start();
    let mut random = rand::rngs::StdRng::seed_from_u64(20_261_122);
    unharmed(&gateway, async |gateway| {
        for _ in 0..20 {
            let mut bytes = vec![0; 4096];
            random.fill_bytes(&mut bytes);
            let mut peer = Peer::on(gateway.connect().await).await;
            peer.write(&bytes).await;
            let _ = peer.s0.finish();
            let code = close_code(&peer.connection).await;
            assert_ne!(code, CloseCode::Internal, "{bytes:x?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hello_an_ack_ahead_and_a_finished_s0_end_a_session() {
    let gateway = Gateway::start();
    let mut twice = gateway.register("alice").await;
    twice.say_hello(register("alice"), None).await;
    assert_eq!(
        close_code(&twice.connection).await,
        CloseCode::ProtocolViolation
    );

    let mut ahead = gateway.register("bob").await;
    ahead.ack(1).await;
    assert_eq!(
        close_code(&ahead.connection).await,
        CloseCode::ProtocolViolation
    );
    assert_eq!(gateway.metrics.acks_ahead.get(), 1);

    let mut finished = gateway.register("carol").await;
    finished.s0.finish().expect("open");
    assert_eq!(
        close_code(&finished.connection).await,
        CloseCode::CriticalStreamClosed
    );

    let mut deaf = gateway.register("dave").await;
    let lane = deaf.lane.as_mut().expect("welcomed");
    lane.receive.stop(VarInt::from_u32(0)).expect("open");
    let conversation = deaf.open_direct("alice").await;
    deaf.send(conversation, "hello").await;
    assert_eq!(
        close_code(&deaf.connection).await,
        CloseCode::CriticalStreamClosed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_closed_after_the_time_for_hello() {
    let gateway = Gateway::start();
    let (without_stream, with_stream) = (gateway.connect().await, gateway.connect().await);
    let mut peer = Peer::on(with_stream).await;
    // The first byte of a header opens the stream; nothing follows.
    peer.write(&[0]).await;
    assert_eq!(close_code(&without_stream).await, CloseCode::HelloTimeout);
    assert_eq!(close_code(&peer.connection).await, CloseCode::HelloTimeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_does_not_connect() {
    let gateway = Gateway::start();
    assert!(gateway.try_connect(b"h3").await.is_err());
    assert_eq!(gateway.metrics.handshakes_completed.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_a_purpose_are_refused_and_datagrams_are_counted() {
    let gateway = Gateway::start();
    let mut early = Peer::on(gateway.connect().await).await;
    early.write(&[0]).await;
    let (mut send, mut receive) = early.connection.open_bi().await.expect("a stream");
    send.write_all(&[0]).await.expect("written");
    match soon(receive.read_chunk(1, true)).await {
        Err(ReadError::Reset(code)) => {
            assert_eq!(code, VarInt::from_u32(StreamCode::NotWelcomed.code()))
        }
        other => panic!("{other:?}"),
    }

    let mut alice = gateway.register("alice").await;
    let mut stray = alice.connection.open_uni().await.expect("a stream");
    stray.write_all(b"?").await.expect("written");
    let stopped = soon(stray.stopped()).await.expect("the connection stands");
    assert_eq!(
        stopped,
        Some(VarInt::from_u32(StreamCode::UnknownStream.code()))
    );

    let (mut send, mut receive) = alice.connection.open_bi().await.expect("a stream");
    match send.write_all(&[0, 0x3f]).await {
        Ok(()) | Err(WriteError::Stopped(_)) => {}
        Err(error) => panic!("{error}"),
    }
    match soon(receive.read_chunk(1, true)).await {
        Err(ReadError::Reset(code)) => {
            assert_eq!(code, VarInt::from_u32(StreamCode::UnknownStream.code()))
        }
        other => panic!("{other:?}"),
    }

    alice
        .connection
        .send_datagram(Bytes::from_static(b"?"))
        .expect("sent");
    gateway.register("bob").await;
    alice.open_direct("bob").await;
    soon(async {
        while gateway.metrics.datagrams_ignored.get() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_are_ignored_until_one_leaves() {
    let gateway = Gateway::start_with(|config| config.edge.max_connections = 1);
    let alice = gateway.register("alice").await;
    let waiting = gateway.connect();
    let leaving = async {
        while gateway.metrics.incoming_ignored_connections.get() == 0 {
            tokio::task::yield_now().await;
        }
        alice.connection.close(VarInt::from_u32(0), b"");
    };
    let (_second, ()) = soon(async { tokio::join!(waiting, leaving) }).await;
}
