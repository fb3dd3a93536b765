//! Groups: making, inviting, joining, leaving, roles, and what those outside of one get.

use anyhow::{Context as _, bail, ensure};
use prost::Message as _;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, Content, NewGroup, Note, Role};
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::{ClientSeq, ConversationId, MessageId, RequestId, Seq, UserId};
use quipu_protocol::query::Query;
use quipu_protocol::wire::{self, reply::Outcome};

use crate::session::{Session, text};
use crate::suite::Context;

pub(super) fn drawn() -> ConversationId {
    let mut id: [u8; 16] = rand::random();
    id[0] |= 0x80;
    ConversationId(id)
}

pub(super) fn me(session: &Session) -> anyhow::Result<UserId> {
    Ok(UserId::new(&session.welcome.user)?)
}

pub(super) fn new_group(id: ConversationId, invite: Vec<UserId>) -> NewGroup {
    NewGroup {
        conversation: id,
        title: "climbing".to_owned(),
        topic: "where to next".to_owned(),
        open: false,
        history_from_start: false,
        invite,
    }
}

/// Gives a command and takes the outcome of the reply to it.
async fn ask(session: &mut Session, change: &Change) -> anyhow::Result<Outcome> {
    let request = RequestId(rand::random());
    let command = wire::Command::numbered(
        request,
        ClientSeq::new(session.next_client_seq()).ok(),
        change,
    );
    session.s0.send(FrameType::Command, &command).await?;
    let reply: wire::Reply = session.s0.expect(FrameType::Reply).await?;
    ensure!(
        reply.to == Some(wire::reply::To::Request(request.0)),
        "{reply:?} does not answer request {}",
        request.0
    );
    reply.outcome.context("a reply without an outcome")
}

pub(super) async fn done(session: &mut Session, change: &Change) -> anyhow::Result<()> {
    match ask(session, change).await? {
        Outcome::Done(_) => Ok(()),
        other => bail!("{change:?} was answered by {other:?}"),
    }
}

pub(super) async fn opened(session: &mut Session, change: &Change) -> anyhow::Result<u64> {
    match ask(session, change).await? {
        Outcome::Opened(opened) => Ok(opened.head),
        other => bail!("{change:?} was answered by {other:?}"),
    }
}

async fn refused(session: &mut Session, change: &Change, code: RejectCode) -> anyhow::Result<()> {
    match ask(session, change).await? {
        Outcome::Rejected(rejected) if rejected.code == code.code() => Ok(()),
        other => bail!("{change:?} was answered by {other:?} instead of {code}"),
    }
}

/// The next event, which has to be this note under this seq.
pub(super) async fn note(
    session: &mut Session,
    seq: u64,
    expected: Note,
) -> anyhow::Result<wire::Message> {
    let (_, message) = session.message().await?;
    let content = message.content.as_ref().and_then(|c| c.kind.as_ref());
    ensure!(
        content == Some(&wire::content::Kind::Note((&expected).into())),
        "expected {expected:?}, got {message:?}"
    );
    let id = ConversationId::from_slice(&message.conversation)?;
    ensure!(
        message.seq == seq
            && message.client_seq == u64::MAX
            && message.id[..] == MessageId::note(&id, Seq::new(seq)?).0
            && message.to.is_empty(),
        "{message:?}"
    );
    Ok(message)
}

pub(super) async fn invitation(session: &mut Session) -> anyhow::Result<wire::Invitation> {
    match session.event().await?.body {
        Some(wire::event::Body::Invitation(invitation)) => Ok(invitation),
        other => bail!("expected an invitation, got {other:?}"),
    }
}

