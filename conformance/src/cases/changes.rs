//! Changes of messages and of the own account: COMMAND, its REPLY, and the events that follow.

use anyhow::{Context as _, bail, ensure};
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits;
use quipu_protocol::wire::{self, command::Kind, reply::Outcome};

use crate::raw::Stream;
use crate::session::{Session, login, text};
use crate::suite::Context;

const REQUEST: u64 = 41;

fn id(conversation: &ConversationId) -> bytes::Bytes {
    conversation.0.to_vec().into()
}

fn edit(conversation: &ConversationId, seq: u64, says: &str) -> Kind {
    Kind::Edit(wire::Edit {
        conversation: id(conversation),
        seq,
        content: Some(content(says)),
    })
}

fn content(says: &str) -> wire::Content {
    wire::Content {
        kind: Some(wire::content::Kind::Text(says.to_owned())),
    }
}

fn delete(conversation: &ConversationId, seq: u64) -> Kind {
    Kind::Delete(wire::MessageRef {
        conversation: id(conversation),
        seq,
    })
}

fn react(conversation: &ConversationId, seq: u64, emoji: &str, on: bool) -> Kind {
    Kind::React(wire::React {
        conversation: id(conversation),
        seq,
        emoji: emoji.to_owned(),
        on,
    })
}

fn report(conversation: &ConversationId, seq: u64, reason: &str) -> Kind {
    Kind::Report(wire::Report {
        conversation: id(conversation),
        seq,
        reason: reason.to_owned(),
    })
}

pub(super) fn block(user: &str, on: bool) -> Kind {
    Kind::Block(wire::Block {
        user: user.to_owned(),
        on,
    })
}

impl Session {
    /// Gives a command and reads the REPLY to it.
    pub(super) async fn command(&mut self, kind: Kind) -> anyhow::Result<Outcome> {
        let client_seq = self.next_client_seq();
        self.command_as(client_seq, kind).await
    }

    /// The same under this client seq.
    async fn command_as(&mut self, client_seq: u64, kind: Kind) -> anyhow::Result<Outcome> {
        let command = wire::Command {
            request: REQUEST,
            client_seq,
            kind: Some(kind),
        };
        self.s0.send(FrameType::Command, &command).await?;
        let reply: wire::Reply = self.s0.expect(FrameType::Reply).await?;
        ensure!(
            reply.to == Some(wire::reply::To::Request(REQUEST)),
            "{reply:?}"
        );
        reply.outcome.context("a REPLY without an outcome")
    }

    pub(super) async fn done(&mut self, kind: Kind) -> anyhow::Result<()> {
        let outcome = self.command(kind).await?;
        ensure!(
            matches!(outcome, Outcome::Done(_)),
            "expected done, got {outcome:?}"
        );
        Ok(())
    }

    async fn done_as(&mut self, client_seq: u64, kind: Kind) -> anyhow::Result<()> {
        let outcome = self.command_as(client_seq, kind).await?;
        ensure!(
            matches!(outcome, Outcome::Done(_)),
            "expected done to {client_seq}, got {outcome:?}"
        );
        Ok(())
    }

    async fn refused(&mut self, kind: Kind, code: RejectCode) -> anyhow::Result<()> {
        let client_seq = self.next_client_seq();
        self.refused_as(client_seq, kind, code).await
    }

    async fn refused_as(
        &mut self,
        client_seq: u64,
        kind: Kind,
        code: RejectCode,
    ) -> anyhow::Result<()> {
        match self.command_as(client_seq, kind).await? {
            Outcome::Rejected(rejected) if rejected.code == code.code() => Ok(()),
            other => bail!("expected {code} to {client_seq}, got {other:?}"),
        }
    }

    pub(super) async fn changed(&mut self) -> anyhow::Result<wire::Changed> {
        match self.event().await?.body {
            Some(wire::event::Body::Changed(changed)) => Ok(changed),
            other => bail!("expected a change, got {other:?}"),
        }
    }

    async fn page(&self, conversation: &ConversationId) -> anyhow::Result<Vec<wire::Message>> {
        let request = wire::HistoryRequest {
            conversation: id(conversation),
            first: 0,
            last: 0,
            limit: 50,
            newest_first: false,
        };
        let mut stream = self.peer.open().await?;
        stream.send(FrameType::History, &request).await?;
        let page: wire::HistoryPage = stream.expect(FrameType::HistoryPage).await?;
        Ok(page.messages)
    }
}

