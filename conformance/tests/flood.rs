//! A hostile flood against a gateway in a process of its own: its memory stays bounded and others are served on.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message as _;
use quipu_conformance::raw::{Dialer, frame, header};
use quipu_conformance::session::{Session, register, send_frame};
use quipu_conformance::suite::Context;
use quipu_conformance::trust::Trust;
use quipu_conformance::witness::Witness;
use quipu_gateway::Gateway;
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::ConversationId;
use tokio::task::JoinSet;

mod common;

/// Tells the child process where its data is.
const DATA: &str = "QUIPU_FLOOD_TEST_DATA";
const LISTENING: &str = "listening on ";
/// Attackers of each kind at once.
const ATTACKERS: usize = 8;
/// How long each of them goes on, connection after connection.
const ATTACK: Duration = Duration::from_secs(4);
/// Messages that the witnesses exchange meanwhile at the least, so that there were some to harm. How many more depends on the
/// machine; that each arrives in time is what the witness itself insists on.
const MESSAGES_MIN: u64 = 3;
/// What the flood may cost, all attackers together. Each connection is bounded by its windows: some hundred KiB.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// Not a test of its own: the gateway of the test below, which starts this binary again. Ends with its standard input.
#[test]
#[ignore = "the child process of the other test"]
fn gateway_process() {
    let Some(data) = std::env::var_os(DATA) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = common::config(data.as_ref());
    let gateway = runtime.block_on(Gateway::start(&config)).unwrap();
    println!("\n{LISTENING}{}", gateway.address());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// The child, which dies with this value.
struct Process(Child);

impl Process {
    fn start(data: &std::path::Path) -> (Self, SocketAddr) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["gateway_process", "--exact", "--ignored", "--nocapture"])
            .env(DATA, data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix(LISTENING)?.parse().ok())
            .expect("the gateway process says where it listens");
        (Self(child), address)
    }

    fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().split_whitespace().next().unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug, Clone, Copy)]
enum Attack {
    /// Headers that announce a gigabyte, and as much body as the gateway takes.
    Huge,
    /// HELLO of which the last byte never comes; connections are piled up.
    Unfinished,
    /// Frames without content, as fast as they go.
    Tiny,
    /// Commands whose answers are never read.
    Unread,
    /// A device that never acks, and whose lane is never read.
    Unacked,
    /// Requests of which only a header comes, given up and opened again.
    Requests,
}

impl Attack {
    const ALL: [Self; 6] = [
        Self::Huge,
        Self::Unfinished,
        Self::Tiny,
        Self::Unread,
        Self::Unacked,
        Self::Requests,
    ];

    /// One connection of an attacker. That the gateway ends it is no failure.
    async fn once(self, context: &Context, until: Instant) -> anyhow::Result<()> {
        let dialer = &context.dialer;
        let nowhere = ConversationId([7; 16]);
        match self {
            Self::Huge => {
                let peer = dialer.connect().await?;
                let mut s0 = peer.open().await?;
                s0.write(&header(1 << 30, FrameType::Hello as u64)).await?;
                while Instant::now() < until {
                    s0.write(&[0; 16 << 10]).await?;
                }
            }
            Self::Unfinished => {
                let hello = register(&context.fresh_name()).encode_to_vec();
                let hello = frame(FrameType::Hello as u64, &hello);
                let mut kept = Vec::new();
                while Instant::now() < until && kept.len() < 100 {
                    let peer = dialer.connect().await?;
                    let mut s0 = peer.open().await?;
                    s0.write(&hello[..hello.len() - 1]).await?;
                    kept.push((peer, s0));
                }
                tokio::time::sleep_until(until.into()).await;
            }
            Self::Tiny => {
                let mut user = context.user().await?;
                let flood = frame(0x3f22, &[]).repeat(10_000);
                while Instant::now() < until {
                    user.s0.write(&flood).await?;
                }
            }
            Self::Unread => {
                let mut user = context.user().await?;
                for client_seq in 1.. {
                    let send = send_frame(client_seq, &nowhere, "x").encode_to_vec();
                    let send = frame(FrameType::Send as u64, &send);
                    match tokio::time::timeout_at(until.into(), user.s0.write(&send)).await {
                        Ok(written) => written?,
                        Err(_) => break,
                    }
                }
            }
            Self::Unacked => {
                let (mut a, b, conversation) = context.pair().await?;
                let long = "x".repeat(8_000);
                while Instant::now() < until {
                    let acked = a.say(&conversation, &long).await?;
                    a.ack(acked.seq).await?;
                }
                drop(b);
            }
            Self::Requests => {
                let user: Session = context.user().await?;
                while Instant::now() < until {
                    let mut stream = user.peer.open().await?;
                    stream
                        .write(&header(1_000, FrameType::History as u64))
                        .await?;
                    stream.reset(quipu_protocol::error::StreamCode::Cancelled)?;
                }
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_costs_bounded_memory_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (process, address) = Process::start(folder.path());
    let context = Context::new(Dialer::new(address, Trust::Any).unwrap());
    let witness = Witness::start(&context).await.unwrap();
    let before = process.resident_bytes();

    let until = Instant::now() + ATTACK;
    let mut attackers = JoinSet::new();
    for attack in Attack::ALL {
        for _ in 0..ATTACKERS {
            // A socket for each, as attackers have; the witness must not suffer from a queue on this side.
            let context = context.elsewhere().unwrap();
            attackers.spawn(async move {
                let mut connections = 0;
                while Instant::now() < until {
                    let _ = attack.once(&context, until).await;
                    connections += 1;
                }
                (attack, connections)
            });
        }
    }
    let mut most = before;
    while Instant::now() < until {
        most = most.max(process.resident_bytes());
        // How often to measure; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while let Some(ended) = attackers.join_next().await {
        let (attack, connections) = ended.unwrap();
        println!("{attack:?}: {connections} connections");
    }
    let testimony = witness.stop().await.unwrap();
    println!(
        "{testimony:?}, resident {} KiB before, {} KiB at most",
        before >> 10,
        most >> 10
    );
    assert!(
        testimony.messages >= MESSAGES_MIN,
        "the witnesses hardly got through: {testimony:?}"
    );
    assert!(
        most - before < GROWTH_BYTES_MAX,
        "grew by {} KiB",
        (most - before) >> 10
    );
}