/// A group of two: the owner and a member who was invited. All their events are taken.
async fn pair(context: &Context) -> anyhow::Result<(Session, Session, ConversationId)> {
    let (mut owner, mut member) = (context.user().await?, context.user().await?);
    let id = drawn();
    let create = Change::CreateGroup(new_group(id, vec![me(&member)?]));
    opened(&mut owner, &create).await?;
    invitation(&mut member).await?;
    opened(&mut member, &Change::Join(id)).await?;
    note(&mut owner, 1, Note::Created("climbing".to_owned())).await?;
    note(&mut owner, 2, Note::Invited(me(&member)?)).await?;
    note(&mut owner, 3, Note::Joined).await?;
    note(&mut member, 3, Note::Joined).await?;
    Ok((owner, member, id))
}

/// Asks on a stream of its own.
pub(super) async fn failure_or<M: prost::Message + Default>(
    session: &Session,
    kind: FrameType,
    question: &impl prost::Message,
    answer: FrameType,
) -> anyhow::Result<Result<M, u32>> {
    let mut stream = session.peer.open().await?;
    stream.send(kind, question).await?;
    stream.finish()?;
    let frame = stream.next().await?.context("no answer")?;
    match frame.kind {
        kind if kind == answer as u64 => Ok(Ok(M::decode(frame.body)?)),
        kind if kind == FrameType::Failure as u64 => {
            Ok(Err(wire::Rejected::decode(frame.body)?.code))
        }
        other => bail!("an answer of type {other:#x}"),
    }
}

async fn history(
    session: &Session,
    id: &ConversationId,
) -> anyhow::Result<Result<wire::HistoryPage, u32>> {
    let request = wire::HistoryRequest {
        conversation: id.0.to_vec().into(),
        first: 0,
        last: 0,
        limit: 256,
        newest_first: false,
    };
    failure_or(
        session,
        FrameType::History,
        &request,
        FrameType::HistoryPage,
    )
    .await
}

async fn create_once(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b) = (context.user().await?, context.user().await?);
    let id = drawn();
    let create = Change::CreateGroup(new_group(id, Vec::new()));
    for _ in 0..2 {
        let head = opened(&mut a, &create).await?;
        ensure!(
            head == 1,
            "the head of a new group is its first note, not {head}"
        );
    }
    let first = note(&mut a, 1, Note::Created("climbing".to_owned())).await?;
    ensure!(
        first.from == a.welcome.user && first.from_device == a.welcome.device,
        "{first:?}"
    );
    refused(&mut b, &create, RejectCode::Conflict).await?;
    let said = a.say(&id, "hello").await?;
    ensure!(said.seq == 2, "asking again added something: {said:?}");
    let direct = ConversationId([0x11; 16]);
    let create = Change::CreateGroup(new_group(direct, Vec::new()));
    refused(&mut a, &create, RejectCode::Invalid).await
}

async fn commands_twice(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, id) = pair(&context).await?;
    let c = context.user().await?;
    let title = Change::SetGroup {
        conversation: id,
        title: Some("Sundays".to_owned()),
        topic: None,
    };
    let invite = Change::Invite {
        conversation: id,
        users: vec![me(&b)?, me(&c)?],
    };
    let role = Change::SetRole(id, me(&b)?, Role::Admin);
    let remove = Change::Remove(id, me(&c)?);
    for change in [
        &title, &title, &invite, &invite, &role, &role, &remove, &remove,
    ] {
        done(&mut a, change).await?;
    }
    opened(&mut b, &Change::Join(id)).await?;
    for _ in 0..2 {
        done(&mut b, &Change::Leave(id)).await?;
    }
    let expected = [
        Note::Title("Sundays".to_owned()),
        Note::Invited(me(&c)?),
        Note::Role(me(&b)?, Role::Admin),
        Note::Removed(me(&c)?),
        Note::Left,
    ];
    for (seq, expected) in (4..).zip(expected) {
        note(&mut a, seq, expected).await?;
    }
    Ok(())
}

