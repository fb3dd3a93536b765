//! The transport's ceiling: a bare quinn echo server in a process of its own, and the clients that measure it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use crate::measure::{Board, Histogram};
use crate::percentiles::Percentiles;
use crate::plan::{self, Meter, Plan, Ramp, Throughput};
use crate::ports::Ports;
use crate::process::Server;
use crate::scenario::Network;
use crate::seed::Seed;
use crate::transport::{self, ALPN_ECHO};

/// What the echo server prints in front of its address.
const LISTENING: &str = "listening ";
/// How long the echo server may take to start.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// The figures of bare quinn.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ceiling {
    pub(crate) ramp: Ramp,
    pub(crate) echo: Throughput,
}

/// Serves echoes on a free port until standard input ends, that is until the generator is gone.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let endpoint = quinn::Endpoint::new(
        quinn::EndpointConfig::default(),
        Some(transport::echo_server_config()?),
        transport::socket(any)?,
        Arc::new(quinn::TokioRuntime),
    )?;
    println!("{LISTENING}{}", endpoint.local_addr()?);
    let (gone, mut parent_gone) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(gone);
    });
    loop {
        tokio::select! {
            _ = &mut parent_gone => return Ok(()),
            incoming = endpoint.accept() => match incoming {
                // A handshake or a stream that fails is the client's to report.
                Some(incoming) => drop(tokio::spawn(async { echo(incoming).await.ok() })),
                None => return Ok(()),
            },
        }
    }
}

/// Returns everything that comes on the connection's first stream.
async fn echo(incoming: quinn::Incoming) -> anyhow::Result<()> {
    let connection = incoming.await?;
    let (mut send, mut recv) = connection.accept_bi().await?;
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
        send.write_chunk(chunk.bytes).await?;
    }
    Ok(())
}

/// A connected client: its one stream has carried one message there and back.
struct Client {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    // Dropping it would close the connection.
    _connection: quinn::Connection,
}

/// What the busy clients share.
struct Tally {
    counting: Cell<bool>,
    stop: Cell<bool>,
    echoes: Cell<u64>,
    latency: RefCell<Histogram>,
}

/// Starts an echo server, measures it, and ends it. Must run in a `LocalSet`.
pub(crate) async fn measure(plan: &Plan, board: &Board) -> anyhow::Result<Ceiling> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("echo-server");
    let (server, address) = Server::start(command, START_PATIENCE, board, |line| {
        line.strip_prefix(LISTENING)?.parse::<SocketAddr>().ok()
    })?;
    let ports = Ports::open(
        address,
        ALPN_ECHO,
        plan.connections,
        Network::default(),
        Seed(0),
    )?;
    let ports = Rc::new(ports);
    let message = Bytes::from(vec![b'e'; plan.bytes]);
    let clients = Rc::new(RefCell::new(Vec::with_capacity(plan.connections)));
    let ramp = plan::ramp(plan, Some(server.pid()), |from, to| {
        let (ports, message, clients) = (ports.clone(), message.clone(), clients.clone());
        async move {
            let opened: Vec<Client> = stream::iter(from..to)
                .map(|index| connect(&ports, index, &message))
                .buffer_unordered(plan.handshakes)
                .try_collect()
                .await
                .context("connect to the echo server")?;
            clients.borrow_mut().extend(opened);
            Ok(())
        }
    })
    .await?;
    let clients = clients.take();
    let echo = load(plan, server.pid(), clients, &message).await?;
    ports.close().await;
    Ok(Ceiling { ramp, echo })
}

async fn connect(ports: &Ports, index: usize, message: &Bytes) -> anyhow::Result<Client> {
    let connection = ports.connect(index)?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_chunk(message.clone()).await?;
    let mut back = vec![0; message.len()];
    recv.read_exact(&mut back).await?;
    Ok(Client {
        send,
        recv,
        _connection: connection,
    })
}

/// Keeps the plan's streams busy in a closed loop.
async fn load(
    plan: &Plan,
    server: u32,
    mut clients: Vec<Client>,
    message: &Bytes,
) -> anyhow::Result<Throughput> {
    let tally = Rc::new(Tally {
        counting: Cell::new(false),
        stop: Cell::new(false),
        echoes: Cell::new(0),
        latency: RefCell::default(),
    });
    let busy: Vec<_> = clients
        .drain(..plan.busy_streams())
        .map(|client| {
            let (tally, message, outstanding) =
                (tally.clone(), message.clone(), plan.outstanding_each());
            tokio::task::spawn_local(keep_busy(client, message, outstanding, tally))
        })
        .collect();
    tokio::time::sleep(plan.warm_up()).await;
    let meter = Meter::start(Some(server))?;
    tally.counting.set(true);
    tokio::time::sleep(plan.window()).await;
    tally.counting.set(false);
    let reading = meter.stop()?;
    tally.stop.set(true);
    for task in busy {
        task.await.context("a busy stream")??;
    }
    let echoes = tally.echoes.get();
    Ok(Throughput {
        offered_per_second: None,
        per_second: echoes as f64 / reading.elapsed.as_secs_f64(),
        ack: Percentiles::from(&*tally.latency.borrow()),
        delivery: None,
        lag: None,
        server_us_each: reading.server_us_each(echoes),
        server_cores: reading.server_cores(),
        generator_cores: reading.generator_cores(),
    })
}

async fn keep_busy(
    mut client: Client,
    message: Bytes,
    outstanding: usize,
    tally: Rc<Tally>,
) -> anyhow::Result<()> {
    let mut sent = VecDeque::with_capacity(outstanding);
    for _ in 0..outstanding {
        sent.push_back(Instant::now());
        client.send.write_chunk(message.clone()).await?;
    }
    let mut bytes_of_next = 0;
    while !sent.is_empty() {
        let chunk = client.recv.read_chunk(usize::MAX, true).await?;
        bytes_of_next += chunk.context("the echo server ended a stream")?.bytes.len();
        while bytes_of_next >= message.len() {
            bytes_of_next -= message.len();
            let since = sent.pop_front().context("an echo of nothing")?;
            if tally.counting.get() {
                tally.echoes.set(tally.echoes.get() + 1);
                tally.latency.borrow_mut().record(since.elapsed());
            }
            if !tally.stop.get() {
                sent.push_back(Instant::now());
                client.send.write_chunk(message.clone()).await?;
            }
        }
    }
    Ok(())
}
