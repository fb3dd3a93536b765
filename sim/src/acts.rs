//! What people do beside writing and reading: groups, second thoughts about messages, and their own devices.

use quipu_protocol::event::{Change, Content, NewGroup, Privacy, Role};
use quipu_protocol::id::{ClientSeq, ConversationId, Seq, UserId};
use quipu_protocol::limits::KEEP_MS_MIN;
use quipu_protocol::session::Unanswered;

use crate::checker::{AskNo, Kept, What, Wish};
use crate::names::{SIGNS, fingerprint};
use crate::plan::{Act, SECOND};
use crate::queries::Question;
use crate::world::{Event, KnownGroup, World};

/// Groups that people make in one run, at most.
const GROUPS_MAX: usize = 4;

/// Something that was asked for and is not answered.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) number: AskNo,
    /// Under which it is asked for, again too.
    pub(crate) client_seq: ClientSeq,
    pub(crate) change: Change,
}

impl World {
    /// Somebody does something, if there is something to do it to. Without a connection that is only what the outbox keeps.
    pub(crate) fn do_something(&mut self, device: usize) {
        let it = &self.devices[device];
        let is_welcomed = it.link.as_ref().is_some_and(|link| link.welcomed);
        let mut acts = self.plan.acts.clone();
        if !is_welcomed {
            acts.retain(|act| matches!(act, Act::Edit | Act::Delete | Act::React));
        }
        let is_used = it.running && !it.is_out && it.disk.session().is_some();
        if !is_used || acts.is_empty() {
            return;
        }
        let wanted = match self.rng.pick(&acts) {
            Act::Create => self.want_group(device),
            Act::Groups => self.want_in_group(device),
            Act::Roles => self.want_role(device),
            Act::Timer => self.want_timer(device),
            Act::Edit => self.want_other_words(device),
            Act::Delete => self.want_gone(device),
            Act::React => self.want_sign(device),
            Act::Block => self.want_silence(device),
            Act::Rename => self.want_name(device),
            Act::Revoke => self.want_out(device),
            Act::Look => {
                self.look(device);
                None
            }
            Act::Hide => self.want_hidden(device),
        };
        if let Some((change, wish)) = wanted {
            self.ask(device, change, wish);
        }
    }

    fn ask(&mut self, device: usize, change: Change, wish: Wish) {
        let number = self.devices[device].number;
        let number = self.checker.asked(number, wish);
        self.trace
            .say(|| format!("device {device} asks as {number} for {wish:?}: {change:?}"));
        if is_kept(&change) {
            self.checker.kept(number);
            let it = &mut self.devices[device];
            let waiting = it.disk.keep_change(number, change);
            if let Some(link) = it.link.as_mut().filter(|link| link.welcomed) {
                link.changes.add(waiting);
            }
            return self.client_turn(device);
        }
        let client_seq = self.devices[device].disk.take_client_seq();
        let asked = Asked {
            number,
            client_seq,
            change,
        };
        self.ask_as(device, asked);
        self.client_turn(device);
    }

    /// Asks, perhaps again.
    pub(crate) fn ask_as(&mut self, device: usize, asked: Asked) {
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        link.changes.add(Unanswered {
            client_seq: asked.client_seq,
            change: asked.change.clone(),
            kept: false,
        });
        link.asked.insert(asked.client_seq, asked);
    }

    /// Asks again for what was not answered on an earlier connection, or leaves it.
    pub(crate) fn ask_again(&mut self, device: usize) {
        for asked in std::mem::take(&mut self.devices[device].unanswered) {
            if self.rng.chance(500) {
                self.ask_as(device, asked);
            }
        }
    }

    /// People are told what became of what they asked for.
    pub(crate) fn take_ends(&mut self, device: usize) {
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        for (asked, is_done) in std::mem::take(&mut link.ended) {
            self.trace
                .say(|| format!("device {device}: {} is done: {is_done}", asked.number));
            if !is_done {
                self.checker.not_done(asked.number);
                continue;
            }
            self.checker.done(asked.number);
            if let Change::CreateGroup(new) = asked.change {
                let mut groups = self.groups.iter_mut();
                if let Some(group) = groups.find(|group| group.id == new.conversation) {
                    group.is_there = true;
                }
            }
        }
    }

