//! Decisions about sessions that come and go, and about messages that no device takes.

use quipu_protocol::id::{Cursor, DeviceId, InboxSeq, TimestampMs, UserId};

use super::entities::Entities;
use super::turn::Turn;
use crate::record::{Fact, GivenUp, SessionId};
use crate::row::{DeadLetter, DeadLetters, Presence, PresentDevice};

/// Takes note of what a gateway tells about a user. Facts about somebody without an account are dropped.
pub(super) fn fact(entities: &mut Entities, turn: &mut Turn, user: UserId, fact: &Fact) {
    let entity = entities.inbox(user, turn.position);
    let Some(incoming) = entity.get().map(|inbox| inbox.incoming) else {
        turn.effects.dropped.without_inbox += 1;
        return;
    };
    let time = turn.time;
    match fact {
        Fact::Attached {
            device,
            session,
            cursor,
        } => change(entities, turn, user, incoming, time, |presence| {
            attached(presence, *device, *session, *cursor, time);
        }),
        Fact::Stalled {
            device,
            session,
            cursor,
            since,
        } => {
            // A gateway's clock may be ahead of the log's; nothing has waited since the future.
            let since = (*since).min(time);
            change(entities, turn, user, incoming, since, |presence| {
                if let Some(device) = of_session(presence, *device, *session) {
                    device.stalled = true;
                    device.cursor = device.cursor.max(*cursor);
                    acked(presence, *cursor);
                }
            });
        }
        Fact::Detached {
            device,
            session,
            cursor,
        } => change(entities, turn, user, incoming, time, |presence| {
            if let Some(device) = of_session(presence, *device, *session) {
                device.session = None;
                device.stalled = false;
                device.cursor = device.cursor.max(*cursor);
                device.seen_at = time;
                acked(presence, *cursor);
            }
        }),
        Fact::Vanished { boot, since } => {
            let since = (*since).min(time);
            change(entities, turn, user, incoming, since, |presence| {
                let devices = presence.devices.iter_mut();
                for device in devices.filter(|device| is_of_boot(device, *boot)) {
                    // When it went nobody knows: it was here at least when its session began.
                    device.session = None;
                    device.stalled = false;
                }
            });
        }
        Fact::Told { through, given_up } => {
            keep_dead_letters(entities, turn, user, given_up);
            change(entities, turn, user, incoming, time, |presence| {
                presence.told = presence.told.max(*through);
            });
            // Whoever told waits for this, also when nothing has changed.
            turn.offline(user, entities.presence(user, turn.position).get());
        }
        Fact::TellAgain { after } => {
            forget_dead_letters(entities, turn, user, *after);
            change(entities, turn, user, incoming, time, |presence| {
                presence.told = presence.told.min(*after);
            });
        }
    }
}

/// A message of somebody else has come into the user's inbox.
pub(super) fn came(entities: &mut Entities, turn: &mut Turn, user: UserId, incoming: InboxSeq) {
    let entity = entities.presence(user, turn.position);
    // While a session listens the log is not told what it acks, and while something waits one more changes nothing: the
    // usual message costs no row here.
    let nothing_new = entity
        .get()
        .is_some_and(|presence| presence.is_listening() || presence.waiting.is_some());
    if !nothing_new {
        change(entities, turn, user, Some(incoming), turn.time, |_| {});
    }
}

/// Changes what is known of a user, and says what follows from it.
fn change(
    entities: &mut Entities,
    turn: &mut Turn,
    user: UserId,
    incoming: Option<InboxSeq>,
    since: TimestampMs,
    change: impl FnOnce(&mut Presence),
) {
    let mut entity = entities.presence(user, turn.position);
    let before = entity.get().cloned();
    let mut after = before.clone().unwrap_or_default();
    change(&mut after);
    after.settle(incoming, since);
    if before.as_ref() == Some(&after) || before.is_none() && after == Presence::default() {
        return;
    }
    turn.presence(user, before.as_ref(), &after);
    entity.put(after);
}

fn attached(
    presence: &mut Presence,
    id: DeviceId,
    session: SessionId,
    cursor: Cursor,
    time: TimestampMs,
) {
    let device = presence.device_mut(id);
    device.session = Some(session);
    device.stalled = false;
    device.cursor = device.cursor.max(cursor);
    device.seen_at = time;
    acked(presence, cursor);
}

fn acked(presence: &mut Presence, cursor: Cursor) {
    presence.acked = presence.acked.max(cursor);
}

/// The device, if this is its session: a newer one of the same device may have come before the end of the older is told.
fn of_session(
    presence: &mut Presence,
    id: DeviceId,
    session: SessionId,
) -> Option<&mut PresentDevice> {
    let at = presence.devices.binary_search_by_key(&id, |d| d.id).ok()?;
    let device = presence.devices.get_mut(at)?;
    (device.session == Some(session)).then_some(device)
}

fn is_of_boot(device: &PresentDevice, boot: u64) -> bool {
    device.session.is_some_and(|session| session.boot == boot)
}

fn keep_dead_letters(entities: &mut Entities, turn: &mut Turn, user: UserId, given_up: &[GivenUp]) {
    if given_up.is_empty() {
        return;
    }
    let mut entity = entities.dead_letters(turn.shard, turn.position);
    if entity.get().is_none() {
        entity.put(DeadLetters::default());
    }
    let Some(dead) = entity.change() else { return };
    for given_up in given_up {
        dead.push(DeadLetter {
            user,
            died_at: turn.time,
            given_up: given_up.clone(),
        });
    }
}

/// What is told again is not dead any more.
fn forget_dead_letters(entities: &mut Entities, turn: &mut Turn, user: UserId, after: Cursor) {
    let mut entity = entities.dead_letters(turn.shard, turn.position);
    if let Some(dead) = entity.change() {
        dead.letters
            .retain(|letter| letter.user != user || letter.given_up.after < after);
    }
}
