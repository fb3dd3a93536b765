//! Judges what people asked for beside messages: of two wishes that did not overlap the later one counts, for everybody.

use super::{Checker, DeviceNo, Happened, Kept, Person, Says, Talk, What};

/// A wish, by number.
pub(crate) type AskNo = usize;

/// What somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// That a group exists.
    Create(Talk),
    /// To be in a group.
    Join(Talk),
    /// That a message says this instead; the hash of it.
    Edit(Talk, u64, u64),
    /// That a message says nothing any more.
    Delete(Talk, u64),
    /// A sign on a message, or none.
    React(Talk, u64, u8, bool),
    /// Not to hear from somebody, or to hear from them again.
    Block(Person, bool),
    /// That nobody learns whether they are here, and when they were here last; or that people do.
    Hide(bool, bool),
    /// That a device of theirs has no access any more.
    Revoke(DeviceNo),
    /// That a device of theirs has this name.
    Rename(DeviceNo, u64),
    /// Something whose outcome only the order of notes shows.
    Other(Talk),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody knows whether it happened, or when.
    Open,
    Done(u64),
    Refused,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    device: DeviceNo,
    wish: Wish,
    /// When it was asked for the first time.
    asked: u64,
    pub(super) end: End,
    /// The device's disk has it until it is answered.
    kept: bool,
}

impl Ask {
    /// Whether it was done before the other was asked for, or the device that keeps both has asked for the other later.
    pub(super) fn precedes(&self, other: &Self) -> bool {
        let both_kept = self.kept && other.kept && self.device == other.device;
        match self.end {
            End::Done(at) => at < other.asked || (both_kept && self.asked < other.asked),
            End::Open | End::Refused => false,
        }
    }

    pub(super) fn wish(&self) -> Wish {
        self.wish
    }

    fn is_done(&self) -> bool {
        matches!(self.end, End::Done(_))
    }
}

impl Checker {
    /// Somebody asks for something.
    pub(crate) fn asked(&mut self, device: DeviceNo, wish: Wish) -> AskNo {
        let asked = self.tick();
        let end = End::Open;
        self.asks.push(Ask {
            device,
            wish,
            asked,
            end,
            kept: false,
        });
        self.asks.len() - 1
    }

    /// The device has it on its disk, and will ask until there is an answer.
    pub(crate) fn kept(&mut self, number: AskNo) {
        if let Some(ask) = self.asks.get_mut(number) {
            ask.kept = true;
        }
    }

    /// Of what has no answer the device has only these left, and may.
    pub(crate) fn keeps_changes(&mut self, device: DeviceNo, left: &[AskNo]) {
        for (number, ask) in self.asks.iter_mut().enumerate() {
            if ask.device == device && ask.end == End::Open && !left.contains(&number) {
                ask.kept = false;
            }
        }
    }

    /// At rest: what a device has kept is answered.
    pub(super) fn judge_kept(&mut self) {
        let lost = |ask: &&Ask| ask.kept && ask.end == End::Open;
        if let Some(ask) = self.asks.iter().find(lost) {
            let what = format!("{ask:?}");
            self.condemn("a change is lost", what);
        }
    }

    /// They are told that it is done.
    pub(crate) fn done(&mut self, number: AskNo) {
        let now = self.tick();
        let Some(ask) = self.asks.get_mut(number) else {
            return;
        };
        if ask.is_done() {
            return;
        }
        ask.end = End::Done(now);
        if let Wish::Revoke(device) = ask.wish {
            self.devices[device].revoked_at.get_or_insert(now);
        }
    }

    /// They are told that it is not to be.
    pub(crate) fn not_done(&mut self, number: AskNo) {
        if let Some(ask) = self.asks.get_mut(number)
            && ask.end == End::Open
        {
            ask.end = End::Refused;
        }
    }

    /// Whether somebody ever asked that this device has no access any more.
    pub(crate) fn may_be_revoked(&self, device: DeviceNo) -> bool {
        let wish = Wish::Revoke(device);
        self.asks.iter().any(|ask| ask.wish == wish)
    }

    pub(super) fn asks_of(&self, person: Person) -> impl Iterator<Item = &Ask> {
        let of = move |ask: &&Ask| self.devices[ask.device].person == person;
        self.asks.iter().filter(of)
    }

    /// Whether `person` had blocked `who` for sure at a time, and not taken it back since.
    pub(super) fn has_blocked(&self, person: Person, who: Person, at: u64) -> bool {
        let of = |on: bool| {
            let wish = Wish::Block(who, on);
            self.asks_of(person).filter(move |ask| ask.wish == wish)
        };
        of(true).any(|on| {
            let before = matches!(on.end, End::Done(done) if done < at);
            before && of(false).all(|off| off.precedes(on) || off.end == End::Refused)
        })
    }

    /// Whether `person` may have blocked `who` at some time.
    pub(super) fn may_have_blocked(&self, person: Person, who: Person) -> bool {
        let wish = Wish::Block(who, true);
        self.asks_of(person).any(|ask| ask.wish == wish)
    }

