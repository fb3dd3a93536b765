//! The text of a measured message: says which one it is, and proves that no byte of it changed.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

/// Shortest text that holds all fields.
pub(crate) const TEXT_BYTES_MIN: usize = 64;
/// What every text starts with.
const MARK: &str = "quipu";
/// Hexadecimal digits of the checksum at the end.
const SUM_DIGITS: usize = 16;

/// Which message of a run this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    /// Random number of the run, so that a message of an earlier one is known for a ghost.
    pub(crate) run: u64,
    /// Which conversation.
    pub(crate) pair: u32,
    /// Which of its members sent it, from 0.
    pub(crate) side: u8,
    /// From 0, in the order in which this side sent to this pair's conversation.
    pub(crate) counter: u64,
}

/// What a text says beside which message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// Nothing.
    None,
    /// Its author has changed it.
    Edited,
    /// It came with the file whose hash begins so.
    File([u8; 8]),
}

impl Tag {
    fn write(self, text: &mut String) {
        use std::fmt::Write as _;
        // Writing to a String cannot fail.
        let _ = match self {
            Self::None => Ok(()),
            Self::Edited => write!(text, "edited "),
            Self::File(hash) => write!(text, "file:{:016x} ", u64::from_be_bytes(hash)),
        };
    }

    /// What a text says that [`Label::text`] made; [`None`](Self::None) for any other.
    pub(crate) fn read(text: &str) -> Self {
        let word = text.split(' ').nth(5).unwrap_or_default();
        if word == "edited" {
            return Self::Edited;
        }
        let digits = word.strip_prefix("file:");
        match digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            Some(hash) => Self::File(hash.to_be_bytes()),
            None => Self::None,
        }
    }
}

impl Label {
    /// The text, filled up to `bytes`. A tag may make it longer.
    pub(crate) fn text(&self, bytes: usize, tag: Tag) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(bytes.max(TEXT_BYTES_MIN));
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{MARK} {:016x} {:08x} {:x} {:012x} ",
            self.run, self.pair, self.side, self.counter
        );
        tag.write(&mut text);
        while text.len() + SUM_DIGITS < bytes {
            text.push('.');
        }
        let sum = checksum(&text);
        let _ = write!(text, "{sum:016x}");
        text
    }

    /// Reads a text; `None` when it is not one that [`text`](Self::text) made.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (body, sum) = text.split_at_checked(text.len().checked_sub(SUM_DIGITS)?)?;
        if u64::from_str_radix(sum, 16).ok()? != checksum(body) {
            return None;
        }
        let mut fields = body.split(' ');
        if fields.next()? != MARK {
            return None;
        }
        let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
        Some(Self {
            run: number()?,
            pair: u32::try_from(number()?).ok()?,
            side: u8::try_from(number()?).ok()?,
            counter: number()?,
        })
    }
}

fn checksum(text: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label {
        run: 0xfeed_beef,
        pair: 77,
        side: 1,
        counter: 123_456,
    };

    #[test]
    fn a_text_has_the_size_asked_for_and_reads_back() {
        for tag in [Tag::None, Tag::Edited, Tag::File([0, 1, 2, 3, 4, 5, 6, 7])] {
            let text = LABEL.text(120, tag);
            assert_eq!(text.len(), 120);
            assert_eq!((Label::read(&text), Tag::read(&text)), (Some(LABEL), tag));
        }
        assert!(LABEL.text(0, Tag::None).len() <= TEXT_BYTES_MIN);
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let text = LABEL.text(80, Tag::None);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(Label::read(&changed), None, "byte {at}");
        }
        assert_eq!(Label::read(""), None);
        assert_eq!(
            Label::read("a text from somebody else, long enough to hold a sum"),
            None
        );
    }
}
