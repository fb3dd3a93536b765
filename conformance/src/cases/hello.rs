//! Connecting: HELLO, WELCOME, who is let in, and with what code the others are turned away.

use anyhow::ensure;
use bytes::Bytes;
use quipu_protocol::error::CloseCode;
use quipu_protocol::frame::FrameType;
use quipu_protocol::wire::{self, hello::Auth};
use quipu_protocol::{limits, retry_after};

use crate::raw::{frame, header};
use crate::session::{Session, hello, login, register};
use crate::suite::Context;

/// Wrong passwords of one user after which a gateway should have had enough.
const GUESSES_MAX: usize = 200;

/// Says `hello` and expects to be turned away.
async fn turned_away(
    context: &Context,
    hello: &wire::Hello,
    code: CloseCode,
) -> anyhow::Result<()> {
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    s0.send(FrameType::Hello, hello).await?;
    peer.expect_close(&[code]).await?;
    Ok(())
}

async fn register_welcomes(context: Context) -> anyhow::Result<()> {
    let name = context.fresh_name();
    let session = Session::open(&context.dialer, &register(&name)).await?;
    let welcome = &session.welcome;
    ensure!(welcome.user == name && welcome.device != 0, "{welcome:?}");
    ensure!(
        welcome.token.len() == limits::TOKEN_BYTES,
        "no token of 32 bytes"
    );
    ensure!(welcome.cursor == 0, "a new inbox starts at 0");
    ensure!(welcome.life != 0, "WELCOME names a life");
    let stated = welcome.limits.unwrap_or_default();
    ensure!(
        stated.frame_bytes as usize >= limits::FRAME_BYTES_MAX
            && stated.text_bytes as usize >= limits::TEXT_BYTES_MAX
            && stated.sends_in_flight as usize >= limits::SENDS_IN_FLIGHT_MAX
            && stated.request_streams as usize >= limits::REQUEST_STREAMS_MAX
            && stated.keep_alive_ms > 0,
        "limits below the minimum: {stated:?}"
    );
    Ok(())
}

async fn login_adds_a_device(context: Context) -> anyhow::Result<()> {
    let first = context.user().await?;
    let name = &first.welcome.user;
    let second = Session::open(&context.dialer, &login(name, crate::session::PASSWORD)).await?;
    ensure!(
        second.welcome.device != first.welcome.device,
        "the same device"
    );
    ensure!(
        second.welcome.token.len() == limits::TOKEN_BYTES,
        "no token"
    );
    ensure!(
        second.welcome.life == first.welcome.life,
        "one inbox, two lives"
    );
    Ok(())
}

async fn token_comes_back(context: Context) -> anyhow::Result<()> {
    let first = context.user().await?;
    let identity = first.identity();
    first.peer.connection.close(0_u32.into(), b"");
    let resume = wire::Resume {
        cursor: 0,
        life: first.welcome.life,
    };
    let back = Session::open(&context.dialer, &identity.hello(Some(resume))).await?;
    ensure!(back.welcome.device == identity.device, "another device");
    ensure!(
        back.welcome.token.is_empty(),
        "a token is handed out only once"
    );
    ensure!(
        back.welcome.resume() == wire::ResumeResult::Resumed,
        "{:?}",
        back.welcome.resume()
    );
    Ok(())
}

async fn wrong_password(context: Context) -> anyhow::Result<()> {
    let user = context.user().await?;
    let hello = login(&user.welcome.user, "not this password");
    turned_away(&context, &hello, CloseCode::Unauthenticated).await
}

/// Guesses of one user's password are slowed down at some time, with a time that can be read; another user is not.
async fn guessed_passwords(context: Context) -> anyhow::Result<()> {
    let (user, other) = (context.user().await?, context.user().await?);
    let hello = login(&user.welcome.user, "not this password");
    for _ in 0..GUESSES_MAX {
        let peer = context.dialer.connect().await?;
        let mut s0 = peer.open().await?;
        s0.send(FrameType::Hello, &hello).await?;
        let codes = [CloseCode::Unauthenticated, CloseCode::RateLimited];
        if peer.expect_close(&codes).await? == CloseCode::Unauthenticated {
            continue;
        }
        let closed = crate::raw::within("a close", peer.connection.closed()).await?;
        let quinn::ConnectionError::ApplicationClosed(close) = closed else {
            anyhow::bail!("{closed}");
        };
        let reason = String::from_utf8(close.reason.to_vec())?;
        let (time, _words) = retry_after::parse(&reason);
        ensure!(time.is_some(), "no time in {reason:?}");
        let right = login(&other.welcome.user, crate::session::PASSWORD);
        Session::open(&context.dialer, &right).await?;
        return Ok(());
    }
    anyhow::bail!("{GUESSES_MAX} guesses and no end")
}

/// The same code as for a wrong password, so that nobody learns which names exist.
async fn unknown_user(context: Context) -> anyhow::Result<()> {
    let hello = login(&context.fresh_name(), crate::session::PASSWORD);
    turned_away(&context, &hello, CloseCode::Unauthenticated).await
}

