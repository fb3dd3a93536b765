//! What happens at limits that are small: rates, large groups, inboxes that keep little. See small-limits.toml.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, Note};
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits::TEXT_BYTES_MAX;
use quipu_protocol::query::Query;
use quipu_protocol::wire::{self, notice, reply::Outcome};

use super::groups::{done, drawn, failure_or, invitation, me, new_group, note, opened};
use crate::session::{Session, text};
use crate::suite::Context;

/// As in small-limits.toml.
const FAN_OUT_MAX: usize = 3;
/// As in small-limits.toml.
const KEPT: u64 = 40;
/// SENDs at once, above the burst of small-limits.toml and within what a device may have unanswered.
const SENDS: u64 = 60;
/// Messages that fill the credit of a lane that is not read, and what a gateway keeps for it.
const NOTICES: u64 = 100;

/// What became of a SEND.
enum Sent {
    Accepted(u64),
    TooOften(Duration),
}

async fn sent(session: &mut Session) -> anyhow::Result<(u64, Sent)> {
    let me = session.welcome.user.clone();
    tokio::select! {
        event = session.lane.expect::<wire::Event>(FrameType::Event) => match event?.body {
            Some(wire::event::Body::Message(message)) if message.from == me => {
                Ok((message.client_seq, Sent::Accepted(message.seq)))
            }
            other => bail!("expected an ack, got {other:?}"),
        },
        reply = session.s0.expect::<wire::Reply>(FrameType::Reply) => {
            let reply = reply?;
            let Some(wire::reply::To::Send(to)) = reply.to else {
                bail!("{reply:?} answers no SEND");
            };
            match reply.outcome {
                Some(Outcome::Rejected(rejected)) if rejected.code == RejectCode::RateLimited.code() => {
                    ensure!(rejected.retry_after_ms > 0, "no time to wait: {rejected:?}");
                    let wait = Duration::from_millis(rejected.retry_after_ms);
                    Ok((to.client_seq, Sent::TooOften(wait)))
                }
                other => bail!("expected RATE_LIMITED, got {other:?}"),
            }
        }
    }
}

/// Everything from the first rejected SEND on is rejected, until it is taken; given again in order, all arrive in order.
async fn sends_above_the_rate(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    let mut waiting = Vec::new();
    for number in 1..=SENDS {
        waiting.push(a.next_send(&conversation, &format!("message {number}")));
    }
    let (mut seqs, mut rejections, mut ack) = (Vec::new(), 0, 0);
    while !waiting.is_empty() {
        for send in &waiting {
            a.s0.send(FrameType::Send, send).await?;
        }
        let mut again = BTreeSet::new();
        let mut wait = Duration::ZERO;
        for _ in 0..waiting.len() {
            match sent(&mut a).await? {
                (client_seq, Sent::Accepted(seq)) => {
                    ensure!(
                        again.first().is_none_or(|first| client_seq < *first),
                        "{client_seq} overtook one that was rejected: {again:?}"
                    );
                    seqs.push((client_seq, seq));
                    ack += 1;
                }
                (client_seq, Sent::TooOften(after)) => {
                    again.insert(client_seq);
                    rejections += 1;
                    wait = wait.max(after);
                }
            }
        }
        a.ack(ack).await?;
        waiting.retain(|send| again.contains(&send.client_seq));
        // What the gateway asked for.
        tokio::time::sleep(wait).await;
    }
    ensure!(
        rejections > 0,
        "{SENDS} SENDs at once are within the limit: is it the gateway of small-limits.toml?"
    );
    ensure!(
        seqs.is_sorted_by(|(a, x), (b, y)| a < b && x < y),
        "not in the order of their client seqs: {seqs:?}"
    );
    Ok(())
}

