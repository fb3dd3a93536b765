//! Judges what people are told of each other: nothing that one of them hides for sure.

use super::change::End;
use super::{Checker, Person, Wish};

impl Checker {
    /// Somebody is told that a person is here, or when they were here last.
    pub(crate) fn told_presence(&mut self, to: Person, of: Person, (here, seen): (bool, bool)) {
        let now = self.tick();
        let hidden = here && self.hides(of, now, |wish| matches!(wish, Wish::Hide(true, _)))
            || seen && self.hides(of, now, |wish| matches!(wish, Wish::Hide(_, true)));
        if hidden {
            let what = format!("person {to} is told of {of}: here {here}, seen {seen}");
            self.condemn("told what is hidden", what);
        }
        if (here || seen) && self.has_blocked(of, to, now) {
            let what = format!("person {to} is told of {of}, who has blocked them");
            self.condemn("told what is hidden", what);
        }
    }

    /// Whether a person hides something for sure since before a time, and has not begun to take it back.
    fn hides(&self, person: Person, at: u64, is_one: impl Fn(Wish) -> bool) -> bool {
        let all = || {
            let asks = self.asks_of(person);
            asks.filter(|ask| matches!(ask.wish(), Wish::Hide(..)))
        };
        let mut hiding = all().filter(|ask| is_one(ask.wish()));
        hiding.any(|on| {
            let before = matches!(on.end, End::Done(done) if done < at);
            let mut others = all().filter(|other| !is_one(other.wish()));
            before && others.all(|off| off.precedes(on) || off.end == End::Refused)
        })
    }

    /// Whether neither of the two ever asked to hide anything, or to block anybody.
    pub(crate) fn hides_nothing(&self, one: Person, other: Person) -> bool {
        let mut asks = self.asks_of(one).chain(self.asks_of(other));
        !asks.any(|ask| matches!(ask.wish(), Wish::Hide(..) | Wish::Block(..)))
    }
}
