//! How conversations come to be there before anything is said: pairs are opened, groups made, joined by all, and looked up.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use quipu_protocol::event::{Change, Message, NewGroup};
use quipu_protocol::history::HistoryRequest;
use quipu_protocol::id::{ConversationId, RequestId, Seq};
use quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX;
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::session::{ClientSession, SendBlocked};

use super::media::Job;
use super::seat::{Leave, Line};
use super::{Engine, World, request};

/// Before a look that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What a device has to do for its conversation before anything can be said there. The number is that of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Open the direct conversation with the other one.
    Direct = 1,
    /// Make the group.
    Create = 2,
    /// Become a member of it.
    Join = 3,
    /// Look what it has become: where its messages begin, and whether they are pushed.
    Describe = 4,
}

/// Requests of a device above these numbers are edits.
pub(super) const REQUESTS: u64 = 16;

/// How far a conversation is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Opening {
    /// Its first member was told to begin.
    begun: bool,
    /// Members who have not joined.
    missing: usize,
}

/// What a group has become.
pub(super) struct Described {
    head: u64,
    pulled: bool,
    notes: Vec<Message>,
}

impl Ask {
    /// The request that it makes.
    fn request(self) -> RequestId {
        RequestId(self as u64)
    }

    /// Whether a reply with this number is one to it.
    pub(super) fn is_answered_by(self, request: RequestId) -> bool {
        self.request() == request
    }
}

impl Engine {
    /// Asks for every conversation that nobody has asked for.
    pub(super) fn open_conversations(&mut self) {
        for number in 0..self.places.len() {
            let opening = &mut self.openings[number];
            if std::mem::replace(&mut opening.begun, true) {
                continue;
            }
            let ask = match self.places.get(number).is_group {
                true => Ask::Create,
                false => Ask::Direct,
            };
            self.want(number, 0, ask);
        }
    }

    fn want(&mut self, number: usize, member: usize, ask: Ask) {
        let seat = &mut self.seats[self.places.device(number, member)];
        seat.wants = Some(ask);
        seat.asked = false;
        seat.wake();
    }

    /// What the device is to ask for now.
    pub(super) fn next_ask(&self, device: usize) -> Option<Ask> {
        let seat = &self.seats[device];
        seat.wants.filter(|_| !seat.asked)
    }

    /// Asks for it. What is answered on a stream of its own becomes a job.
    pub(super) fn ask(
        &mut self,
        device: usize,
        ask: Ask,
        session: &mut ClientSession,
    ) -> Result<(), SendBlocked> {
        let Some((number, member)) = self.places.of(device) else {
            return Ok(());
        };
        let conversation = self.ledger.conversation(number);
        match ask {
            Ask::Direct => {
                let peer = self.users[self.places.device(number, member ^ 1)];
                session.open_direct(ask.request(), &peer)?;
            }
            Ask::Create => {
                let group = NewGroup {
                    conversation,
                    title: "load".to_owned(),
                    topic: String::new(),
                    open: true,
                    history_from_start: true,
                    invite: Vec::new(),
                };
                let client_seq = self.new_client_seq();
                session.change(ask.request(), client_seq, Change::CreateGroup(group))?;
            }
            // Who is in it already is told so, under whatever number.
            Ask::Join => {
                let client_seq = self.new_client_seq();
                session.change(ask.request(), client_seq, Change::Join(conversation))?;
            }
            Ask::Describe => self.jobs.push(Job::Describe(device)),
        }
        self.seats[device].asked = true;
        Ok(())
    }

    /// A device was told that its conversation is there.
    pub(super) fn opened(&mut self, device: usize, request: RequestId, head: Option<Seq>) {
        let Some((number, _)) = self.places.of(device) else {
            return;
        };
        let seat = &mut self.seats[device];
        // An answer that comes twice, because it was asked for twice, says nothing new.
        let Some(ask) = seat.wants.filter(|ask| ask.is_answered_by(request)) else {
            return;
        };
        seat.wants = None;
        match ask {
            Ask::Direct => {
                self.ledger.open(number, head.map_or(0, Seq::get));
                self.unopened -= 1;
            }
            Ask::Create => {
                self.totals.groups += 1;
                let size = self.places.get(number).size;
                self.openings[number].missing = size - 1;
                for member in 1..size {
                    self.want(number, member, Ask::Join);
                }
            }
            Ask::Join => {
                self.totals.joined += 1;
                self.openings[number].missing -= 1;
                if self.openings[number].missing == 0 {
                    self.want(number, 0, Ask::Describe);
                }
            }
            Ask::Describe => {}
        }
    }

