//! What comes on the streams of a connection, all at once or slowly, and what the session makes of it.

use bytes::{Buf, Bytes};
use quipu_protocol::event::{EventBody, Notice};
use quipu_protocol::session::{ClientOutput, LaneId};

use crate::plan::{MS, SECOND};
use crate::queries::{Question, queue};
use crate::world::{AtDevice, Stream, World};

/// Bytes that a slow device reads at a time.
const SLOW_BYTES: usize = 700;

impl World {
    pub(super) fn read_soon(&mut self, device: usize) {
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
    pub(super) fn read_streams(&mut self, device: usize) {
        let slow = self.devices[device].slow_until > self.now;
        let mut left = if slow { SLOW_BYTES } else { usize::MAX };
        if let Some(link) = &mut self.devices[device].link {
            link.reading = false;
        }
        while left > 0 && self.feed_one(device, &mut left) {}
        self.client_turn(device);
        self.read_soon(device);
    }

    pub(super) fn read_everything(&mut self, device: usize) {
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
    pub(super) fn drain(&mut self, device: usize) {
        let instant = self.instant();
        let mut transmit: Vec<Bytes> = Vec::new();
        let me = self.devices[device].disk.session();
        let disk = &self.devices[device].disk;
        let pulled = disk.pulled().into_iter();
        let pulled: Vec<_> = pulled
            .map(|group| (group, disk.first_missing(group)))
            .collect();
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
                    for group in &pulled {
                        let (group, first) = *group;
                        queue(&mut link.questions, Question::Page(group, first));
                    }
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
}
