//! Who is here: the board of a gateway between its sessions, the store and datagrams, and what watchers are told.

use std::collections::BTreeMap;
use std::time::Duration;

use quipu_core::row::{Conversation, EntityKey, Settings};
use quipu_core::watch::{Board, Bounds, Facts, Moment, News, WatcherId};
use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::query::PresenceEntry;

use crate::link::IDLE_TIMEOUT;
use crate::plan::{SECOND, Us};
use crate::queries::{Answer, Question};
use crate::sabotage::Sabotage;
use crate::world::{AtDevice, AtGateway, Event, LinkNo, Phase, World};

/// Never reached here.
const BOUNDS: Bounds = Bounds {
    watches_max: 1 << 20,
    leaving_max: 1 << 15,
};

/// A gateway's board, and what is needed to judge it.
#[derive(Debug)]
pub(crate) struct Watch {
    board: Board<LinkNo>,
    due: Option<Us>,
    /// Since when users have no session, of those who had one.
    absent: BTreeMap<UserId, Us>,
}

impl Watch {
    pub(crate) fn new(grace: Us) -> Self {
        Self {
            board: Board::new(Duration::from_micros(grace), BOUNDS),
            due: None,
            absent: BTreeMap::new(),
        }
    }
}

impl World {
    /// What a gateway that starts knows.
    pub(crate) fn new_watch(&self) -> Watch {
        let grace = self.plan.grace.unwrap_or(0);
        Watch::new(match self.sabotage {
            Some(Sabotage::NoGrace) => 0,
            Some(_) | None => grace,
        })
    }

    fn moment_now(&self) -> Moment {
        Moment {
            at: self.instant(),
            wall: self.wall_clock(),
        }
    }

    fn is_attached(&self, gateway: usize, user: &UserId) -> bool {
        self.gateways[gateway].registry.contains_key(user)
    }

    /// A session of a user began or ended.
    pub(crate) fn attends(&mut self, gateway: usize, user: UserId) {
        if self.plan.grace.is_none() {
            return;
        }
        let (now, moment) = (self.now, self.moment_now());
        let attached = self.is_attached(gateway, &user);
        let watch = &mut self.gateways[gateway].watch;
        match attached {
            true => drop(watch.absent.remove(&user)),
            false => drop(watch.absent.entry(user).or_insert(now)),
        }
        if attached && self.sabotage == Some(Sabotage::MissReturns) {
            return;
        }
        let mut news = News::new();
        watch.board.look(moment, user, attached, &mut news);
        self.publish(gateway, news);
    }

    /// A user has decided what others may learn.
    pub(crate) fn decides(&mut self, gateway: usize, user: UserId, settings: &Settings) {
        if self.plan.grace.is_none() || self.sabotage == Some(Sabotage::IgnorePrivacy) {
            return;
        }
        let mut news = News::new();
        let watch = &mut self.gateways[gateway].watch;
        watch.board.settings(user, settings, &mut news);
        self.publish(gateway, news);
        let attached = self.gateways[gateway].registry.get(&user);
        let attached = attached.into_iter().flatten();
        let links: Vec<LinkNo> = attached.map(|(_, link)| *link).collect();
        for link in links {
            self.has_decided(gateway, link);
        }
    }

    pub(crate) fn board_due(&mut self, gateway: usize) {
        let instant = self.instant();
        let watch = &mut self.gateways[gateway].watch;
        watch.due = None;
        let mut news = News::new();
        watch.board.handle_timeout(instant, &mut news);
        self.publish(gateway, news);
    }

    fn publish(&mut self, gateway: usize, news: News<LinkNo>) {
        for (link, entry) in news {
            self.judge_grace(gateway, link, &entry);
            self.offer_presence(gateway, link, entry);
        }
        self.arm_board(gateway);
    }

    fn arm_board(&mut self, gateway: usize) {
        let Some(due) = self.gateways[gateway].watch.board.poll_timeout() else {
            return;
        };
        let due = self.at(due).max(self.now);
        let watch = &mut self.gateways[gateway].watch;
        if watch.due.is_none_or(|set| due < set) {
            watch.due = Some(due);
            let after = due - self.now;
            self.tell_gateway(gateway, after, AtGateway::BoardDue);
        }
    }

