//! Groups between a real gateway and real clients: gaps in large ones, invitations across restarts.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu_client::protocol::error::RejectCode;
use quipu_client::protocol::event::{Change, Content, Gone, NewGroup};
use quipu_client::protocol::id::{ConversationId, Seq, UserId};
use quipu_client::protocol::limits::HISTORY_PAGE_MESSAGES_MAX;
use quipu_client::{CATCH_UP_PAGES_MAX, Client, Error, Page};
use quipu_gateway::Gateway;
use support::{PASSWORD, any, config, gateway, gateway_of, register, within};
use tempfile::TempDir;

/// How often a state is looked at that no event tells of.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A gateway on which a group of two is a large one already.
async fn gateway_of_notices(folder: &Path, listen: SocketAddr) -> Gateway {
    gateway_of(folder, listen, |config| config.groups.fan_out_max = 1).await
}

async fn make_group(owner: &Client, open: bool, invite: &[&str]) -> ConversationId {
    let group = NewGroup {
        conversation: ConversationId([0x80; 16]),
        title: "Runners".into(),
        topic: String::new(),
        open,
        history_from_start: false,
        invite: invite
            .iter()
            .map(|name| UserId::new(name).expect("a name"))
            .collect(),
    };
    within("making a group", owner.create_group(group))
        .await
        .expect("made")
}

async fn say(client: &Client, group: ConversationId, count: usize) -> Seq {
    let texts = (0..count).map(|number| format!("message {number}"));
    let queued = client.send_batch(group, texts.collect()).await;
    let last = queued.expect("queued").pop().expect("one at least");
    within("an ack", client.wait_acked(last.id))
        .await
        .expect("acked")
}

/// A large group of ana's that ben has joined, with a device that keeps what it has in a folder.
struct Joined {
    data: TempDir,
    gateway: Gateway,
    folder: PathBuf,
    ana: Client,
    ben: Client,
    group: ConversationId,
}

async fn joined() -> Joined {
    let data = tempfile::tempdir().expect("a folder");
    let gateway = gateway_of_notices(data.path(), any()).await;
    let folder = data.path().join("ben");
    let ana = register(gateway.address(), None, "ana").await;
    let ben = register(gateway.address(), Some(&folder), "ben").await;
    let group = make_group(&ana, true, &[]).await;
    within("joining", ben.change(Change::Join(group)))
        .await
        .expect("joined");
    Joined {
        data,
        gateway,
        folder,
        ana,
        ben,
        group,
    }
}

/// What the cache has of a conversation: its first seq and its last, if nothing between them is missing.
async fn cached(client: &Client, group: ConversationId) -> Option<(u64, u64)> {
    let messages = client.messages(group, Page::Latest, 10_000).await;
    let seqs: Vec<u64> = messages
        .expect("reads")
        .iter()
        .map(|message| message.seq.get())
        .collect();
    let (first, last) = (*seqs.first()?, *seqs.last()?);
    (last - first + 1 == seqs.len() as u64).then_some((first, last))
}

/// What the client has as the title of a group.
async fn title(client: &Client, group: ConversationId) -> Option<String> {
    let known = client.conversations().await.expect("reads");
    let group = known.into_iter().find(|one| one.id == group);
    group.and_then(|group| group.title)
}

