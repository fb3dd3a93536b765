//! Typing and presence: who is told, in datagrams and in answers, and what else the user asks about the own account.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use prost::Message as _;
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits::{DATAGRAM_BYTES_MAX, TYPING_REPEAT_MS};
use quipu_protocol::wire::{self, command::Kind, query};

use super::changes::block;
use crate::raw::{PATIENCE, frame, put_varint};
use crate::session::{Session, login};
use crate::suite::Context;

/// How long nothing has to come for a case to believe that nothing comes.
const QUIET: Duration = Duration::from_millis(1500);

fn typing(conversation: &ConversationId, stopped: bool) -> wire::Typing {
    wire::Typing {
        conversation: conversation.0.to_vec().into(),
        user: String::new(),
        stopped,
    }
}

fn privacy(hide: &[&str]) -> Kind {
    Kind::SetPrivacy(wire::Privacy {
        hide_read: hide.contains(&"read"),
        hide_typing: hide.contains(&"typing"),
        hide_presence: hide.contains(&"presence"),
        hide_last_seen: hide.contains(&"last seen"),
    })
}

impl Session {
    fn types(&self, said: &wire::Typing) -> anyhow::Result<()> {
        let said = said.encode_to_vec();
        self.peer.datagram(frame(FrameType::Typing as u64, &said))
    }

    /// The next TYPING within `time`.
    async fn hears(&self, time: Duration) -> anyhow::Result<Option<wire::Typing>> {
        let Some(datagram) = self.peer.next_datagram(time).await? else {
            return Ok(None);
        };
        ensure!(
            datagram.kind == FrameType::Typing as u64,
            "expected TYPING, got {datagram:?}"
        );
        Ok(Some(wire::Typing::decode(datagram.body)?))
    }

    /// Has `from` say something until this session hears it: a datagram may be lost.
    async fn hears_from(
        &self,
        from: &Session,
        said: &wire::Typing,
    ) -> anyhow::Result<wire::Typing> {
        let pause = Duration::from_millis(TYPING_REPEAT_MS);
        for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
            from.types(said)?;
            if let Some(heard) = self.hears(pause).await? {
                return Ok(heard);
            }
        }
        bail!("no TYPING came, however often it was said")
    }

    async fn hears_nothing(&self) -> anyhow::Result<()> {
        match self.hears(QUIET).await? {
            None => Ok(()),
            Some(heard) => bail!("told of {heard:?}"),
        }
    }

    async fn answer(&self, kind: query::Kind) -> anyhow::Result<wire::answer::Kind> {
        let mut stream = self.peer.open().await?;
        let query = wire::Query { kind: Some(kind) };
        stream.send(FrameType::Query, &query).await?;
        let answer: wire::Answer = stream.expect(FrameType::Answer).await?;
        answer.kind.context("an ANSWER that says nothing")
    }

    /// What is told of these users.
    async fn sees(&self, users: &[&str], watch: bool) -> anyhow::Result<Vec<wire::PresenceEntry>> {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        let query = wire::PresenceQuery { users, watch };
        match self.answer(query::Kind::Presence(query)).await? {
            wire::answer::Kind::Presence(answer) => Ok(answer.users),
            other => bail!("expected presence, got {other:?}"),
        }
    }

    /// The next PRESENCE, of one user.
    async fn told(&self) -> anyhow::Result<wire::PresenceEntry> {
        let datagram = self.peer.next_datagram(PATIENCE).await?;
        let datagram = datagram.context("no PRESENCE came")?;
        ensure!(
            datagram.kind == FrameType::Presence as u64,
            "expected PRESENCE, got {datagram:?}"
        );
        let mut users = wire::Presences::decode(datagram.body)?.users;
        ensure!(users.len() == 1, "{users:?}");
        users.pop().context("an entry")
    }

    /// The next PRESENCE that says so: one that was under way may repeat what is known (QP-PRESENCE-4).
    async fn told_whether(&self, here: bool) -> anyhow::Result<wire::PresenceEntry> {
        for _ in 0..4 {
            let told = self.told().await?;
            if told.here == here {
                return Ok(told);
            }
        }
        bail!("told again and again that a user's presence is not {here}")
    }
}

