//! What the gateway is asked for and prints as a list: conversations, members, versions, devices, settings.

use std::io::{self, Write};

use quipu_client::Client;
use quipu_protocol::id::{ConversationId, DeviceId};
use quipu_protocol::limits::{CONVERSATIONS_PAGE_MAX, MEMBERS_PAGE_MAX};
use quipu_protocol::query::{Answer, ConversationEntry, Query, Settings};

use super::ask::{odd, query, with_gateway};
use super::{Ended, signed_in, write_json};
use crate::cli::{Ask, MessageArgs, PresenceArgs};
use crate::json::{
    ConversationLine, DeviceLine, InvitedLine, MemberLine, PresenceLine, SettingsLine, VersionLine,
    rfc3339, role_word,
};
use crate::text;

/// Every conversation, page by page.
pub(super) async fn conversations(client: &Client, ask: Ask) -> anyhow::Result<Ended> {
    signed_in(client).await?;
    let mut after = None;
    loop {
        let page = Query::Conversations {
            limit: CONVERSATIONS_PAGE_MAX as u32,
            after,
        };
        let (entries, more) = match query(client, ask, page).await? {
            Some(Answer::Conversations { entries, more }) => (entries, more),
            Some(_) => return Err(odd()),
            None => return Ok(Ended::Away),
        };
        let mut out = io::stdout().lock();
        for entry in &entries {
            write_conversation(&mut out, entry, ask.json)?;
        }
        out.flush()?;
        match entries.last() {
            Some(last) if more => after = Some((last.activity, last.conversation)),
            Some(_) | None => return Ok(Ended::Done),
        }
    }
}

/// Groups that the user is asked into: as the gateway lists them, or what the folder knows of it.
pub(super) async fn invitations(client: &Client, ask: Ask) -> anyhow::Result<Ended> {
    signed_in(client).await?;
    let (invitations, ended) = match with_gateway(client, ask, client.fetch_invitations()).await? {
        Some(listed) => (listed, Ended::Done),
        None => (client.invitations().await?, Ended::Away),
    };
    let mut out = io::stdout().lock();
    for invitation in &invitations {
        if ask.json {
            write_json(&mut out, &InvitedLine::new(invitation))?;
            continue;
        }
        let (at, title) = (rfc3339(invitation.at), plain(&invitation.title));
        let (group, by) = (invitation.conversation, invitation.by);
        writeln!(out, "{at}  {group}  {title}, asked by {by}")?;
    }
    out.flush()?;
    Ok(ended)
}

/// One group.
pub(super) async fn info(
    client: &Client,
    ask: Ask,
    group: ConversationId,
) -> anyhow::Result<Ended> {
    signed_in(client).await?;
    let entry = match query(client, ask, Query::Conversation(group)).await? {
        Some(Answer::Conversation(entry)) => entry,
        Some(_) => return Err(odd()),
        None => return Ok(Ended::Away),
    };
    let mut out = io::stdout().lock();
    write_conversation(&mut out, &entry, ask.json)?;
    if let Some(group) = entry.group.as_ref().filter(|_| !ask.json) {
        let role = group.role.map_or("invited", role_word);
        writeln!(out, "    {} members; you: {role}", group.members)?;
        if !group.topic.is_empty() {
            writeln!(out, "    {}", plain(&group.topic))?;
        }
    }
    out.flush()?;
    Ok(Ended::Done)
}

fn write_conversation(
    out: &mut impl Write,
    entry: &ConversationEntry,
    as_json: bool,
) -> io::Result<()> {
    if as_json {
        return write_json(out, &ConversationLine::new(entry));
    }
    let name = match (&entry.peer, &entry.group) {
        (_, Some(group)) if group.role.is_none() => format!("{} (invited)", plain(&group.title)),
        (_, Some(group)) => plain(&group.title),
        (Some(peer), None) => peer.to_string(),
        (None, None) => String::new(),
    };
    let at = rfc3339(entry.activity);
    writeln!(
        out,
        "{at}  {}  {name}, {} unread",
        entry.conversation, entry.unread
    )
}