    fn want_group(&mut self, device: usize) -> Option<(Change, Wish)> {
        if self.groups.len() >= GROUPS_MAX {
            return None;
        }
        let mut id = self.rng.bytes16();
        id[0] |= 0x80;
        let conversation = ConversationId(id);
        let (open, history_from_start) = (self.rng.chance(400), self.rng.chance(400));
        let me = self.devices[device].person;
        let mut invite = Vec::new();
        for person in 0..self.names.people.len() {
            // One without an account would spoil it all, which happens too.
            if person != me && self.rng.chance(600) && self.is_probably_there(person) {
                invite.push(self.names.people[person]);
            }
        }
        invite.sort_unstable();
        let talk = {
            let fan_out_max = self.plan.fan_out_max;
            self.checker
                .new_group(history_from_start, open, fan_out_max)
        };
        self.names.talks.insert(conversation, talk);
        self.groups.push(KnownGroup {
            id: conversation,
            is_there: false,
        });
        let new = NewGroup {
            conversation,
            title: "a group".to_owned(),
            topic: String::new(),
            open,
            history_from_start,
            invite,
        };
        Some((Change::CreateGroup(new), Wish::Create(talk)))
    }

    fn is_probably_there(&mut self, person: usize) -> bool {
        let mut theirs = self.devices.iter().filter(|device| device.person == person);
        theirs.any(|device| device.disk.session().is_some()) || self.rng.chance(50)
    }

    fn some_group(&mut self) -> Option<ConversationId> {
        let groups: Vec<_> = self.groups.iter().filter(|group| group.is_there).collect();
        (!groups.is_empty()).then(|| groups[self.rng.index(groups.len())].id)
    }

    fn some_person(&mut self) -> UserId {
        let people = self.names.people.len();
        self.names.people[self.rng.index(people)]
    }

    fn want_in_group(&mut self, device: usize) -> Option<(Change, Wish)> {
        let id = self.some_group()?;
        let talk = self.names.talk(&id);
        let user = self.some_person();
        if !self.devices[device].disk.is_inside(&id) {
            return Some((Change::Join(id), Wish::Join(talk)));
        }
        let change = match self.rng.below(10) {
            0..4 => Change::Invite {
                conversation: id,
                users: vec![user],
            },
            4..6 => Change::Leave(id),
            6..9 => Change::Remove(id, user),
            _ => Change::SetGroup {
                conversation: id,
                title: Some(format!("title {}", self.rng.below(3))),
                topic: None,
            },
        };
        Some((change, Wish::Other(talk)))
    }

    fn want_role(&mut self, _: usize) -> Option<(Change, Wish)> {
        let id = self.some_group()?;
        let role = self
            .rng
            .pick(&[Role::Member, Role::Admin, Role::Admin, Role::Owner]);
        let change = Change::SetRole(id, self.some_person(), role);
        Some((change, Wish::Other(self.names.talk(&id))))
    }

    fn want_timer(&mut self, device: usize) -> Option<(Change, Wish)> {
        let id = self.some_conversation(device)?;
        let keep = self.rng.pick(&[0, KEEP_MS_MIN, 2 * KEEP_MS_MIN]);
        Some((
            Change::SetTimer(id, keep),
            Wish::Other(self.names.talk(&id)),
        ))
    }

    fn some_conversation(&mut self, device: usize) -> Option<ConversationId> {
        let (id, _) = self.some_message(device, |_| true)?;
        Some(id)
    }

    /// A message that this device has, of those that it is about, one of the newest more often.
    fn some_message(
        &mut self,
        device: usize,
        is_one: impl Fn(&Kept) -> bool,
    ) -> Option<(ConversationId, Seq)> {
        let kept = self.devices[device].disk.kept();
        let found = kept.filter(|(_, kept)| is_one(kept));
        let found: Vec<_> = found.map(|(place, _)| *place).collect();
        (!found.is_empty()).then(|| found[self.rng.index(found.len())])
    }

    fn want_other_words(&mut self, device: usize) -> Option<(Change, Wish)> {
        let me = self.devices[device].person;
        let is_mine = |kept: &Kept| kept.from == me && matches!(kept.what, What::Words(_));
        let (conversation, seq) = self.some_message(device, is_mine)?;
        self.next_edit += 1;
        let text = format!("edit {}", self.next_edit);
        let talk = self.names.talk(&conversation);
        let wish = Wish::Edit(talk, seq.get(), fingerprint(&text));
        let change = Change::Edit {
            conversation,
            seq,
            content: Content::Text(text),
        };
        Some((change, wish))
    }

    fn want_gone(&mut self, device: usize) -> Option<(Change, Wish)> {
        let is_said = |kept: &Kept| matches!(kept.what, What::Words(_));
        let (conversation, seq) = self.some_message(device, is_said)?;
        let wish = Wish::Delete(self.names.talk(&conversation), seq.get());
        Some((Change::Delete(conversation, seq), wish))
    }

