//! Clients whose accounts are an external issuer's, against a real gateway: tokens come in a file, and are replaced there.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use quipu_client::protocol::error::CloseCode;
use quipu_client::{Client, ClientEvent, ConnectionState, Error, OfflineReason, Target};
use quipu_gateway::Gateway;
use quipu_gateway::config::{Admin, AdminListen};
use support::{any, collect, config, tail, texts, within};

/// An issuer, a gateway that trusts it, and the files that tokens are put into.
struct World {
    folder: tempfile::TempDir,
    key: EncodingKey,
    gateway: Gateway,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let keys = folder.path().join("keys");
        std::fs::create_dir(&keys).expect("writable");
        std::fs::write(keys.join("ed.pem"), pair.public_key_pem()).expect("writable");
        let mut settings = quipu_gateway::config::Config {
            listen: any(),
            data: folder.path().join("gateway"),
            admin: Admin {
                listen: AdminListen::Off,
            },
            ..quipu_gateway::config::Config::default()
        };
        settings.external.keys = keys;
        settings.external.issuer = "issuer".into();
        settings.external.audience = "quipu".into();
        settings.external.leeway = Duration::ZERO;
        Self {
            gateway: Gateway::start(&settings).await.expect("starts"),
            key: EncodingKey::from_ed_der(&pair.serialize_der()),
            folder,
        }
    }

    /// Puts a token of `user` that ends in so many seconds into its file, whole at once.
    fn put(&self, user: &str, seconds: u64) -> PathBuf {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("after 1970").as_secs();
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("ed".into());
        let claims = serde_json::json!({
            "iss": "issuer", "aud": "quipu", "sub": user, "exp": now + seconds,
        });
        let token = jsonwebtoken::encode(&header, &claims, &self.key).expect("signed");
        let file = self.folder.path().join(user);
        let new = file.with_extension("new");
        std::fs::write(&new, token + "\n").expect("writable");
        std::fs::rename(&new, &file).expect("writable");
        file
    }

    async fn open(&self, data: Option<&Path>) -> Client {
        let settings = config(self.gateway.address(), data);
        Client::open(settings).await.expect("opens")
    }
}

/// Waits until the session is over, and why.
async fn ended(client: &Client) -> OfflineReason {
    let mut state = client.connection();
    let offline = |state: &ConnectionState| matches!(state, ConnectionState::Offline { .. });
    match within("the end of the token", state.wait_for(offline))
        .await
        .expect("the client runs")
        .clone()
    {
        ConnectionState::Offline { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_its_token_when_the_file_has_a_newer_one() {
    let world = World::new().await;
    let (alice, bob) = (world.open(None).await, world.open(None).await);
    let file = world.put("alice", 4);
    within("logging in", alice.login_with_token(&file))
        .await
        .expect("logs in");
    let mut state = alice.connection();
    state.mark_unchanged();
    world.put("alice", 3600);
    // Beside one that is not given a newer one, and ends later than the first token of the other.
    let file = world.put("bob", 6);
    within("logging in", bob.login_with_token(&file))
        .await
        .expect("logs in");
    let end = ended(&bob).await;
    assert!(
        matches!(&end, OfflineReason::Refused { code, .. } if *code == CloseCode::TokenExpired),
        "{end}"
    );
    assert!(
        !state.has_changed().expect("the client runs"),
        "alice never lost it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_is_waited_for_and_nothing_is_lost() {
    let world = World::new().await;
    let data = world.folder.path().join("alice-data");
    let alice = world.open(Some(&data)).await;
    let bob = world.open(None).await;
    let login = alice.login_with_token(world.put("alice", 2));
    within("logging in", login).await.expect("logs in");
    let login = bob.login_with_token(world.put("bob", 3600));
    within("logging in", login).await.expect("logs in");
    let mut events = alice.events();
    ended(&alice).await;
    let alice_user = alice.account().await.expect("reads").expect("known").user;
    let sent = bob.send(Target::User(alice_user), "while away").await;
    let sent = sent.expect("queues");
    within("the ack", bob.wait_acked(sent.id))
        .await
        .expect("acked");
    let waits = |state: &ConnectionState| {
        matches!(
            state,
            ConnectionState::Offline { reason: OfflineReason::NoToken(why), .. } if why.contains("is over")
        )
    };
    within("looking at the file", alice.connection().wait_for(waits))
        .await
        .expect("the client runs");
    world.put("alice", 3600);
    let got = collect(&mut tail(&alice), 1).await;
    assert_eq!(texts(&got), ["while away"]);
    loop {
        match within("an event", events.next()).await.expect("runs") {
            ClientEvent::Message { .. } => break,
            ClientEvent::Resynced => panic!("it resumed"),
            _ => {}
        }
    }
    // The folder knows where its tokens are.
    alice.close().await;
    let again = world.open(Some(&data)).await;
    within("coming back", again.online()).await.expect("online");
    // And can be told that they are elsewhere now.
    let moved = world.folder.path().join("moved");
    std::fs::rename(world.folder.path().join("alice"), &moved).expect("moves");
    let login = again.login_with_token(&moved).await.expect("takes it");
    assert_eq!(login.user, alice_user);
    again.close().await;
    let again = world.open(Some(&data)).await;
    within("coming back", again.online()).await.expect("online");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_said_at_the_log_in() {
    let world = World::new().await;
    let client = world.open(None).await;
    let nowhere = world.folder.path().join("nowhere");
    match client.login_with_token(&nowhere).await {
        Err(Error::Offline(why)) => assert!(why.contains("nowhere"), "{why}"),
        other => panic!("{other:?}"),
    }
    std::fs::write(&nowhere, "nonsense").expect("writable");
    match within("logging in", client.login_with_token(&nowhere)).await {
        Err(Error::SignInRefused { code, .. }) => assert_eq!(code, CloseCode::Unauthenticated),
        other => panic!("{other:?}"),
    }
    let register = client.register("carol", support::PASSWORD);
    within("registering", register).await.expect("registers");
    let mixed = client.login_with_token(world.put("carol", 3600)).await;
    assert!(matches!(mixed, Err(Error::AlreadySignedIn(_))), "{mixed:?}");
}