async fn ignored(context: Context) -> anyhow::Result<()> {
    let (mut a, b, conversation) = context.pair().await?;
    let good = frame(
        FrameType::Typing as u64,
        &typing(&conversation, true).encode_to_vec(),
    );
    let mut long = frame(FrameType::Typing as u64, &[]);
    long.resize(DATAGRAM_BYTES_MAX + 1, 0);
    let mut cut = Vec::new();
    put_varint(&mut cut, 100);
    for bad in [
        Vec::new(),
        vec![0xff; 40],
        cut,
        long,
        [&good[..], &[0]].concat(),
        [&good[..], &good[..]].concat(),
        frame(FrameType::Presence as u64, &[]),
        frame(FrameType::Send as u64, &[]),
        frame(0x7b, &[]),
        frame(0x7c, &[]),
        frame(FrameType::Typing as u64, &[]),
        frame(FrameType::Typing as u64, &[0xff; 16]),
    ] {
        b.peer.datagram(bad)?;
    }
    a.hears_nothing().await?;
    // Before WELCOME as well.
    let early = context.dialer.connect().await?;
    early.datagram(good.clone())?;
    let mut s0 = early.open().await?;
    s0.send(
        FrameType::Hello,
        &login(&b.welcome.user, crate::session::PASSWORD),
    )
    .await?;
    let late = Session::welcomed(early, s0).await?;
    a.hears_nothing().await?;
    for session in [&b, &late] {
        let heard = a.hears_from(session, &typing(&conversation, true)).await?;
        ensure!(heard.user == b.welcome.user, "{heard:?}");
    }
    a.expect_alive().await
}

async fn passed_on(context: Context) -> anyhow::Result<()> {
    let (a, b, conversation) = context.pair().await?;
    let name = b.welcome.user.clone();
    let other = Session::open(&context.dialer, &login(&name, crate::session::PASSWORD)).await?;
    for stopped in [false, true] {
        let said = typing(&conversation, stopped);
        let expected = wire::Typing {
            user: a.welcome.user.clone(),
            ..said.clone()
        };
        let heard = b.hears_from(&a, &said).await?;
        ensure!(heard == expected, "{heard:?}");
        let heard = other.hears(PATIENCE).await?;
        ensure!(heard == Some(expected), "{heard:?}");
    }
    // Whoever claims to be somebody else is named by the gateway.
    let forged = wire::Typing {
        user: b.welcome.user.clone(),
        ..typing(&conversation, false)
    };
    let heard = b.hears_from(&a, &forged).await?;
    ensure!(heard.user == a.welcome.user, "{heard:?}");
    Ok(())
}

async fn of_members_only(context: Context) -> anyhow::Result<()> {
    let (a, b, conversation) = context.pair().await?;
    let stranger = context.user().await?;
    for _ in 0..3 {
        stranger.types(&typing(&conversation, false))?;
    }
    a.hears_nothing().await?;
    b.hears_nothing().await?;
    stranger.hears_nothing().await
}

async fn hidden_and_blocked(context: Context) -> anyhow::Result<()> {
    let (mut a, b, conversation) = context.pair().await?;
    let said = typing(&conversation, false);
    a.hears_from(&b, &said).await?;
    b.hears_from(&a, &said).await?;
    let other = b.welcome.user.clone();
    for (off, on) in [
        (privacy(&["typing"]), privacy(&[])),
        (block(&other, true), block(&other, false)),
    ] {
        a.done(off).await?;
        b.types(&said)?;
        a.hears_nothing().await?;
        a.types(&said)?;
        b.hears_nothing().await?;
        a.done(on).await?;
        a.hears_from(&b, &said).await?;
        b.hears_from(&a, &said).await?;
    }
    Ok(())
}

