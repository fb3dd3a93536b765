//! The end of a run: waiting for as long as something arrives, then looking up what is missing, so that late is not called lost.

use std::rc::Rc;
use std::time::{Duration, Instant};

use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::id::Seq;
use quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX;
use tokio::task::JoinSet;

use super::seat::Line;
use super::{Engine, World, request};
use crate::measure::DrainEnd;
use crate::verify::{Ledger, Reckoning, Stopped};

/// How long after the last phase is waited for what is under way, as long as something arrives.
pub(super) const OVERTIME_MAX: Duration = Duration::from_secs(60);
/// While nothing came for so long and everybody is connected, nothing more comes.
pub(super) const STILL: Duration = Duration::from_secs(5);
/// How long histories may take to be looked up.
const LOOK_UP_MAX: Duration = Duration::from_secs(10);
/// Conversations that are looked up at once.
const LOOK_UPS_AT_ONCE: usize = 64;
/// Pages of one conversation that are looked at.
const PAGES_MAX: usize = 64;
/// Before a page that was not given is asked for again.
const AGAIN: Duration = Duration::from_millis(200);

/// What is done next about a conversation in which something is missing.
enum Next {
    /// The page from this seq on is looked at.
    From(u64),
    /// The same page, after this time.
    Wait(Duration),
    Nothing,
}

impl Engine {
    /// How a wait for what is under way ends at `now`; `None`: it goes on.
    pub(super) fn drain_end(
        &self,
        now: Instant,
        until: Instant,
        interrupted: bool,
    ) -> Option<DrainEnd> {
        if self.settled() {
            return Some(DrainEnd::Settled);
        }
        if interrupted {
            return Some(DrainEnd::Interrupted);
        }
        if !self.is_arriving(now) && self.all_online() {
            return Some(DrainEnd::Still);
        }
        (now >= until).then_some(DrainEnd::Limit)
    }

    /// Whether something came a moment before `now`.
    pub(super) fn is_arriving(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_event) < STILL
    }

    /// Whether everybody who is to be there is.
    pub(super) fn all_online(&self) -> bool {
        self.online >= self.expected as u64
    }

    /// A page to look at in the history of a conversation, and the connection of a member who can.
    fn look_up(&self, number: usize, first: u64) -> Option<(quinn::Connection, HistoryRequest)> {
        let one = self.places.get(number);
        let members = self.seats[one.first..one.first + one.size].iter();
        let connection = members.filter_map(|seat| seat.connection.clone()).next()?;
        let request = HistoryRequest {
            conversation: self.ledger.conversation(number),
            first: Seq::new(first).ok(),
            last: None,
            limit: HISTORY_PAGE_MESSAGES_MAX as u32,
            newest_first: false,
        };
        Some((connection, request))
    }

    /// A page was looked at, or not given. Says what to do next.
    fn looked_up(&mut self, number: usize, page: anyhow::Result<HistoryPage>) -> Next {
        match page {
            Ok(page) => {
                for message in &page.messages {
                    self.ledger.found_in_history(number, message);
                }
                match page.messages.last() {
                    Some(last) if page.more => Next::From(last.seq.get() + 1),
                    Some(_) | None => Next::Nothing,
                }
            }
            Err(error) => {
                let wait = request::again_after(&error, AGAIN);
                let device = self.places.device(number, 0);
                self.failed(device, "look up what is missing", &error);
                wait.map_or(Next::Nothing, Next::Wait)
            }
        }
    }

    /// The verdict on everything. `arriving`: events came in until the wait was over.
    pub(super) fn reckon(&mut self, arriving: bool) -> Reckoning {
        let empty = Ledger::new(self.ledger.run());
        let ledger = std::mem::replace(&mut self.ledger, empty);
        let is_there = |number: usize, member: usize| {
            self.seats[self.places.device(number, member)].line == Line::Online
        };
        let mut reckoning = ledger.finish(&Stopped {
            arriving,
            is_there: &is_there,
        });
        // Files, and messages that wait for the time that the gateway named: nobody has promised anything yet, or they are
        // in a message that came.
        reckoning.under_way += self.waiting + self.downloads_under_way;
        reckoning
    }
}

