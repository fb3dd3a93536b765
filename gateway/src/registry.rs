//! The sessions alive on this gateway and the bounded mailboxes that everything for them goes into.
//!
//! Processors push from their own threads; each session's task takes from its mailbox. A full mailbox drops events, never
//! blocks a processor: the session then catches up from the store.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quipu_core::row::Settings;
use quipu_protocol::datagram::Typing;
use quipu_protocol::error::CloseCode;
use quipu_protocol::event::{Event, Notice, Outcome, Reply, ReplyTo};
use quipu_protocol::frame::{self, FrameType};
use quipu_protocol::id::{DeviceId, InboxSeq, RequestId, UserId};
use quipu_protocol::query::PresenceEntry;
use quipu_protocol::wire;
use tokio::sync::oneshot;

use crate::ephemeral::{Fleeting, GRACE_DEFAULT, Hub, Published};

/// Events and replies that wait in one mailbox. At the limit events are dropped (the session catches up from the store) and
/// the session of a client that lets that many replies pile up is closed with BUSY.
pub const MAILBOX_ITEMS_MAX: usize = 128;

/// Items in a mailbox above which notices are dropped: half, so that they never take an event's place. The session then says
/// that notices were dropped, and the client asks for the heads of its pulled groups.
pub const MAILBOX_NOTICES_MAX: usize = MAILBOX_ITEMS_MAX / 2;

/// Devices that were thrown out and are remembered, in each of the registry's parts. A device whose token was read just before
/// and whose session begins just after is thrown out as well; longer than such a log-in takes nobody needs to remember.
const REVOKED_KEPT_MAX: usize = 256;

/// Locks that the registry is split into, so that a storm of log-ins does not queue behind one.
const STRIPES: usize = 64;

/// One event, encoded as the frame that goes onto the lane; shared by all sessions of the user.
#[derive(Debug)]
pub struct PushedEvent {
    /// Its number in the inbox.
    pub inbox_seq: InboxSeq,
    /// The whole EVENT frame.
    pub frame: Bytes,
}

/// What a session finds in its mailbox.
#[derive(Debug, Clone)]
pub enum MailboxItem {
    /// A live event.
    Event(Arc<PushedEvent>),
    /// News of a pulled group: the whole NOTICE frame, shared by all sessions that get it.
    Notice(Bytes),
    /// The answer to a command.
    Reply(Reply),
}

/// What was in a mailbox, taken at once.
#[derive(Debug, Default)]
pub struct Taken {
    /// In the order they came.
    pub items: Vec<MailboxItem>,
    /// Events up to this one were dropped since the last take; they are in the store.
    pub lagged: Option<InboxSeq>,
    /// Notices were dropped since the last take.
    pub notices_dropped: bool,
    /// What the user has decided about others: from now on this holds.
    pub settings: Option<Arc<Settings>>,
    /// Who types and who is here.
    pub fleeting: Option<Box<Fleeting>>,
    /// The session must end now, with this code.
    pub close: Option<(CloseCode, &'static str)>,
    /// The gateway is stopping: say GOAWAY.
    pub go_away: bool,
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.items.is_empty()
            && self.lagged.is_none()
            && !self.notices_dropped
            && self.settings.is_none()
            && self.fleeting.is_none()
            && self.close.is_none()
            && !self.go_away
    }
}

/// Where one session receives. Allocates nothing while empty; any thread puts, one task takes.
#[derive(Debug)]
pub struct Mailbox {
    /// Mailboxes are made when connections begin, so this says which connection is the newer one.
    number: u64,
    state: Mutex<MailboxState>,
}

