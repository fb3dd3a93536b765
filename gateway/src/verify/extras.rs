//! Compares what messages refer to with the rows of the index: earlier contents, files, ends.

use std::collections::BTreeSet;

use quipu_core::row::IndexKey;
use quipu_protocol::event::Message;

/// What a set of numbers comes to, so that two sets can be compared without keeping either.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum {
    count: u64,
    /// Of the mixed numbers, wrapping: another set of as many comes to another sum, but for one in 2^64.
    mixed: u64,
}

impl Sum {
    fn add(&mut self, seq: u64, what: u64) {
        self.count += 1;
        self.mixed = self.mixed.wrapping_add(mix(mix(seq).wrapping_add(what)));
    }
}

/// Spreads the bits of a number over all of it (the finisher of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Both sides of one conversation.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Extras {
    versions: [Sum; 2],
    files: [Sum; 2],
    ends: [Sum; 2],
}

impl Extras {
    /// Counts what a message has to have in the index.
    pub(super) fn expect(&mut self, message: &Message) {
        let seq = message.seq.get();
        if let Some(state) = &message.state {
            (1..=state.edits).for_each(|edit| self.versions[0].add(seq, u64::from(edit)));
            if let Some(at) = state.expires_at {
                self.ends[0].add(seq, at.0);
            }
        }
        let files = message.content.attachments().iter();
        let hashes: BTreeSet<[u8; 32]> = files.map(|file| file.hash).collect();
        for hash in hashes {
            self.files[0].add(seq, of_hash(&hash));
        }
    }

    /// Counts a row of the index that is there.
    pub(super) fn find(&mut self, key: &IndexKey) {
        match key {
            IndexKey::Version(_, seq, edit) => self.versions[1].add(seq.get(), u64::from(*edit)),
            IndexKey::MediaRef(_, hash, seq) => self.files[1].add(seq.get(), of_hash(hash)),
            IndexKey::Due(at, _, seq) => self.ends[1].add(seq.get(), at.0),
            IndexKey::Listed(..)
            | IndexKey::Report(..)
            | IndexKey::Changed(..)
            | IndexKey::Seated(..)
            | IndexKey::Here(_)
            | IndexKey::Offline(_) => {}
        }
    }

    /// What does not agree, as the ends of sentences.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let kinds = [
            ("earlier contents of its messages", self.versions),
            ("references to files", self.files),
            ("messages that end", self.ends),
        ];
        let wrong = kinds.into_iter().filter(|(_, [due, found])| due != found);
        wrong.map(|(what, [due, found])| match due.count == found.count {
            false => format!("{} {what} where {} are due", found.count, due.count),
            true => format!("{} {what}, as many as are due, but others", found.count),
        })
    }
}

fn of_hash(hash: &[u8; 32]) -> u64 {
    let words = hash.chunks_exact(8).map(|word| {
        word.iter()
            .fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    });
    words.fold(0, |sum, word| mix(sum ^ word))
}