/// Looks up in the histories what is missing. What cannot be looked up in time stays missing.
pub(super) async fn look_up(world: &Rc<World>) {
    let mut unfinished = world.engine.borrow().ledger.unfinished().into_iter();
    let all = async {
        let mut looking = JoinSet::new();
        loop {
            while looking.len() < LOOK_UPS_AT_ONCE
                && let Some((number, first)) = unfinished.next()
            {
                looking.spawn_local(look_up_one(world.clone(), number, first));
            }
            if looking.join_next().await.is_none() {
                return;
            }
        }
    };
    if tokio::time::timeout(LOOK_UP_MAX, all).await.is_err() {
        let error = anyhow::anyhow!("not done within {} s", LOOK_UP_MAX.as_secs());
        world
            .engine
            .borrow_mut()
            .failed(0, "look up what is missing", &error);
    }
}

async fn look_up_one(world: Rc<World>, number: usize, mut first: u64) {
    for _ in 0..PAGES_MAX {
        let asked = world.engine.borrow().look_up(number, first);
        let Some((connection, asked)) = asked else {
            return;
        };
        let page = request::history(&connection, &asked).await;
        let next = world.engine.borrow_mut().looked_up(number, page);
        match next {
            Next::From(seq) => first = seq,
            Next::Wait(wait) => tokio::time::sleep(wait).await,
            Next::Nothing => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Account;
    use crate::scenario::Scenario;
    use crate::verify::RunId;

    const SCENARIO: &str = r#"
        [[population]]
        name = "people"
        clients = 2
        [graph]
        pairs = 1
        [[phase]]
        kind = "ramp"
        [[phase]]
        kind = "rate"
        for = "1s"
        rate = 1
    "#;

    /// Two devices who are to be there, and a message between them that was not answered.
    fn engine() -> Engine {
        let scenario = Scenario::read("two", SCENARIO).unwrap();
        let lines = [0, 1].map(|n| format!("load-{n},{},{}\n", n + 1, "0a".repeat(32)));
        let accounts = Account::read_all(&lines.concat()).unwrap();
        let mut engine = Engine::new(&scenario, RunId::default(), &accounts);
        engine.expected = 2;
        engine.online = 2;
        engine.ledger.open(0, 0);
        let label = engine.ledger.send(0, 0, Instant::now(), None);
        engine.ledger.written(&label, Instant::now());
        engine
    }

    #[test]
    fn a_wait_ends_when_nothing_comes_or_its_time_is_over() {
        let mut engine = engine();
        let came = engine.last_event;
        let (soon, later) = (came + STILL / 2, came + STILL);
        let until = came + OVERTIME_MAX;
        assert_eq!(engine.drain_end(soon, until, false), None);
        assert_eq!(engine.drain_end(later, until, false), Some(DrainEnd::Still));
        let interrupted = engine.drain_end(soon, until, true);
        assert_eq!(interrupted, Some(DrainEnd::Interrupted));
        // Who is away may come back and find something.
        engine.online = 1;
        assert_eq!(engine.drain_end(later, until, false), None);
        assert_eq!(engine.drain_end(until, until, false), Some(DrainEnd::Limit));
        assert!(engine.is_arriving(soon) && !engine.is_arriving(until));
        engine.ledger = Ledger::new(RunId::default());
        assert_eq!(engine.drain_end(soon, until, true), Some(DrainEnd::Settled));
    }

    #[test]
    fn what_the_history_has_is_lost_all_the_same_when_nothing_came_any_more() {
        for (arriving, lost) in [(false, 1), (true, 0)] {
            let mut engine = engine();
            engine.seats[0].line = Line::Online;
            engine.seats[1].line = Line::Online;
            let label = crate::payload::Label {
                run: 0,
                pair: 0,
                side: 0,
                counter: 0,
            };
            engine.ledger.accepted(&label, 1, Instant::now());
            engine.ledger.found_in_history(0, &message(&engine, &label));
            let reckoning = engine.reckon(arriving);
            assert_eq!(reckoning.verdicts.acked_but_lost, lost);
            assert_eq!(reckoning.under_way, 1 - lost);
        }
    }

    fn message(engine: &Engine, label: &crate::payload::Label) -> quipu_protocol::event::Message {
        use quipu_protocol::event::{Content, Message};
        use quipu_protocol::id::{ClientSeq, DeviceId, TimestampMs};
        Message {
            conversation: engine.ledger.conversation(0),
            seq: Seq::new(1).unwrap(),
            id: Ledger::message_id(label),
            from: engine.users[0],
            from_device: DeviceId::new(1).unwrap(),
            client_seq: ClientSeq::FIRST,
            to: Some(engine.users[1]),
            sent_at: TimestampMs(0),
            content: Content::Text(label.text(80, crate::payload::Tag::None)),
            state: None,
        }
    }
}