async fn edits(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "helo").await?;
    b.message().await?;
    a.done(edit(&conversation, 1, "hello")).await?;
    for session in [&mut a, &mut b] {
        let changed = session.changed().await?;
        let Some(wire::changed::Kind::Edited(says)) = &changed.kind else {
            bail!("expected an edit, got {changed:?}");
        };
        ensure!(
            changed.version == 1 && changed.seq == 1 && *says == content("hello"),
            "{changed:?}"
        );
    }
    // Asked again, as by a device that heard no answer: done, and no other event.
    a.done(edit(&conversation, 1, "hello")).await?;
    b.refused(edit(&conversation, 1, "mine"), RejectCode::Forbidden)
        .await?;
    a.refused(edit(&conversation, 9, "where?"), RejectCode::UnknownMessage)
        .await?;
    for number in 2..=limits::EDITS_MAX as u32 {
        a.done(edit(&conversation, 1, &format!("hello {number}")))
            .await?;
        let changed = a.changed().await?;
        ensure!(changed.version == number, "{changed:?}");
    }
    a.refused(edit(&conversation, 1, "once more"), RejectCode::TooMany)
        .await
}

/// A late copy of a change is answered and changes nothing, whatever was changed since.
async fn repeated_commands(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "one").await?;
    b.message().await?;
    let react = |on| react(&conversation, 1, "+", on);
    a.done_as(10, edit(&conversation, 1, "two")).await?;
    a.done_as(10, edit(&conversation, 1, "two")).await?;
    a.done_as(12, edit(&conversation, 1, "three")).await?;
    a.done_as(10, edit(&conversation, 1, "two")).await?;
    a.done_as(13, react(true)).await?;
    a.done_as(14, react(false)).await?;
    a.done_as(13, react(true)).await?;
    for version in 1..=4 {
        for session in [&mut a, &mut b] {
            let changed = session.changed().await?;
            ensure!(changed.version == version, "a repeat was made: {changed:?}");
        }
    }
    let page = b.page(&conversation).await?;
    let state = page[0].state.clone().unwrap_or_default();
    ensure!(
        text(&page[0]) == "three" && state.version == 4 && state.reactions.is_empty(),
        "{page:?}"
    );
    // Also on a later connection, and after a rejection.
    let (identity, life) = (a.identity(), a.welcome.life);
    a.refused_as(
        15,
        self::react(&conversation, 2, "+", true),
        RejectCode::UnknownMessage,
    )
    .await?;
    a.say(&conversation, "now there").await?;
    a.peer.connection.close(0_u32.into(), b"");
    let resume = wire::Resume { cursor: 0, life };
    let mut a = Session::open(&context.dialer, &identity.hello(Some(resume))).await?;
    a.done_as(10, edit(&conversation, 1, "two")).await?;
    a.refused_as(
        15,
        self::react(&conversation, 2, "+", true),
        RejectCode::UnknownMessage,
    )
    .await?;
    let page = a.page(&conversation).await?;
    let reacted = page[1].state.clone().unwrap_or_default().reactions;
    ensure!(text(&page[0]) == "three" && reacted.is_empty(), "{page:?}");
    a.done_as(16, self::react(&conversation, 2, "+", true))
        .await
}

/// Numbers grow: what comes behind a later one and was not answered is not made.
async fn numbers_of_commands(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "one").await?;
    a.refused_as(0, edit(&conversation, 1, "zero"), RejectCode::Invalid)
        .await?;
    a.done_as(20, edit(&conversation, 1, "two")).await?;
    a.refused_as(
        19,
        edit(&conversation, 1, "late"),
        RejectCode::StaleClientSeq,
    )
    .await?;
    a.refused_as(
        19,
        edit(&conversation, 1, "late"),
        RejectCode::StaleClientSeq,
    )
    .await?;
    let page = a.page(&conversation).await?;
    ensure!(text(&page[0]) == "two", "{page:?}");
    // Numbers are a device's own.
    b.done_as(3, react(&conversation, 1, "+", true)).await?;
    // A block that was taken back does not come back.
    let other = b.welcome.user.clone();
    a.done_as(21, block(&other, true)).await?;
    a.done_as(22, block(&other, false)).await?;
    a.done_as(21, block(&other, true)).await?;
    let (mut a_label, device) = (0, a.welcome.device);
    let mut rename = |label: &str| {
        a_label += 1;
        Kind::RenameDevice(wire::RenameDevice {
            device,
            label: format!("{label} {a_label}"),
        })
    };
    a.done_as(30, rename("first")).await?;
    a.refused_as(29, rename("late"), RejectCode::StaleClientSeq)
        .await?;
    let send = b.next_send(&conversation, "am I heard?");
    b.s0.send(FrameType::Send, &send).await?;
    loop {
        match b.event().await?.body {
            Some(wire::event::Body::Message(message)) if text(&message) == "am I heard?" => {
                return Ok(());
            }
            Some(_) => {}
            None => bail!("an event without a body"),
        }
    }
}

