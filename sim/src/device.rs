//! A simulated client: a process with a data folder, and the link that pumps the session machine as the SDK's driver does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Buf, Bytes};
use quipu_protocol::credentials::{Credentials, Hello};
use quipu_protocol::error::{CloseCode, Retry};
use quipu_protocol::event::{Event, EventBody, Notice, Outcome, Reply, ReplyTo};
use quipu_protocol::id::{ConversationId, MessageId, RequestId, Seq, UserId};
use quipu_protocol::session::{ClientOutput, ClientSession, LaneId, Outbox, Receipts, Settled};
use quipu_protocol::welcome::{GoAway, Welcome};

use crate::acts::Asked;
use crate::checker::DeviceNo;
use crate::disk::{Disk, Told};
use crate::names::fingerprint;
use crate::plan::{MS, SECOND, Us};
use crate::queries::{Question, queue};
use crate::sabotage::Sabotage;
use crate::world::{AtDevice, Event as WorldEvent, LinkNo, Phase, Stream, World};

/// The SDK reports positions of one conversation at most once in this time.
const RECEIPT_INTERVAL: Duration = Duration::from_secs(1);
/// Longest pause between two tries to connect.
const BACKOFF_MAX: Us = 10 * SECOND;
/// Bytes that a slow device reads at a time.
const SLOW_BYTES: usize = 700;

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
    pub(crate) asked: BTreeMap<RequestId, Asked>,
    /// What was asked for, and whether it is done.
    pub(crate) ended: Vec<(Asked, bool)>,
    pub(crate) questions: VecDeque<Question>,
    pub(crate) is_asking: bool,
    notices: Vec<Notice>,
    pub(crate) welcomed: bool,
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
            AtDevice::Closed(link, code) => self.link_closed(device, link, code),
        }
    }

    fn link(&mut self, device: usize, number: LinkNo) -> Option<&mut Link> {
        let link = self.devices[device].link.as_mut()?;
        (link.number == number).then_some(link)
    }

    /// Connects after a while, unless it is about to.
    pub(crate) fn connect_after(&mut self, device: usize, after: Us) {
        let it = &mut self.devices[device];
        if it.running && !it.away && !it.is_out && it.link.is_none() && !it.connecting {
            it.connecting = true;
            self.tell_device(device, after, AtDevice::Connect);
        }
    }

    fn back_off(&mut self, device: usize) {
        let it = &mut self.devices[device];
        it.failures += 1;
        it.target = None;
        let most = ((100 * MS) << it.failures.min(10)).min(BACKOFF_MAX);
        let after = self.rng.between(MS, most);
        self.connect_after(device, after);
    }

    fn connect(&mut self, device: usize) {
        let any = self.rng.index(self.plan.gateways);
        let it = &mut self.devices[device];
        it.connecting = false;
        if it.away || it.is_out || it.link.is_some() {
            return;
        }
        let gateway = it.target.take().unwrap_or(any);
        if !self.gateways[gateway].alive {
            return self.back_off(device);
        }
        let hello = self.hello(device);
        let number = self.open_link(device, gateway);
        let session = ClientSession::new(self.instant(), hello);
        let began = self.checker.begins();
        // A late answer to a request of an earlier connection must not look like one to a request of this one.
        let requests = match self.sabotage {
            Some(Sabotage::ReuseRequests) => 0,
            Some(_) | None => number << 20,
        };
        self.note(
            "connects",
            &[
                ("device", device as u64),
                ("gateway", gateway as u64),
                ("link", number),
            ],
        );
        self.devices[device].link = Some(Link {
            number,
            began,
            session,
            outbox: Outbox::default(),
            receipts: Receipts::new(RECEIPT_INTERVAL),
            requests,
            asked: BTreeMap::new(),
            ended: Vec::new(),
            questions: VecDeque::new(),
            is_asking: false,
            notices: Vec::new(),
            welcomed: false,
            welcome: None,
            events: Vec::new(),
            settled: Vec::new(),
            unread: VecDeque::new(),
            reading: false,
            due: None,
            go_away: None,
            closing: None,
        });
        self.client_turn(device);
    }

    fn hello(&self, device: usize) -> Hello {
        let it = &self.devices[device];
        let (name, label) = (self.names.people[it.person], String::new());
        let password = format!("the password of {name}");
        let session = it.disk.session();
        let credentials = match session {
            Some(session) => Credentials::Session {
                name: session.user,
                device: session.device,
                token: session.token,
            },
            None if it.registers => Credentials::Register {
                name,
                password,
                label,
                invitation: String::new(),
            },
            None => Credentials::Login {
                name,
                password,
                label,
            },
        };
        Hello {
            agent: String::new(),
            credentials,
            resume: session.map(|session| session.resume),
        }
    }

    /// The connection is over; what was asked for on it and not answered may be asked again.
    fn take_link(&mut self, device: usize) -> Option<Link> {
        let it = &mut self.devices[device];
        let mut link = it.link.take()?;
        let unanswered = std::mem::take(&mut link.asked);
        it.unanswered.extend(unanswered.into_values());
        Some(link)
    }

    fn link_closed(&mut self, device: usize, number: LinkNo, code: Option<CloseCode>) {
        if self.link(device, number).is_none() {
            return;
        }
        // What came before the close counts.
        self.read_everything(device);
        let Some(link) = self.take_link(device) else {
            return;
        };
        self.let_go(number, true);
        if let Some(go_away) = link.go_away {
            self.devices[device].target = go_away.authority.parse().ok();
            let after = self.moment();
            return self.connect_after(device, after);
        }
        self.closed_with(device, code);
    }

    fn closed_with(&mut self, device: usize, code: Option<CloseCode>) {
        let has_session = self.devices[device].disk.session().is_some();
        match code {
            Some(CloseCode::NameTaken) if !has_session => {
                self.devices[device].registers = false;
                self.back_off(device);
            }
            // The account may not exist yet: its first device has not come through.
            Some(CloseCode::Unauthenticated) if !has_session => self.back_off(device),
            Some(CloseCode::Unauthenticated | CloseCode::Revoked) => self.thrown_out(device),
            Some(code) => match code.retry() {
                Retry::No if code != CloseCode::Ok => {
                    let what = format!("device {device} gave up: {code}");
                    self.checker.condemn("turned away", what);
                }
                Retry::Now => self.connect_after(device, 0),
                Retry::No | Retry::After | Retry::Elsewhere => self.back_off(device),
            },
            None => self.back_off(device),
        }
    }

    fn read_soon(&mut self, device: usize) {
        let slow = self.devices[device].slow_until > self.now;
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        if link.reading || link.unread.is_empty() {
            return;
        }
        link.reading = true;
        let after = if slow {
            self.rng.between(50 * MS, SECOND)
        } else {
            self.moment()
        };
        self.tell_device(device, after, AtDevice::Read);
    }

    /// Takes what has come, or a little of it when the device is slow, and writes it in one turn.
    fn read_streams(&mut self, device: usize) {
        let slow = self.devices[device].slow_until > self.now;
        let mut left = if slow { SLOW_BYTES } else { usize::MAX };
        if let Some(link) = &mut self.devices[device].link {
            link.reading = false;
        }
        while left > 0 && self.feed_one(device, &mut left) {}
        self.client_turn(device);
        self.read_soon(device);
    }

    fn read_everything(&mut self, device: usize) {
        let mut left = usize::MAX;
        while self.feed_one(device, &mut left) {}
        self.client_turn(device);
    }

    /// Feeds the session one piece of a stream. False: there is none.
    fn feed_one(&mut self, device: usize, left: &mut usize) -> bool {
        let instant = self.instant();
        let Some(link) = &mut self.devices[device].link else {
            return false;
        };
        let Some((stream, mut bytes)) = link.unread.pop_front() else {
            return false;
        };
        if bytes.len() > *left {
            let rest = bytes.split_off(*left);
            link.unread.push_front((stream, rest));
        }
        let (number, length) = (link.number, bytes.len());
        *left -= length;
        while bytes.has_remaining() {
            let Some(link) = &mut self.devices[device].link else {
                return false;
            };
            match stream {
                Stream::Lane => link.session.handle_lane(instant, LaneId(0), &mut bytes),
                Stream::Down | Stream::Up => link.session.handle_s0(instant, &mut bytes),
            }
            self.drain(device);
        }
        self.read(number, stream, length);
        true
    }

    /// Takes what the session wants done.
    fn drain(&mut self, device: usize) {
        let instant = self.instant();
        let mut transmit: Vec<Bytes> = Vec::new();
        let me = self.devices[device].disk.session();
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        while let Some(output) = link.session.poll_output() {
            match output {
                ClientOutput::Transmit(bytes) => transmit.push(bytes),
                ClientOutput::Welcomed(welcome) => link.welcome = Some(welcome),
                ClientOutput::Event(event) => {
                    if let EventBody::Message(message) = &event.body
                        && me.is_some_and(|me| {
                            (me.user, me.device) == (message.from, message.from_device)
                        })
                    {
                        link.outbox
                            .accepted(message.conversation, message.client_seq);
                    }
                    link.events.push(event);
                }
                ClientOutput::Reply(reply) => {
                    self.trace
                        .say(|| format!("device {device} is answered {reply:?}"));
                    link.take_reply(instant, reply);
                }
                ClientOutput::Notice(Notice::Check) => {
                    queue(&mut link.questions, Question::List(None));
                }
                ClientOutput::Notice(notice) => link.notices.push(notice),
                ClientOutput::GoAway(notice) => link.go_away = Some(notice),
                ClientOutput::Close { code, reason } => link.closing = Some((code, reason)),
            }
        }
        let number = link.number;
        for bytes in transmit {
            self.write(number, Stream::Up, &bytes);
        }
    }

    /// Brings what has come to the disk and what waits to the session, in the order of the SDK's driver.
    pub(crate) fn client_turn(&mut self, device: usize) {
        self.drain(device);
        let welcome = self.devices[device]
            .link
            .as_mut()
            .and_then(|link| link.welcome.take());
        if let Some(welcome) = welcome {
            self.client_welcomed(device, &welcome);
        }
        self.client_commit(device);
        self.take_notices(device);
        self.client_pump(device);
        self.drain(device);
        self.take_ends(device);
        self.ask_next(device);
        self.leave_if_told(device);
        self.arm_device(device);
    }

    fn client_welcomed(&mut self, device: usize, welcome: &Welcome) {
        let instant = self.instant();
        let it = &mut self.devices[device];
        it.failures = 0;
        let number = it.number;
        if it.disk.welcome(welcome) {
            self.checker.resynced(number);
        }
        let it = &mut self.devices[device];
        let Some(link) = &mut it.link else {
            return;
        };
        link.welcomed = true;
        if !self.plan.acts.is_empty() {
            link.questions.push_front(Question::List(None));
        }
        let began = link.began;
        link.outbox.add(it.disk.waiting());
        for (conversation, positions) in it.disk.unreported() {
            link.receipts.want(instant, conversation, positions);
        }
        self.checker.welcomed(number, began);
        self.ask_again(device);
    }

    /// Keeps the news of pulled groups.
    fn take_notices(&mut self, device: usize) {
        let it = &mut self.devices[device];
        let Some(link) = it.link.as_mut().filter(|link| link.welcomed) else {
            return;
        };
        for notice in std::mem::take(&mut link.notices) {
            if let Notice::Message(message) = &notice {
                let (what, _) = self.names.what(message);
                let talk = self.names.talk(&message.conversation);
                let from = self.names.person(&message.from);
                let number = self.devices[device].number;
                let place = (message.seq.get(), from, what);
                self.checker.fetched(number, talk, place);
            }
            let (told, behind) = self.devices[device].disk.notice(&self.names, &notice);
            for told in told {
                self.tell(device, told);
            }
            if let (Some(behind), Some(link)) = (behind, &mut self.devices[device].link) {
                queue(&mut link.questions, Question::Page(behind, 1));
            }
        }
    }

    /// Writes what has come in one transaction, then shows it, then lets the session ack it.
    fn client_commit(&mut self, device: usize) {
        let instant = self.instant();
        let it = &mut self.devices[device];
        let Some(link) = &mut it.link else {
            return;
        };
        if !link.welcomed || (link.events.is_empty() && link.settled.is_empty()) {
            return;
        }
        let (events, settled) = (
            std::mem::take(&mut link.events),
            std::mem::take(&mut link.settled),
        );
        let (told, raised, cursor) = it.disk.apply(&self.names, events, settled);
        for (conversation, positions) in raised {
            link.receipts.want(instant, conversation, positions);
        }
        link.session.kept(instant, cursor);
        for told in told {
            self.tell(device, told);
        }
        // The database makes a checkpoint now and then.
        if self.rng.chance(self.plan.checkpoints) {
            self.devices[device].disk.sync();
        }
    }

    /// Shows something to the device's owner.
    pub(crate) fn tell(&mut self, device: usize, told: Told) {
        let number = self.devices[device].number;
        match told {
            Told::Acked { note, seq } => self.checker.acked(note, seq.get()),
            Told::Refused { note, why } => self.checker.refused(note, &why),
            Told::Shown(event) => {
                let (shown, says) = self.names.shown(&event.body);
                self.trace.say(|| {
                    format!(
                        "device {number} shows {} {shown:?} {says:?}",
                        event.inbox_seq
                    )
                });
                let inbox_seq = event.inbox_seq.get();
                self.checker.shown(number, inbox_seq, shown, says);
            }
        }
    }

    /// Hands the session what waits, as far as it takes it.
    fn client_pump(&mut self, device: usize) {
        let instant = self.instant();
        let it = &mut self.devices[device];
        let Some(link) = &mut it.link else {
            return;
        };
        if !link.welcomed || link.go_away.is_some() {
            return;
        }
        while let Some((conversation, positions)) = link.receipts.next(instant)
            && link
                .session
                .receipt(conversation, positions.delivered, positions.read)
                .is_ok()
        {
            link.receipts.sent(instant, conversation);
        }
        self.drain(device);
        loop {
            let it = &mut self.devices[device];
            let Some(link) = &mut it.link else {
                return;
            };
            let pumped = link
                .outbox
                .pump(instant, &mut link.session, &mut link.requests);
            link.settled.extend(pumped.settled);
            if pumped.sync {
                self.client_sync(device);
                continue;
            }
            let renumbers = !pumped.renumber.is_empty();
            for conversation in pumped.renumber {
                let renumbered = it.disk.renumber(conversation);
                link.outbox.renumbered(conversation, &renumbered);
            }
            if !renumbers {
                break;
            }
        }
        self.drain(device);
        self.client_commit(device);
    }

    /// What was answered is on the disk before more is sent.
    fn client_sync(&mut self, device: usize) {
        self.client_commit(device);
        let it = &mut self.devices[device];
        if self.sabotage != Some(Sabotage::NeverSync) {
            it.disk.sync();
        }
        if let Some(link) = &mut it.link {
            link.outbox.synced();
        }
    }

    /// Leaves when the gateway said so, or when the session found a violation.
    fn leave_if_told(&mut self, device: usize) {
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        let number = link.number;
        if let Some(notice) = &link.go_away
            && !notice.authority.is_empty()
        {
            self.devices[device].target = notice.authority.parse().ok();
            drop(self.take_link(device));
            self.close_from_device(number, true);
            let after = self.moment();
            return self.connect_after(device, after);
        }
        let closing = self.devices[device]
            .link
            .as_mut()
            .and_then(|link| link.closing.take());
        if let Some((code, reason)) = closing {
            if code != CloseCode::Unavailable {
                let what = format!("a client closed its session with {code}: {reason}");
                self.checker.condemn("protocol", what);
            }
            drop(self.take_link(device));
            self.close_from_device(number, true);
            self.back_off(device);
        }
    }

    fn arm_device(&mut self, device: usize) {
        let Some(link) = &self.devices[device].link else {
            return;
        };
        let machines = [
            link.session.poll_timeout(),
            link.outbox.timeout(),
            link.receipts.timeout().filter(|_| link.welcomed),
        ];
        let Some(due) = machines.into_iter().flatten().min() else {
            return;
        };
        let due = self.at(due).max(self.now + 1);
        let (now, link) = (self.now, &mut self.devices[device].link);
        let Some(link) = link else { return };
        if link.due.is_some_and(|set| set <= due) {
            return;
        }
        link.due = Some(due);
        self.tell_device(device, due - now, AtDevice::Due);
    }

    /// Somebody writes a message on a device, connected or not.
    pub(crate) fn write_message(
        &mut self,
        device: usize,
        peer: Option<UserId>,
        conversation: ConversationId,
        bytes: u64,
    ) {
        let note = self.next_note;
        self.next_note += 1;
        let mut text = format!("{note} ");
        text.extend(std::iter::repeat_n('x', bytes as usize));
        let id = MessageId(self.rng.bytes16());
        let talk = self.talk(conversation);
        self.names.notes.insert(id, note);
        let it = &mut self.devices[device];
        let number = it.number;
        let print = fingerprint(&text);
        let waiting = it.disk.enqueue(note, id, (conversation, peer), text);
        self.checker.wrote(number, talk, note, print);
        let it = &mut self.devices[device];
        if let Some(link) = it.link.as_mut().filter(|link| link.welcomed) {
            link.outbox.add(vec![waiting]);
        }
        self.note(
            "writes",
            &[
                ("device", device as u64),
                ("talk", talk as u64),
                ("note", note),
            ],
        );
    }

    /// Somebody reads what their device shows.
    pub(crate) fn mark_read(&mut self, device: usize, conversation: ConversationId, seq: Seq) {
        let instant = self.instant();
        let talk = self.talk(conversation);
        let it = &mut self.devices[device];
        let number = it.number;
        let Some(positions) = it.disk.mark_read(conversation, seq) else {
            return;
        };
        if let Some(link) = it.link.as_mut().filter(|link| link.welcomed) {
            link.receipts.want(instant, conversation, positions);
        }
        self.checker.marked_read(number, talk, seq.get());
        self.client_turn(device);
    }

    /// The process ends, with or without the machine's power.
    pub(crate) fn kill_device(&mut self, device: usize, power: bool) {
        let it = &mut self.devices[device];
        if !it.running || it.is_out {
            return;
        }
        it.running = false;
        it.life += 1;
        it.connecting = false;
        let number = it.number;
        let link = it.link.take();
        it.unanswered = Vec::new();
        if power {
            let (shown, waiting, read) = it.disk.lose_power();
            let read: Vec<_> = read
                .into_iter()
                .map(|(conversation, seq)| (self.talk(conversation), seq))
                .collect();
            self.checker.lost_power(number, shown, &waiting, &read);
        } else {
            it.disk.reopen();
        }
        self.note(
            "client-ends",
            &[("device", device as u64), ("power", u64::from(power))],
        );
        if let Some(link) = link {
            // The kernel of a living machine says nothing either: QUIC lives in the process.
            self.close_from_device(link.number, false);
        }
        let after = self.rng.between(MS, 5 * SECOND);
        self.schedule(after, WorldEvent::StartDevice(device));
    }

    pub(crate) fn start_device(&mut self, device: usize) {
        self.devices[device].running = true;
        let after = self.moment();
        self.connect_after(device, after);
    }

    pub(crate) fn return_device(&mut self, device: usize) {
        self.devices[device].away = false;
        let after = self.moment();
        self.connect_after(device, after);
    }

    /// The network is gone for this device.
    pub(crate) fn send_device_away(&mut self, device: usize, away: Us) {
        let it = &mut self.devices[device];
        if it.away || self.phase == Phase::Heal {
            return;
        }
        it.away = true;
        let link = self.take_link(device);
        if let Some(link) = link {
            self.close_from_device(link.number, false);
        }
        self.note("device-away", &[("device", device as u64), ("us", away)]);
        self.schedule(away, WorldEvent::Return(device));
    }

    /// Whether a device has everything and nothing of it waits.
    pub(crate) fn device_is_at_rest(&self, device: usize) -> bool {
        let it = &self.devices[device];
        if it.is_out {
            return true;
        }
        let Some(session) = it.disk.session() else {
            return false;
        };
        let is_quiet =
            |link: &Link| link.questions.is_empty() && !link.is_asking && link.asked.is_empty();
        it.link.as_ref().is_some_and(is_quiet) && it.link.as_ref().is_some_and(|link| link.welcomed)
            && it.disk.waiting().is_empty()
            // A report that came while its user was not in the group is made again on the next connection only.
            && it.disk.unreported().iter().all(|(of, _)| of.is_group())
            && session.resume.cursor.0 == self.inbox_head(session.user)
    }

    pub(crate) fn new_disk(sabotage: Option<Sabotage>) -> Disk {
        Disk::new(sabotage)
    }
}

