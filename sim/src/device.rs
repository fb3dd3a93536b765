//! A simulated client: a process with a data folder, and the link that pumps the session machine as the SDK's driver does.

mod connection;
mod owner;
mod streams;
mod turn;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quipu_protocol::error::CloseCode;
use quipu_protocol::event::{Event, Notice};
use quipu_protocol::id::{ClientSeq, ConversationId, UserId};
use quipu_protocol::query::PresenceEntry;
use quipu_protocol::session::{Answered, Changes, ClientSession, Outbox, Receipts, Settled};
use quipu_protocol::welcome::{GoAway, Welcome};

use crate::acts::Asked;
use crate::checker::DeviceNo;
use crate::disk::Disk;
use crate::plan::Us;
use crate::queries::{Again, Question};
use crate::world::{AtDevice, LinkNo, Stream, World};

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) person: usize,
    pub(crate) number: DeviceNo,
    pub(crate) life: u32,
    /// Whether its process runs.
    pub(crate) running: bool,
    /// Whether it has no network.
    pub(crate) away: bool,
    /// Whether it was thrown out of the account.
    pub(crate) is_out: bool,
    /// What was asked for on connections that ended before the answer.
    pub(crate) unanswered: Vec<Asked>,
    pub(crate) slow_until: Us,
    pub(crate) disk: Disk,
    pub(crate) link: Option<Link>,
    /// Whether it asks for the account, or only for itself in it.
    registers: bool,
    /// Where it was told to go.
    target: Option<usize>,
    failures: u32,
    connecting: bool,
}

/// A connection at its device.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) number: LinkNo,
    /// When it was begun, for the checker.
    began: u64,
    pub(crate) session: ClientSession,
    outbox: Outbox,
    receipts: Receipts,
    /// The number of the next request.
    pub(crate) requests: u64,
    pub(crate) changes: Changes,
    /// What somebody waits for, and the disk does not keep.
    pub(crate) asked: BTreeMap<ClientSeq, Asked>,
    /// Answers to what the disk keeps.
    answered: Vec<Answered>,
    /// What was asked for, and whether it is done.
    pub(crate) ended: Vec<(Asked, bool)>,
    pub(crate) questions: VecDeque<Question>,
    pub(crate) is_asking: bool,
    /// How many changes its disk had forgotten when it asked.
    pub(crate) forgotten: u64,
    /// Histories that did not reach what is known of them.
    pub(crate) again: BTreeMap<ConversationId, Again>,
    notices: Vec<Notice>,
    /// What it was told of who is here.
    pub(crate) presence: BTreeMap<UserId, PresenceEntry>,
    pub(crate) welcomed: bool,
    /// Its HELLO came from another life, or from behind the end of the inbox.
    strange: bool,
    welcome: Option<Welcome>,
    events: Vec<Event>,
    settled: Vec<Settled>,
    unread: VecDeque<(Stream, Bytes)>,
    reading: bool,
    due: Option<Us>,
    go_away: Option<GoAway>,
    closing: Option<(CloseCode, String)>,
}

impl Device {
    pub(crate) fn new(person: usize, number: DeviceNo, registers: bool, disk: Disk) -> Self {
        Self {
            person,
            number,
            life: 0,
            running: true,
            away: false,
            is_out: false,
            unanswered: Vec::new(),
            slow_until: 0,
            disk,
            link: None,
            registers,
            target: None,
            failures: 0,
            connecting: false,
        }
    }
}

impl World {
    pub(crate) fn at_device(&mut self, device: usize, life: u32, what: AtDevice) {
        let it = &mut self.devices[device];
        if it.life != life || !it.running {
            return;
        }
        match what {
            AtDevice::Connect => self.connect(device),
            AtDevice::Received(link, stream, bytes) => {
                if let Some(link) = self.link(device, link) {
                    link.unread.push_back((stream, bytes));
                    self.read_soon(device);
                }
            }
            AtDevice::Read => self.read_streams(device),
            AtDevice::Credit(link) => self.credit(link, true),
            AtDevice::Due => {
                let (now, instant) = (self.now, self.instant());
                if let Some(link) = &mut self.devices[device].link {
                    if link.due.is_some_and(|due| due <= now) {
                        link.due = None;
                    }
                    link.session.handle_timeout(instant);
                    self.client_turn(device);
                }
            }
            AtDevice::Answer(link, answer) => self.take_answer(device, link, *answer),
            AtDevice::Again(link, conversation) => self.again(device, link, conversation),
            AtDevice::Presence(link, entry) => {
                if self.link(device, link).is_some_and(|link| link.welcomed) {
                    self.take_presence(device, vec![entry]);
                }
            }
            AtDevice::Closed(link, code) => self.link_closed(device, link, code),
        }
    }

    fn link(&mut self, device: usize, number: LinkNo) -> Option<&mut Link> {
        let link = self.devices[device].link.as_mut()?;
        (link.number == number).then_some(link)
    }
}