/// Asks for what the first message said before.
async fn versions(session: &Session, conversation: &ConversationId) -> anyhow::Result<Stream> {
    let query = wire::Query {
        kind: Some(wire::query::Kind::Versions(wire::MessageRef {
            conversation: id(conversation),
            seq: 1,
        })),
    };
    let mut stream = session.peer.open().await?;
    stream.send(FrameType::Query, &query).await?;
    Ok(stream)
}

async fn earlier_contents(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "one").await?;
    b.message().await?;
    a.done(edit(&conversation, 1, "two")).await?;
    a.done(edit(&conversation, 1, "three")).await?;
    // A reader has in the answer what that reader was told, not what others were.
    b.changed().await?;
    b.changed().await?;
    let answer: wire::Answer = versions(&b, &conversation)
        .await?
        .expect(FrameType::Answer)
        .await?;
    let Some(wire::answer::Kind::Versions(found)) = answer.kind else {
        bail!("expected versions, got {answer:?}");
    };
    let expected = [(0, content("one")), (1, content("two"))];
    let found: Vec<_> = found
        .versions
        .into_iter()
        .map(|version| (version.version, version.content.unwrap_or_default()))
        .collect();
    ensure!(found == expected, "{found:?}");
    a.done(delete(&conversation, 1)).await?;
    b.changed().await?;
    let failure: wire::Rejected = versions(&b, &conversation)
        .await?
        .expect(FrameType::Failure)
        .await?;
    ensure!(
        failure.code == RejectCode::UnknownMessage.code(),
        "{failure:?}"
    );
    Ok(())
}

async fn deletes(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "secret").await?;
    b.message().await?;
    b.refused(delete(&conversation, 1), RejectCode::Forbidden)
        .await?;
    a.done(delete(&conversation, 1)).await?;
    let changed = b.changed().await?;
    ensure!(
        matches!(changed.kind, Some(wire::changed::Kind::Deleted(_)))
            && changed.version == 1
            && changed.by == a.welcome.user,
        "{changed:?}"
    );
    a.done(delete(&conversation, 1)).await?;
    a.refused(edit(&conversation, 1, "back"), RejectCode::UnknownMessage)
        .await?;
    b.refused(
        react(&conversation, 1, "+", true),
        RejectCode::UnknownMessage,
    )
    .await?;
    let page = b.page(&conversation).await?;
    ensure!(
        page.len() == 1
            && matches!(
                page[0].content.as_ref().and_then(|c| c.kind.as_ref()),
                Some(wire::content::Kind::Gone(_))
            ),
        "{page:?}"
    );
    Ok(())
}

async fn reactions(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "hello").await?;
    b.message().await?;
    b.done(react(&conversation, 1, "+", true)).await?;
    b.done(react(&conversation, 1, "+", true)).await?;
    b.done(react(&conversation, 1, "?", false)).await?;
    a.done(react(&conversation, 1, "+", true)).await?;
    b.done(react(&conversation, 1, "+", false)).await?;
    let (first, second) = (b.welcome.user.clone(), a.welcome.user.clone());
    for (version, by, on) in [(1, &first, true), (2, &second, true), (3, &first, false)] {
        let changed = match a.event().await?.body {
            Some(wire::event::Body::Changed(changed)) => changed,
            other => bail!("expected a change, got {other:?}"),
        };
        let reacted = wire::Reacted {
            emoji: "+".to_owned(),
            on,
        };
        ensure!(
            changed.version == version
                && changed.by == *by
                && changed.kind == Some(wire::changed::Kind::Reacted(reacted)),
            "{changed:?}"
        );
    }
    let page = b.page(&conversation).await?;
    let state = page[0].state.clone().unwrap_or_default();
    ensure!(
        state.version == 3
            && state.reactions.len() == 1
            && state.reactions[0].user == a.welcome.user,
        "{state:?}"
    );
    for number in 1..limits::REACTIONS_MAX {
        b.done(react(&conversation, 1, &number.to_string(), true))
            .await?;
    }
    b.refused(react(&conversation, 1, "more", true), RejectCode::TooMany)
        .await
}

