//! Random numbers as a pure function of seed, purpose and index: the same scenario makes the same choices, in whatever order they
//! are asked for, on every machine and in every version of this program.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

/// What a number is for; two purposes never share numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The gap before a Poisson arrival.
    Gap = 1,
    /// Which pair sends.
    Pair = 2,
    /// How long a text is.
    Bytes = 3,
    /// Who takes part in a phase.
    Choice = 4,
    /// How long somebody waits before the next attempt to connect.
    Backoff = 5,
    /// When within a span somebody is thrown off.
    Moment = 6,
    /// What the network does to a datagram.
    Network = 7,
    /// The seed of one of several generator processes.
    Process = 8,
    /// How many members a group has.
    GroupSize = 9,
    /// Whether a message goes to a pair or to a group, and which member's group that is.
    Group = 10,
    /// Whether a message is edited.
    Edit = 11,
    /// Whether a message brings a file, how large it is, and what is in it.
    Media = 12,
    /// Whether somebody sends receipts.
    Receipts = 13,
}

/// A seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    /// 64 random bits.
    pub(crate) fn bits(self, purpose: Purpose, group: u64, index: u64) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, purpose as u64);
        hasher.write_u64(group);
        hasher.write_u64(index);
        hasher.finish()
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(self, purpose: Purpose, group: u64, index: u64) -> f64 {
        // The 53 bits that a double keeps.
        (self.bits(purpose, group, index) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform below `bound`; 0 when `bound` is 0. The bias is below 2^-40 for every bound in use here.
    pub(crate) fn below(self, purpose: Purpose, group: u64, index: u64, bound: u64) -> u64 {
        ((u128::from(self.bits(purpose, group, index)) * u128::from(bound)) >> 64) as u64
    }

    /// A share of the numbers from 0 to `count`, rounded to the nearest, at least one of them if the share is not zero.
    pub(crate) fn choose(self, group: u64, count: usize, share: f64) -> Vec<usize> {
        let wanted = ((count as f64 * share).round() as usize)
            .max(usize::from(share > 0.0))
            .min(count);
        let mut all: Vec<usize> = (0..count).collect();
        all.sort_by_cached_key(|index| self.bits(Purpose::Choice, group, *index as u64));
        all.truncate(wanted);
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_makes_the_same_choices_for_ever() {
        let seed = Seed(42);
        assert_eq!(seed.bits(Purpose::Gap, 0, 0), 0x16b9_c465_0af9_2cef);
        assert_eq!(seed.choose(3, 20, 0.25), seed.choose(3, 20, 0.25));
        assert_ne!(seed.choose(3, 20, 0.25), Seed(43).choose(3, 20, 0.25));
        assert_ne!(
            seed.bits(Purpose::Gap, 0, 1),
            seed.bits(Purpose::Pair, 0, 1)
        );
    }

    #[test]
    fn shares_are_exact_and_never_empty() {
        let seed = Seed(1);
        assert_eq!(seed.choose(0, 1_000, 0.05).len(), 50);
        assert_eq!(seed.choose(0, 8, 0.01).len(), 1);
        assert_eq!(seed.choose(0, 8, 1.0), (0..8).collect::<Vec<_>>());
        assert!(seed.choose(0, 8, 0.0).is_empty());
        assert!(seed.choose(0, 0, 1.0).is_empty());
    }

    #[test]
    fn numbers_are_spread() {
        let seed = Seed(7);
        let mut counts = [0_u32; 10];
        for index in 0..10_000 {
            counts[seed.below(Purpose::Pair, 0, index, 10) as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
    }
}
