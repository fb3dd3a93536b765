//! Changes of messages and groups that a person makes: chosen, asked for until they are answered.

use anyhow::{Result, bail};
use quipu_client::protocol::event::{Change, Content};
use quipu_client::protocol::id::{ConversationId, Seq, UserId};
use quipu_client::{About, ChangeId, Client, Error, MessageChange, Taken};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::desk::{Desk, Places};
use super::{AGAIN_AFTER, Person, lock};
use crate::crash::ledger::Act;

/// Signs that people put on messages.
const SIGNS: [&str; 2] = ["👍", "🎉"];

impl Act {
    /// As the gateway is asked for it.
    fn change(&self) -> Result<Change, Error> {
        let seq = |seq: &u64| Seq::new(*seq).map_err(Error::from);
        Ok(match self {
            Self::Edit(conversation, at, text) => Change::Edit {
                conversation: *conversation,
                seq: seq(at)?,
                content: Content::Text(text.clone()),
            },
            Self::Delete(conversation, at) => Change::Delete(*conversation, seq(at)?),
            Self::React(conversation, at, emoji, on) => Change::React {
                conversation: *conversation,
                seq: seq(at)?,
                emoji: emoji.clone(),
                on: *on,
            },
            Self::Title(group, title) => Change::SetGroup {
                conversation: *group,
                title: Some(title.clone()),
                topic: None,
            },
            Self::Join(group) => Change::Join(*group),
            Self::Leave(group) => Change::Leave(*group),
        })
    }
}

/// Puts the change of a message into the client's outbox, which is where it stays until it is made. `None`: it is no such change.
pub(super) async fn queue(client: &Client, act: &Act) -> Result<Option<ChangeId>, Error> {
    let (conversation, at, what) = match act {
        Act::Edit(conversation, at, text) => {
            let content = Content::Text(text.clone());
            (conversation, at, MessageChange::Edit(content))
        }
        Act::Delete(conversation, at) => (conversation, at, MessageChange::Delete),
        Act::React(conversation, at, emoji, on) => {
            let (emoji, on) = (emoji.clone(), *on);
            (conversation, at, MessageChange::React { emoji, on })
        }
        Act::Title(..) | Act::Join(_) | Act::Leave(_) => return Ok(None),
    };
    let about = About::Placed(*conversation, Seq::new(*at)?);
    match client.change_message(about, what).await? {
        Taken::Queued(change) => Ok(Some(change.id)),
        Taken::Made => Err(Error::Invalid("a message with a place is unsent".into())),
    }
}

/// Waits until a change of the outbox is made, whichever life of the client has put it there.
pub(super) async fn wait(client: Client, act: Act, id: ChangeId) -> (Act, Result<(), Error>) {
    let answer = client.wait_changed(id).await;
    if matches!(answer, Err(Error::Refused(_)))
        && let Err(error) = client.forget_change(id).await
    {
        return (act, Err(error));
    }
    (act, answer)
}

/// Asks until there is an answer; a kill in between only means that it is asked once more.
pub(super) async fn perform(client: Client, act: Act) -> (Act, Result<(), Error>) {
    let answer = loop {
        let change = match act.change() {
            Ok(change) => change,
            Err(error) => break Err(error),
        };
        match client.change(change).await {
            Err(Error::Offline(_)) => sleep(AGAIN_AFTER).await,
            answer => break answer,
        }
    };
    (act, answer)
}

/// Something to change, if there is anything.
pub(super) fn choose(person: &Person, desk: &mut Desk, rng: &mut StdRng) -> Option<Act> {
    desk.counter += 1;
    let new_words = format!("{} changed it {} times", person.user, desk.counter);
    match rng.random_range(0..10) {
        0..=2 => {
            let (conversation, seq) = pick(&desk.own, rng)?;
            Some(Act::Edit(conversation, seq, new_words))
        }
        3 => {
            let place = pick(&desk.own, rng)?;
            // Nothing else is asked for a message that goes.
            desk.own.retain(|other| *other != place);
            Some(Act::Delete(place.0, place.1))
        }
        4..=6 => {
            let (conversation, seq) = pick(&desk.others, rng)?;
            let sign = SIGNS[rng.random_range(0..SIGNS.len())].to_owned();
            Some(Act::React(conversation, seq, sign, rng.random_ratio(2, 3)))
        }
        7 => {
            let group = one(&person.owns, rng)?;
            Some(Act::Title(group, new_words))
        }
        _ => {
            let group = one(&person.wanders, rng)?;
            if !desk.inside.contains(&group) {
                return Some(Act::Join(group));
            }
            // Whoever has left may not write, so what was written has its acks first.
            if desk.waits_for(&group) {
                return None;
            }
            desk.inside.remove(&group);
            Some(Act::Leave(group))
        }
    }
}

/// Writes down how a change was answered.
pub(super) fn answered(
    person: &Person,
    desk: &mut Desk,
    act: &Act,
    answer: Result<(), Error>,
) -> Result<()> {
    let user: UserId = person.user;
    match (answer, act) {
        (Ok(()), act) => {
            if let Act::Join(group) = act {
                desk.inside.insert(*group);
            }
            lock(&person.ledger).changes.acked(user, act);
            Ok(())
        }
        (Err(Error::Refused(_)), Act::React(conversation, seq, ..)) => {
            lock(&person.ledger).changes.refused(*conversation, *seq);
            Ok(())
        }
        (Err(error), act) => bail!("{user}: {act:?}: {error}"),
    }
}

fn pick(places: &Places, rng: &mut StdRng) -> Option<(ConversationId, u64)> {
    if places.is_empty() {
        return None;
    }
    places.get(rng.random_range(0..places.len())).copied()
}

fn one(groups: &[ConversationId], rng: &mut StdRng) -> Option<ConversationId> {
    if groups.is_empty() {
        return None;
    }
    groups.get(rng.random_range(0..groups.len())).copied()
}
