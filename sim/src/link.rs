//! The simulated network: connections of ordered streams with delay, bounded credit, and ways to die.

use bytes::{Bytes, BytesMut};
use quipu_protocol::error::CloseCode;
use quipu_protocol::limits::STREAM_WINDOW_BYTES;

use crate::plan::{MS, SECOND, Us};
use crate::queries::{Answer, Question};
use crate::world::{AtDevice, AtGateway, Event, LinkNo, Stream, World};

/// Longest time after which one end of a dead connection notices, as QUIC's idle timeout.
pub(crate) const IDLE_TIMEOUT: Us = 75 * SECOND;
/// Soonest: a device that wants an answer waits about so long for one.
const ANSWER_TIMEOUT: Us = 5 * SECOND;

/// One direction of one stream.
#[derive(Debug, Default)]
struct Pipe {
    /// What the writer could not hand over yet.
    waiting: BytesMut,
    /// Handed over and not read by the other end.
    unread: usize,
    /// When the last byte arrives: later ones never come earlier.
    arrives: Us,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) device: usize,
    device_life: u32,
    pub(crate) gateway: usize,
    gateway_life: u32,
    up: Pipe,
    down: Pipe,
    lane: Pipe,
    /// Whether packets to the gateway, and to the device, vanish.
    dead: (bool, bool),
    /// Whether the device, and the gateway, still hold it.
    held: (bool, bool),
}

impl Link {
    fn pipe(&mut self, stream: Stream) -> &mut Pipe {
        match stream {
            Stream::Up => &mut self.up,
            Stream::Down => &mut self.down,
            Stream::Lane => &mut self.lane,
        }
    }

    /// Whether nothing of it is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        let pipes = [&self.up, &self.down, &self.lane];
        pipes
            .iter()
            .all(|pipe| pipe.waiting.is_empty() && pipe.unread == 0)
    }

    /// Whether nothing arrives at the device any more.
    pub(crate) fn is_dead_to_device(&self) -> bool {
        self.dead.1 || !self.held.0
    }

    /// Its device, and in which life.
    pub(crate) fn device(&self) -> (usize, u32) {
        (self.device, self.device_life)
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.dead.0 && !self.dead.1 && self.held == (true, true)
    }
}

impl World {
    /// How long a packet takes now.
    pub(crate) fn latency(&mut self) -> Us {
        let (least, most) = self.plan.latency;
        let mut latency = self.rng.between(least, most);
        if self.now < self.packets_lost_until && self.rng.chance(500) {
            // Lost, and sent again after a probe timeout or two.
            latency += self.rng.between(100 * MS, 3 * SECOND);
        }
        latency
    }

    /// A device opens a connection to a gateway that lives.
    pub(crate) fn open_link(&mut self, device: usize, gateway: usize) -> LinkNo {
        self.next_link += 1;
        let number = self.next_link;
        let link = Link {
            device,
            device_life: self.devices[device].life,
            gateway,
            gateway_life: self.gateways[gateway].life,
            up: Pipe::default(),
            down: Pipe::default(),
            lane: Pipe::default(),
            dead: (false, false),
            held: (true, true),
        };
        self.links.insert(number, link);
        let handshake = self.latency();
        self.tell_gateway(gateway, handshake, AtGateway::Accept(number));
        if let Some(link) = self.links.get_mut(&number) {
            link.up.arrives = self.now + handshake;
        }
        number
    }

    /// Writes bytes to a stream; what there is no credit for waits.
    pub(crate) fn write(&mut self, number: LinkNo, stream: Stream, bytes: &[u8]) {
        self.trace.bytes(bytes);
        if let Some(link) = self.links.get_mut(&number) {
            link.pipe(stream).waiting.extend_from_slice(bytes);
        }
        self.flush_pipe(number, stream);
    }

    /// Bytes of a stream that wait for credit.
    pub(crate) fn waiting(&mut self, number: LinkNo, stream: Stream) -> usize {
        let link = self.links.get_mut(&number);
        link.map_or(0, |link| link.pipe(stream).waiting.len())
    }

    fn flush_pipe(&mut self, number: LinkNo, stream: Stream) {
        loop {
            let Some(link) = self.links.get_mut(&number) else {
                return;
            };
            let dead = match stream {
                Stream::Up => link.dead.0,
                Stream::Down | Stream::Lane => link.dead.1,
            };
            let pipe = link.pipe(stream);
            let credit = STREAM_WINDOW_BYTES.saturating_sub(pipe.unread);
            let length = pipe.waiting.len().min(credit);
            if length == 0 {
                return;
            }
            // Now and then a packet ends in the middle of a frame.
            let length = if self.rng.chance(200) {
                1 + self.rng.index(length)
            } else {
                length
            };
            let bytes = pipe.waiting.split_to(length).freeze();
            pipe.unread += length;
            if !dead {
                self.carry(number, stream, bytes);
            }
        }
    }

    fn carry(&mut self, number: LinkNo, stream: Stream, bytes: Bytes) {
        let arrives = self.now + self.latency();
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        let pipe = link.pipe(stream);
        pipe.arrives = pipe.arrives.max(arrives);
        let (at, link) = (pipe.arrives, &*link);
        let event = match stream {
            Stream::Up => Event::Gateway(
                link.gateway,
                link.gateway_life,
                AtGateway::Received(number, bytes),
            ),
            Stream::Down | Stream::Lane => Event::Device(
                link.device,
                link.device_life,
                AtDevice::Received(number, stream, bytes),
            ),
        };
        self.schedule_at(at, event);
    }

