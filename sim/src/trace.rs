//! What happened, as a hash that two runs of one seed must share, and as text for a person.

use std::fmt::Write as _;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// Takes every step of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: SipHasher13,
    events: u64,
    text: bool,
}

impl Trace {
    /// `text`: also print each line as it happens.
    pub(crate) fn new(text: bool) -> Self {
        Self {
            hasher: SipHasher13::new(),
            events: 0,
            text,
        }
    }

    /// One thing that happened, with its particulars.
    pub(crate) fn note(&mut self, at_us: u64, what: &'static str, fields: &[(&'static str, u64)]) {
        self.events += 1;
        self.hasher.write_u64(at_us);
        self.hasher.write(what.as_bytes());
        for (_, value) in fields {
            self.hasher.write_u64(*value);
        }
        if self.text {
            let mut line = format!("{:>12.6}  {what}", at_us as f64 / 1e6);
            for (name, value) in fields {
                // Writing to a String cannot fail.
                let _ = write!(line, " {name}={value}");
            }
            println!("{line}");
        }
    }

    /// A line for a person only.
    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        if self.text {
            println!("              {}", line());
        }
    }

    /// Bytes that a machine made.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
    }

    /// Steps so far.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// The hash of all of them.
    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