/// Commands are told when to come again, receipts are ignored, and neither was carried out.
async fn commands_above_the_rate(context: Context) -> anyhow::Result<()> {
    let mut a = context.user().await?;
    let device = a.welcome.device;
    let rename = |number: u64| wire::Command {
        request: number,
        client_seq: number,
        kind: Some(wire::command::Kind::RenameDevice(wire::RenameDevice {
            device,
            label: "another".to_owned(),
        })),
    };
    for number in 1..=SENDS {
        a.s0.send(FrameType::Command, &rename(number)).await?;
    }
    let (mut carried_out, mut rejected) = (0, 0);
    let (mut last_carried_out, mut last_rejected) = (0, 0);
    let mut wait = Duration::ZERO;
    for _ in 0..SENDS {
        let reply: wire::Reply = a.s0.expect(FrameType::Reply).await?;
        let Some(wire::reply::To::Request(number)) = reply.to else {
            bail!("it answers no COMMAND: {reply:?}");
        };
        match reply.outcome {
            Some(Outcome::Done(_)) => {
                carried_out += 1;
                last_carried_out = number.max(last_carried_out);
            }
            Some(Outcome::Rejected(why)) if why.code == RejectCode::RateLimited.code() => {
                ensure!(why.retry_after_ms > 0, "no time to wait: {why:?}");
                wait = wait.max(Duration::from_millis(why.retry_after_ms));
                rejected += 1;
                last_rejected = number.max(last_rejected);
            }
            other => bail!("expected done or RATE_LIMITED, got {other:?}"),
        }
    }
    ensure!(
        carried_out > 0 && rejected > 0,
        "{carried_out} carried out, {rejected} rejected: is it the gateway of small-limits.toml?"
    );
    // What the gateway asked for.
    tokio::time::sleep(wait).await;
    a.s0.send(FrameType::Command, &rename(last_rejected))
        .await?;
    let reply: wire::Reply = a.s0.expect(FrameType::Reply).await?;
    // It was not remembered, and is above all that were, unless a later one found room.
    let is_final = match &reply.outcome {
        Some(Outcome::Done(_)) => last_rejected > last_carried_out,
        Some(Outcome::Rejected(why)) => {
            why.code == RejectCode::StaleClientSeq.code() && last_rejected < last_carried_out
        }
        Some(Outcome::Accepted(_) | Outcome::Opened(_)) | None => false,
    };
    ensure!(is_final, "{reply:?}");
    Ok(())
}

/// A group one above the fan-out limit, with its owner first, and all events taken.
pub(super) async fn pulled(
    context: &Context,
) -> anyhow::Result<(Vec<Session>, ConversationId, u64)> {
    let mut members = Vec::new();
    for _ in 0..=FAN_OUT_MAX {
        members.push(context.user().await?);
    }
    let id = drawn();
    let invite = members[1..].iter().map(me).collect::<Result<_, _>>()?;
    let create = Change::CreateGroup(new_group(id, invite));
    opened(&mut members[0], &create).await?;
    for member in &mut members[1..] {
        invitation(member).await?;
        opened(member, &Change::Join(id)).await?;
    }
    // Created, one note for each invited, one for each that joined; then that it is pulled.
    let last = 2 * FAN_OUT_MAX as u64 + 2;
    for member in &mut members {
        loop {
            let (_, message) = member.message().await?;
            let content = message.content.as_ref().and_then(|c| c.kind.as_ref());
            if content == Some(&wire::content::Kind::Note((&Note::Pulled).into())) {
                ensure!(message.seq == last, "{message:?}");
                break;
            }
            ensure!(
                message.seq < last,
                "no note says that it is pulled: {message:?}"
            );
        }
    }
    Ok((members, id, last))
}

async fn next_notice(session: &mut Session) -> anyhow::Result<notice::Kind> {
    let notice: wire::Notice = session.lane.expect(FrameType::Notice).await?;
    notice.kind.context("a NOTICE without a kind")
}

pub(super) async fn accepted(session: &mut Session) -> anyhow::Result<u64> {
    let reply: wire::Reply = session.s0.expect(FrameType::Reply).await?;
    match reply.outcome {
        Some(Outcome::Accepted(accepted)) => Ok(accepted.seq),
        other => bail!("expected accepted, got {other:?}"),
    }
}