    /// A session asks who is here, and wants to be told of changes.
    pub(crate) fn watch_all(&mut self, gateway: usize, link: LinkNo) {
        let people = self.names.people.clone();
        self.begin_to_watch(gateway, link, people, true);
    }

    /// Its user has decided something: it begins anew, silently from this moment on.
    pub(crate) fn watch_again(&mut self, gateway: usize, link: LinkNo) {
        let session = self.gateways[gateway].sessions.get(&link);
        let users = session.map(|session| session.watching.clone());
        if let Some(users) = users.filter(|users| !users.is_empty()) {
            self.begin_to_watch(gateway, link, users, false);
        }
    }

    fn begin_to_watch(&mut self, gateway: usize, link: LinkNo, users: Vec<UserId>, answers: bool) {
        self.watch_nobody(gateway, link);
        let it = &mut self.gateways[gateway];
        let Some(session) = it.sessions.get_mut(&link) else {
            return;
        };
        let Some(watcher) = session.user() else {
            return;
        };
        session.watches += 1;
        let id = WatcherId {
            session: link,
            times: session.watches,
        };
        session.watching = users.clone();
        for user in users {
            let attached = it.registry.contains_key(&user);
            it.watch.board.watch(user, (id, watcher, link), attached);
        }
        let after = self.moment();
        self.tell_gateway(gateway, after, AtGateway::ReadFacts(link, id, answers));
    }

    pub(crate) fn watch_nobody(&mut self, gateway: usize, link: LinkNo) {
        let it = &mut self.gateways[gateway];
        let Some(session) = it.sessions.get_mut(&link) else {
            return;
        };
        let id = WatcherId {
            session: link,
            times: session.watches,
        };
        for user in std::mem::take(&mut session.watching) {
            it.watch.board.unwatch(&user, id);
        }
    }

    /// The store is read; what it said takes a while to come back.
    pub(crate) fn read_facts(
        &mut self,
        gateway: usize,
        link: LinkNo,
        id: WatcherId,
        answers: bool,
    ) {
        let session = self.gateways[gateway].sessions.get(&link);
        let Some(me) = session.and_then(|session| session.user()) else {
            return;
        };
        let own = self.settings_of(&me);
        let mut facts = Vec::new();
        for user in self.names.people.clone() {
            let direct = ConversationId::direct(&me, &user);
            let row = self.store.entity(EntityKey::Conversation(direct));
            let row = row.and_then(|row| Conversation::decode(row).ok());
            let shares = row.is_some_and(|row| !row.unopened && row.member(&me).is_some());
            if user == me || !shares {
                self.gateways[gateway].watch.board.unwatch(&user, id);
                continue;
            }
            let theirs = self.settings_of(&user);
            let known = Facts {
                privacy: theirs.privacy,
                blocks: theirs.blocks(&me),
                last_seen: None,
                asker: own.privacy,
                asker_blocks: own.blocks(&user),
            };
            facts.push((user, known));
        }
        let after = self.moment();
        self.tell_gateway(gateway, after, AtGateway::Learn(link, id, answers, facts));
    }

    fn settings_of(&self, user: &UserId) -> Settings {
        let row = self.store.entity(EntityKey::Settings(*user));
        row.and_then(|row| Settings::decode(row).ok())
            .unwrap_or_default()
    }

    pub(crate) fn learn(
        &mut self,
        gateway: usize,
        (link, id, answers): (LinkNo, WatcherId, bool),
        facts: &[(UserId, Facts)],
    ) {
        let moment = self.moment_now();
        let mut entries = Vec::new();
        for (user, facts) in facts {
            let attached = self.is_attached(gateway, user);
            let board = &mut self.gateways[gateway].watch.board;
            entries.push(board.learn(moment, *user, id, attached, facts));
        }
        self.arm_board(gateway);
        if !answers {
            for entry in entries {
                self.offer_presence(gateway, link, entry);
            }
            return;
        }
        entries.retain(|entry| entry.here || entry.seen_at.is_some());
        for entry in &entries {
            self.judge_told(gateway, link, entry);
        }
        self.carry_answer(link, Answer::Presence(entries));
    }