async fn devices_and_settings(context: Context) -> anyhow::Result<()> {
    let mut a = context.user().await?;
    let name = a.welcome.user.clone();
    let stranger = context.user().await?.welcome.user;
    let other = Session::open(&context.dialer, &login(&name, crate::session::PASSWORD)).await?;
    let device = other.welcome.device;
    other.peer.connection.close(0_u32.into(), b"");
    // The end of a session takes its way through the gateway.
    let gone = async {
        loop {
            let answer = a
                .answer(query::Kind::Devices(wire::DevicesQuery {}))
                .await?;
            let wire::answer::Kind::Devices(answer) = answer else {
                bail!("expected devices, got {answer:?}");
            };
            ensure!(answer.devices.len() == 2, "{answer:?}");
            let mut of = answer.devices.into_iter();
            let entry = of.find(|entry| entry.device == device);
            let entry = entry.context("the other device is missing")?;
            if !entry.connected && entry.seen_at_ms > 0 {
                return anyhow::Ok(entry);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let entry = tokio::time::timeout(PATIENCE, gone)
        .await
        .context("a device that is gone counts as connected, or was never seen")??;
    ensure!(
        entry.label == "another" && entry.added_at_ms > 0,
        "{entry:?}"
    );
    a.done(privacy(&["typing", "last seen"])).await?;
    a.done(block(&stranger, true)).await?;
    let answer = a
        .answer(query::Kind::Settings(wire::SettingsQuery {}))
        .await?;
    let wire::answer::Kind::Settings(settings) = answer else {
        bail!("expected settings, got {answer:?}");
    };
    let expected = wire::Settings {
        privacy: Some(wire::Privacy {
            hide_read: false,
            hide_typing: true,
            hide_presence: false,
            hide_last_seen: true,
        }),
        blocked: vec![stranger],
    };
    ensure!(settings == expected, "{settings:?}");
    Ok(())
}

async fn who_is_told(context: Context) -> anyhow::Result<()> {
    let (mut a, b, _) = context.pair().await?;
    let stranger = context.user().await?;
    let (me, other) = (a.welcome.user.clone(), b.welcome.user.clone());
    let all = [
        &other[..],
        &stranger.welcome.user,
        &me,
        "nobody-of-this-name",
    ];
    let seen = a.sees(&all, false).await?;
    ensure!(
        seen.len() == 1 && seen[0].user == other && seen[0].here && seen[0].seen_at_ms == 0,
        "{seen:?}"
    );
    ensure!(stranger.sees(&[&me, &other], false).await?.is_empty());
    // Neither side is told what one of them hides. Who hides only that they are here is known to have been.
    a.done(privacy(&["presence", "last seen"])).await?;
    ensure!(a.sees(&[&other], false).await?.is_empty(), "hides and sees");
    ensure!(
        b.sees(&[&me], false).await?.is_empty(),
        "sees what is hidden"
    );
    a.done(privacy(&["presence"])).await?;
    for (session, user) in [(&a, &other), (&b, &me)] {
        let seen = session.sees(&[user], false).await?;
        ensure!(
            seen.len() == 1 && !seen[0].here && seen[0].seen_at_ms > 0,
            "{seen:?}"
        );
    }
    a.done(privacy(&[])).await?;
    a.done(block(&other, true)).await?;
    ensure!(
        a.sees(&[&other], false).await?.is_empty(),
        "sees the blocked"
    );
    ensure!(
        b.sees(&[&me], false).await?.is_empty(),
        "the blocked one sees"
    );
    Ok(())
}

async fn changes_are_told(context: Context) -> anyhow::Result<()> {
    let (a, mut b, _) = context.pair().await?;
    let other = b.welcome.user.clone();
    let mut order = a
        .sees(&[&other], true)
        .await?
        .first()
        .context("b is here")?
        .order;
    let hidden = ["presence", "last seen"];
    for (hide, here) in [
        (&hidden[..], false),
        (&[], true),
        (&hidden, false),
        (&[], true),
    ] {
        b.done(privacy(hide)).await?;
        let told = a.told_whether(here).await?;
        ensure!(
            told.user == other && told.seen_at_ms == 0 && told.order > order,
            "{told:?} after order {order}"
        );
        order = told.order;
    }
    // Whoever watches nobody is told nothing.
    ensure!(a.sees(&[], true).await?.is_empty());
    b.done(privacy(&hidden)).await?;
    let told = a.peer.next_datagram(QUIET).await?;
    ensure!(told.is_none(), "{told:?}");
    Ok(())
}

async fn grace(context: Context) -> anyhow::Result<()> {
    let (a, b, _) = context.pair().await?;
    let other = b.welcome.user.clone();
    a.sees(&[&other], true).await?;
    let identity = b.identity();
    b.peer.connection.close(0_u32.into(), b"");
    let back = Session::open(&context.dialer, &identity.hello(None)).await?;
    let told = a.peer.next_datagram(QUIET).await?;
    ensure!(told.is_none(), "a quick resume shows: {told:?}");
    back.peer.connection.close(0_u32.into(), b"");
    let told = a.told().await?;
    ensure!(
        told.user == other && !told.here && told.seen_at_ms > 0,
        "{told:?}"
    );
    let again = a.sees(&[&other], false).await?;
    ensure!(
        again.len() == 1 && !again[0].here && again[0].seen_at_ms > 0,
        "{again:?}"
    );
    Ok(())
}

/// Who takes no datagrams is sent none, which would end the connection, and has everything else. What is said twice or out of
/// its order harms nobody.
async fn without_datagrams(context: Context) -> anyhow::Result<()> {
    let (mut a, b, conversation) = context.pair().await?;
    let (me, name) = (a.welcome.user.clone(), b.welcome.user.clone());
    let peer = context.dialer.connect_without_datagrams().await?;
    let mut s0 = peer.open().await?;
    s0.send(FrameType::Hello, &login(&name, crate::session::PASSWORD))
        .await?;
    let mut deaf = Session::welcomed(peer, s0).await?;
    for session in [&b, &deaf] {
        let seen = session.sees(&[&me], true).await?;
        ensure!(seen.len() == 1 && seen[0].here, "{seen:?}");
    }
    // Both devices are due what comes now, and the other one proves that it was sent.
    for stopped in [true, true, false] {
        b.hears_from(&a, &typing(&conversation, stopped)).await?;
    }
    a.done(privacy(&["presence", "last seen"])).await?;
    loop {
        let told = b.peer.next_datagram(PATIENCE).await?;
        let told = told.context("no PRESENCE came")?;
        if told.kind == FrameType::Presence as u64 {
            break;
        }
    }
    a.done(privacy(&[])).await?;
    let said = a
        .say(&conversation, "to those who hear and those who do not")
        .await?;
    let (_, message) = deaf.message().await?;
    ensure!(message.seq == said.seq, "{message:?}");
    deaf.expect_alive().await
}

cases! {
    "datagram/not-taken", ["QP-DATAGRAM-3"], without_datagrams;
    "datagram/ignored", ["QP-DATAGRAM-1", "QP-DATAGRAM-2"], ignored;
    "typing/passed-on", ["QP-TYPING-2"], passed_on;
    "typing/of-members-only", ["QP-TYPING-2"], of_members_only;
    "typing/hidden-and-blocked", ["QP-TYPING-3", "QP-SELF-2", "QP-SELF-4"], hidden_and_blocked;
    "self/devices-and-settings", ["QP-QUERY-5"], devices_and_settings;
    "presence/who-is-told", ["QP-QUERY-5", "QP-PRESENCE-1", "QP-SELF-2", "QP-SELF-4"], who_is_told;
    "presence/changes-are-told", ["QP-PRESENCE-3", "QP-PRESENCE-4"], changes_are_told;
    "presence/grace", ["QP-PRESENCE-2"], grace;
}
