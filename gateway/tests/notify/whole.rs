//! Whole gateways: devices over QUIC that leave, stall and come back, and a process that is killed while it posts.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use quinn::Endpoint;
use quipu_gateway::tls;
use quipu_protocol::credentials::{Credentials, Resume};

use crate::peer::{Peer, client_config, register, session};
use crate::receiver::{Behaviour, PATIENCE, Receiver, SECRET};

/// A gateway process that posts to a receiver; killed when it is dropped.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(data: &Path, url: &str, after: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_quipu-gateway"))
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "off"])
            .args(["--accounts-hash-memory", "64KiB", "--storage-shards", "4"])
            .args(["--notify-url", url, "--notify-after", after])
            .args(["--notify-backoff", "50ms", "--notify-tries", "100"])
            .arg("--data")
            .arg(data)
            .env("QUIPU_NOTIFY_SECRETS", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.expect("the binary runs");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        let address = said
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let rest = line.trim().strip_prefix("address")?;
                rest.split_whitespace().next()?.parse().ok()
            })
            .expect("it says where it listens");
        Self { child, address }
    }

    async fn hello(&self, credentials: Credentials, resume: Option<Resume>) -> Peer {
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
        let connecting = endpoint.connect_with(client_config(tls::ALPN), self.address, "localhost");
        let connecting = connecting.expect("a valid configuration");
        let connection = tokio::time::timeout(PATIENCE, connecting).await;
        let connection = connection.expect("in time").expect("connected");
        let mut peer = Peer::on(connection).await;
        peer.say_hello(credentials, resume).await;
        peer.welcomed().await;
        peer
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_left_or_stalls_gets_a_webhook_and_one_that_acks_does_not() {
    let mut receiver = Receiver::start(Behaviour::Answer(200, "")).await;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = Process::start(folder.path(), &receiver.url(), "600ms");
    let mut alice = gateway.hello(register("alice"), None).await;
    let mut reads = gateway.hello(register("reads"), None).await;
    let mut stalls = gateway.hello(register("stalls"), None).await;
    let leaves = gateway.hello(register("leaves"), None).await;
    leaves.connection.close(0u32.into(), b"");
    for name in ["reads", "stalls", "leaves"] {
        let conversation = alice.open_direct(name).await;
        alice.send(conversation, "hello").await;
        let (number, _) = alice.message().await;
        alice.ack(number).await;
    }
    assert_eq!(reads.message().await.0, 1);
    reads.ack(1).await;
    assert_eq!(stalls.message().await.0, 1);
    let mut users = Vec::new();
    for _ in 0..2 {
        let body = receiver.next().await.verified(SECRET);
        users.push(body["data"]["user"].as_str().expect("a name").to_owned());
    }
    users.sort_unstable();
    assert_eq!(users, ["leaves", "stalls"]);

    // It goes on, and is told about no more while it acks.
    stalls.ack(1).await;
    let conversation = alice.open_direct("stalls").await;
    alice.send(conversation, "still there?").await;
    assert_eq!(stalls.message().await.0, 2);
    stalls.ack(2).await;
    let conversation = alice.open_direct("leaves").await;
    alice.send(conversation, "and you?").await;
    let body = receiver.next().await.verified(SECRET);
    assert_eq!(body["data"]["user"], "leaves");
    assert_eq!(body["data"]["first_seq"], 2);
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_while_it_posts_posts_again_under_the_same_id() {
    let mut receiver = Receiver::start(Behaviour::Stall).await;
    let folder = tempfile::tempdir().expect("a folder");
    let killed = Process::start(folder.path(), &receiver.url(), "100ms");
    let mut alice = killed.hello(register("alice"), None).await;
    let bob = killed.hello(register("bob"), None).await;
    let (device, token) = bob.credentials();
    bob.connection.close(0u32.into(), b"");
    let mut carol = killed.hello(register("carol"), None).await;
    let conversation = alice.open_direct("bob").await;
    alice.send(conversation, "hello").await;
    let posted = receiver.next().await;
    // To somebody who is here when the gateway dies, and never acks.
    let conversation = alice.open_direct("carol").await;
    alice.send(conversation, "hello").await;
    assert_eq!(carol.message().await.0, 1);
    drop(killed);

    receiver.behave(Behaviour::Answer(200, ""));
    let gateway = Process::start(folder.path(), &receiver.url(), "100ms");
    let (mut to_bob, mut to_carol) = (false, false);
    while !(to_bob && to_carol) {
        let webhook = receiver.next().await;
        match webhook.verified(SECRET)["data"]["user"].as_str() {
            Some("bob") => {
                assert_eq!((webhook.id(), &webhook.body), (posted.id(), &posted.body));
                to_bob = true;
            }
            Some("carol") => to_carol = true,
            other => panic!("{other:?} has everything"),
        }
    }

    // The message itself was never in doubt.
    let mut bob = gateway.hello(session("bob", device, token), None).await;
    assert_eq!(bob.message().await.0, 1);
    bob.ack(1).await;
}
