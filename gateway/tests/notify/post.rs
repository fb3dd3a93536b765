//! What one post does: a signed request, each kind of answer, connections that are used again, TLS with a private authority.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quipu_gateway::notify::post::{Answer, Client, PostError, Webhook};
use quipu_gateway::notify::sign::Signer;
use quipu_gateway::tls;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::receiver::{Behaviour, Receiver, SECRET};

const OTHER_SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn client(url: &str, timeout: Duration) -> Client {
    let signer = Signer::new(&format!("{SECRET},{OTHER_SECRET}")).expect("secrets");
    Client::new(url, Path::new(""), signer, timeout, 4).expect("a client")
}

fn webhook() -> Webhook {
    Webhook {
        id: "msg_1".to_owned(),
        body: Bytes::from_static(br#"{"type":"test"}"#),
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_webhook_is_posted_as_standard_webhooks_say() {
    let mut receiver = Receiver::start(Behaviour::Answer(204, "")).await;
    let client = client(&receiver.url(), LONG);
    assert_eq!(
        client.post(&webhook(), 1_700_000_000).await,
        Ok(Answer::Taken)
    );
    let came = receiver.next().await;
    assert_eq!(came.request_line, "POST /hook?a=b HTTP/1.1");
    assert_eq!(came.headers["content-type"], "application/json");
    assert_eq!(came.headers["host"], receiver.address().to_string());
    assert_eq!(came.headers["webhook-timestamp"], "1700000000");
    assert_eq!(came.id(), "msg_1");
    for secret in [SECRET, OTHER_SECRET] {
        assert_eq!(came.verified(secret)["type"], "test");
    }
}

#[tokio::test]
async fn each_answer_is_told_apart() {
    let mut receiver = Receiver::start(Behaviour::Answer(200, "")).await;
    let client = client(&receiver.url(), LONG);
    let refused = |status, seconds: Option<u64>| {
        Ok(Answer::Refused {
            status,
            retry_after: seconds.map(Duration::from_secs),
        })
    };
    for (status, headers, expected) in [
        (201, "", Ok(Answer::Taken)),
        (410, "", Ok(Answer::Gone)),
        (500, "", refused(500, None)),
        (302, "Location: http://127.0.0.1:1/\r\n", refused(302, None)),
        (429, "Retry-After: 7\r\n", refused(429, Some(7))),
        (503, "Retry-After: soon\r\n", refused(503, None)),
    ] {
        receiver.behave(Behaviour::Answer(status, headers));
        assert_eq!(client.post(&webhook(), 1).await, expected, "{status}");
        receiver.next().await;
    }
    assert_eq!(receiver.connections(), 1, "one connection served them all");
}

#[tokio::test]
async fn a_receiver_that_stalls_hangs_up_or_is_not_there_is_an_error() {
    let mut receiver = Receiver::start(Behaviour::Stall).await;
    let impatient = client(&receiver.url(), Duration::from_millis(200));
    assert_eq!(impatient.post(&webhook(), 1).await, Err(PostError::Timeout));
    receiver.next().await;

    receiver.behave(Behaviour::HangUp);
    let patient = client(&receiver.url(), LONG);
    let broken = patient.post(&webhook(), 1).await;
    assert!(matches!(broken, Err(PostError::Broken(_))), "{broken:?}");

    let address = receiver.address();
    drop(receiver);
    let gone = tokio::time::timeout(LONG, async {
        loop {
            // The port is closed by a task that was only asked to end.
            match patient.post(&webhook(), 1).await {
                Err(PostError::Connect(why)) => return why,
                Ok(_) | Err(PostError::Timeout | PostError::Broken(_)) => {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    gone.await.expect("no connection to a closed port");
    let mut back = Receiver::at(address, Behaviour::Answer(200, ""), None).await;
    assert_eq!(patient.post(&webhook(), 1).await, Ok(Answer::Taken));
    back.next().await;
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_waited_is_no_failed_try() {
    let mut receiver = Receiver::start(Behaviour::Answer(200, "")).await;
    let client = client(&receiver.url(), LONG);
    assert_eq!(client.post(&webhook(), 1).await, Ok(Answer::Taken));
    receiver.next().await;
    let address = receiver.address();
    drop(receiver);
    // SO_REUSEADDR, which tokio sets, lets the next one have the port while the old connection dies.
    let again = tokio::time::timeout(LONG, async {
        loop {
            match tokio::net::TcpListener::bind(address).await {
                Ok(free) => return drop(free),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    again.await.expect("the port is free");
    let mut receiver = Receiver::at(address, Behaviour::Answer(200, ""), None).await;
    assert_eq!(client.post(&webhook(), 1).await, Ok(Answer::Taken));
    receiver.next().await;
}

#[tokio::test]
async fn over_tls_only_trusted_receivers_get_webhooks() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let certified = certified.expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let server = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], PrivateKeyDer::from(key))
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let any = ([127, 0, 0, 1], 0).into();
    let mut receiver = Receiver::at(any, Behaviour::Answer(200, ""), Some(acceptor)).await;
    let url = format!("https://localhost:{}/hook", receiver.address().port());

    let stranger = client(&url, LONG).post(&webhook(), 1).await;
    assert!(
        matches!(stranger, Err(PostError::Connect(_))),
        "{stranger:?}"
    );

    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certified.cert.pem()).expect("writable");
    let signer = Signer::new(SECRET).expect("a secret");
    let trusting = Client::new(&url, &ca, signer, LONG, 1).expect("a client");
    assert_eq!(trusting.post(&webhook(), 1).await, Ok(Answer::Taken));
    receiver.next().await.verified(SECRET);

    let signer = Signer::new(SECRET).expect("a secret");
    let missing = Client::new(&url, &folder.path().join("none.pem"), signer, LONG, 1);
    let message = missing.expect_err("no such file").to_string();
    assert!(message.contains("none.pem"), "{message}");
}
