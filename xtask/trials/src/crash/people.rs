//! Who takes part in a run: who writes to whom, and who is in which group.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use quipu_client::Client;
use quipu_client::protocol::event::{Change, NewGroup};
use quipu_client::protocol::id::{ConversationId, UserId};

use super::Arguments;
use super::person::{Person, SharedLedger, lock};
use crate::gateway::Gateway;

/// Members who stay in a group to the end, its owner included.
const STAY: usize = 3;
/// Users who join and leave an open group.
const WANDER: usize = 2;
/// How many of the users send files.
const UPLOADERS: usize = 2;

/// Everybody writes to the next two, so that each has several conversations and each conversation two writers.
pub(super) fn people(
    arguments: &Arguments,
    seed: u64,
    folder: &Path,
    gateway: &Gateway,
    ledger: &SharedLedger,
) -> Result<Vec<Person>> {
    let users = arguments.users;
    let names: Vec<UserId> = (0..users)
        .map(|n| UserId::new(&format!("user-{n}")))
        .collect::<Result<_, _>>()?;
    let mut people: Vec<Person> = (0..users)
        .map(|n| {
            let user = names[usize::from(n)];
            Person {
                user,
                friends: Vec::new(),
                stays: Vec::new(),
                wanders: Vec::new(),
                owns: Vec::new(),
                uploads: usize::from(n) < UPLOADERS,
                server: gateway.address().to_string(),
                data: (n % 2 == 0).then(|| folder.join(user.as_str())),
                files: folder.join(format!("{user}-files")),
                seed: seed.wrapping_add(u64::from(n) + 1),
                ledger: Arc::clone(ledger),
            }
        })
        .collect();
    for n in 0..names.len() {
        for step in 1..=2 {
            let (a, b) = (n, (n + step) % names.len());
            if a == b || people[a].friends.contains(&names[b]) {
                continue;
            }
            people[a].friends.push(names[b]);
            people[b].friends.push(names[a]);
            let conversation = ConversationId::direct(&names[a], &names[b]);
            lock(ledger).conversation(conversation, [names[a], names[b]]);
        }
    }
    Ok(people)
}

/// Makes a group of everybody whose messages come as notices. The gateway is to pull groups of more than all but one: the last
/// to join makes it one, and all learn of it by an event.
pub(super) async fn make_pulled_group(
    people: &mut [Person],
    clients: &[Client],
    ledger: &SharedLedger,
) -> Result<()> {
    let group = NewGroup {
        conversation: ConversationId([0x80; 16]),
        title: "everybody".to_owned(),
        topic: String::new(),
        open: true,
        history_from_start: true,
        invite: Vec::new(),
    };
    let group = clients[0].create_group(group).await;
    let group = group.context("make the pulled group")?;
    for (person, client) in people.iter().zip(clients).skip(1) {
        let joined = client.change(Change::Join(group)).await;
        joined.with_context(|| format!("{} joins", person.user))?;
    }
    let names = people.iter().map(|person| person.user).collect();
    lock(ledger).pulled_group(group, names);
    people[0].owns.push(group);
    for person in people {
        person.stays.push(group);
    }
    Ok(())
}

/// Makes the groups: every second one is open and has users who come and go, the others are joined by invitation.
pub(super) async fn make_groups(
    count: usize,
    people: &mut [Person],
    clients: &[Client],
    ledger: &SharedLedger,
) -> Result<()> {
    for number in 0..count {
        let open = number % 2 == 0;
        let nth = |n: usize| (number + n) % people.len();
        let stay: Vec<usize> = (0..people.len().min(STAY)).map(nth).collect();
        let wander = (stay.len()..people.len()).take(WANDER).map(nth);
        let wander: Vec<usize> = wander.filter(|_| open).collect();

        let mut invite: Vec<UserId> = stay[1..].iter().map(|n| people[*n].user).collect();
        invite.sort_unstable();
        let group = NewGroup {
            conversation: ConversationId([0x80; 16]),
            title: format!("group {number}"),
            topic: String::new(),
            open,
            history_from_start: number % 4 < 2,
            invite: if open { Vec::new() } else { invite },
        };
        let owner = stay[0];
        let group = clients[owner].create_group(group).await;
        let group = group.with_context(|| format!("make group {number}"))?;
        for member in &stay[1..] {
            let joined = clients[*member].change(Change::Join(group)).await;
            joined.with_context(|| format!("{} joins", people[*member].user))?;
        }
        let names = stay.iter().map(|n| people[*n].user).collect();
        lock(ledger).group(group, names);
        people[owner].owns.push(group);
        stay.into_iter().for_each(|n| people[n].stays.push(group));
        wander
            .into_iter()
            .for_each(|n| people[n].wanders.push(group));
    }
    Ok(())
}
