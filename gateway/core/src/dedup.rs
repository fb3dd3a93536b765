//! Remembers a device's last accepted messages or answered changes, so that a retry gets its first answer again.

use std::collections::VecDeque;

use quipu_protocol::id::{ClientSeq, Seq};
use quipu_protocol::limits::DEDUP_WINDOW;

use crate::codec::{Fields, Writer, corrupt};
use crate::row::CorruptRow;

/// The last [`DEDUP_WINDOW`] accepted client seqs of one device, ascending, and what they got: a seq, ascending too, or the
/// outcome of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DedupWindow<T = Seq> {
    accepted: VecDeque<(ClientSeq, T)>,
}

impl<T> Default for DedupWindow<T> {
    fn default() -> Self {
        Self {
            accepted: VecDeque::new(),
        }
    }
}

/// What a client seq is to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known<T = Seq> {
    /// Above everything accepted: it may be accepted now.
    New,
    /// Accepted before, and got this.
    Accepted(T),
    /// Below the last accepted one and not remembered. As a device has at most `SENDS_IN_FLIGHT_MAX` sends unanswered, or
    /// `CHANGES_IN_FLIGHT_MAX` changes, and those are all remembered, one that it still asks about was never accepted.
    Stale,
}

impl<T: Copy> DedupWindow<T> {
    pub(crate) fn look_up(&self, client_seq: ClientSeq) -> Known<T> {
        match self.accepted.back() {
            Some((last, _)) if client_seq <= *last => {}
            _ => return Known::New,
        }
        match self
            .accepted
            .binary_search_by_key(&client_seq, |(known, _)| *known)
        {
            Ok(at) => Known::Accepted(self.accepted[at].1),
            Err(_) => Known::Stale,
        }
    }

    /// Remembers an acceptance; the client seq, and a seq, are above all that it holds.
    pub(crate) fn accept(&mut self, client_seq: ClientSeq, got: T) {
        if self.accepted.len() >= DEDUP_WINDOW {
            self.accepted.pop_front();
        }
        self.accepted.push_back((client_seq, got));
    }

    /// What it holds, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(ClientSeq, T)> {
        self.accepted.iter()
    }
}

impl DedupWindow {
    /// Seq of the last accepted message.
    pub(crate) fn last_seq(&self) -> Option<Seq> {
        self.accepted.back().map(|(_, seq)| *seq)
    }

    /// Writes it as one packed field: each pair as its distance from the pair before it, two bytes in a lively conversation.
    pub(crate) fn write(&self, out: &mut Writer, field: u32) {
        if self.accepted.is_empty() {
            return;
        }
        out.nested(field, |out| {
            let mut before = (0, 0);
            for (client_seq, seq) in &self.accepted {
                out.varint(client_seq.get() - before.0);
                out.varint(seq.get() - before.1);
                before = (client_seq.get(), seq.get());
            }
        });
    }

    pub(crate) fn read(what: &'static str, mut steps: Fields) -> Result<Self, CorruptRow> {
        let mut window = Self::default();
        let mut before = (0u64, 0u64);
        while let Some(client_seq_step) = steps.packed()? {
            let seq_step = steps.packed()?.unwrap_or(0);
            let pair = (
                before.0.checked_add(client_seq_step),
                before.1.checked_add(seq_step),
            );
            let (Some(client_seq), Some(seq)) = pair else {
                return Err(corrupt(what, "a dedup window leaves 64 bits"));
            };
            if client_seq_step == 0 || seq_step == 0 || window.accepted.len() >= DEDUP_WINDOW {
                return Err(corrupt(
                    what,
                    "a dedup window does not ascend or is too long",
                ));
            }
            before = (client_seq, seq);
            // Neither is 0, as both steps are above it.
            if let (Ok(client_seq), Ok(seq)) = (ClientSeq::new(client_seq), Seq::new(seq)) {
                window.accept(client_seq, seq);
            }
        }
        Ok(window)
    }
}
