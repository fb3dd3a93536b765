//! Tokens of an external issuer, with keys made here: who is let in, until when, and who is not.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use quipu_protocol::credentials::{Credentials, Jwt, Resume, Token};
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::Outcome;
use quipu_protocol::frame::{self, FrameType};
use quipu_protocol::id::{Cursor, DeviceId};
use quipu_protocol::wire;

use crate::peer::{Gateway, Peer, close_code, register, session, soon};

/// An issuer with an Ed25519 and a P-256 key, and the folder that a gateway reads.
struct Issuer {
    folder: tempfile::TempDir,
    edwards: rcgen::KeyPair,
    p256: rcgen::KeyPair,
}

/// What a token says; the default is a good one.
struct Claims<'a> {
    sub: &'a str,
    iss: &'a str,
    aud: &'a str,
    /// Seconds from now.
    exp: Option<i64>,
    nbf: i64,
}

const GOOD: Claims<'static> = Claims {
    sub: "alice",
    iss: "https://issuer.example",
    aud: "quipu",
    exp: Some(3600),
    nbf: -5,
};

impl Claims<'_> {
    fn json(&self) -> std::collections::BTreeMap<&str, toml::Value> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        let now = now.as_secs() as i64;
        let text = |text: &str| toml::Value::String(text.to_owned());
        let mut claims = std::collections::BTreeMap::from([
            ("sub", text(self.sub)),
            ("iss", text(self.iss)),
            ("aud", text(self.aud)),
            ("nbf", toml::Value::Integer(now + self.nbf)),
        ]);
        if let Some(exp) = self.exp {
            claims.insert("exp", toml::Value::Integer(now + exp));
        }
        claims
    }
}

impl Issuer {
    fn new() -> Self {
        let key = |algorithm| rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let issuer = Self {
            folder: tempfile::tempdir().expect("a folder"),
            edwards: key(&rcgen::PKCS_ED25519),
            p256: key(&rcgen::PKCS_ECDSA_P256_SHA256),
        };
        issuer.publish("ed", &issuer.edwards);
        issuer.publish("p256", &issuer.p256);
        issuer
    }

    fn publish(&self, kid: &str, key: &rcgen::KeyPair) {
        let path = self.folder.path().join(format!("{kid}.pem"));
        std::fs::write(path, key.public_key_pem()).expect("writable");
    }

    fn gateway(&self) -> Gateway {
        let keys: &Path = self.folder.path();
        Gateway::start_with(|config| {
            config.external.keys = keys.to_owned();
            config.external.issuer = GOOD.iss.to_owned();
            config.external.audience = GOOD.aud.to_owned();
            config.external.leeway = Duration::ZERO;
        })
    }

    /// Signed with the Ed25519 key.
    fn token(&self, claims: &Claims<'_>) -> String {
        signed(
            Algorithm::EdDSA,
            Some("ed"),
            &edwards(&self.edwards),
            claims,
        )
    }
}

fn edwards(key: &rcgen::KeyPair) -> EncodingKey {
    EncodingKey::from_ed_der(&key.serialize_der())
}

fn signed(
    algorithm: Algorithm,
    kid: Option<&str>,
    key: &EncodingKey,
    claims: &Claims<'_>,
) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, &claims.json(), key).expect("signed")
}

fn external(jwt: &str, device: Option<(DeviceId, Token)>) -> Credentials {
    Credentials::External {
        jwt: Jwt::new(jwt.to_owned()).expect("not too long"),
        label: "test".into(),
        device,
    }
}