/// The number of the next mailbox.
static NEXT_MAILBOX: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Default)]
struct MailboxState {
    content: Taken,
    waker: Option<Waker>,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            number: NEXT_MAILBOX.fetch_add(1, Ordering::Relaxed),
            state: Mutex::default(),
        })
    }

    /// Waits until there is something to take. One task at a time; cancelling is harmless.
    pub async fn ready(&self) {
        poll_fn(|context| {
            let mut state = self.state.lock();
            if !state.content.is_empty() {
                return Poll::Ready(());
            }
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => state.waker = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }

    /// Takes all there is.
    pub fn take(&self) -> Taken {
        std::mem::take(&mut self.state.lock().content)
    }

    /// What tells this one from every other of the process.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Says that somebody types. Returns whether it was dropped because the mailbox is filling up.
    fn typing(&self, from: UserId, typing: Typing) -> bool {
        self.put(|content| {
            content.items.len() >= MAILBOX_NOTICES_MAX
                || content
                    .fleeting
                    .get_or_insert_default()
                    .add_typing(from, typing)
        })
    }

    /// Says what has changed about a user whom the session watches.
    pub(crate) fn presence(&self, entry: PresenceEntry) {
        self.put(|content| {
            content.fleeting.get_or_insert_default().add_presence(entry);
        });
    }

    /// Ends the session with `code`; the first call wins.
    pub fn close(&self, code: CloseCode, reason: &'static str) {
        self.put(|content| {
            content.close.get_or_insert((code, reason));
        });
    }

    /// Asks the session to say GOAWAY.
    pub fn go_away(&self) {
        self.put(|content| content.go_away = true);
    }

    /// Returns whether the event was dropped because the mailbox is full.
    fn push(&self, event: &Arc<PushedEvent>) -> bool {
        self.put(|content| {
            // Once one event is dropped the ones after it would only be gaps.
            let drops = content.lagged.is_some() || content.items.len() >= MAILBOX_ITEMS_MAX;
            if drops {
                content.lagged = content.lagged.max(Some(event.inbox_seq));
            } else {
                content.items.push(MailboxItem::Event(event.clone()));
            }
            drops
        })
    }

    /// Returns whether the notice was dropped because the mailbox is filling up.
    fn notice(&self, frame: &Bytes) -> bool {
        self.put(|content| {
            // Once one is dropped the client has to ask anyway.
            let drops = content.notices_dropped || content.items.len() >= MAILBOX_NOTICES_MAX;
            if drops {
                content.notices_dropped = true;
            } else {
                content.items.push(MailboxItem::Notice(frame.clone()));
            }
            drops
        })
    }

    fn reply(&self, reply: Reply) {
        self.put(|content| {
            // Events never fill more than the limit, so replies have as much room again.
            if content.items.len() < 2 * MAILBOX_ITEMS_MAX {
                content.items.push(MailboxItem::Reply(reply));
            } else {
                content.close.get_or_insert((
                    CloseCode::Busy,
                    "too many commands whose answers were not read",
                ));
            }
        });
    }

    fn put<T>(&self, change: impl FnOnce(&mut Taken) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state.content);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }
}

/// What the registry counts.
#[derive(Debug, Default)]
pub struct RegistryStats {
    /// Events put into mailboxes.
    pub pushed: AtomicU64,
    /// Events that a full mailbox dropped; their sessions catch up from the store.
    pub dropped: AtomicU64,
    /// Notices put into mailboxes.
    pub notices: AtomicU64,
    /// Notices that a filling mailbox dropped; their clients ask for the heads of their pulled groups.
    pub notices_dropped: AtomicU64,
    /// Sessions ended because their device connected again.
    pub replaced: AtomicU64,
    /// Devices thrown out because their user took them out of the account.
    pub revoked: AtomicU64,
    /// Answers whose session was gone; the device asks again when it is back.
    pub answers_unclaimed: AtomicU64,
}

#[derive(Debug)]
struct Attachment {
    device: DeviceId,
    mailbox: Arc<Mailbox>,
}

type WaitKey = (UserId, DeviceId, RequestId);

#[derive(Debug, Default)]
struct Stripe {
    sessions: HashMap<UserId, Vec<Attachment>>,
    /// Account commands whose connection has no session yet; bounded by the admission of log-ins.
    waiting: HashMap<WaitKey, oneshot::Sender<Outcome>>,
    /// The devices that were thrown out last, the latest at the end; at most [`REVOKED_KEPT_MAX`].
    revoked: VecDeque<(UserId, DeviceId)>,
}

/// All sessions of this gateway, by user.
#[derive(Debug)]
pub struct Registry {
    hasher: RandomState,
    stripes: Vec<Mutex<Stripe>>,
    stats: RegistryStats,
    hub: Hub,
}

impl Registry {
    /// An empty one, in which users are here for the usual time after their last session.
    pub fn new() -> Arc<Self> {
        Self::with_grace(GRACE_DEFAULT)
    }

