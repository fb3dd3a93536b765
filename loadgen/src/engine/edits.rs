//! Edits: authors change what they have said, and ask until they have an answer.

use std::collections::VecDeque;

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, Changed, Content, Message, Outcome, Rejection};
use quipu_protocol::id::{ClientSeq, RequestId, Seq};
use quipu_protocol::limits::CHANGES_IN_FLIGHT_MAX;

use super::opening::REQUESTS;
use super::{Command, Engine, PutOff, is_throttled};
use crate::payload::{Label, TEXT_BYTES_MIN, Tag};
use crate::seed::Purpose;

/// Edits of a device that have no answer, oldest first. Bounded by the ledger, for all devices together.
#[derive(Debug, Default)]
pub(super) struct Edits(VecDeque<Edit>);

/// An edit that was not answered.
#[derive(Debug, Clone, Copy)]
struct Edit {
    request: RequestId,
    label: Label,
    seq: Seq,
    /// Under which number it was asked for first, and is asked for again; `None`: it needs one.
    client_seq: Option<ClientSeq>,
    /// It was asked for on this connection, or waits for the time that the gateway named.
    asked: bool,
}

impl Edits {
    /// On a new connection everything is asked for again.
    pub(super) fn begin_anew(&mut self) {
        for edit in &mut self.0 {
            edit.asked = false;
        }
    }
}

impl Engine {
    /// An author has seen where its message is, and may want to change it.
    pub(super) fn maybe_edit(&mut self, device: usize, message: &Message) {
        let (text, seq) = (message.content.text(), message.seq);
        let Some(label) = Label::read(text).filter(|_| Tag::read(text) == Tag::None) else {
            return;
        };
        if self.ledger.is_pulled(self.ledger.place(&label)) {
            return;
        }
        let which = u64::from(label.pair) << 8 | u64::from(label.side);
        if self.seed.unit(Purpose::Edit, which, label.counter) >= self.extras.edits
            || !self.ledger.edit(&label, seq.get())
        {
            return;
        }
        self.totals.edits += 1;
        self.edit_requests += 1;
        let seat = &mut self.seats[device];
        let edits = seat.edits.get_or_insert_default();
        edits.0.push_back(Edit {
            request: RequestId(REQUESTS + self.edit_requests),
            label,
            seq,
            client_seq: None,
            asked: false,
        });
        seat.wake();
    }

    /// The next edit that the device has to ask for.
    pub(super) fn next_edit(&mut self, device: usize) -> Option<(RequestId, ClientSeq, Change)> {
        let edits = self.seats[device].edits.as_mut()?;
        let in_flight = edits.0.iter().filter(|edit| edit.asked).count();
        let waiting = edits.0.iter_mut().find(|edit| !edit.asked);
        let edit = waiting.filter(|_| in_flight < CHANGES_IN_FLIGHT_MAX)?;
        let client_seq = *edit.client_seq.get_or_insert_with(|| {
            self.client_seq = self.client_seq.next();
            self.client_seq
        });
        let edit = *edit;
        let text = edit.label.text(TEXT_BYTES_MIN, Tag::Edited);
        let change = Change::Edit {
            conversation: self.ledger.conversation(self.ledger.place(&edit.label)),
            seq: edit.seq,
            content: Content::Text(text),
        };
        Some((edit.request, client_seq, change))
    }

    /// Notes that an edit was asked for, or (`false`) that it has to be asked for again, under a new number: later ones may have
    /// been answered meanwhile. To a message that says this already nothing happens.
    pub(super) fn set_asked(&mut self, device: usize, request: RequestId, asked: bool) {
        let edits = self.seats[device].edits.as_mut();
        let mut edits = edits.into_iter().flat_map(|edits| &mut edits.0);
        if let Some(edit) = edits.find(|edit| edit.request == request) {
            edit.asked = asked;
            edit.client_seq = edit.client_seq.filter(|_| asked);
        }
        if !asked {
            self.seats[device].wake();
        }
    }

    /// An edit was answered. `None`: nobody knows it, or nothing is left to do.
    pub(super) fn edit_answered(
        &mut self,
        device: usize,
        request: RequestId,
        outcome: &Outcome,
    ) -> Option<PutOff> {
        let edits = self.seats[device].edits.as_mut()?;
        let at = edits.0.iter().position(|edit| edit.request == request)?;
        let Edit { label, seq, .. } = edits.0[at];
        match outcome {
            Outcome::Rejected(rejection) if is_throttled(rejection) => {
                return self.put_off(device, rejection, Command::Edit(request));
            }
            Outcome::Rejected(rejection) if rejection.code == RejectCode::StaleClientSeq => {
                self.set_asked(device, request, false);
                return None;
            }
            Outcome::Done => self.ledger.edit_acked(&label, seq.get()),
            Outcome::Rejected(Rejection { code, reason, .. }) => {
                let error = anyhow::anyhow!("{code}: {reason}");
                self.ledger.edit_refused(&label, seq.get());
                self.failed(device, "edit refused", &error);
            }
            Outcome::Accepted(_) | Outcome::Opened { .. } => {
                let error = anyhow::anyhow!("{outcome:?}");
                self.ledger.edit_refused(&label, seq.get());
                self.failed(device, "unexpected reply to an edit", &error);
            }
        }
        let edits = &mut self.seats[device].edits;
        if let Some(all) = edits {
            all.0.remove(at);
            if all.0.is_empty() {
                *edits = None;
            }
        }
        None
    }

    /// A device was told that a message was changed.
    pub(super) fn changed(&mut self, device: usize, changed: &Changed) {
        if self.gateway_began.is_none_or(|began| changed.at < began) {
            self.totals.earlier += 1;
            return;
        }
        match self.places.of(device) {
            Some((number, member)) => {
                let seen = self.ledger.changed(number, member, changed);
                self.totals.edits_seen += u64::from(seen);
            }
            None => self.ledger.misdelivered(),
        }
    }
}