/// Waits for a state of the client, looking again whenever something has happened to it, and now and then: what it counts has no
/// events.
async fn until<F: Future<Output = bool>>(client: &Client, what: &str, is: impl Fn() -> F) {
    let mut events = client.events();
    let reached = async {
        while !is().await {
            if let Ok(None) = tokio::time::timeout(LOOK_AGAIN, events.next()).await {
                panic!("the client ended before {what}");
            }
        }
    };
    within(what, reached).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_of_a_large_group_is_fetched_page_by_page() {
    let Joined {
        data: _data,
        gateway,
        folder,
        ana,
        ben,
        group,
    } = joined().await;
    let first = say(&ana, group, 1).await;
    let has = |last: Seq| {
        let ben = ben.clone();
        move || {
            let ben = ben.clone();
            async move {
                let found = ben.messages(group, Page::Latest, 1).await.expect("reads");
                found.last().is_some_and(|message| message.seq == last)
            }
        }
    };
    until(&ben, "the first message", has(first)).await;
    let (joined, _) = cached(&ben, group).await.expect("no hole");
    ben.close().await;

    // More than two pages while ben is away.
    let last = say(&ana, group, 2 * HISTORY_PAGE_MESSAGES_MAX + 80).await;
    let ben = Client::open(config(gateway.address(), Some(&folder)))
        .await
        .expect("opens");
    let filled = |ben: &Client| {
        let counts = ben.catch_ups();
        (counts.filled, counts.cut, counts.failed)
    };
    until(&ben, "the gap to be filled", || async {
        filled(&ben) == (1, 0, 0)
    })
    .await;
    assert_eq!(cached(&ben, group).await, Some((joined, last.get())));
    assert_eq!(ben.catch_ups().pages, 3);
    ben.close().await;

    // More than what is fetched by itself.
    let kept = CATCH_UP_PAGES_MAX * HISTORY_PAGE_MESSAGES_MAX;
    let newest = say(&ana, group, kept + 50).await;
    let ben = Client::open(config(gateway.address(), Some(&folder)))
        .await
        .expect("opens");
    until(&ben, "the newest part of the gap", || async {
        filled(&ben) == (0, 1, 0)
    })
    .await;
    let messages = ben.messages(group, Page::Latest, kept).await;
    let seqs: Vec<u64> = messages
        .expect("reads")
        .iter()
        .map(|message| message.seq.get())
        .collect();
    let newest = newest.get();
    assert!(seqs.iter().copied().eq(newest - kept as u64 + 1..=newest));
    assert_eq!(cached(&ben, group).await, None, "50 are left");
    // That end is remembered: the next connection has nothing to fill.
    ben.close().await;
    let ben = Client::open(config(gateway.address(), Some(&folder)))
        .await
        .expect("opens");
    let next = say(&ana, group, 1).await;
    until(&ben, "the next message", || {
        let ben = ben.clone();
        async move {
            let found = ben.messages(group, Page::Latest, 1).await.expect("reads");
            found.last().is_some_and(|message| message.seq == next)
        }
    })
    .await;
    assert_eq!(ben.catch_ups().cut, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_waits_for_its_answer_across_restarts() {
    let data = tempfile::tempdir().expect("a folder");
    let first = gateway(data.path(), any()).await;
    let address = first.address();
    let folder = data.path().join("ben");
    let ana = register(address, None, "ana").await;
    let ben = register(address, Some(&folder), "ben").await;
    let group = make_group(&ana, false, &["ben"]).await;
    let other = make_group(&ana, false, &["ben"]).await;
    until(&ben, "two invitations", || async {
        ben.invitations().await.expect("reads").len() == 2
    })
    .await;
    let known = ben.invitations().await.expect("reads");
    assert!(known.iter().all(|one| one.by.as_str() == "ana"));
    ben.close().await;
    drop(first);

    // Without a gateway they are there all the same.
    let ben = Client::open(config(address, Some(&folder)))
        .await
        .expect("opens");
    assert_eq!(ben.invitations().await.expect("reads"), known);
    let list = ben.conversations().await.expect("reads");
    assert!(list.iter().all(|row| row.invited_by == Some(known[0].by)));
    let second = gateway(data.path(), address).await;
    within("the gateway", ben.online()).await.expect("online");
    within("declining", ben.change(Change::Leave(other)))
        .await
        .expect("declined");
    let left = ben.invitations().await.expect("reads");
    assert_eq!(
        left.iter().map(|one| one.conversation).collect::<Vec<_>>(),
        [group]
    );

    // A device that was not there asks the gateway.
    let tablet = Client::open(config(address, None)).await.expect("opens");
    within("logging in", tablet.login("ben", PASSWORD))
        .await
        .expect("logged in");
    let asked = within("asking", tablet.fetch_invitations())
        .await
        .expect("answered");
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].conversation, &*asked[0].title),
        (group, "Runners")
    );
    // One answer is enough for both devices.
    within("joining", tablet.change(Change::Join(group)))
        .await
        .expect("joined");
    assert!(tablet.invitations().await.expect("reads").is_empty());
    until(&ben, "the note of joining", || async {
        ben.invitations().await.expect("reads").is_empty()
    })
    .await;
    let refused = within("joining", ben.change(Change::Join(other))).await;
    match refused {
        Err(Error::Refused(refusal)) => assert_eq!(refusal.code, RejectCode::UnknownConversation),
        other => panic!("{other:?}"),
    }
    drop(second);
}

