//! A gateway in this process, clients for it, and waiting with a limit.
#![allow(dead_code, reason = "every test file uses another part")]

pub(crate) mod path;
pub(crate) mod peer;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use quipu_client::protocol::event::Message;
use quipu_client::protocol::id::Cursor;
use quipu_client::{Client, Config, Tail};
use quipu_gateway::config::{Admin, AdminListen, Limits};
use quipu_gateway::edge::EdgeError;
use quipu_gateway::{Gateway, StartError};

/// How long anything may take before a test fails: far above what it needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const PASSWORD: &str = "correct horse battery";

/// Waits with a limit, so that a test that hangs says what it waited for.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited {LIMIT:?} in vain: {what}"),
    }
}

/// Starts a gateway on a folder; port 0 takes a free one.
pub(crate) async fn gateway(folder: &Path, listen: SocketAddr) -> Gateway {
    gateway_with(folder, listen, Limits::default()).await
}

/// The same with limits of its own.
pub(crate) async fn gateway_with(folder: &Path, listen: SocketAddr, limits: Limits) -> Gateway {
    gateway_of(folder, listen, |config| config.limits = limits).await
}

/// The same with settings of its own.
pub(crate) async fn gateway_of(
    folder: &Path,
    listen: SocketAddr,
    set: impl FnOnce(&mut quipu_gateway::config::Config),
) -> Gateway {
    let mut config = quipu_gateway::config::Config {
        listen,
        data: folder.into(),
        admin: Admin {
            listen: AdminListen::Off,
        },
        ..quipu_gateway::config::Config::default()
    };
    set(&mut config);
    let started = async {
        loop {
            match Gateway::start(&config).await {
                Ok(gateway) => break gateway,
                // A gateway that was just dropped lets go of its socket a moment later.
                Err(StartError::Edge(EdgeError::AddressInUse(_))) => {
                    // A pause between two looks, not a time that the test relies on.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("the gateway does not start: {error}"),
            }
        }
    };
    within("starting the gateway", started).await
}

/// Any free port of the loopback.
pub(crate) fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Settings for tests: quick reconnections, a seed for each name.
pub(crate) fn config(server: SocketAddr, data: Option<&Path>) -> Config {
    Config {
        data: data.map(Path::to_owned),
        server: server.to_string(),
        backoff_base: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        answer_timeout: Duration::from_secs(2),
        initial_rtt: Duration::from_millis(50),
        connect_timeout: Duration::from_secs(20),
        receipt_interval: Duration::from_millis(50),
        backoff_seed: Some(1),
        ..Config::default()
    }
}

/// A client with a fresh account.
pub(crate) async fn register(server: SocketAddr, data: Option<&Path>, name: &str) -> Client {
    let client = Client::open(config(server, data)).await.expect("opens");
    within("registering", client.register(name, PASSWORD))
        .await
        .expect("registers");
    client
}

/// The next `count` messages of a tail.
pub(crate) async fn collect(tail: &mut Tail, count: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let page = within("a message", tail.next())
            .await
            .expect("the client runs");
        messages.extend(page.into_iter().map(|arrival| arrival.message));
    }
    messages
}

/// Everything from the start of a client's cache.
pub(crate) fn tail(client: &Client) -> Tail {
    client.tail(Cursor::START)
}

pub(crate) fn text(message: &Message) -> &str {
    message.content.text()
}

pub(crate) fn texts(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(text).collect()
}