impl Link {
    fn take_reply(&mut self, now: std::time::Instant, reply: Reply) {
        match (reply.to, reply.outcome) {
            (
                ReplyTo::Send {
                    conversation,
                    client_seq,
                },
                Outcome::Accepted(seq),
            ) => {
                self.outbox.accepted(conversation, client_seq);
                self.settled.push(Settled::Accepted {
                    conversation,
                    client_seq,
                    seq,
                });
            }
            (
                ReplyTo::Send {
                    conversation,
                    client_seq,
                },
                Outcome::Rejected(rejection),
            ) => {
                let end = self
                    .outbox
                    .rejected(now, conversation, client_seq, rejection);
                self.settled.extend(end);
            }
            (ReplyTo::Request(request), Outcome::Opened { conversation, head }) => {
                self.end(request, true);
                self.outbox.take_opening(request);
                self.outbox.opened(conversation);
                self.settled.push(Settled::Opened {
                    conversation,
                    peer: None,
                    head,
                });
            }
            (ReplyTo::Request(request), Outcome::Rejected(rejection)) => {
                if let Some(conversation) = self.outbox.take_opening(request) {
                    self.settled
                        .extend(self.outbox.not_opened(now, conversation, rejection));
                } else {
                    self.end(request, false);
                }
            }
            (ReplyTo::Request(request), Outcome::Done) => self.end(request, true),
            (ReplyTo::Send { .. }, Outcome::Opened { .. } | Outcome::Done)
            | (ReplyTo::Request(_), Outcome::Accepted(_)) => {}
        }
    }

    fn end(&mut self, request: RequestId, is_done: bool) {
        if let Some(asked) = self.asked.remove(&request) {
            self.ended.push((asked, is_done));
        }
    }
}