async fn invited_and_joined(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b) = (context.user().await?, context.user().await?);
    let nobody = UserId::new(&context.fresh_name())?;
    let id = drawn();
    opened(&mut a, &Change::CreateGroup(new_group(id, Vec::new()))).await?;
    let invite = |users| Change::Invite {
        conversation: id,
        users,
    };
    let both = invite(vec![me(&b)?, nobody]);
    refused(&mut a, &both, RejectCode::UnknownUser).await?;
    refused(&mut b, &Change::Join(id), RejectCode::UnknownConversation).await?;
    done(&mut a, &invite(vec![me(&b)?])).await?;
    let invited = invitation(&mut b).await?;
    ensure!(
        invited.conversation[..] == id.0
            && invited.by == a.welcome.user
            && invited.title == "climbing"
            && invited.at_ms > 0,
        "{invited:?}"
    );
    ensure!(
        history(&b, &id).await?.is_err(),
        "the invited read the history"
    );
    opened(&mut b, &Change::Join(id)).await?;
    note(&mut b, 3, Note::Joined).await?;
    a.s0.send(FrameType::Send, &a_message(&id, 1)).await?;
    let (_, got) = b.message().await?;
    ensure!(got.seq == 4 && text(&got) == "hello", "{got:?}");
    Ok(())
}

fn a_message(id: &ConversationId, client_seq: u64) -> wire::Send {
    crate::session::send_frame(client_seq, id, "hello")
}

async fn last_event(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, id) = pair(&context).await?;
    done(&mut a, &Change::Remove(id, me(&b)?)).await?;
    let removed = Note::Removed(me(&b)?);
    note(&mut b, 4, removed.clone()).await?;
    note(&mut a, 4, removed).await?;
    a.say(&id, "without you").await?;
    // Had the removed one got it, it would come before this.
    let direct = a.open_direct(&b.welcome.user.clone()).await?;
    a.say(&direct, "sorry").await?;
    let (_, next) = b.message().await?;
    ensure!(text(&next) == "sorry", "a former member got {next:?}");
    let not_a_member = RejectCode::NotAMember.code();
    let read = history(&b, &id).await?;
    ensure!(read == Err(not_a_member), "a former member read {read:?}");
    b.s0.send(FrameType::Send, &a_message(&id, 9)).await?;
    let got = b.rejection().await?;
    ensure!(got == not_a_member, "a former member's SEND got {got:#x}");
    refused(&mut b, &Change::Join(id), RejectCode::NotAMember).await
}

async fn roles(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, id) = pair(&context).await?;
    let mut c = context.user().await?;
    let title = Change::SetGroup {
        conversation: id,
        title: Some("mine".to_owned()),
        topic: None,
    };
    let invite = Change::Invite {
        conversation: id,
        users: vec![me(&c)?],
    };
    for change in [&title, &invite, &Change::Remove(id, me(&a)?)] {
        refused(&mut b, change, RejectCode::Forbidden).await?;
        refused(&mut c, change, RejectCode::UnknownConversation).await?;
    }
    let admin = Change::SetRole(id, me(&b)?, Role::Admin);
    refused(&mut b, &admin, RejectCode::Forbidden).await?;
    refused(&mut a, &Change::Leave(id), RejectCode::Forbidden).await?;
    done(&mut a, &admin).await?;
    done(&mut b, &title).await?;
    refused(&mut b, &Change::Remove(id, me(&a)?), RejectCode::Forbidden).await?;
    let owner = Change::SetRole(id, me(&b)?, Role::Owner);
    for _ in 0..2 {
        done(&mut a, &owner).await?;
    }
    // Who gave it away is an admin now, and may leave.
    done(&mut a, &Change::Leave(id)).await?;
    done(&mut b, &Change::Leave(id)).await?;
    refused(&mut a, &Change::Join(id), RejectCode::UnknownConversation).await
}

