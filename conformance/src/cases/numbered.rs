//! Changes of messages in a group above the fan-out limit: they are numbered, and who missed them asks for them. See small-limits.toml.

use anyhow::{Context as _, bail, ensure};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, Content};
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq};
use quipu_protocol::query::Query;
use quipu_protocol::wire::{self, answer, notice};

use super::groups::{done, failure_or, invitation, me, opened};
use super::small::{accepted, pulled};
use crate::session::{Session, text};
use crate::suite::Context;

async fn ask(session: &Session, query: &Query) -> anyhow::Result<Result<answer::Kind, u32>> {
    let question = wire::Query::from(query);
    let answer =
        failure_or::<wire::Answer>(session, FrameType::Query, &question, FrameType::Answer).await?;
    Ok(match answer {
        Ok(answer) => Ok(answer.kind.context("an ANSWER without a kind")?),
        Err(code) => Err(code),
    })
}

fn after(id: ConversationId, number: u64, limit: u32) -> Query {
    Query::Changes {
        conversation: id,
        after: ChangeNumber(number),
        limit,
    }
}

async fn changes(session: &Session, query: &Query) -> anyhow::Result<wire::Changes> {
    match ask(session, query).await? {
        Ok(answer::Kind::Changes(page)) => Ok(page),
        other => bail!("{query:?} was answered by {other:?}"),
    }
}

async fn refused(session: &Session, query: &Query, code: RejectCode) -> anyhow::Result<()> {
    let answer = ask(session, query).await?;
    ensure!(
        answer == Err(code.code()),
        "{query:?} was answered by {answer:?} instead of {code}"
    );
    Ok(())
}

/// What the last NOTICEs say: the numbers beside them, up to the first of that of a change.
async fn notice_of_a_change(session: &mut Session) -> anyhow::Result<u64> {
    loop {
        let notice: wire::Notice = session.lane.expect(FrameType::Notice).await?;
        match notice.kind {
            Some(notice::Kind::Changed(_)) => return Ok(notice.changes),
            Some(notice::Kind::Message(message)) => {
                ensure!(notice.changes == 0, "{message:?} says {}", notice.changes);
            }
            Some(notice::Kind::Check(_)) | None => bail!("{notice:?}"),
        }
    }
}

/// A message that the first one wrote, with an edit and a sign of the second.
async fn changed_twice(members: &mut [Session], id: ConversationId) -> anyhow::Result<u64> {
    let send = members[0].next_send(&id, "helo");
    members[0].s0.send(FrameType::Send, &send).await?;
    let place = accepted(&mut members[0]).await?;
    let seq = Seq::new(place)?;
    let edit = Change::Edit {
        conversation: id,
        seq,
        content: Content::Text("hello".to_owned()),
    };
    let react = Change::React {
        conversation: id,
        seq,
        emoji: "+".to_owned(),
        on: true,
    };
    done(&mut members[0], &edit).await?;
    done(&mut members[1], &react).await?;
    // What changes nothing has no number.
    done(&mut members[0], &edit).await?;
    done(&mut members[1], &react).await?;
    for member in members {
        for number in 1..=2 {
            let told = notice_of_a_change(member).await?;
            ensure!(told == number, "change {number} was told as {told}");
        }
    }
    Ok(place)
}

async fn numbered_changes(context: Context) -> anyhow::Result<()> {
    let (mut members, id, _) = pulled(&context).await?;
    let seq = changed_twice(&mut members, id).await?;
    let away = &members[2];
    let all = changes(away, &after(id, 0, 128)).await?;
    let [changed] = &all.messages[..] else {
        bail!("one message was changed: {all:?}");
    };
    let message = changed.message.as_ref().context("a message")?;
    let state = message.state.as_ref().context("a state")?;
    ensure!(
        message.seq == seq
            && text(message) == "hello"
            && state.version == 2
            && state.reactions.len() == 1
            && changed.by == members[1].welcome.user
            && changed.at_ms > 0,
        "{changed:?}"
    );
    ensure!(!all.more && !all.too_old && all.through == 2, "{all:?}");
    // Half a page has the message as it is now, too.
    let half = changes(away, &after(id, 0, 1)).await?;
    ensure!(half.more && half.through == 1, "{half:?}");
    let rest = changes(away, &after(id, 1, 1)).await?;
    ensure!(!rest.more && rest.through == 2, "{rest:?}");
    let as_it_is = |page: &wire::Changes| page.messages.first() == Some(changed);
    ensure!(as_it_is(&rest), "{rest:?}");
    let none = changes(away, &after(id, 2, 1)).await?;
    ensure!(
        none.messages.is_empty() && none.through == 2 && !none.too_old,
        "{none:?}"
    );
    // A number that the group has not come to is of another one.
    let other = changes(away, &after(id, 9, 1)).await?;
    ensure!(
        other.messages.is_empty() && other.too_old && other.through == 2,
        "{other:?}"
    );

    match ask(away, &Query::Conversation(id)).await? {
        Ok(answer::Kind::Conversation(entry)) => ensure!(entry.changes == 2, "{entry:?}"),
        other => bail!("expected the entry, got {other:?}"),
    }
    let request = wire::HistoryRequest {
        conversation: id.0.to_vec().into(),
        limit: 1,
        ..Default::default()
    };
    let page =
        failure_or::<wire::HistoryPage>(away, FrameType::History, &request, FrameType::HistoryPage);
    ensure!(
        page.await?.is_ok_and(|page| page.changes == 2),
        "a page without the number"
    );
    Ok(())
}

/// Who joins later sees no change of what was said before; who is not in the group sees none.
async fn changes_that_are_not_seen(context: Context) -> anyhow::Result<()> {
    let (mut members, id, _) = pulled(&context).await?;
    changed_twice(&mut members, id).await?;
    let mut newcomer = context.user().await?;
    refused(&newcomer, &after(id, 0, 1), RejectCode::UnknownConversation).await?;
    let invite = Change::Invite {
        conversation: id,
        users: vec![me(&newcomer)?],
    };
    done(&mut members[0], &invite).await?;
    invitation(&mut newcomer).await?;
    refused(&newcomer, &after(id, 0, 1), RejectCode::NotAMember).await?;
    opened(&mut newcomer, &Change::Join(id)).await?;
    let page = changes(&newcomer, &after(id, 0, 128)).await?;
    ensure!(
        page.messages.is_empty() && page.through == 2 && !page.too_old,
        "{page:?}"
    );
    refused(&newcomer, &after(id, 0, 0), RejectCode::Invalid).await?;
    refused(&newcomer, &after(id, 0, 129), RejectCode::Invalid).await?;
    done(&mut newcomer, &Change::Leave(id)).await?;
    refused(&newcomer, &after(id, 0, 1), RejectCode::NotAMember).await
}

cases! {
    SmallLimits:
    "small/numbered-changes", ["QP-GROUP-8", "QP-NOTICE-1", "QP-QUERY-6"], numbered_changes;
    "small/changes-that-are-not-seen", ["QP-GROUP-6", "QP-QUERY-6"], changes_that_are_not_seen;
}
