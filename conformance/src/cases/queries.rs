//! QUERY: the list of conversations, page by page, and what is refused.

use anyhow::{Context as _, bail, ensure};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, Content};
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::{ConversationId, Seq};
use quipu_protocol::limits::CONVERSATIONS_PAGE_MAX;
use quipu_protocol::wire::{self, answer, query::Kind};

use super::groups::{done, drawn, failure_or, invitation, me, new_group, opened};
use crate::session::{Session, text};
use crate::suite::Context;

async fn ask(session: &Session, kind: Kind) -> anyhow::Result<Result<answer::Kind, u32>> {
    let question = wire::Query { kind: Some(kind) };
    let answer =
        failure_or::<wire::Answer>(session, FrameType::Query, &question, FrameType::Answer).await?;
    Ok(match answer {
        Ok(answer) => Ok(answer.kind.context("an ANSWER without a kind")?),
        Err(code) => Err(code),
    })
}

async fn refused(session: &Session, kind: Kind, code: RejectCode) -> anyhow::Result<()> {
    let answer = ask(session, kind.clone()).await?;
    ensure!(
        answer == Err(code.code()),
        "{kind:?} was answered by {answer:?} instead of {code}"
    );
    Ok(())
}

fn of(conversation: &ConversationId) -> wire::ConversationRef {
    wire::ConversationRef {
        conversation: conversation.0.to_vec().into(),
    }
}

fn page_of(limit: u32, behind: Option<&wire::ConversationEntry>) -> Kind {
    Kind::Conversations(wire::ConversationsQuery {
        limit,
        before_ms: behind.map_or(0, |entry| entry.activity_ms),
        before: behind
            .map(|entry| entry.conversation.clone())
            .unwrap_or_default(),
    })
}

async fn page(
    session: &Session,
    limit: u32,
    behind: Option<&wire::ConversationEntry>,
) -> anyhow::Result<wire::Conversations> {
    match ask(session, page_of(limit, behind)).await? {
        Ok(answer::Kind::Conversations(page)) => Ok(page),
        other => bail!("expected conversations, got {other:?}"),
    }
}

/// What a user is in, the latest first, in pages; groups that the user is only invited to among them.
async fn conversation_list(context: Context) -> anyhow::Result<()> {
    let mut a = context.user().await?;
    let empty = page(&a, 1, None).await?;
    ensure!(empty.entries.is_empty() && !empty.more, "{empty:?}");
    let mut expected = Vec::new();
    for number in 1..=4 {
        let b = context.user().await?;
        let conversation = a.open_direct(&b.welcome.user).await?;
        a.say(&conversation, &format!("message {number}")).await?;
        expected.push((conversation.0.to_vec(), Some(b)));
    }
    let mut host = context.user().await?;
    let group = drawn();
    let create = Change::CreateGroup(new_group(group, vec![me(&a)?]));
    opened(&mut host, &create).await?;
    invitation(&mut a).await?;
    expected.push((group.0.to_vec(), None));
    // The oldest one moves to the front.
    let oldest = expected.remove(0);
    let conversation = ConversationId::from_slice(&oldest.0)?;
    a.say(&conversation, "again").await?;
    expected.push(oldest);

    let (mut found, mut behind) = (Vec::<wire::ConversationEntry>::new(), None);
    loop {
        let page = page(&a, 2, behind.as_ref()).await?;
        ensure!((1..=2).contains(&page.entries.len()), "{page:?}");
        behind = page.entries.last().cloned();
        found.extend(page.entries);
        ensure!(
            found.len() <= expected.len(),
            "more than there are: {found:?}"
        );
        if !page.more {
            break;
        }
    }
    ensure!(
        found.is_sorted_by(|newer, older| newer.activity_ms >= older.activity_ms),
        "not the latest activity first: {found:?}"
    );
    let mut ids: Vec<_> = found
        .iter()
        .map(|entry| entry.conversation.to_vec())
        .collect();
    let mut all: Vec<_> = expected.iter().map(|(id, _)| id.clone()).collect();
    ensure!(
        ids.first() == all.last(),
        "the last one written to is not the first"
    );
    ids.sort();
    all.sort();
    ensure!(ids == all, "each conversation comes once");
    let first = &found[0];
    let last = first.last.as_ref().context("a last message")?;
    ensure!(
        (first.head, last.seq, text(last)) == (2, 2, "again") && first.unread == 0,
        "{first:?}"
    );
    let invited = found.iter().filter_map(|entry| entry.group.as_ref());
    let invited: Vec<&wire::GroupInfo> = invited.collect();
    ensure!(
        matches!(invited[..], [group] if group.invited && group.title == "climbing"),
        "{invited:?}"
    );
    let peer = expected
        .last_mut()
        .and_then(|(_, b)| b.as_mut())
        .context("a peer")?;
    // An answer has what its reader was told.
    for _ in 0..2 {
        peer.message().await?;
    }
    let entry = page(peer, 1, None)
        .await?
        .entries
        .pop()
        .context("an entry")?;
    ensure!(
        entry.peer == a.welcome.user && entry.unread == 2,
        "two are unread: {entry:?}"
    );
    Ok(())
}