async fn seen_from_joining(context: Context) -> anyhow::Result<()> {
    for (from_start, expected) in [(false, vec![3, 4]), (true, vec![1, 2, 3, 4])] {
        let (mut a, mut b) = (context.user().await?, context.user().await?);
        let id = drawn();
        let create = Change::CreateGroup(NewGroup {
            open: true,
            history_from_start: from_start,
            ..new_group(id, Vec::new())
        });
        opened(&mut a, &create).await?;
        note(&mut a, 1, Note::Created("climbing".to_owned())).await?;
        a.say(&id, "before").await?;
        opened(&mut b, &Change::Join(id)).await?;
        note(&mut a, 3, Note::Joined).await?;
        a.say(&id, "after").await?;
        // What b was told is in b's history (QP-HISTORY-6).
        note(&mut b, 3, Note::Joined).await?;
        b.message().await?;
        let page = history(&b, &id).await?;
        let Ok(page) = page else {
            bail!("a member's HISTORY failed: {page:?}");
        };
        let seqs: Vec<u64> = page.messages.iter().map(|message| message.seq).collect();
        ensure!(seqs == expected, "a member of seq 3 on sees {seqs:?}");
        // What an older message says now is for those who may see it.
        let edit = Change::Edit {
            conversation: id,
            seq: Seq::new(2)?,
            content: Content::Text("before, in other words".to_owned()),
        };
        done(&mut a, &edit).await?;
        a.changed().await?;
        a.say(&id, "behind it").await?;
        if from_start {
            let changed = b.changed().await?;
            ensure!(changed.seq == 2, "{changed:?}");
        }
        let (_, next) = b.message().await?;
        ensure!(text(&next) == "behind it", "{next:?}");
    }
    Ok(())
}

async fn member_list(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, id) = pair(&context).await?;
    let c = context.user().await?;
    let invite = Change::Invite {
        conversation: id,
        users: vec![me(&c)?],
    };
    done(&mut a, &invite).await?;
    // A reader has in the answer what that reader was told, not what others were.
    note(&mut b, 4, Note::Invited(me(&c)?)).await?;
    let ask = |after: Option<UserId>, limit| {
        wire::Query::from(&Query::Members {
            conversation: id,
            after,
            limit,
        })
    };
    let mut expected = vec![
        (a.welcome.user.clone(), Role::Owner, false),
        (b.welcome.user.clone(), Role::Member, false),
        (c.welcome.user.clone(), Role::Member, true),
    ];
    expected.sort();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let question = ask(after, 2);
        let page = failure_or::<wire::Answer>(&b, FrameType::Query, &question, FrameType::Answer);
        let Ok(wire::Answer {
            kind: Some(wire::answer::Kind::Members(page)),
        }) = page.await?
        else {
            bail!("no members");
        };
        ensure!((1..=2).contains(&page.members.len()), "{page:?}");
        after = page
            .members
            .last()
            .map(|m| UserId::new(&m.user))
            .transpose()?;
        for member in page.members {
            let role = Role::from_wire(member.role).context("a role of this version")?;
            found.push((member.user, role, member.invited));
        }
        if !page.more {
            break;
        }
    }
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    let stranger = context.user().await?;
    let question = ask(None, 2);
    let refused =
        failure_or::<wire::Answer>(&stranger, FrameType::Query, &question, FrameType::Answer);
    let refused = refused.await?.err();
    ensure!(
        refused == Some(RejectCode::UnknownConversation.code()),
        "a stranger's question for members was answered by {refused:?}"
    );
    Ok(())
}

cases! {
    "group/create-once", ["QP-GROUP-1", "QP-GROUP-2", "QP-ID-2", "QP-CMD-2"], create_once;
    "group/commands-twice", ["QP-CMD-1", "QP-GROUP-2", "QP-GROUP-4"], commands_twice;
    "group/invited-and-joined", ["QP-GROUP-3", "QP-GROUP-4", "QP-EVENT-9"], invited_and_joined;
    "group/last-event", ["QP-GROUP-4", "QP-GROUP-6", "QP-CMD-2"], last_event;
    "group/roles", ["QP-GROUP-5", "QP-CMD-2"], roles;
    "group/seen-from-joining", ["QP-GROUP-6", "QP-HISTORY-4"], seen_from_joining;
    "group/member-list", ["QP-QUERY-3"], member_list;
}