/// A device that comes back reads what a message says now, in an EVENT without reactions, and applies what is newer.
async fn late_devices(context: Context) -> anyhow::Result<()> {
    let (mut a, b, conversation) = context.pair().await?;
    let identity = b.identity();
    let life = b.welcome.life;
    b.peer.connection.close(0_u32.into(), b"");
    a.say(&conversation, "one").await?;
    a.done(edit(&conversation, 1, "two")).await?;
    a.done(react(&conversation, 1, "+", true)).await?;
    a.done(edit(&conversation, 1, "three")).await?;
    let resume = wire::Resume { cursor: 0, life };
    let mut back = Session::open(&context.dialer, &identity.hello(Some(resume))).await?;
    let (_, message) = back.message().await?;
    let state = message.state.clone().unwrap_or_default();
    ensure!(
        text(&message) == "three" && state.version == 0 && state.reactions.is_empty(),
        "{message:?}"
    );
    for version in 1..=3 {
        let changed = back.changed().await?;
        ensure!(changed.version == version, "{changed:?}");
        if let Some(wire::changed::Kind::Edited(says)) = changed.kind {
            ensure!(
                says == content("three"),
                "an edit that comes late says {says:?}"
            );
        }
    }
    Ok(())
}

async fn timers(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let timer = |keep_ms| {
        Kind::SetTimer(wire::SetTimer {
            conversation: id(&conversation),
            keep_ms,
        })
    };
    b.refused(timer(limits::KEEP_MS_MIN - 1), RejectCode::Invalid)
        .await?;
    b.done(timer(limits::KEEP_MS_MIN)).await?;
    b.done(timer(limits::KEEP_MS_MIN)).await?;
    let (_, note) = a.message().await?;
    ensure!(
        matches!(
            note.content.as_ref().and_then(|c| c.kind.as_ref()),
            Some(wire::content::Kind::Note(_))
        ) && note.client_seq == u64::MAX
            && note.state.is_none(),
        "{note:?}"
    );
    a.refused(edit(&conversation, 1, "note"), RejectCode::UnknownMessage)
        .await?;
    let send = a.next_send(&conversation, "short");
    a.s0.send(FrameType::Send, &send).await?;
    let (_, message) = a.message().await?;
    let expires_at = message
        .state
        .as_ref()
        .map_or(0, |state| state.expires_at_ms);
    ensure!(
        expires_at == message.sent_at_ms + limits::KEEP_MS_MIN,
        "{message:?}"
    );
    ensure!(
        text(&b.page(&conversation).await?[1]) == "short",
        "gone too early"
    );
    let gone = async {
        loop {
            let page = b.page(&conversation).await?;
            let kind = page[1].content.as_ref().and_then(|c| c.kind.as_ref());
            if matches!(kind, Some(wire::content::Kind::Gone(_))) {
                return anyhow::Ok(());
            }
            // The rule speaks of time, and nothing tells when it is over.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let patience = std::time::Duration::from_millis(limits::KEEP_MS_MIN * 3);
    tokio::time::timeout(patience, gone)
        .await
        .context("it is still there")?
}

async fn replies(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "question").await?;
    let mut send = b.next_send(&conversation, "");
    let rich = |reply_to| wire::Content {
        kind: Some(wire::content::Kind::Rich(wire::Rich {
            text: "answer".to_owned(),
            reply_to,
            ..wire::Rich::default()
        })),
    };
    send.content = Some(rich(2));
    b.s0.send(FrameType::Send, &send).await?;
    let code = b.rejection().await?;
    ensure!(code == RejectCode::Invalid.code(), "code {code:#x}");
    send = b.next_send(&conversation, "");
    send.content = Some(rich(1));
    b.s0.send(FrameType::Send, &send).await?;
    a.message().await?;
    ensure!(
        text(&a.page(&conversation).await?[1]) == "answer",
        "no answer"
    );
    Ok(())
}

async fn out_of_range(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "hello").await?;
    for kind in [
        edit(&conversation, 0, "x"),
        edit(&conversation, 1, ""),
        react(&conversation, 1, "", true),
        react(
            &conversation,
            1,
            &"x".repeat(limits::EMOJI_BYTES_MAX + 1),
            true,
        ),
        report(&conversation, 1, ""),
        block("NOT A NAME", true),
    ] {
        b.refused(kind, RejectCode::Invalid).await?;
    }
    let mut stranger = context.user().await?;
    for kind in [
        edit(&conversation, 1, "x"),
        delete(&conversation, 1),
        react(&conversation, 1, "+", true),
        report(&conversation, 1, "x"),
    ] {
        stranger
            .refused(kind, RejectCode::UnknownConversation)
            .await?;
    }
    b.expect_alive().await
}