/// An answer is of the kind of its question; what is out of range, unknown or gone is refused by name.
async fn answers_and_refusals(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let stranger = context.user().await?;
    a.say(&conversation, "hello").await?;
    let edit = Change::Edit {
        conversation,
        seq: Seq::new(1)?,
        content: Content::Text("hello all".to_owned()),
    };
    done(&mut a, &edit).await?;
    // A reader has in the answer what that reader was told, not what others were.
    b.event().await?;
    b.event().await?;
    let versions = |seq| {
        Kind::Versions(wire::MessageRef {
            conversation: conversation.0.to_vec().into(),
            seq,
        })
    };
    let kinds = [
        Kind::Conversation(of(&conversation)),
        versions(1),
        Kind::Devices(wire::DevicesQuery {}),
        Kind::Settings(wire::SettingsQuery {}),
    ];
    for kind in kinds {
        let answer = ask(&b, kind.clone()).await?;
        let fits = match (&kind, &answer) {
            (Kind::Conversation(_), Ok(answer::Kind::Conversation(entry))) => entry.head == 1,
            (Kind::Versions(_), Ok(answer::Kind::Versions(versions))) => {
                versions.versions.len() == 1
            }
            (Kind::Devices(_), Ok(answer::Kind::Devices(devices))) => devices.devices.len() == 1,
            (Kind::Settings(_), Ok(answer::Kind::Settings(_))) => true,
            _ => false,
        };
        ensure!(fits, "{kind:?} was answered by {answer:?}");
    }
    for limit in [0, CONVERSATIONS_PAGE_MAX as u32 + 1] {
        refused(&a, page_of(limit, None), RejectCode::Invalid).await?;
    }
    let short = wire::ConversationRef {
        conversation: vec![7; 15].into(),
    };
    refused(&a, Kind::Conversation(short), RejectCode::Invalid).await?;
    refused(&a, versions(0), RejectCode::Invalid).await?;
    let unknown = RejectCode::UnknownConversation;
    refused(&stranger, Kind::Conversation(of(&conversation)), unknown).await?;
    refused(&stranger, versions(1), unknown).await?;
    let nowhere = ConversationId([0x55; 16]);
    refused(&a, Kind::Conversation(of(&nowhere)), unknown).await?;
    refused(&b, versions(2), RejectCode::UnknownMessage).await?;
    done(&mut a, &Change::Delete(conversation, Seq::new(1)?)).await?;
    b.event().await?;
    refused(&b, versions(1), RejectCode::UnknownMessage).await
}

cases! {
    "query/conversations", ["QP-QUERY-2"], conversation_list;
    "query/answers-and-refusals", ["QP-QUERY-1", "QP-QUERY-4", "QP-HISTORY-2"], answers_and_refusals;
}