    /// A datagram: it may be lost, come twice, and overtake others.
    pub(crate) fn send_presence(&mut self, gateway: usize, link: LinkNo, entry: PresenceEntry) {
        self.judge_told(gateway, link, &entry);
        let copies = match self.phase {
            Phase::Storm => self.rng.pick(&[0, 1, 1, 1, 1, 2]),
            Phase::Heal => 1,
        };
        for _ in 0..copies {
            let after = self.latency();
            if let Some(link_state) = self.links.get(&link)
                && !link_state.is_dead_to_device()
            {
                let (device, life) = link_state.device();
                let what = AtDevice::Presence(link, entry);
                self.schedule(after, Event::Device(device, life, what));
            }
        }
    }

    /// What a device is told; the word with the higher order holds.
    pub(crate) fn take_presence(&mut self, device: usize, entries: Vec<PresenceEntry>) {
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        for entry in entries {
            let known = link.presence.entry(entry.user).or_insert(entry);
            if known.order < entry.order {
                *known = entry;
            }
        }
    }

    /// Nothing that a user hides for sure is told.
    fn judge_told(&mut self, gateway: usize, link: LinkNo, entry: &PresenceEntry) {
        let session = self.gateways[gateway].sessions.get(&link);
        let Some(watcher) = session.and_then(|session| session.user()) else {
            return;
        };
        let (to, of) = (self.names.person(&watcher), self.names.person(&entry.user));
        let said = (entry.here, entry.seen_at.is_some());
        self.checker.told_presence(to, of, said);
    }

    /// Who comes back within the grace was not away.
    fn judge_grace(&mut self, gateway: usize, link: LinkNo, entry: &PresenceEntry) {
        let it = &self.gateways[gateway];
        let Some(watcher) = it.sessions.get(&link).and_then(|session| session.user()) else {
            return;
        };
        let (to, of) = (self.names.person(&watcher), self.names.person(&entry.user));
        let since = it.watch.absent.get(&entry.user);
        let grace = self.plan.grace.unwrap_or(0);
        let is_over = since.is_some_and(|since| self.now - since >= grace);
        if !entry.here && !is_over && self.checker.hides_nothing(to, of) {
            let what = format!("person {to} is told that {of} is away, since {since:?}");
            self.checker.condemn("shown away within the grace", what);
        }
    }

    /// At rest everybody asks anew, and is told how it is.
    pub(crate) fn judge_presence(&mut self) {
        let Some(grace) = self.plan.grace else { return };
        // Who was thrown out and signs in again does so meanwhile, and gateways notice which connections are dead: a device that lost
        // all that it knew has come back as another one, and took the place of none.
        let until = self.now + IDLE_TIMEOUT + grace + 8 * SECOND;
        while self.step(until) {}
        for device in 0..self.devices.len() {
            if let Some(link) = &mut self.devices[device].link {
                link.presence.clear();
            }
            self.wonder(device, Question::Presence);
        }
        let until = self.now + 2 * SECOND;
        while self.step(until) {}
        for device in 0..self.devices.len() {
            let it = &self.devices[device];
            let (false, Some(link)) = (it.is_out, &it.link) else {
                continue;
            };
            let me = self.names.people[it.person];
            for user in &self.names.people {
                let told = link.presence.get(user).is_some_and(|entry| entry.here);
                let is_here = self.is_here_for(&me, user);
                if told != is_here {
                    let what = format!("device {device} is told {told} of {user}");
                    return self.checker.condemn("presence is not true", what);
                }
            }
        }
    }

    /// Whether a user is here, as far as another may know.
    fn is_here_for(&self, me: &UserId, user: &UserId) -> bool {
        let mut devices = self.devices.iter();
        let is_in = devices.any(|it| self.names.people[it.person] == *user && !it.is_out);
        let (own, theirs) = (self.settings_of(me), self.settings_of(user));
        let hides = own.privacy.hide_presence || theirs.privacy.hide_presence;
        let blocks = own.blocks(user) || theirs.blocks(me);
        let direct = ConversationId::direct(me, user);
        let row = self.store.entity(EntityKey::Conversation(direct));
        let row = row.and_then(|row| Conversation::decode(row).ok());
        let shares = row.is_some_and(|row| !row.unopened && row.member(me).is_some());
        me != user && is_in && shares && !hides && !blocks
    }
}