async fn wrong_token(context: Context) -> anyhow::Result<()> {
    let mut identity = context.user().await?.identity();
    identity.token = vec![7; limits::TOKEN_BYTES].into();
    turned_away(&context, &identity.hello(None), CloseCode::Unauthenticated).await
}

async fn unknown_device(context: Context) -> anyhow::Result<()> {
    let mut identity = context.user().await?.identity();
    identity.device ^= 1 << 40;
    turned_away(&context, &identity.hello(None), CloseCode::Unauthenticated).await
}

async fn another_users_token(context: Context) -> anyhow::Result<()> {
    let mut identity = context.user().await?.identity();
    identity.name = context.user().await?.welcome.user;
    turned_away(&context, &identity.hello(None), CloseCode::Unauthenticated).await
}

async fn name_taken(context: Context) -> anyhow::Result<()> {
    let user = context.user().await?;
    let again = register(&user.welcome.user);
    turned_away(&context, &again, CloseCode::NameTaken).await
}

async fn bad_names(context: Context) -> anyhow::Result<()> {
    let long = "x".repeat(limits::USER_ID_BYTES_MAX + 1);
    for name in [
        "",
        "a",
        "Upper",
        "with blank",
        "-dash",
        "\u{fc}mlaut",
        &long,
    ] {
        turned_away(&context, &register(name), CloseCode::InvalidCredentials).await?;
    }
    Ok(())
}

async fn bad_credentials(context: Context) -> anyhow::Result<()> {
    let name = context.fresh_name();
    let with = |password: &str, label: &str| {
        let register = wire::Register {
            name: name.clone(),
            password: password.to_owned(),
            device_label: label.to_owned(),
            invitation: String::new(),
        };
        hello(Auth::Register(register), None)
    };
    let session = |device: u64, token: usize| {
        let session = wire::SessionAuth {
            name: name.clone(),
            device,
            token: vec![1; token].into(),
        };
        hello(Auth::Session(session), None)
    };
    let long = "x".repeat(limits::PASSWORD_BYTES_MAX + 1);
    for hello in [
        with("short", ""),
        with(&long, ""),
        with("long enough", &"x".repeat(limits::LABEL_BYTES_MAX + 1)),
        session(0, limits::TOKEN_BYTES),
        session(1, limits::TOKEN_BYTES - 1),
        session(1, 0),
    ] {
        turned_away(&context, &hello, CloseCode::InvalidCredentials).await?;
    }
    Ok(())
}

async fn no_credentials(context: Context) -> anyhow::Result<()> {
    turned_away(
        &context,
        &wire::Hello::default(),
        CloseCode::ProtocolViolation,
    )
    .await
}

async fn second_after_welcome(context: Context) -> anyhow::Result<()> {
    let mut user = context.user().await?;
    let again = user.identity().hello(None);
    user.s0.send(FrameType::Hello, &again).await?;
    user.peer
        .expect_close(&[CloseCode::ProtocolViolation])
        .await?;
    Ok(())
}

/// Both in one write, so that the second is there while the first is still being checked.
async fn second_before_welcome(context: Context) -> anyhow::Result<()> {
    let hello = prost::Message::encode_to_vec(&register(&context.fresh_name()));
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    let one = frame(FrameType::Hello as u64, &hello);
    s0.write(&[one.clone(), one].concat()).await?;
    peer.expect_close(&[CloseCode::ProtocolViolation]).await?;
    Ok(())
}

async fn another_frame_first(context: Context) -> anyhow::Result<()> {
    for kind in [
        FrameType::Send,
        FrameType::OpenDirect,
        FrameType::Receipt,
        FrameType::Ack,
        FrameType::History,
    ] {
        let peer = context.dialer.connect().await?;
        let mut s0 = peer.open().await?;
        s0.write(&frame(kind as u64, &[])).await?;
        peer.expect_close(&[CloseCode::ProtocolViolation]).await?;
    }
    Ok(())
}

/// A command right behind HELLO, before WELCOME.
async fn command_before_welcome(context: Context) -> anyhow::Result<()> {
    let hello = prost::Message::encode_to_vec(&register(&context.fresh_name()));
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    let hello = frame(FrameType::Hello as u64, &hello);
    let ack = frame(FrameType::Ack as u64, &[]);
    s0.write(&[hello, ack].concat()).await?;
    peer.expect_close(&[CloseCode::ProtocolViolation]).await?;
    Ok(())
}

/// No stream at all, an empty stream, and half of a HELLO: each is given up after the limit.
async fn never_said(context: Context) -> anyhow::Result<()> {
    let silent = context.dialer.connect().await?;
    let begun = context.dialer.connect().await?;
    let mut s0 = begun.open().await?;
    s0.write(&header(100, FrameType::Hello as u64)).await?;
    s0.write(b"half").await?;
    for peer in [silent, begun] {
        peer.expect_close(&[CloseCode::HelloTimeout]).await?;
    }
    Ok(())
}