    /// The reading end has taken bytes: the writing one may send more.
    pub(crate) fn read(&mut self, number: LinkNo, stream: Stream, length: usize) {
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        let pipe = link.pipe(stream);
        pipe.unread = pipe.unread.saturating_sub(length);
        if pipe.waiting.is_empty() {
            return;
        }
        let (device, gateway) = (link.device, link.gateway);
        let (device_life, gateway_life) = (link.device_life, link.gateway_life);
        let after = self.latency();
        let event = match stream {
            Stream::Up => Event::Device(device, device_life, AtDevice::Credit(number)),
            Stream::Down | Stream::Lane => {
                Event::Gateway(gateway, gateway_life, AtGateway::Credit(number))
            }
        };
        self.schedule(after, event);
    }

    /// Credit has come to the writing end.
    pub(crate) fn credit(&mut self, number: LinkNo, at_device: bool) {
        if at_device {
            self.flush_pipe(number, Stream::Up);
        } else {
            self.flush_pipe(number, Stream::Down);
            self.flush_pipe(number, Stream::Lane);
        }
    }

    /// A question travels on a stream of its own.
    pub(crate) fn carry_question(&mut self, number: LinkNo, question: Question) {
        let after = self.latency();
        if let Some(link) = self.links.get(&number)
            && !link.dead.0
        {
            let what = AtGateway::Question(number, question);
            let event = Event::Gateway(link.gateway, link.gateway_life, what);
            self.schedule(after, event);
        }
    }

    /// So does its answer.
    pub(crate) fn carry_answer(&mut self, number: LinkNo, answer: Answer) {
        let after = self.latency();
        if let Some(link) = self.links.get(&number)
            && !link.dead.1
        {
            let what = AtDevice::Answer(number, Box::new(answer));
            let event = Event::Device(link.device, link.device_life, what);
            self.schedule(after, event);
        }
    }

    /// The gateway closes a connection. What it wrote before may arrive or not.
    pub(crate) fn close_from_gateway(&mut self, number: LinkNo, code: Option<CloseCode>) {
        let in_order = self.rng.chance(700);
        let mut at = self.now + self.latency();
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        link.held.1 = false;
        if in_order {
            at = at.max(link.down.arrives).max(link.lane.arrives);
        }
        if link.held.0 && !link.dead.1 {
            let (device, life) = (link.device, link.device_life);
            let closed = AtDevice::Closed(number, code);
            self.schedule_at(at, Event::Device(device, life, closed));
        } else if link.held.0 {
            let after = self.rng.between(ANSWER_TIMEOUT, IDLE_TIMEOUT);
            self.schedule(after, Event::Notice(number, true));
        }
        self.forget_link(number);
    }

    /// The device closes a connection, or is gone. Politely: the gateway is told; otherwise it notices when it does.
    pub(crate) fn close_from_device(&mut self, number: LinkNo, politely: bool) {
        let after = if politely {
            self.latency()
        } else {
            self.rng.between(10 * MS, IDLE_TIMEOUT)
        };
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        link.held.0 = false;
        if link.held.1 {
            self.schedule(after, Event::Notice(number, false));
        }
        self.forget_link(number);
    }

    /// A connection dies without a word to anybody: in one direction, or in both.
    pub(crate) fn kill_link(&mut self, number: LinkNo, (to_gateway, to_device): (bool, bool)) {
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        link.dead.0 |= to_gateway;
        link.dead.1 |= to_device;
        let half = !(to_gateway && to_device);
        let soonest = if half { ANSWER_TIMEOUT } else { MS };
        // The device often knows at once: its network is gone.
        let device = if !half && self.rng.chance(500) {
            self.moment()
        } else {
            self.rng.between(soonest, IDLE_TIMEOUT)
        };
        let gateway = self.rng.between(soonest, IDLE_TIMEOUT);
        self.schedule(device, Event::Notice(number, true));
        self.schedule(gateway, Event::Notice(number, false));
    }

    /// One end notices that a connection is dead.
    pub(crate) fn notice(&mut self, number: LinkNo, at_device: bool) {
        let Some(link) = self.links.get(&number) else {
            return;
        };
        let (device, gateway) = (link.device, link.gateway);
        let event = if at_device {
            if !link.held.0 {
                return;
            }
            Event::Device(device, link.device_life, AtDevice::Closed(number, None))
        } else {
            if !link.held.1 {
                return;
            }
            Event::Gateway(gateway, link.gateway_life, AtGateway::LinkLost(number))
        };
        self.schedule(0, event);
    }

    /// One end has let go of a connection.
    pub(crate) fn let_go(&mut self, number: LinkNo, at_device: bool) {
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        if at_device {
            link.held.0 = false;
        } else {
            link.held.1 = false;
        }
        self.forget_link(number);
    }

    fn forget_link(&mut self, number: LinkNo) {
        if self
            .links
            .get(&number)
            .is_some_and(|link| link.held == (false, false))
        {
            self.links.remove(&number);
        }
    }
}