fn edit(group: ConversationId, seq: Seq, text: &str) -> Change {
    Change::Edit {
        conversation: group,
        seq,
        content: Content::Text(text.to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_in_a_large_group_is_learned_without_reading_it_again() {
    let Joined {
        data: _data,
        gateway,
        folder,
        ana,
        ben,
        group,
    } = joined().await;
    // What its joining asks for is here, so that it is not asked for again after the break.
    until(&ben, "the end of joining", || async {
        let done = ben.catch_ups();
        done.filled > 0 && done.waiting == 0
    })
    .await;
    assert_eq!(title(&ben, group).await.as_deref(), Some("Runners"));
    let last = say(&ana, group, 3).await;
    until(&ben, "the messages", || async {
        let kept = ben.messages(group, Page::Latest, 1).await.expect("reads");
        kept.last().is_some_and(|message| message.seq == last)
    })
    .await;
    ben.close().await;

    let first = Seq::new(last.get() - 1).expect("not 0");
    let react = Change::React {
        conversation: group,
        seq: first,
        emoji: "+".to_owned(),
        on: true,
    };
    let changes = [
        edit(group, first, "a slip"),
        react,
        edit(group, first, "changed"),
        Change::Delete(group, last),
    ];
    for change in changes {
        within("a change", ana.change(change)).await.expect("done");
    }
    let ben = Client::open(config(gateway.address(), Some(&folder)))
        .await
        .expect("opens");
    // What the application is told of them, the tests of the cache say: events before somebody listens go to nobody.
    until(&ben, "the changes", || async {
        ben.catch_ups().changes == 1
    })
    .await;
    let kept = ben.messages(group, Page::Latest, 2).await.expect("reads");
    let says: Vec<&str> = kept.iter().map(|message| message.content.text()).collect();
    assert_eq!(says, ["changed", ""]);
    let state = kept[0].state.as_ref().expect("it was changed");
    assert_eq!((state.version, state.reactions.len()), (3, 1));
    assert_eq!(kept[1].content, Content::Gone(Gone::Deleted));
    let done = ben.catch_ups();
    assert_eq!(
        (done.pages, done.reread),
        (0, 0),
        "no history was read again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_away_learns_that_its_user_has_joined_a_large_group() {
    let data = tempfile::tempdir().expect("a folder");
    let gateway = gateway_of_notices(data.path(), any()).await;
    let folder = data.path().join("tablet");
    let ana = register(gateway.address(), None, "ana").await;
    let tom = register(gateway.address(), None, "tom").await;
    let tablet = register(gateway.address(), Some(&folder), "ben").await;
    tablet.close().await;
    let group = make_group(&ana, true, &[]).await;
    within("joining", tom.change(Change::Join(group)))
        .await
        .expect("joined");
    say(&ana, group, 3).await;
    let ben = Client::open(config(gateway.address(), None))
        .await
        .expect("opens");
    within("logging in", ben.login("ben", PASSWORD))
        .await
        .expect("logged in");
    within("joining", ben.change(Change::Join(group)))
        .await
        .expect("joined");
    let last = say(&ana, group, 2).await;

    let tablet = Client::open(config(gateway.address(), Some(&folder)))
        .await
        .expect("opens");
    let joined = last.get() - 2;
    until(&tablet, "the group", || async {
        cached(&tablet, group).await == Some((joined, last.get()))
    })
    .await;
    let list = tablet.conversations().await.expect("reads");
    let row = list.iter().find(|row| row.id == group);
    assert_eq!(row.and_then(|row| row.title.as_deref()), Some("Runners"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_title_of_a_large_group_is_known_to_who_joins_it_and_to_who_was_away() {
    let Joined {
        data: _data,
        gateway,
        folder,
        ana,
        ben,
        group,
    } = joined().await;
    until(&ben, "the title", || async {
        title(&ben, group).await.as_deref() == Some("Runners")
    })
    .await;
    ben.close().await;

    let rename = |title: &str| Change::SetGroup {
        conversation: group,
        title: Some(title.to_owned()),
        topic: None,
    };
    // The note of it is behind so many messages that it is not fetched by itself.
    within("a title", ana.change(rename("Walkers")))
        .await
        .expect("done");
    say(&ana, group, CATCH_UP_PAGES_MAX * HISTORY_PAGE_MESSAGES_MAX).await;
    let ben = Client::open(config(gateway.address(), Some(&folder)))
        .await
        .expect("opens");
    until(&ben, "the new title", || async {
        title(&ben, group).await.as_deref() == Some("Walkers")
    })
    .await;
    within("a title", ana.change(rename("Climbers")))
        .await
        .expect("done");
    until(&ben, "the last title", || async {
        title(&ben, group).await.as_deref() == Some("Climbers")
    })
    .await;
}