    /// An empty one. `grace`: how long a user is here after the last session.
    pub fn with_grace(grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            hasher: RandomState::new(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            stats: RegistryStats::default(),
            hub: Hub::new(grace),
        })
    }

    /// Who types and who is here.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Makes known what happened to a user of this gateway.
    pub fn publish(&self, published: Published) {
        self.hub.take(published, self);
    }

    /// Whether the user has a session here.
    pub fn is_here(&self, user: &UserId) -> bool {
        self.stripe(user).lock().sessions.contains_key(user)
    }

    /// Tells the sessions of these users that somebody types. Returns how many were told and how many were not, because their
    /// mailboxes are filling up.
    pub(crate) fn typing(&self, users: &[UserId], from: UserId, typing: Typing) -> (u64, u64) {
        let (mut told, mut dropped) = (0, 0);
        for user in users {
            let stripe = self.stripe(user).lock();
            for attachment in stripe.sessions.get(user).into_iter().flatten() {
                match attachment.mailbox.typing(from, typing) {
                    false => told += 1,
                    true => dropped += 1,
                }
            }
        }
        (told, dropped)
    }

    /// What it has counted.
    pub fn stats(&self) -> &RegistryStats {
        &self.stats
    }

    /// Sessions attached now.
    pub fn sessions(&self) -> usize {
        self.stripes
            .iter()
            .map(|stripe| stripe.lock().sessions.values().map(Vec::len).sum::<usize>())
            .sum()
    }

    /// Lets a session receive from now on. Of two sessions of one device the one on the older connection is ended with
    /// REPLACED, also when that is the one that attaches: checking credentials takes its time, and a device that was told
    /// that it was replaced does not come back by itself.
    pub fn attach(
        self: &Arc<Self>,
        user: UserId,
        device: DeviceId,
        mailbox: Arc<Mailbox>,
    ) -> Attached {
        let mut stripe = self.stripe(&user).lock();
        let attachments = stripe
            .sessions
            .entry(user)
            .or_insert_with(|| Vec::with_capacity(1));
        let present = attachments
            .iter_mut()
            .find(|attachment| attachment.device == device);
        let older = match present {
            Some(present) if present.mailbox.number > mailbox.number => Some(mailbox.clone()),
            Some(present) => Some(std::mem::replace(&mut present.mailbox, mailbox.clone())),
            None => {
                attachments.push(Attachment {
                    device,
                    mailbox: mailbox.clone(),
                });
                None
            }
        };
        let is_first = attachments_of(&stripe, &user) == 1;
        let is_revoked = stripe.revoked.contains(&(user, device));
        drop(stripe);
        if is_first {
            self.publish(Published::Attendance(user));
        }
        if is_revoked {
            mailbox.close(CloseCode::Revoked, REVOKED);
        }
        if let Some(older) = older {
            self.stats.replaced.fetch_add(1, Ordering::Relaxed);
            older.close(CloseCode::Replaced, "this device connected again");
        }
        Attached {
            registry: self.clone(),
            user,
            mailbox,
        }
    }

    /// The devices of a user that are connected here, ascending.
    pub fn devices(&self, user: &UserId) -> Vec<DeviceId> {
        let stripe = self.stripe(user).lock();
        let attachments = stripe.sessions.get(user);
        let mut devices: Vec<DeviceId> = attachments
            .into_iter()
            .flatten()
            .map(|attachment| attachment.device)
            .collect();
        devices.sort_unstable();
        devices
    }

    /// Puts an event into the mailboxes of the user's sessions, encoded once; does nothing for a user without any.
    pub fn push(&self, user: &UserId, event: Event) {
        let stripe = self.stripe(user).lock();
        let Some(attachments) = stripe.sessions.get(user) else {
            return;
        };
        let inbox_seq = event.inbox_seq;
        let mut frame = BytesMut::new();
        frame::encode(FrameType::Event, &wire::Event::from(&event), &mut frame);
        let event = Arc::new(PushedEvent {
            inbox_seq,
            frame: frame.freeze(),
        });
        for attachment in attachments {
            let dropped = attachment.mailbox.push(&event);
            self.stats.pushed.fetch_add(1, Ordering::Relaxed);
            self.stats
                .dropped
                .fetch_add(u64::from(dropped), Ordering::Relaxed);
        }
    }

    /// Puts a notice into the mailboxes of these users' sessions, encoded once, and only if there is a session at all.
    pub fn notice(&self, users: &[UserId], notice: &Notice) {
        let mut encoded: Option<Bytes> = None;
        for user in users {
            let stripe = self.stripe(user).lock();
            let Some(attachments) = stripe.sessions.get(user) else {
                continue;
            };
            let frame = encoded.get_or_insert_with(|| notice_frame(notice));
            for attachment in attachments {
                let dropped = attachment.mailbox.notice(frame);
                self.stats.notices.fetch_add(1, Ordering::Relaxed);
                self.stats
                    .notices_dropped
                    .fetch_add(u64::from(dropped), Ordering::Relaxed);
            }
        }
    }

    /// Gives the answer to a command to the device's session, or to the account command that waits for it.
    pub fn answer(&self, user: &UserId, device: DeviceId, reply: Reply) {
        let mut stripe = self.stripe(user).lock();
        if let ReplyTo::Request(request) = reply.to
            && let Some(waiting) = stripe.waiting.remove(&(*user, device, request))
        {
            // A receiver that is gone gave up waiting; its client asks again.
            let _ = waiting.send(reply.outcome);
            return;
        }
        let attachment = stripe.sessions.get(user).and_then(|attachments| {
            attachments
                .iter()
                .find(|attachment| attachment.device == device)
        });
        match attachment {
            Some(attachment) => attachment.mailbox.reply(reply),
            None => {
                self.stats.answers_unclaimed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits for the answer to an account command of a connection that has no session yet. Call before the command is
    /// submitted, with a request number that is random: it is one of a kind. Dropping the result stops waiting.
    pub fn expect_answer(
        self: &Arc<Self>,
        user: UserId,
        device: DeviceId,
        request: RequestId,
    ) -> ExpectedAnswer {
        let (sender, receiver) = oneshot::channel();
        let key = (user, device, request);
        self.stripe(&user).lock().waiting.insert(key, sender);
        ExpectedAnswer {
            registry: self.clone(),
            key,
            receiver,
        }
    }

    /// Ends the session of one device.
    pub fn close(&self, user: &UserId, device: DeviceId, code: CloseCode, reason: &'static str) {
        if let Some(attachments) = self.stripe(user).lock().sessions.get(user) {
            for attachment in attachments
                .iter()
                .filter(|attachment| attachment.device == device)
            {
                attachment.mailbox.close(code, reason);
            }
        }
    }

    /// Ends the session of a device that its account has no longer, and one that begins now because its token was read before.
    pub fn revoke(&self, user: &UserId, device: DeviceId) {
        let mut stripe = self.stripe(user).lock();
        if stripe.revoked.len() >= REVOKED_KEPT_MAX {
            stripe.revoked.pop_front();
        }
        stripe.revoked.push_back((*user, device));
        drop(stripe);
        self.stats.revoked.fetch_add(1, Ordering::Relaxed);
        self.close(user, device, CloseCode::Revoked, REVOKED);
    }

    /// Tells the sessions of a user what the user has decided about others.
    pub(crate) fn set_settings(&self, user: &UserId, settings: &Arc<Settings>) {
        let stripe = self.stripe(user).lock();
        for attachment in stripe.sessions.get(user).into_iter().flatten() {
            let tell = |content: &mut Taken| content.settings = Some(Arc::clone(settings));
            attachment.mailbox.put(tell);
        }
    }

    /// Calls `each` for every session's mailbox: GOAWAY or close of all.
    pub fn for_each(&self, mut each: impl FnMut(&Mailbox)) {
        for stripe in &self.stripes {
            let stripe = stripe.lock();
            for attachment in stripe.sessions.values().flatten() {
                each(&attachment.mailbox);
            }
        }
    }

    fn stripe(&self, user: &UserId) -> &Mutex<Stripe> {
        &self.stripes[self.hasher.hash_one(user) as usize % STRIPES]
    }
}

/// Sessions of a user.
fn attachments_of(stripe: &Stripe, user: &UserId) -> usize {
    stripe.sessions.get(user).map_or(0, Vec::len)
}

/// A notice as the frame that goes onto the lane.
pub fn notice_frame(notice: &Notice) -> Bytes {
    let mut frame = BytesMut::new();
    frame::encode(FrameType::Notice, &wire::Notice::from(notice), &mut frame);
    frame.freeze()
}

/// What a device is told that its account has no longer.
const REVOKED: &str = "QP-SELF-1: another device of the user has thrown this one out";

/// A session's place in the registry; it leaves when this is dropped.
#[derive(Debug)]
pub struct Attached {
    registry: Arc<Registry>,
    user: UserId,
    mailbox: Arc<Mailbox>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut stripe = self.registry.stripe(&self.user).lock();
        if let Some(attachments) = stripe.sessions.get_mut(&self.user) {
            // A session that was replaced no longer finds its own mailbox, and leaves the newer one alone.
            attachments.retain(|attachment| !Arc::ptr_eq(&attachment.mailbox, &self.mailbox));
            if attachments.is_empty() {
                stripe.sessions.remove(&self.user);
                drop(stripe);
                let left = Published::Attendance(self.user);
                self.registry.publish(left);
            }
        }
    }
}

/// An account command's answer, still to come.
#[derive(Debug)]
pub struct ExpectedAnswer {
    registry: Arc<Registry>,
    key: WaitKey,
    receiver: oneshot::Receiver<Outcome>,
}

impl ExpectedAnswer {
    /// Waits for it; `None` when another call expected the same request, or the gateway is going down.
    pub async fn outcome(mut self) -> Option<Outcome> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for ExpectedAnswer {
    fn drop(&mut self) {
        // Answered ones have no entry any more.
        self.registry
            .stripe(&self.key.0)
            .lock()
            .waiting
            .remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use quipu_protocol::event::{EventBody, Receipt};
    use quipu_protocol::id::ConversationId;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a valid name")
    }

    fn device(number: u64) -> DeviceId {
        DeviceId::new(number).expect("not zero")
    }

    fn event(number: u64) -> Event {
        Event {
            inbox_seq: InboxSeq::new(number).expect("not zero"),
            body: EventBody::Receipt(Receipt {
                conversation: ConversationId([1; 16]),
                user: user("bob"),
                delivered: None,
                read: None,
            }),
        }
    }

    fn numbers(taken: &Taken) -> Vec<u64> {
        taken
            .items
            .iter()
            .filter_map(|item| match item {
                MailboxItem::Event(event) => Some(event.inbox_seq.get()),
                MailboxItem::Notice(_) | MailboxItem::Reply(_) => None,
            })
            .collect()
    }

    #[test]
    fn an_event_reaches_every_session_of_its_user_and_no_other() {
        let registry = Registry::new();
        let (phone, laptop, other) = (Mailbox::new(), Mailbox::new(), Mailbox::new());
        let _phone = registry.attach(user("alice"), device(1), phone.clone());
        let _laptop = registry.attach(user("alice"), device(2), laptop.clone());
        let _other = registry.attach(user("bob"), device(1), other.clone());
        registry.push(&user("alice"), event(1));
        assert_eq!(numbers(&phone.take()), [1]);
        assert_eq!(numbers(&laptop.take()), [1]);
        assert_eq!(numbers(&other.take()), [0u64; 0]);
    }

    #[test]
    fn notices_are_dropped_before_events_and_the_session_learns_of_it() {
        let registry = Registry::new();
        let mailbox = Mailbox::new();
        let _attached = registry.attach(user("alice"), device(1), mailbox.clone());
        let users = [user("alice"), user("nobody")];
        for _ in 0..MAILBOX_NOTICES_MAX + 3 {
            registry.notice(&users, &Notice::Check);
        }
        for number in 1..=(MAILBOX_ITEMS_MAX - MAILBOX_NOTICES_MAX) as u64 {
            registry.push(&user("alice"), event(number));
        }
        let taken = mailbox.take();
        assert!(taken.notices_dropped && taken.lagged.is_none());
        assert_eq!(taken.items.len(), MAILBOX_ITEMS_MAX);
        assert_eq!(registry.stats().notices_dropped.load(Ordering::Relaxed), 3);
        // With room again they come again.
        registry.notice(&users, &Notice::Check);
        let taken = mailbox.take();
        assert!(!taken.notices_dropped);
        assert_eq!(taken.items.len(), 1);
    }

    #[test]
    fn a_revoked_device_is_thrown_out_now_and_when_it_is_just_coming_in() {
        let registry = Registry::new();
        let (phone, laptop) = (Mailbox::new(), Mailbox::new());
        let _phone = registry.attach(user("alice"), device(1), phone.clone());
        let _laptop = registry.attach(user("alice"), device(2), laptop.clone());
        registry.revoke(&user("alice"), device(1));
        let code = |mailbox: &Mailbox| mailbox.take().close.map(|(code, _)| code);
        assert_eq!(code(&phone), Some(CloseCode::Revoked));
        assert_eq!(code(&laptop), None);
        // Its token was read before it was revoked.
        let late = Mailbox::new();
        let _late = registry.attach(user("alice"), device(1), late.clone());
        assert_eq!(code(&late), Some(CloseCode::Revoked));
        // The same number of somebody else's device is another device.
        let other = Mailbox::new();
        let _other = registry.attach(user("bob"), device(1), other.clone());
        assert_eq!(code(&other), None);
        for number in 10..10 + REVOKED_KEPT_MAX as u64 {
            registry.revoke(&user("alice"), device(number));
        }
        let kept = registry.stripe(&user("alice")).lock().revoked.len();
        assert_eq!(kept, REVOKED_KEPT_MAX);
    }

    #[test]
    fn every_session_of_a_user_learns_of_new_settings() {
        let registry = Registry::new();
        let (phone, other) = (Mailbox::new(), Mailbox::new());
        let _phone = registry.attach(user("alice"), device(1), phone.clone());
        let _other = registry.attach(user("bob"), device(1), other.clone());
        let settings = Arc::new(Settings {
            blocked: vec![user("carol")],
            ..Settings::default()
        });
        registry.publish(Published::Settings(user("alice"), Arc::clone(&settings)));
        assert_eq!(phone.take().settings, Some(settings));
        assert_eq!(other.take().settings, None);
    }

    #[test]
    fn a_full_mailbox_drops_events_and_says_up_to_where() {
        let registry = Registry::new();
        let mailbox = Mailbox::new();
        let _attached = registry.attach(user("alice"), device(1), mailbox.clone());
        let last = MAILBOX_ITEMS_MAX as u64 + 5;
        for number in 1..=last {
            registry.push(&user("alice"), event(number));
        }
        let taken = mailbox.take();
        assert_eq!(taken.items.len(), MAILBOX_ITEMS_MAX);
        assert_eq!(taken.lagged.map(InboxSeq::get), Some(last));
        assert_eq!(registry.stats().dropped.load(Ordering::Relaxed), 5);
        registry.push(&user("alice"), event(last + 1));
        assert_eq!(numbers(&mailbox.take()), [last + 1]);
    }

    #[test]
    fn a_device_that_connects_again_ends_its_older_session_and_only_the_newer_one_receives() {
        let registry = Registry::new();
        let (older, newer) = (Mailbox::new(), Mailbox::new());
        let older_place = registry.attach(user("alice"), device(1), older.clone());
        let newer_place = registry.attach(user("alice"), device(1), newer.clone());
        assert_eq!(
            older.take().close.map(|(code, _)| code),
            Some(CloseCode::Replaced)
        );
        drop(older_place);
        registry.push(&user("alice"), event(1));
        assert_eq!(numbers(&newer.take()), [1]);
        drop(newer_place);
        assert_eq!(registry.sessions(), 0);
    }

    #[test]
    fn log_ins_that_overtake_each_other_leave_the_newer_connection() {
        let registry = Registry::new();
        let (older, newer) = (Mailbox::new(), Mailbox::new());
        let _newer = registry.attach(user("alice"), device(1), newer.clone());
        let late = registry.attach(user("alice"), device(1), older.clone());
        assert_eq!(
            older.take().close.map(|(code, _)| code),
            Some(CloseCode::Replaced)
        );
        drop(late);
        registry.push(&user("alice"), event(1));
        assert_eq!(numbers(&newer.take()), [1]);
        assert_eq!(registry.sessions(), 1);
    }

    #[test]
    fn an_answer_goes_to_who_expects_it_and_an_abandoned_wait_leaves_nothing_behind() {
        let registry = Registry::new();
        let request = RequestId(7);
        let reply = Reply {
            to: ReplyTo::Request(request),
            outcome: Outcome::Done,
        };
        let expected = registry.expect_answer(user("alice"), device(1), request);
        registry.answer(&user("alice"), device(1), reply.clone());
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(
            pin!(expected.outcome()).poll(&mut context),
            Poll::Ready(Some(Outcome::Done))
        );

        drop(registry.expect_answer(user("alice"), device(1), request));
        registry.answer(&user("alice"), device(1), reply);
        assert_eq!(
            registry.stats().answers_unclaimed.load(Ordering::Relaxed),
            1
        );
    }

    #[test]
    fn a_waiting_session_is_woken_by_the_first_item() {
        let mailbox = Mailbox::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut ready = pin!(mailbox.ready());
        assert!(ready.as_mut().poll(&mut context).is_pending());
        mailbox.go_away();
        assert!(ready.as_mut().poll(&mut context).is_ready());
        assert!(mailbox.take().go_away);
    }
}