/// Above the limit messages are notices, the sender has a REPLY, and who leaves gets one more event.
async fn pulled_group(context: Context) -> anyhow::Result<()> {
    let (mut members, id, last) = pulled(&context).await?;
    let send = members[0].next_send(&id, "to all");
    members[0].s0.send(FrameType::Send, &send).await?;
    let seq = accepted(&mut members[0]).await?;
    ensure!(seq == last + 1, "accepted as {seq}");
    for member in &mut members {
        match next_notice(member).await? {
            notice::Kind::Message(message) => {
                ensure!(
                    message.seq == seq && text(&message) == "to all",
                    "{message:?}"
                );
            }
            other => bail!("expected the message, got {other:?}"),
        }
    }
    // A device that was away finds the head, and reads.
    let question = wire::Query::from(&Query::Conversation(id));
    let answer =
        failure_or::<wire::Answer>(&members[1], FrameType::Query, &question, FrameType::Answer);
    let answer = answer.await?;
    let Ok(wire::Answer {
        kind: Some(wire::answer::Kind::Conversation(entry)),
    }) = answer
    else {
        bail!("expected a conversation, got {answer:?}");
    };
    ensure!(
        entry.head == seq && entry.group.as_ref().is_some_and(|group| group.pulled),
        "{entry:?}"
    );
    let mut leaver = members.pop().context("a member")?;
    done(&mut leaver, &Change::Leave(id)).await?;
    note(&mut leaver, seq + 1, Note::Left).await?;
    for member in &mut members {
        match next_notice(member).await? {
            notice::Kind::Message(message) => ensure!(message.seq == seq + 1, "{message:?}"),
            other => bail!("expected the note, got {other:?}"),
        }
    }
    Ok(())
}

/// Who joins a pulled group has the note of it as an event, on every device; the others are told by a notice.
async fn joins_a_pulled_group(context: Context) -> anyhow::Result<()> {
    let (mut members, id, last) = pulled(&context).await?;
    let mut newcomer = context.user().await?;
    let invite = Change::Invite {
        conversation: id,
        users: vec![me(&newcomer)?],
    };
    done(&mut members[0], &invite).await?;
    invitation(&mut newcomer).await?;
    opened(&mut newcomer, &Change::Join(id)).await?;
    let joined = last + 2;
    note(&mut newcomer, joined, Note::Joined).await?;
    let send = members[0].next_send(&id, "welcome");
    members[0].s0.send(FrameType::Send, &send).await?;
    accepted(&mut members[0]).await?;
    // Had the newcomer a notice of the note too, it would come before this.
    match next_notice(&mut newcomer).await? {
        notice::Kind::Message(message) => ensure!(message.seq == joined + 1, "{message:?}"),
        other => bail!("expected the message, got {other:?}"),
    }
    for seq in [last + 1, joined, joined + 1] {
        match next_notice(&mut members[1]).await? {
            notice::Kind::Message(message) => ensure!(message.seq == seq, "{message:?}"),
            other => bail!("expected message {seq}, got {other:?}"),
        }
    }
    Ok(())
}

/// A device that does not read its lane loses notices at most until it is told to check.
async fn notices_of_a_device_that_does_not_read(context: Context) -> anyhow::Result<()> {
    let (mut members, id, last) = pulled(&context).await?;
    let mut slow = members.pop().context("a member")?;
    let sender = &mut members[0];
    let long = "x".repeat(TEXT_BYTES_MAX);
    let mut seq = last;
    while seq < last + NOTICES {
        let send = sender.next_send(&id, &long);
        sender.s0.send(FrameType::Send, &send).await?;
        let reply: wire::Reply = sender.s0.expect(FrameType::Reply).await?;
        match reply.outcome {
            Some(Outcome::Accepted(accepted)) => seq = accepted.seq,
            Some(Outcome::Rejected(why)) if why.code == RejectCode::RateLimited.code() => {
                // What the gateway asked for; the same message goes again under another number.
                tokio::time::sleep(Duration::from_millis(why.retry_after_ms)).await;
            }
            other => bail!("expected accepted, got {other:?}"),
        }
        // The sender reads its own.
        while let Ok(notice) = tokio::time::timeout(Duration::ZERO, next_notice(sender)).await {
            notice?;
        }
    }
    // Either all come, or some and *check*.
    let mut seen = last;
    while seen < seq {
        match next_notice(&mut slow).await? {
            notice::Kind::Message(message) => {
                ensure!(message.seq == seen + 1, "{} after {seen}", message.seq);
                seen = message.seq;
            }
            notice::Kind::Check(_) => return Ok(()),
            notice::Kind::Changed(changed) => bail!("nobody changed anything: {changed:?}"),
        }
    }
    Ok(())
}

