//! Reading a pulled group: notices tell that there is something, the history says what.

use std::rc::Rc;
use std::time::{Duration, Instant};

use quipu_protocol::event::{Content, Message, Notice};
use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::id::Seq;
use quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX;

use super::media::Job;
use super::{Engine, World, request};
use crate::verify::Way;

/// Pages of history that a process asks for at once: the gateway serves so many requests and tells others to come later.
pub(super) const READS_AT_ONCE: usize = 128;
/// Before a page that was not given is asked for again.
const AGAIN: Duration = Duration::from_millis(200);

/// What a device is doing about its pulled group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Pull {
    #[default]
    Nothing,
    /// It reads the history.
    Reading,
    /// It does, and has been told of more meanwhile.
    ReadingAndAgain,
}

/// What a device that reads a history does next.
enum Next {
    /// Asks for the page that follows.
    Page,
    /// Asks for the same page again after this time.
    Wait(Duration),
    Nothing,
}

impl Engine {
    /// A device got a notice.
    pub(super) fn notice(&mut self, device: usize, notice: &Notice, now: Instant) {
        self.last_event = now;
        self.totals.notices += 1;
        let message = match notice {
            Notice::Check => {
                self.totals.checks += 1;
                return self.pull(device);
            }
            // Nobody changes messages of a pulled group.
            Notice::Changed(..) => return,
            Notice::Message(message, _) => message,
        };
        let Some((number, member)) = self.places.of(device) else {
            return self.ledger.misdelivered();
        };
        if message.conversation != self.ledger.conversation(number) {
            return self.ledger.misdelivered();
        }
        let seq = message.seq.get();
        if self.ledger.is_of_opening(number, seq) {
            self.totals.notes += 1;
            return;
        }
        let seen = self.ledger.seen_up_to(number, member);
        match self.seats[device].pull {
            // It is in the page that is on its way, or in the one behind it.
            Pull::Reading | Pull::ReadingAndAgain => {
                self.seats[device].pull = Pull::ReadingAndAgain;
            }
            Pull::Nothing if seq <= seen => self.totals.wire_duplicates += 1,
            Pull::Nothing if seq == seen + 1 => {
                self.read(device, (number, member), message, now);
            }
            Pull::Nothing => self.pull(device),
        }
    }

    /// Reads what the device's group has and the device has not seen.
    pub(super) fn pull(&mut self, device: usize) {
        let pulls = self.places.of(device);
        if !pulls.is_some_and(|(number, _)| self.ledger.is_pulled(number)) {
            return;
        }
        let seat = &mut self.seats[device];
        match seat.pull {
            Pull::Nothing => {
                seat.pull = Pull::Reading;
                self.totals.pulls += 1;
                self.jobs.push(Job::Pull(device));
            }
            Pull::Reading | Pull::ReadingAndAgain => seat.pull = Pull::ReadingAndAgain,
        }
    }

    /// A device sees a message of its pulled group.
    fn read(&mut self, device: usize, place: (usize, usize), message: &Message, now: Instant) {
        match &message.content {
            Content::Note(_) => self.ledger.note(place.0, place.1, message),
            Content::Text(_) | Content::Rich(_) | Content::Gone(_) => {
                self.message(device, place, message, Way::Read, now);
            }
        }
    }

    fn next_page(&self, device: usize) -> Option<HistoryRequest> {
        let (number, member) = self.places.of(device)?;
        let seen = self.ledger.seen_up_to(number, member);
        Some(HistoryRequest {
            conversation: self.ledger.conversation(number),
            first: Seq::new(seen + 1).ok(),
            last: None,
            limit: HISTORY_PAGE_MESSAGES_MAX as u32,
            newest_first: false,
        })
    }

    /// A page came. Says whether there is another one to ask for.
    fn page(&mut self, device: usize, page: &HistoryPage, now: Instant) -> bool {
        self.last_event = now;
        self.totals.pages += 1;
        let Some(place) = self.places.of(device) else {
            return false;
        };
        for message in &page.messages {
            let is_known = message.seq.get() <= self.ledger.seen_up_to(place.0, place.1);
            match is_known {
                true => self.totals.wire_duplicates += 1,
                false => self.read(device, place, message, now),
            }
        }
        let seat = &mut self.seats[device];
        if page.more && !page.messages.is_empty() {
            return true;
        }
        let again = seat.pull == Pull::ReadingAndAgain;
        seat.pull = match again {
            true => Pull::Reading,
            false => Pull::Nothing,
        };
        again
    }

    /// A page came, or did not. Says what to do next.
    fn read_page(&mut self, device: usize, page: anyhow::Result<HistoryPage>) -> Next {
        if self.is_over() {
            return Next::Nothing;
        }
        let error = match page {
            Ok(page) => {
                return match self.page(device, &page, Instant::now()) {
                    true => Next::Page,
                    false => Next::Nothing,
                };
            }
            Err(error) => error,
        };
        match request::again_after(&error, AGAIN) {
            Some(wait) => {
                match error.downcast_ref::<request::Refused>() {
                    Some(_) => self.totals.throttled += 1,
                    None => self.failed(device, "history", &error),
                }
                Next::Wait(wait)
            }
            None => {
                self.failed(device, "history", &error);
                self.stop_reading(device);
                Next::Nothing
            }
        }
    }

    /// The device has no connection to read over. It reads when it is back.
    fn stop_reading(&mut self, device: usize) {
        self.seats[device].pull = Pull::Nothing;
    }
}

/// Reads page after page until the device has seen everything.
pub(super) async fn pull(world: Rc<World>, device: usize) {
    loop {
        // Never closed.
        let turn = world.reads.acquire().await;
        let (connection, request) = {
            let engine = world.engine.borrow();
            (engine.connection(device), engine.next_page(device))
        };
        let (Some(connection), Some(request)) = (connection, request) else {
            return world.engine.borrow_mut().stop_reading(device);
        };
        let page = request::history(&connection, &request).await;
        drop(turn);
        let next = world.engine.borrow_mut().read_page(device, page);
        world.start_jobs();
        match next {
            Next::Page => {}
            Next::Wait(wait) => tokio::time::sleep(wait).await,
            Next::Nothing => return,
        }
    }
}
