//! A gateway process that is killed and comes back: its clients learn at once that their connections are gone.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use quinn::{ConnectionError, Endpoint};
use quipu_gateway::tls;

use crate::peer::{PATIENCE, client_config};

/// A gateway process that accepts connections; killed when it is dropped.
struct Process(Child);

impl Process {
    fn start(address: SocketAddr, data: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_quipu-gateway"))
            .args([
                "--listen",
                &address.to_string(),
                "--admin-listen",
                "off",
                "--data",
            ])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = Self(child.expect("the binary runs"));
        let said = BufReader::new(process.0.stdout.take().expect("piped"));
        let ready = said
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains("is ready"));
        assert!(ready, "it ended before it was ready");
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL; it may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_client_of_a_killed_gateway_is_told_by_the_next_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let free = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound");
    drop(free);

    let killed = Process::start(address, folder.path());
    let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
    let connecting = endpoint.connect_with(client_config(tls::ALPN), address, "localhost");
    let connection = connecting
        .expect("a valid configuration")
        .await
        .expect("connected");
    let (mut s0, _answers) = connection.open_bi().await.expect("a stream");
    s0.write_all(&[0]).await.expect("the connection stands");
    drop(killed);

    let _next = Process::start(address, folder.path());
    // Any packet will do: the next process knows the connection id as one of its own making, and disowns it.
    let _ = s0.write_all(&[0; 200]).await;
    let told = tokio::time::timeout(PATIENCE, connection.closed()).await;
    assert_eq!(told, Ok(ConnectionError::Reset));
}