/// The members of a group, page by page.
pub(super) async fn members(
    client: &Client,
    ask: Ask,
    group: ConversationId,
) -> anyhow::Result<Ended> {
    signed_in(client).await?;
    let mut after = None;
    loop {
        let page = Query::Members {
            conversation: group,
            after,
            limit: MEMBERS_PAGE_MAX as u32,
        };
        let (members, more) = match query(client, ask, page).await? {
            Some(Answer::Members { members, more }) => (members, more),
            Some(_) => return Err(odd()),
            None => return Ok(Ended::Away),
        };
        let mut out = io::stdout().lock();
        for member in &members {
            if ask.json {
                write_json(&mut out, &MemberLine::new(member))?;
            } else {
                let invited = if member.invited { ", invited" } else { "" };
                writeln!(out, "{}: {}{invited}", member.user, role_word(member.role))?;
            }
        }
        out.flush()?;
        match members.last() {
            Some(last) if more => after = Some(last.user),
            Some(_) | None => return Ok(Ended::Done),
        }
    }
}

/// What a message has said.
pub(super) async fn versions(client: &Client, message: &MessageArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let asked = Query::Versions(message.place.id(&me), message.seq);
    let versions = match query(client, message.ask, asked).await? {
        Some(Answer::Versions(versions)) => versions,
        Some(_) => return Err(odd()),
        None => return Ok(Ended::Away),
    };
    let mut out = io::stdout().lock();
    for (version, content) in &versions {
        if message.ask.json {
            write_json(&mut out, &VersionLine::new(*version, content))?;
        } else {
            writeln!(out, "{version}: {}", plain(content.text()))?;
        }
    }
    out.flush()?;
    Ok(Ended::Done)
}

/// The user's devices.
pub(super) async fn devices(client: &Client, ask: Ask, this: DeviceId) -> anyhow::Result<Ended> {
    let devices = match query(client, ask, Query::Devices).await? {
        Some(Answer::Devices(devices)) => devices,
        Some(_) => return Err(odd()),
        None => return Ok(Ended::Away),
    };
    let mut out = io::stdout().lock();
    for entry in &devices {
        if ask.json {
            write_json(&mut out, &DeviceLine::new(entry, this))?;
            continue;
        }
        let here = if entry.device == this {
            "this one".to_owned()
        } else if entry.connected {
            "connected".to_owned()
        } else {
            entry
                .seen_at
                .map_or_else(|| "away".to_owned(), |at| format!("seen {}", rfc3339(at)))
        };
        writeln!(out, "{}  {}: {here}", entry.device, plain(&entry.label))?;
    }
    out.flush()?;
    Ok(Ended::Done)
}

/// Whether users are here. Of whom the gateway tells nothing it says so.
pub(super) async fn presence(client: &Client, arguments: &PresenceArgs) -> anyhow::Result<Ended> {
    signed_in(client).await?;
    let (ask, users) = (arguments.ask, arguments.users.clone());
    let asked = Query::Presence {
        users: users.clone(),
        watch: false,
    };
    let told = match query(client, ask, asked).await? {
        Some(Answer::Presence(told)) => told,
        Some(_) => return Err(odd()),
        None => return Ok(Ended::Away),
    };
    let mut out = io::stdout().lock();
    for user in &users {
        let entry = told.iter().find(|entry| entry.user == *user);
        let line = PresenceLine::new(user, entry);
        if ask.json {
            write_json(&mut out, &line)?;
        } else {
            writeln!(out, "{user}  {}", line.words())?;
        }
    }
    out.flush()?;
    Ok(Ended::Done)
}

/// What the user has set.
pub(super) fn settings(ask: Ask, settings: &Settings) -> anyhow::Result<Ended> {
    let mut out = io::stdout().lock();
    if ask.json {
        write_json(&mut out, &SettingsLine::new(settings))?;
    } else {
        let privacy = &settings.privacy;
        for (what, hidden) in [
            ("hide-read", privacy.hide_read),
            ("hide-typing", privacy.hide_typing),
            ("hide-presence", privacy.hide_presence),
            ("hide-last-seen", privacy.hide_last_seen),
        ] {
            writeln!(out, "{what} {}", if hidden { "on" } else { "off" })?;
        }
        for user in &settings.blocked {
            writeln!(out, "blocked {user}")?;
        }
    }
    out.flush()?;
    Ok(Ended::Done)
}

/// Somebody's words on one line, with nothing in them that the terminal would obey.
fn plain(words: &str) -> String {
    text::display(&text::single_line(words))
}
