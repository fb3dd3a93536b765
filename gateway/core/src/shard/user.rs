//! Decisions about users: accounts, devices, inboxes.

use std::borrow::Cow;

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{
    Changed, ChangedKind, Content, EventBody, Gone, Outcome, Receipt, Reply, ReplyTo,
};
use quipu_protocol::id::{InboxSeq, RequestId, UserId};

use super::entities::Entities;
use super::presence;
use super::turn::{Turn, rejected};
use crate::limits::DEVICES_PER_ACCOUNT_MAX;
use crate::record::{Command, NewDevice};
use crate::row::{Account, Device, EntityKey, Inbox, InboxKind, InboxRow};

/// Makes an account and its inbox, or answers that the name is taken. The same registration again is done already.
pub(super) fn register(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    request: RequestId,
    password: Option<&str>,
    device: &NewDevice,
) {
    let mut entity = entities.account(command.user, turn.position);
    let outcome = match entity.get() {
        None => {
            entity.put(Account {
                password: password.map(str::to_owned),
                created_at: turn.time,
                devices: vec![added(command, turn, device)],
            });
            let mut inbox = entities.inbox(command.user, turn.position);
            if inbox.get().is_none() {
                inbox.put(Inbox::default());
            }
            turn.account(&command.user, command.device);
            Outcome::Done
        }
        Some(account) if has(account, command, device) => Outcome::Done,
        Some(_) => rejected(RejectCode::NameTaken, "this name belongs to somebody"),
    };
    answer(turn, command, request, outcome);
}

/// Adds a device to an account, or answers why not. The same device again is done already.
pub(super) fn add_device(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    request: RequestId,
    device: &NewDevice,
) {
    let mut entity = entities.account(command.user, turn.position);
    let outcome = match entity.get() {
        None => rejected(RejectCode::UnknownUser, "there is no account of this name"),
        Some(account) if has(account, command, device) => Outcome::Done,
        Some(account) if account.device(command.device).is_some() => rejected(
            RejectCode::Invalid,
            "this device id is in use; draw another one",
        ),
        Some(account) if account.devices.len() >= DEVICES_PER_ACCOUNT_MAX => rejected(
            RejectCode::TooManyDevices,
            "the account has as many devices as it may; remove one",
        ),
        Some(_) => {
            let device = added(command, turn, device);
            if let Some(account) = entity.change() {
                let at = account.devices.partition_point(|d| d.id < device.id);
                account.devices.insert(at, device);
            }
            turn.account(&command.user, command.device);
            Outcome::Done
        }
    };
    answer(turn, command, request, outcome);
}

fn added(command: &Command, turn: &Turn, device: &NewDevice) -> Device {
    Device {
        id: command.device,
        label: device.label.clone(),
        token_hash: device.token_hash,
        added_at: turn.time,
    }
}

/// Whether the account has this very device: its id and its secret.
fn has(account: &Account, command: &Command, device: &NewDevice) -> bool {
    account
        .device(command.device)
        .is_some_and(|known| known.token_hash == device.token_hash)
}

fn answer(turn: &mut Turn, command: &Command, request: RequestId, outcome: Outcome) {
    let to = ReplyTo::Request(request);
    turn.answer_here(command.user, command.device, Reply { to, outcome });
}

/// What an inbox keeps of a change: not the words of an edit, which are in the history for as long as they may be.
fn kept(changed: &Changed) -> Changed {
    let kind = match &changed.kind {
        ChangedKind::Edited(_) => ChangedKind::Edited(Content::Gone(Gone::Deleted)),
        ChangedKind::Gone(_) | ChangedKind::Reacted { .. } => changed.kind.clone(),
    };
    Changed {
        kind,
        ..changed.clone()
    }
}

/// Names the entities that an event for a user's inbox needs.
pub(super) fn needs(user: UserId, event: &EventBody, need: &mut impl FnMut(EntityKey)) {
    need(EntityKey::Inbox(user));
    if is_incoming(event) {
        need(EntityKey::Presence(user));
    }
    if is_of_another(event, &user) {
        need(EntityKey::Settings(user));
    }
}

/// Whether it is the position of somebody else.
fn is_of_another(event: &EventBody, user: &UserId) -> bool {
    match event {
        EventBody::Receipt(receipt) => receipt.user != *user,
        EventBody::Message(_) | EventBody::Changed(_) | EventBody::Invitation(_) => false,
    }
}

/// What this user gets of an event: who hides what was read does not see it of others (QP-SELF-4).
fn as_seen<'a>(
    entities: &mut Entities,
    turn: &Turn,
    user: &UserId,
    event: &'a EventBody,
) -> Cow<'a, EventBody> {
    let EventBody::Receipt(receipt) = event else {
        return Cow::Borrowed(event);
    };
    if !is_of_another(event, user) {
        return Cow::Borrowed(event);
    }
    let settings = entities.settings(*user, turn.position);
    match settings.get().is_some_and(|row| row.privacy.hide_read) {
        false => Cow::Borrowed(event),
        true => Cow::Owned(EventBody::Receipt(Receipt {
            read: None,
            ..receipt.clone()
        })),
    }
}

/// Numbers an event in each inbox that it is for.
pub(super) fn deliver(entities: &mut Entities, turn: &mut Turn, to: &[UserId], event: &EventBody) {
    for user in to {
        if turn.shards.of_user(user) != turn.shard {
            turn.effects.dropped.misrouted += 1;
            continue;
        }
        let event = as_seen(entities, turn, user, event);
        let mut entity = entities.inbox(*user, turn.position);
        let Some(inbox) = entity.change() else {
            turn.effects.dropped.without_inbox += 1;
            continue;
        };
        let inbox_seq = inbox.head.map_or(InboxSeq::FIRST, InboxSeq::next);
        inbox.head = Some(inbox_seq);
        let incoming = is_incoming_for(&event, user);
        if incoming {
            inbox.incoming = Some(inbox_seq);
        }
        if let Some(keep) = turn.keep {
            inbox.age(keep, turn.time);
            inbox.trim().for_each(|gone| turn.trimmed(*user, gone));
        }
        let kind = match &*event {
            EventBody::Message(message) => InboxKind::Message {
                conversation: message.conversation,
                seq: message.seq,
            },
            EventBody::Receipt(receipt) => InboxKind::Receipt(receipt.clone()),
            EventBody::Changed(changed) => InboxKind::Changed(Box::new(kept(changed))),
            EventBody::Invitation(invitation) => InboxKind::Invitation(invitation.clone()),
        };
        let row = InboxRow {
            user: *user,
            inbox_seq,
            kind,
        };
        turn.inbox(row, event.into_owned());
        if incoming {
            presence::came(entities, turn, *user, inbox_seq);
        }
    }
}

/// Whether somebody could miss this event: a message that says something. Whoever delivers it has to have loaded
/// [`EntityKey::Presence`](crate::row::EntityKey::Presence) of everybody.
fn is_incoming(event: &EventBody) -> bool {
    match event {
        EventBody::Message(message) => match message.content {
            Content::Text(_) | Content::Rich(_) => true,
            Content::Note(_) | Content::Gone(_) => false,
        },
        EventBody::Receipt(_) | EventBody::Changed(_) | EventBody::Invitation(_) => false,
    }
}

fn is_incoming_for(event: &EventBody, user: &UserId) -> bool {
    let own = matches!(event, EventBody::Message(message) if message.from == *user);
    is_incoming(event) && !own
}