    fn described(&mut self, device: usize, group: &Described) {
        let seat = &mut self.seats[device];
        if seat.wants.take_if(|ask| *ask == Ask::Describe).is_none() {
            return;
        }
        let Some((number, _)) = self.places.of(device) else {
            return;
        };
        match group.pulled {
            true => self.ledger.open_pulled(number, group.head),
            false => self.ledger.open_pushed(number, group.head, &group.notes),
        }
        self.unopened -= 1;
    }

    /// Sends home who came for the opening and has nothing more to do, and says who is to come in their place, so that at most
    /// `at_once` are here. Says too whether all is open and all of them have left.
    pub(super) fn visit(
        &mut self,
        visiting: &mut BTreeSet<usize>,
        at_once: usize,
    ) -> (bool, Vec<usize>) {
        visiting.retain(|device| {
            let seat = &self.seats[*device];
            let (wants, line) = (seat.wants.is_some(), seat.line);
            if !wants {
                // Says no to who is not there yet, or already on the way out.
                self.throw(*device, Leave::Rest, false);
            }
            wants || line != Line::Away
        });
        let may_come = |device: &usize| {
            let seat = &self.seats[*device];
            seat.wants.is_some() && seat.line == Line::Away && !visiting.contains(device)
        };
        let room = at_once.saturating_sub(visiting.len());
        let come: Vec<usize> = (0..self.seats.len()).filter(may_come).take(room).collect();
        visiting.extend(&come);
        (self.unopened == 0 && visiting.is_empty(), come)
    }
}

/// Looks what a group has become, and tells the run.
pub(super) async fn describe(world: Rc<World>, device: usize) {
    let connection = world.engine.borrow().connection(device);
    let described = match connection {
        Some(connection) => look(&world, &connection, device).await,
        // It asks again when it is back.
        None => return,
    };
    match described {
        Ok(group) => world.engine.borrow_mut().described(device, &group),
        Err(error) => {
            let wait = request::again_after(&error, AGAIN);
            world
                .engine
                .borrow_mut()
                .failed(device, "look up a group", &error);
            let Some(wait) = wait else { return };
            tokio::time::sleep(wait).await;
            world.engine.borrow_mut().ask_again(device);
        }
    }
}

async fn look(
    world: &World,
    connection: &quinn::Connection,
    device: usize,
) -> anyhow::Result<Described> {
    let (conversation, size) = world
        .engine
        .borrow()
        .conversation_of(device)
        .context("a device that looks has a conversation")?;
    let Answer::Conversation(entry) =
        request::query(connection, &Query::Conversation(conversation)).await?
    else {
        anyhow::bail!("the gateway answered another question");
    };
    let group = entry.group.context("what was to be a group is none")?;
    anyhow::ensure!(
        group.members as usize == size,
        "all {size} members have joined, and the gateway counts {}",
        group.members
    );
    let head = entry.head.map_or(0, Seq::get);
    let notes = match group.pulled {
        true => Vec::new(),
        false => history(connection, conversation).await?,
    };
    Ok(Described {
        head,
        pulled: group.pulled,
        notes,
    })
}

/// The whole history of a group in which nothing has been said yet: at most a note for each member.
async fn history(
    connection: &quinn::Connection,
    conversation: ConversationId,
) -> anyhow::Result<Vec<Message>> {
    let mut notes: Vec<Message> = Vec::new();
    loop {
        let page = HistoryRequest {
            conversation,
            first: notes.last().map(|last| last.seq.next()),
            last: None,
            limit: HISTORY_PAGE_MESSAGES_MAX as u32,
            newest_first: false,
        };
        let page = request::history(connection, &page).await?;
        let ends = !page.more || page.messages.is_empty();
        notes.extend(page.messages);
        if ends {
            return Ok(notes);
        }
    }
}