/// Shows a newer token; what became of it.
async fn refresh(peer: &mut Peer, jwt: &str) -> Outcome {
    let mut bytes = BytesMut::new();
    let refresh = wire::Refresh {
        request: 7,
        jwt: jwt.to_owned(),
    };
    frame::encode(FrameType::Refresh, &refresh, &mut bytes);
    peer.write(&bytes).await;
    peer.reply().await.outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_the_account_and_further_ones_add_devices() {
    let (issuer, mut devices) = (Issuer::new(), Vec::new());
    let gateway = issuer.gateway();
    let p256 = EncodingKey::from_ec_der(&issuer.p256.serialize_der());
    let tokens = [
        issuer.token(&GOOD),
        signed(Algorithm::ES256, Some("p256"), &p256, &GOOD),
    ];
    for token in &tokens {
        let mut peer = gateway.hello(external(token, None), None).await;
        let welcome = peer.welcomed().await;
        assert_eq!(welcome.user.as_str(), "alice");
        devices.push(peer.credentials());
    }
    assert_ne!(devices[0].0, devices[1].0);
    // A known device comes back with both of its tokens, and not with one of them.
    let mut back = gateway
        .hello(external(&tokens[0], Some(devices[0])), None)
        .await;
    assert_eq!(back.welcomed().await.device, devices[0].0);
    let (device, token) = devices[0];
    for credentials in [
        session("alice", device, token),
        external(&tokens[0], Some((device, [7; 32]))),
    ] {
        let peer = gateway.hello(credentials, None).await;
        let code = close_code(&peer.connection).await;
        assert_eq!(code, CloseCode::Unauthenticated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_devices_of_a_new_user_come_at_once() {
    let issuer = Issuer::new();
    let (gateway, token) = (issuer.gateway(), issuer.token(&GOOD));
    let come = || async {
        let mut peer = gateway.hello(external(&token, None), None).await;
        peer.welcomed().await.device
    };
    let (a, b, c, d) = soon(async { tokio::join!(come(), come(), come(), come()) }).await;
    let devices = std::collections::BTreeSet::from([a, b, c, d]);
    assert_eq!(devices.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_with_a_token_that_is_not_good() {
    let issuer = Issuer::new();
    let gateway = issuer.gateway();
    let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let key = edwards(&issuer.edwards);
    let public = issuer.edwards.public_key_pem();
    let good = issuer.token(&GOOD);
    let mut unsigned = good.split('.');
    let claims = unsigned.nth(1).expect("three parts");
    let unauthenticated = [
        (
            "another key",
            signed(Algorithm::EdDSA, Some("ed"), &edwards(&stranger), &GOOD),
        ),
        ("no kid", signed(Algorithm::EdDSA, None, &key, &GOOD)),
        (
            "unknown kid",
            signed(Algorithm::EdDSA, Some("other"), &key, &GOOD),
        ),
        (
            "the kid of the other key",
            signed(Algorithm::EdDSA, Some("p256"), &key, &GOOD),
        ),
        // The public key as the secret of an HMAC.
        (
            "HS256",
            signed(
                Algorithm::HS256,
                Some("ed"),
                &EncodingKey::from_secret(public.as_bytes()),
                &GOOD,
            ),
        ),
        // {"alg":"none","kid":"ed"}
        (
            "none",
            format!("eyJhbGciOiJub25lIiwia2lkIjoiZWQifQ.{claims}."),
        ),
        (
            "another issuer",
            issuer.token(&Claims {
                iss: "https://evil.example",
                ..GOOD
            }),
        ),
        (
            "another audience",
            issuer.token(&Claims {
                aud: "mail",
                ..GOOD
            }),
        ),
        ("no end", issuer.token(&Claims { exp: None, ..GOOD })),
        ("not yet", issuer.token(&Claims { nbf: 600, ..GOOD })),
        (
            "no user name",
            issuer.token(&Claims {
                sub: "Alice Liddell",
                ..GOOD
            }),
        ),
        ("cut", good[..good.len() - 4].to_owned()),
        ("no token", "nonsense".to_owned()),
    ];
    for (what, token) in unauthenticated {
        let peer = gateway.hello(external(&token, None), None).await;
        let code = close_code(&peer.connection).await;
        assert_eq!(code, CloseCode::Unauthenticated, "{what}");
    }
    let over = issuer.token(&Claims {
        exp: Some(-1),
        ..GOOD
    });
    let peer = gateway.hello(external(&over, None), None).await;
    assert_eq!(close_code(&peer.connection).await, CloseCode::TokenExpired);
    assert_eq!(gateway.metrics.registrations.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_a_password_is_not_the_issuers() {
    let issuer = Issuer::new();
    let gateway = issuer.gateway();
    let mut alice = gateway.hello(register("alice"), None).await;
    alice.welcomed().await;
    let (device, token) = alice.credentials();
    for (known, code) in [
        (None, CloseCode::NameTaken),
        (Some((device, token)), CloseCode::Unauthenticated),
    ] {
        let hello = external(&issuer.token(&GOOD), known);
        let peer = gateway.hello(hello, None).await;
        assert_eq!(close_code(&peer.connection).await, code);
    }
    // It goes on as before, and its session does not expire.
    let mut back = gateway.hello(session("alice", device, token), None).await;
    back.welcomed().await;
    match refresh(&mut back, &issuer.token(&GOOD)).await {
        Outcome::Rejected(rejection) => assert_eq!(rejection.code, RejectCode::Invalid),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_issuer_no_token_is_good() {
    let gateway = Gateway::start();
    let token = Issuer::new().token(&GOOD);
    let peer = gateway.hello(external(&token, None), None).await;
    let code = close_code(&peer.connection).await;
    assert_eq!(code, CloseCode::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token_and_loses_nothing() {
    let issuer = Issuer::new();
    let gateway = issuer.gateway();
    let bob = Claims { sub: "bob", ..GOOD };
    let short = Claims {
        exp: Some(6),
        ..GOOD
    };
    let mut alice = gateway
        .hello(external(&issuer.token(&short), None), None)
        .await;
    let welcome = alice.welcomed().await;
    let device = alice.credentials();
    let mut bob_peer = gateway
        .hello(external(&issuer.token(&bob), None), None)
        .await;
    bob_peer.welcomed().await;
    let conversation = bob_peer.open_direct("alice").await;
    bob_peer.send(conversation, "one").await;
    assert_eq!(alice.message().await.0, 1);
    let code = close_code(&alice.connection).await;
    assert_eq!(code, CloseCode::TokenExpired);
    bob_peer.send(conversation, "two").await;
    assert_eq!(bob_peer.message().await.0, 1);
    assert_eq!(bob_peer.message().await.0, 2);
    let resume = Resume {
        cursor: Cursor(1),
        life: welcome.life,
    };
    let hello = external(&issuer.token(&GOOD), Some(device));
    let mut back = gateway.hello(hello, Some(resume)).await;
    assert!(back.welcomed().await.resumed);
    assert_eq!(back.message().await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_token_extends_the_session_and_another_users_does_not() {
    let issuer = Issuer::new();
    let gateway = issuer.gateway();
    let short = issuer.token(&Claims {
        exp: Some(30),
        ..GOOD
    });
    let mut alice = gateway.hello(external(&short, None), None).await;
    alice.welcomed().await;
    for bad in [
        issuer.token(&Claims { sub: "bob", ..GOOD }),
        issuer.token(&Claims {
            exp: Some(-1),
            ..GOOD
        }),
        "nonsense".to_owned(),
    ] {
        match refresh(&mut alice, &bad).await {
            Outcome::Rejected(rejection) => assert_eq!(rejection.code, RejectCode::Forbidden),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        refresh(&mut alice, &issuer.token(&GOOD)).await,
        Outcome::Done
    );
    // Beside a session that was not refreshed, and ends.
    let other = Claims {
        sub: "other",
        exp: Some(4),
        ..GOOD
    };
    let mut other = gateway
        .hello(external(&issuer.token(&other), None), None)
        .await;
    other.welcomed().await;
    assert_eq!(close_code(&other.connection).await, CloseCode::TokenExpired);
    alice.open_direct("other").await;
    assert_eq!(gateway.metrics.tokens_refreshed.get(), 1);
    // It can also be made shorter.
    let soon_over = issuer.token(&Claims {
        exp: Some(1),
        ..GOOD
    });
    assert_eq!(refresh(&mut alice, &soon_over).await, Outcome::Done);
    assert_eq!(close_code(&alice.connection).await, CloseCode::TokenExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_out_of_the_folder_is_not_believed_any_more() {
    let issuer = Issuer::new();
    let gateway = issuer.gateway();
    let old = issuer.token(&GOOD);
    let p256 = EncodingKey::from_ec_der(&issuer.p256.serialize_der());
    let new = signed(Algorithm::ES256, Some("p256"), &p256, &GOOD);
    // While both keys are there, either is good, also for one and the same device.
    let mut alice = gateway.hello(external(&old, None), None).await;
    let welcome = alice.welcomed().await;
    let device = alice.credentials();
    assert_eq!(refresh(&mut alice, &new).await, Outcome::Done);
    assert_eq!(refresh(&mut alice, &old).await, Outcome::Done);

    std::fs::remove_file(issuer.folder.path().join("ed.pem")).expect("it was there");
    let refused = async {
        loop {
            match refresh(&mut alice, &old).await {
                // The folder is read again some seconds later; this is a pause between two looks.
                Outcome::Done => tokio::time::sleep(Duration::from_millis(200)).await,
                other => break other,
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(60), refused).await;
    match refused.expect("the keys are read again") {
        Outcome::Rejected(rejection) => assert_eq!(rejection.code, RejectCode::Forbidden),
        other => panic!("{other:?}"),
    }
    // A session that began with it goes on until the token that it was given with is over, and a new key extends it.
    alice.open_direct("alice").await;
    assert_eq!(refresh(&mut alice, &new).await, Outcome::Done);
    // Nobody comes in with it, whoever they were before.
    for device in [None, Some(device)] {
        let stranger = gateway.hello(external(&old, device), None).await;
        let code = close_code(&stranger.connection).await;
        assert_eq!(code, CloseCode::Unauthenticated);
    }
    alice.open_direct("alice").await;
    let resume = Resume {
        cursor: welcome.cursor,
        life: welcome.life,
    };
    let mut back = gateway
        .hello(external(&new, Some(device)), Some(resume))
        .await;
    assert!(back.welcomed().await.resumed);

    // A gateway that starts now knows the new key alone; without any it does not start.
    let settings = quipu_gateway::config::External {
        keys: issuer.folder.path().to_owned(),
        issuer: GOOD.iss.to_owned(),
        audience: GOOD.aud.to_owned(),
        ..quipu_gateway::config::External::default()
    };
    let started = quipu_gateway::external::Issuer::open(&settings);
    let started = started.expect("one key is left").expect("configured");
    let (clock, now) = (SystemTime::now(), std::time::Instant::now());
    let judge = |jwt: &str| started.judge(&Jwt::new(jwt.to_owned()).expect("short"), clock, now);
    assert!(judge(&new).is_ok());
    let unknown =
        quipu_gateway::external::Disbelief::Refused("the token is signed with an unknown key");
    assert_eq!(judge(&old), Err(unknown));
    std::fs::remove_file(issuer.folder.path().join("p256.pem")).expect("it was there");
    assert!(quipu_gateway::external::Issuer::open(&settings).is_err());
    // One that runs stays with the keys that it has rather than trust nobody.
    let later = now + Duration::from_secs(60);
    let kept = started.judge(&Jwt::new(new).expect("short"), clock, later);
    assert!(kept.is_ok());
}
