//! What processors have for a session: put into a bounded mailbox, taken onto the lane.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use quipu_core::delivery::Offer;
use quipu_protocol::error::CloseCode;
use quipu_protocol::event::{Event, Notice, Reply, ReplyTo};
use quipu_protocol::frame::{self, FrameType};
use quipu_protocol::id::{DeviceId, InboxSeq, UserId};
use quipu_protocol::query::PresenceEntry;
use quipu_protocol::wire;

use crate::sabotage::Sabotage;
use crate::world::{AtGateway, LinkNo, Stream, World};

/// What processors have for a session.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) items: Vec<Item>,
    lagged: Option<InboxSeq>,
    notices_dropped: bool,
    /// The last word about each user who is watched.
    presence: BTreeMap<UserId, PresenceEntry>,
    /// The user has decided something that changes what may be told.
    decided: bool,
    pub(super) close: Option<(CloseCode, &'static str)>,
    /// A read of it is on its way.
    pub(super) woken: bool,
}

#[derive(Debug)]
pub(super) enum Item {
    Event(InboxSeq, Bytes),
    Notice(Bytes),
    Reply(Reply),
}

/// A notice as the frame that goes onto the lane.
fn notice_frame(notice: &Notice) -> Bytes {
    let mut bytes = BytesMut::new();
    frame::encode(FrameType::Notice, &wire::Notice::from(notice), &mut bytes);
    bytes.freeze()
}

impl World {
    pub(super) fn put(&mut self, gateway: usize, link: LinkNo, change: impl FnOnce(&mut Mailbox)) {
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        change(&mut session.mailbox);
        if !std::mem::replace(&mut session.mailbox.woken, true) {
            let after = self.moment();
            self.tell_gateway(gateway, after, AtGateway::Mail(link));
        }
    }

    /// Puts an event into the mailboxes of a user's sessions.
    pub(crate) fn push(&mut self, gateway: usize, user: UserId, event: &Event) {
        self.trace
            .say(|| format!("gateway {gateway} pushes {} to {user}", event.inbox_seq));
        let mut to = self.gateways[gateway]
            .registry
            .get(&user)
            .cloned()
            .unwrap_or_default();
        if self.sabotage == Some(Sabotage::Misdeliver)
            && let Some((_, next)) = self.gateways[gateway].registry.range(user..).nth(1)
        {
            to.extend(next);
        }
        if to.is_empty() {
            return;
        }
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::Event, &wire::Event::from(event), &mut bytes);
        let (bytes, items_max) = (bytes.freeze(), self.plan.mailbox_items);
        for (_, link) in to {
            self.put(gateway, link, |mailbox| {
                // Once one event is dropped the ones after it would only be gaps.
                if mailbox.lagged.is_some() || mailbox.items.len() >= items_max {
                    mailbox.lagged = mailbox.lagged.max(Some(event.inbox_seq));
                } else {
                    let item = Item::Event(event.inbox_seq, bytes.clone());
                    mailbox.items.push(item);
                }
            });
        }
    }

    /// Puts news of a pulled group into the mailboxes of its members' sessions; never into the place of an event.
    pub(crate) fn offer_notice(&mut self, gateway: usize, users: &[UserId], notice: &Notice) {
        let bytes = notice_frame(notice);
        let notices_max = (self.plan.mailbox_items / 2).max(1);
        let registry = &self.gateways[gateway].registry;
        let attached = users.iter().filter_map(|user| registry.get(user)).flatten();
        let links: Vec<LinkNo> = attached.map(|(_, link)| *link).collect();
        for link in links {
            self.put(gateway, link, |mailbox| {
                if mailbox.notices_dropped || mailbox.items.len() >= notices_max {
                    mailbox.notices_dropped = true;
                } else {
                    mailbox.items.push(Item::Notice(bytes.clone()));
                }
            });
        }
    }

    /// Tells a session who is here; the last word about each holds.
    pub(crate) fn offer_presence(&mut self, gateway: usize, link: LinkNo, entry: PresenceEntry) {
        self.put(gateway, link, |mailbox| {
            let known = mailbox.presence.entry(entry.user).or_insert(entry);
            if known.order < entry.order {
                *known = entry;
            }
        });
    }

    /// The user of a session has decided what others may learn.
    pub(crate) fn has_decided(&mut self, gateway: usize, link: LinkNo) {
        self.put(gateway, link, |mailbox| {
            mailbox.decided = true;
            mailbox.presence.clear();
        });
    }

    /// Gives an answer to the device's session, or to the account command that waits for it.
    pub(crate) fn answer(&mut self, gateway: usize, user: UserId, device: DeviceId, reply: Reply) {
        if let ReplyTo::Request(request) = reply.to
            && let Some(link) = self.gateways[gateway]
                .expected
                .remove(&(user, device, request))
        {
            return self.decided(gateway, link, reply.outcome);
        }
        let attached = self.gateways[gateway].registry.get(&user);
        let link = attached
            .into_iter()
            .flatten()
            .find(|(other, _)| *other == device)
            .map(|(_, link)| *link);
        if let Some(link) = link {
            self.put(gateway, link, |mailbox| {
                mailbox.items.push(Item::Reply(reply));
            });
        }
    }

    pub(crate) fn take_mail(&mut self, gateway: usize, link: LinkNo) {
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        // The next item wakes it again.
        let mailbox = std::mem::take(&mut session.mailbox);
        let (presence, decided) = (mailbox.presence, mailbox.decided);
        let mut lane = BytesMut::new();
        for item in mailbox.items {
            match item {
                Item::Reply(reply) => session.session.reply(&reply),
                Item::Notice(bytes) => lane.extend_from_slice(&bytes),
                Item::Event(inbox_seq, bytes) => {
                    if let Some(member) = &mut session.member
                        && member.window.offer(inbox_seq) == Offer::Send
                    {
                        member.window.sent(inbox_seq, bytes.len());
                        lane.extend_from_slice(&bytes);
                    }
                }
            }
        }
        if let (Some(inbox_seq), Some(member)) = (mailbox.lagged, &mut session.member) {
            member.window.missed(inbox_seq);
        }
        if mailbox.notices_dropped && session.member.is_some() {
            lane.extend_from_slice(&notice_frame(&Notice::Check));
        }
        if let Some((code, reason)) = mailbox.close {
            // Nobody waits for room for a command of a session that is over.
            session.working = None;
            session.session.end(code, reason);
        }
        if !lane.is_empty() {
            self.write(link, Stream::Lane, &lane);
        }
        for entry in presence.into_values().filter(|_| !decided) {
            self.send_presence(gateway, link, entry);
        }
        if decided {
            self.watch_again(gateway, link);
        }
        self.settle(gateway, link);
    }
}
