//! Remembers a device's last answered messages or changes, so that a retry gets its first answer again.

use std::collections::VecDeque;

use quipu_protocol::error::RejectCode;
use quipu_protocol::id::{ClientSeq, Seq};
use quipu_protocol::limits::DEDUP_WINDOW;

use crate::codec::{Fields, Writer, corrupt};
use crate::row::CorruptRow;

/// The last [`DEDUP_WINDOW`] answered client seqs of one device, ascending, and what they got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DedupWindow<T> {
    answered: VecDeque<(ClientSeq, T)>,
}

/// What a message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It was accepted, as this seq, which is above those before it.
    Accepted(Seq),
    /// It was refused, for good.
    Refused(RejectCode),
}

impl<T> Default for DedupWindow<T> {
    fn default() -> Self {
        Self {
            answered: VecDeque::new(),
        }
    }
}

/// What a client seq is to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known<T> {
    /// Above everything answered: it is decided now.
    New,
    /// Answered before, and got this.
    Answered(T),
    /// Below the last answered one and not remembered. As a device has at most `SENDS_IN_FLIGHT_MAX` sends unanswered, or
    /// `CHANGES_IN_FLIGHT_MAX` changes, and those are all remembered, one that it still asks about was never decided.
    Stale,
}

impl<T: Copy> DedupWindow<T> {
    pub(crate) fn look_up(&self, client_seq: ClientSeq) -> Known<T> {
        match self.answered.back() {
            Some((last, _)) if client_seq <= *last => {}
            _ => return Known::New,
        }
        match self
            .answered
            .binary_search_by_key(&client_seq, |(known, _)| *known)
        {
            Ok(at) => Known::Answered(self.answered[at].1),
            Err(_) => Known::Stale,
        }
    }

    /// Remembers an answer; the client seq, and a seq, are above all that it holds.
    pub(crate) fn remember(&mut self, client_seq: ClientSeq, got: T) {
        if self.answered.len() >= DEDUP_WINDOW {
            self.answered.pop_front();
        }
        self.answered.push_back((client_seq, got));
    }

    /// What it holds, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(ClientSeq, T)> {
        self.answered.iter()
    }
}

impl DedupWindow<Sent> {
    /// Seq of the last accepted message that it holds.
    pub(crate) fn last_seq(&self) -> Option<Seq> {
        let mut newest_first = self.answered.iter().rev();
        newest_first.find_map(|(_, sent)| match sent {
            Sent::Accepted(seq) => Some(*seq),
            Sent::Refused(_) => None,
        })
    }

    /// Writes it as one packed field: each acceptance as its distance from the one before it, two bytes in a lively
    /// conversation; a refusal has 0 in the place of the second distance, then its code.
    pub(crate) fn write(&self, out: &mut Writer, field: u32) {
        if self.answered.is_empty() {
            return;
        }
        out.nested(field, |out| {
            let mut before = (0, 0);
            for (client_seq, sent) in &self.answered {
                out.varint(client_seq.get() - before.0);
                before.0 = client_seq.get();
                match sent {
                    Sent::Accepted(seq) => {
                        out.varint(seq.get() - before.1);
                        before.1 = seq.get();
                    }
                    Sent::Refused(code) => {
                        out.varint(0);
                        out.varint(u64::from(code.code()));
                    }
                }
            }
        });
    }

    pub(crate) fn read(what: &'static str, mut steps: Fields) -> Result<Self, CorruptRow> {
        let too_far = || corrupt(what, "a dedup window leaves 64 bits");
        let mut window = Self::default();
        let mut before = (0u64, 0u64);
        while let Some(client_seq_step) = steps.packed()? {
            if client_seq_step == 0 || window.answered.len() >= DEDUP_WINDOW {
                return Err(corrupt(
                    what,
                    "a dedup window does not ascend or is too long",
                ));
            }
            before.0 = before.0.checked_add(client_seq_step).ok_or_else(too_far)?;
            let client_seq = ClientSeq::new(before.0).map_err(|_| too_far())?;
            let sent = match steps.packed()?.unwrap_or(0) {
                0 => Sent::Refused(RejectCode::from_code(steps.packed()?.unwrap_or(0))),
                step => {
                    before.1 = before.1.checked_add(step).ok_or_else(too_far)?;
                    Sent::Accepted(Seq::new(before.1).map_err(|_| too_far())?)
                }
            };
            window.remember(client_seq, sent);
        }
        Ok(window)
    }
}