    fn want_sign(&mut self, device: usize) -> Option<(Change, Wish)> {
        let is_said = |kept: &Kept| matches!(kept.what, What::Words(_));
        let (conversation, seq) = self.some_message(device, is_said)?;
        let (sign, on) = (self.rng.index(SIGNS.len()), self.rng.chance(600));
        let talk = self.names.talk(&conversation);
        let change = Change::React {
            conversation,
            seq,
            emoji: SIGNS[sign].to_owned(),
            on,
        };
        Some((change, Wish::React(talk, seq.get(), sign as u8, on)))
    }

    fn want_hidden(&mut self, device: usize) -> Option<(Change, Wish)> {
        if self.rng.chance(300) {
            self.wonder(device, Question::Presence);
            return None;
        }
        let privacy = Privacy {
            hide_presence: self.rng.chance(500),
            hide_last_seen: self.rng.chance(300),
            ..Privacy::default()
        };
        let wish = Wish::Hide(privacy.hide_presence, privacy.hide_last_seen);
        Some((Change::SetPrivacy(privacy), wish))
    }

    fn want_silence(&mut self, device: usize) -> Option<(Change, Wish)> {
        let person = self.rng.index(self.names.people.len());
        if person == self.devices[device].person {
            return None;
        }
        let on = self.rng.chance(600);
        let change = Change::Block(self.names.people[person], on);
        Some((change, Wish::Block(person, on)))
    }

    /// Another device of the same person, or this one.
    fn some_own(&mut self, device: usize) -> Option<usize> {
        let person = self.devices[device].person;
        let own = |other: &usize| {
            let it = &self.devices[*other];
            it.person == person && it.disk.session().is_some()
        };
        let own: Vec<usize> = (0..self.devices.len()).filter(own).collect();
        (!own.is_empty()).then(|| self.rng.pick(&own))
    }

    fn want_name(&mut self, device: usize) -> Option<(Change, Wish)> {
        let other = self.some_own(device)?;
        let id = self.devices[other].disk.session()?.device;
        self.next_edit += 1;
        let label = format!("label {}", self.next_edit);
        let wish = Wish::Rename(self.devices[other].number, fingerprint(&label));
        Some((Change::RenameDevice(id, label), wish))
    }

    fn want_out(&mut self, device: usize) -> Option<(Change, Wish)> {
        let other = self.some_own(device)?;
        let id = self.devices[other].disk.session()?.device;
        let wish = Wish::Revoke(self.devices[other].number);
        Some((Change::RevokeDevice(id), wish))
    }

    /// Looks at the list of conversations, and at what was said in one before.
    fn look(&mut self, device: usize) {
        let link = self.devices[device].link.as_ref();
        if link.is_none_or(|link| link.is_asking) {
            return;
        }
        let group = self.some_group();
        let place = match group.filter(|_| self.rng.chance(500)) {
            Some(group) => Some((group, 1)),
            None => self
                .some_message(device, |_| true)
                .map(|(id, seq)| (id, seq.get())),
        };
        self.wonder(device, Question::List(None));
        if let Some((conversation, seq)) = place {
            self.wonder(device, Question::Around(conversation, seq));
        }
    }

    /// A device was thrown out; its owner may sign in on it again, as on a new one.
    pub(crate) fn thrown_out(&mut self, device: usize) {
        let it = &mut self.devices[device];
        it.is_out = true;
        let number = it.number;
        self.checker.keeps_changes(number, &[]);
        self.note("thrown-out", &[("device", device as u64)]);
        self.checker.thrown_out(number);
        if self.rng.chance(500) {
            let after = self.rng.between(1, 5 * SECOND);
            self.schedule(after, Event::SignIn(device));
        }
    }

    pub(crate) fn sign_in_again(&mut self, device: usize) {
        let disk = Self::new_disk(self.sabotage);
        let person = self.devices[device].person;
        let number = self.checker.new_device(person);
        let it = &mut self.devices[device];
        it.is_out = false;
        it.number = number;
        it.disk = disk;
        it.unanswered = Vec::new();
        let after = self.moment();
        self.connect_after(device, after);
    }
}

/// Whether a client keeps a change on its disk until it is made.
fn is_kept(change: &Change) -> bool {
    matches!(
        change,
        Change::Edit { .. } | Change::Delete(..) | Change::React { .. }
    )
}