    /// What holds at last, of wishes that exclude each other: `winner` is what is there, or `None` for what was there in the
    /// beginning. Gives a wish that was done after it.
    fn overruled<'a>(
        &self,
        winner: &[&Ask],
        others: impl Iterator<Item = &'a Ask>,
    ) -> Option<&'a Ask> {
        let mut done = others.filter(|other| other.is_done());
        // A wish that is there may have been fulfilled as late as it was answered, or later if it never was.
        done.find(|other| winner.iter().all(|winner| winner.precedes(other)))
    }

    /// At rest: what a message says is what was asked for last.
    pub(super) fn judge_words(&mut self, talk: Talk, seq: u64, message: &Kept) {
        let What::Words(note) = message.what else {
            return;
        };
        let deletes = |ask: &&Ask| ask.wish == Wish::Delete(talk, seq);
        let Says::Words(print) = message.says else {
            let asked = self.asks.iter().any(|ask| deletes(&ask));
            if !asked && !message.is_over {
                let what = format!("note {note}, seq {seq} of talk {talk}");
                self.condemn("gone, and nobody asked", what);
            }
            return;
        };
        if message.is_over {
            let what = format!("note {note}, seq {seq} of talk {talk}");
            return self.condemn("its time is over and it is there", what);
        }
        if let Some(ask) = self.asks.iter().find(|ask| deletes(ask) && ask.is_done()) {
            let what = format!(
                "note {note}, seq {seq} of talk {talk}, by device {}",
                ask.device
            );
            return self.condemn("deleted and there", what);
        }
        let edits = self.asks.iter().filter(|ask| match ask.wish {
            Wish::Edit(of, at, _) => (of, at) == (talk, seq),
            _ => false,
        });
        let (winner, others): (Vec<&Ask>, Vec<&Ask>) =
            edits.partition(|ask| ask.wish == Wish::Edit(talk, seq, print));
        let original = self.written.get(&note).map(|written| written.text);
        if winner.is_empty() && original != Some(print) {
            let what = format!("note {note}, seq {seq} of talk {talk}");
            return self.condemn("altered", what);
        }
        // A rejection is final (QP-CMD-4): no copy of it that comes later is made.
        if original != Some(print) && winner.iter().all(|ask| ask.end == End::Refused) {
            let what = format!("note {note}, seq {seq} of talk {talk}: {winner:?}");
            return self.condemn("refused and there", what);
        }
        if let Some(other) = self.overruled(&winner, others.into_iter()) {
            let what = format!(
                "note {note}, seq {seq} of talk {talk}: {other:?} is lost, {winner:?} is there"
            );
            self.condemn("an older edit won", what);
        }
    }

    /// At rest: the signs on a message are those that were asked for last.
    pub(super) fn judge_signs(&mut self, talk: Talk, seq: u64, message: &Kept) {
        let Says::Words(_) = message.says else { return };
        let mut wrong = Vec::new();
        for sign in 0..super::SIGNS {
            for person in 0..self.persons() {
                let of = |on: bool| {
                    let wish = Wish::React(talk, seq, sign, on);
                    self.asks_of(person).filter(move |ask| ask.wish == wish)
                };
                let there = message.signs.contains(&(person, sign));
                let winner: Vec<&Ask> = of(there).collect();
                if there && winner.is_empty() {
                    wrong.push(format!("person {person} never put {sign} there"));
                }
                if let Some(lost) = self.overruled(&winner, of(!there)) {
                    wrong.push(format!("there: {there}; lost: {lost:?}"));
                }
            }
        }
        for what in wrong {
            let what = format!("seq {seq} of talk {talk}: {what}");
            self.condemn("a reaction is lost", what);
        }
    }

    /// At rest: devices have the names that were asked for last.
    pub(crate) fn judge_label(&mut self, device: DeviceNo, label: u64) {
        let all = self.asks.iter().filter(|ask| match ask.wish {
            Wish::Rename(of, _) => of == device,
            _ => false,
        });
        let (winner, others): (Vec<&Ask>, Vec<&Ask>) =
            all.partition(|ask| ask.wish == Wish::Rename(device, label));
        if let Some(lost) = self.overruled(&winner, others.into_iter()) {
            let what = format!("device {device} is called {label}; lost: {lost:?}");
            self.condemn("an older name won", what);
        }
    }

    /// At rest: what was done is in the history.
    pub(super) fn judge_joins(&mut self, talk: Talk, history: &[Kept]) {
        let mut wrong = Vec::new();
        for ask in self.asks.iter().filter(|ask| ask.is_done()) {
            let note = match ask.wish {
                Wish::Create(of) if of == talk => Happened::Created,
                Wish::Join(of) if of == talk => Happened::Joined,
                _ => continue,
            };
            let person = self.devices[ask.device].person;
            let mut notes = history.iter().filter(|message| message.from == person);
            // The owner has joined by making it.
            let entered =
                |what| matches!(what, What::Note(Happened::Created)) || what == What::Note(note);
            if !notes.any(|message| entered(message.what)) {
                wrong.push(format!("{ask:?}"));
            }
        }
        for what in wrong {
            self.condemn("done and not in the history", what);
        }
    }
}
