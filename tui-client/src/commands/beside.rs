//! What `listen --json` prints beside the messages of the inbox: changes, invitations, messages of large groups.

use std::collections::VecDeque;

use quipu_client::{ClientEvent, EventStream};
use quipu_protocol::id::Cursor;

use super::write_json;
use crate::json::{ChangedLine, InvitedLine, MessageLine};

/// Lines that wait for the messages before them. At the limit no more events are taken; the stream then says what it dropped.
const WAITING_MAX: usize = 1024;

/// Lines in the order of the inbox: none before the messages that came before it are printed.
pub(super) struct Beside {
    events: EventStream,
    /// The last message that the stream has told of.
    told: Cursor,
    /// The last message that is printed, or looked at and left out.
    printed: Cursor,
    waiting: VecDeque<(Cursor, Vec<u8>)>,
}

impl Beside {
    /// Listens, given where the printing starts.
    pub(super) fn new(events: EventStream, start: Cursor) -> Self {
        Self {
            events,
            told: Cursor::START,
            printed: start,
            waiting: VecDeque::new(),
        }
    }

    /// The messages up to here are printed.
    pub(super) fn reached(&mut self, printed: Cursor) {
        self.printed = printed;
    }

    /// The next line that may be printed; `None` once the client is closed. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((after, _)) = self.waiting.front()
                && *after <= self.printed
            {
                return self.waiting.pop_front().map(|(_, line)| line);
            }
            if self.waiting.len() >= WAITING_MAX {
                return std::future::pending().await;
            }
            let event = self.events.next().await?;
            self.take(&event);
        }
    }

    fn take(&mut self, event: &ClientEvent) {
        match event {
            ClientEvent::Message { inbox_seq, .. } => self.told = inbox_seq.cursor(),
            ClientEvent::Changed(changed) => self.wait(&ChangedLine::new(changed)),
            ClientEvent::Invited(invitation) => self.wait(&InvitedLine::new(invitation)),
            ClientEvent::Noticed(message) => self.wait(&MessageLine::new(message)),
            ClientEvent::Resynced => {
                (self.told, self.printed) = (Cursor::START, Cursor::START);
                self.waiting.clear();
            }
            ClientEvent::Lagged { missed } => eprintln!(
                "quipu: {missed} events came faster than they were printed; messages are printed all the same, changes of \
                 them may be missing"
            ),
            ClientEvent::Queued(_)
            | ClientEvent::Acked { .. }
            | ClientEvent::Refused { .. }
            | ClientEvent::Receipt(_)
            | ClientEvent::Typing { .. }
            | ClientEvent::Presence(_)
            | ClientEvent::CaughtUp(_)
            | ClientEvent::Listed => {}
        }
    }

    fn wait(&mut self, line: &impl serde::Serialize) {
        let mut bytes = Vec::new();
        // Plain data into memory: it does not fail.
        if write_json(&mut bytes, line).is_ok() {
            self.waiting.push_back((self.told, bytes));
        }
    }
}