async fn wrong_alpn(context: Context) -> anyhow::Result<()> {
    for alpn in [&b"quipu/99"[..], b"h3"] {
        let refused = context.dialer.connect_as(alpn).await?;
        let Err(quinn::ConnectionError::ConnectionClosed(close)) = refused else {
            anyhow::bail!("expected a TLS alert, got {refused:?}");
        };
        // TLS alert 120, no_application_protocol, as a QUIC crypto error.
        ensure!(u64::from(close.error_code) == 0x100 + 120, "{close:?}");
    }
    Ok(())
}

async fn replaced(context: Context) -> anyhow::Result<()> {
    let first = context.user().await?;
    let hello = first.identity().hello(None);
    let mut second = Session::open(&context.dialer, &hello).await?;
    first.peer.expect_close(&[CloseCode::Replaced]).await?;
    second.expect_alive().await
}

async fn foreign_life(context: Context) -> anyhow::Result<()> {
    let (mut a, b, conversation) = context.pair().await?;
    a.say(&conversation, "one").await?;
    let resume = wire::Resume {
        cursor: 1,
        life: b.welcome.life ^ 1,
    };
    let mut back = Session::open(&context.dialer, &b.identity().hello(Some(resume))).await?;
    ensure!(
        back.welcome.resume() == wire::ResumeResult::Resync,
        "not RESYNC"
    );
    let (inbox_seq, _) = back.message().await?;
    ensure!(
        inbox_seq == back.welcome.cursor + 1,
        "events restart behind WELCOME.cursor"
    );
    Ok(())
}

async fn cursor_ahead(context: Context) -> anyhow::Result<()> {
    let user = context.user().await?;
    let resume = wire::Resume {
        cursor: 1_000,
        life: user.welcome.life,
    };
    let back = Session::open(&context.dialer, &user.identity().hello(Some(resume))).await?;
    ensure!(
        back.welcome.resume() == wire::ResumeResult::Resync,
        "not RESYNC"
    );
    ensure!(
        back.welcome.cursor == 0,
        "events restart behind {}",
        back.welcome.cursor
    );
    Ok(())
}

/// Reasons reach logs: they must not repeat what was secret.
async fn reasons_without_secrets(context: Context) -> anyhow::Result<()> {
    let secret = "xyzzy-plugh-secret";
    let user = context.user().await?;
    let mut identity = user.identity();
    identity.token = Bytes::from_static(b"xyzzy-plugh-secret-of-32-bytes!!");
    for hello in [login(&user.welcome.user, secret), identity.hello(None)] {
        let peer = context.dialer.connect().await?;
        let mut s0 = peer.open().await?;
        s0.send(FrameType::Hello, &hello).await?;
        let closed = crate::raw::within("a close", peer.connection.closed()).await?;
        ensure!(!closed.to_string().contains("xyzzy"), "{closed}");
    }
    Ok(())
}

cases! {
    "hello/register-welcomes", ["QP-WELCOME-1", "QP-WELCOME-3", "QP-WELCOME-4", "QP-ID-5", "QP-STREAM-3"], register_welcomes;
    "hello/login-adds-a-device", ["QP-HELLO-2", "QP-WELCOME-3", "QP-ID-5"], login_adds_a_device;
    "hello/token-comes-back", ["QP-HELLO-2", "QP-WELCOME-5", "QP-RESUME-2"], token_comes_back;
    "hello/wrong-password", ["QP-HELLO-6"], wrong_password;
    "hello/guessed-passwords", ["QP-RATE-1", "QP-RATE-2"], guessed_passwords;
    "hello/unknown-user", ["QP-HELLO-6"], unknown_user;
    "hello/wrong-token", ["QP-HELLO-6"], wrong_token;
    "hello/unknown-device", ["QP-HELLO-6"], unknown_device;
    "hello/another-users-token", ["QP-HELLO-6"], another_users_token;
    "hello/name-taken", ["QP-HELLO-6"], name_taken;
    "hello/bad-names", ["QP-HELLO-3", "QP-ID-1"], bad_names;
    "hello/bad-credentials", ["QP-HELLO-3"], bad_credentials;
    "hello/no-credentials", ["QP-HELLO-2"], no_credentials;
    "hello/second-after-welcome", ["QP-HELLO-1"], second_after_welcome;
    "hello/second-before-welcome", ["QP-HELLO-1", "QP-HELLO-4"], second_before_welcome;
    "hello/another-frame-first", ["QP-HELLO-1"], another_frame_first;
    "hello/command-before-welcome", ["QP-HELLO-4"], command_before_welcome;
    "hello/never-said", ["QP-HELLO-5"], never_said;
    "hello/wrong-alpn", ["QP-CONN-1"], wrong_alpn;
    "hello/replaced", ["QP-HELLO-7"], replaced;
    "hello/foreign-life", ["QP-RESUME-3"], foreign_life;
    "hello/cursor-ahead", ["QP-RESUME-3"], cursor_ahead;
    "hello/reasons-without-secrets", ["QP-ERROR-1"], reasons_without_secrets;
}