async fn own_devices(context: Context) -> anyhow::Result<()> {
    let mut a = context.user().await?;
    let name = a.welcome.user.clone();
    let other = Session::open(&context.dialer, &login(&name, crate::session::PASSWORD)).await?;
    let device = other.welcome.device;
    a.done(Kind::RenameDevice(wire::RenameDevice {
        device,
        label: "lost".to_owned(),
    }))
    .await?;
    let revoke = |device| Kind::RevokeDevice(wire::DeviceRef { device });
    let stranger = context.user().await?;
    a.refused(revoke(stranger.welcome.device), RejectCode::Invalid)
        .await?;
    a.done(revoke(device)).await?;
    other.peer.expect_close(&[CloseCode::Revoked]).await?;
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    s0.send(FrameType::Hello, &other.identity().hello(None))
        .await?;
    peer.expect_close(&[CloseCode::Unauthenticated]).await?;
    Ok(())
}

async fn blocks(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let (name, other) = (a.welcome.user.clone(), b.welcome.user.clone());
    b.say(&conversation, "hello").await?;
    a.refused(block(&name, true), RejectCode::Invalid).await?;
    a.done(block(&other, true)).await?;
    a.done(block(&other, true)).await?;
    let send = b.next_send(&conversation, "please");
    b.s0.send(FrameType::Send, &send).await?;
    let code = b.rejection().await?;
    ensure!(code == RejectCode::Blocked.code(), "not BLOCKED but {code}");
    b.refused(edit(&conversation, 1, "hear me"), RejectCode::Blocked)
        .await?;
    b.done(delete(&conversation, 1)).await
}

async fn complaints_and_privacy(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "rude").await?;
    b.message().await?;
    b.done(report(&conversation, 1, "is rude")).await?;
    b.done(report(&conversation, 1, "is rude")).await?;
    b.done(report(&conversation, 0, "all of it")).await?;
    b.refused(report(&conversation, 7, "that"), RejectCode::UnknownMessage)
        .await?;
    b.done(Kind::SetPrivacy(wire::Privacy {
        hide_read: true,
        ..wire::Privacy::default()
    }))
    .await?;
    let read = wire::Receipt {
        conversation: id(&conversation),
        delivered: 1,
        read: 1,
    };
    b.s0.send(FrameType::Receipt, &read).await?;
    // Neither the complaints nor what was read: the first that the other side hears of is what was received.
    let (_, own) = b.receipt().await?;
    let (_, shown) = a.receipt().await?;
    ensure!(own.read == 1, "{own:?}");
    ensure!(shown.delivered == 1 && shown.read == 0, "{shown:?}");
    Ok(())
}

cases! {
    "message/edits", ["QP-MSG-1", "QP-CMD-1", "QP-EVENT-8"], edits;
    "message/earlier-contents", ["QP-MSG-1", "QP-QUERY-4"], earlier_contents;
    "message/deletes", ["QP-MSG-2", "QP-MSG-4"], deletes;
    "message/reactions", ["QP-MSG-3", "QP-MSG-6"], reactions;
    "message/late-device", ["QP-MSG-6", "QP-EVENT-8", "QP-EVENT-10"], late_devices;
    "message/timers", ["QP-MSG-5"], timers;
    "message/replies", ["QP-SEND-8"], replies;
    "command/out-of-range", ["QP-CMD-2"], out_of_range;
    "command/repeated", ["QP-CMD-1", "QP-CMD-4"], repeated_commands;
    "command/numbers", ["QP-CMD-3", "QP-CMD-4"], numbers_of_commands;
    "self/devices", ["QP-SELF-1"], own_devices;
    "self/blocks", ["QP-SELF-2", "QP-SEND-7"], blocks;
    "self/complaints-and-privacy", ["QP-SELF-3", "QP-SELF-4"], complaints_and_privacy;
}