/// In a pulled group the reader's own devices learn of a receipt, and nobody else.
async fn receipts_of_a_pulled_group(context: Context) -> anyhow::Result<()> {
    let (mut members, id, last) = pulled(&context).await?;
    let mut reader = members.pop().context("a member")?;
    let receipt = wire::Receipt {
        conversation: id.0.to_vec().into(),
        delivered: last,
        read: last,
    };
    reader.s0.send(FrameType::Receipt, &receipt).await?;
    let (_, own) = reader.receipt().await?;
    ensure!(
        own.user == reader.welcome.user && own.read == last,
        "{own:?}"
    );
    // What comes next to another member is not the receipt.
    let (owner, other) = (&members[0].welcome.user.clone(), &mut members[1]);
    let direct = other.open_direct(owner).await?;
    other.say(&direct, "after the receipt").await?;
    Ok(())
}

/// A device whose next event is gone begins anew: at the head, and the history has everything.
async fn comes_back_too_late(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "message 1").await?;
    b.message().await?;
    let (identity, life) = (b.identity(), b.welcome.life);
    b.peer.connection.close(0u32.into(), b"");
    let messages = KEPT + 20;
    for number in 2..=messages {
        a.say(&conversation, &format!("message {number}")).await?;
        a.ack(number).await?;
        // Below the rate of small-limits.toml.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let resume = |cursor| identity.hello(Some(wire::Resume { cursor, life }));
    let back = Session::open(&context.dialer, &resume(1)).await?;
    ensure!(
        back.welcome.resume() == wire::ResumeResult::Resync,
        "event 2 of {messages} is kept: is it the gateway of small-limits.toml?"
    );
    ensure!(
        (1..=messages).contains(&back.welcome.cursor) && back.welcome.life == life,
        "{:?}",
        back.welcome
    );
    let history = wire::HistoryRequest {
        conversation: conversation.0.to_vec().into(),
        first: 0,
        last: 0,
        limit: 256,
        newest_first: false,
    };
    let page = failure_or::<wire::HistoryPage>(
        &back,
        FrameType::History,
        &history,
        FrameType::HistoryPage,
    );
    let page = page.await?;
    ensure!(
        page.as_ref()
            .is_ok_and(|page| page.messages.len() as u64 == messages),
        "the history lacks something"
    );
    // Who lacks only what is kept goes on.
    let mut in_time = Session::open(&context.dialer, &resume(messages - 1)).await?;
    ensure!(
        in_time.welcome.resume() == wire::ResumeResult::Resumed,
        "not RESUMED"
    );
    let (inbox_seq, _) = in_time.message().await?;
    ensure!(inbox_seq == messages, "{inbox_seq}");
    Ok(())
}

cases! {
    SmallLimits:
    "small/sends-above-the-rate", ["QP-RATE-1", "QP-RATE-3", "QP-RATE-4"], sends_above_the_rate;
    "small/commands-above-the-rate", ["QP-RATE-3", "QP-CMD-5"], commands_above_the_rate;
    "small/pulled-group", ["QP-GROUP-7", "QP-NOTICE-1"], pulled_group;
    "small/joins-a-pulled-group", ["QP-GROUP-7"], joins_a_pulled_group;
    "small/notices-not-read", ["QP-NOTICE-2"], notices_of_a_device_that_does_not_read;
    "small/receipts-of-a-pulled-group", ["QP-RECEIPT-4"], receipts_of_a_pulled_group;
    "small/comes-back-too-late", ["QP-RESUME-3"], comes_back_too_late;
}
