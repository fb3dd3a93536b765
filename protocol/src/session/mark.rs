//! How far what a device keeps of one pulled group has the group's changes.

use crate::id::ChangeNumber;

/// Which changes of a pulled group are in all that a device keeps of it (QP-NOTICE-5). To be stored in the transaction that stores
/// what was kept or changed; a device that loses both goes back to where both were right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangeMark {
    has: ChangeNumber,
    told: ChangeNumber,
}

impl ChangeMark {
    /// As it was stored. One that was never stored is the default: a device that asks for all changes misses none.
    pub fn new(has: ChangeNumber, told: ChangeNumber) -> Self {
        Self { has, told }
    }

    /// All that is kept has the changes up to this one.
    pub fn has(self) -> ChangeNumber {
        self.has
    }

    /// The latest change that the device was told of.
    pub fn told(self) -> ChangeNumber {
        self.told
    }

    /// Whether changes are missing, which QUERY `changes` gives after [`has`](Self::has).
    pub fn is_behind(self) -> bool {
        self.has < self.told
    }

    /// There was this change.
    pub fn hear(&mut self, number: ChangeNumber) {
        self.told = self.told.max(number);
    }

    /// A message is kept from now on that may lack what was changed after `as_of`. `alone`: nothing else of the group is kept, or
    /// nothing at all.
    pub fn keep(&mut self, as_of: ChangeNumber, alone: bool) {
        self.hear(as_of);
        self.has = match alone {
            true => as_of,
            // What was under way while the device went on lacks the changes between.
            false => self.has.min(as_of),
        };
    }

    /// This change was applied to what is kept. It counts when it follows.
    pub fn change(&mut self, number: ChangeNumber) {
        self.hear(number);
        if number == self.has.next() {
            self.has = number;
        }
    }

    /// What changed after `after`, up to `through`, was applied to what is kept. It counts unless the device has gone back
    /// meanwhile. A group that has not come to `after` is another one than the device knew.
    pub fn catch_up(&mut self, after: ChangeNumber, through: ChangeNumber) {
        if through < after {
            *self = Self::new(through, through);
            return;
        }
        self.hear(through);
        if self.has >= after {
            self.has = self.has.max(through);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(has: u64, told: u64) -> ChangeMark {
        ChangeMark::new(ChangeNumber(has), ChangeNumber(told))
    }

    #[test]
    fn a_change_counts_when_it_follows() {
        let mut mark = mark(4, 4);
        mark.change(ChangeNumber(5));
        assert_eq!((mark.has().0, mark.is_behind()), (5, false));
        mark.change(ChangeNumber(5));
        mark.change(ChangeNumber(7));
        assert_eq!(
            (mark.has().0, mark.told().0, mark.is_behind()),
            (5, 7, true)
        );
        mark.catch_up(ChangeNumber(5), ChangeNumber(7));
        assert_eq!((mark.has().0, mark.is_behind()), (7, false));
    }

    #[test]
    fn what_is_kept_late_takes_the_mark_back() {
        let mut late = mark(9, 9);
        // A page that was asked for before the last two changes.
        late.keep(ChangeNumber(7), false);
        assert_eq!((late.has().0, late.is_behind()), (7, true));
        // An answer that was asked for before it came.
        late.catch_up(ChangeNumber(9), ChangeNumber(11));
        assert_eq!((late.has().0, late.told().0), (7, 11));
        late.catch_up(ChangeNumber(7), ChangeNumber(11));
        assert_eq!((late.has().0, late.is_behind()), (11, false));
        // And the other way round.
        let mut early = mark(7, 9);
        early.keep(ChangeNumber(8), false);
        early.catch_up(ChangeNumber(7), ChangeNumber(9));
        assert_eq!((early.has().0, early.is_behind()), (9, false));
        early.catch_up(ChangeNumber(9), ChangeNumber(4));
        assert_eq!((early.has().0, early.is_behind()), (4, false));
    }

    #[test]
    fn who_keeps_nothing_begins_where_the_first_page_is() {
        let mut mark = ChangeMark::default();
        mark.keep(ChangeNumber(40), true);
        assert_eq!((mark.has().0, mark.is_behind()), (40, false));
        mark.keep(ChangeNumber(38), true);
        assert_eq!((mark.has().0, mark.is_behind()), (38, true));
    }
}
