//! A device connects, comes back, is sent elsewhere and gives up, as the SDK does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quipu_protocol::credentials::{Credentials, Hello};
use quipu_protocol::error::{CloseCode, Retry};
use quipu_protocol::session::{Changes, ClientSession, Outbox, Receipts};

use super::Link;
use crate::plan::{MS, SECOND, Us};
use crate::sabotage::Sabotage;
use crate::world::{AtDevice, LinkNo, World};

/// The SDK reports positions of one conversation at most once in this time.
const RECEIPT_INTERVAL: Duration = Duration::from_secs(1);
/// Longest pause between two tries to connect.
const BACKOFF_MAX: Us = 10 * SECOND;

impl World {
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

    pub(super) fn connect(&mut self, device: usize) {
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
        let mut hello = self.hello(device);
        let strange = self.make_strange(&mut hello);
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
            changes: Changes::default(),
            asked: BTreeMap::new(),
            answered: Vec::new(),
            ended: Vec::new(),
            questions: VecDeque::new(),
            is_asking: false,
            forgotten: 0,
            again: BTreeMap::new(),
            notices: Vec::new(),
            presence: BTreeMap::new(),
            welcomed: false,
            strange,
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
    pub(super) fn take_link(&mut self, device: usize) -> Option<Link> {
        let it = &mut self.devices[device];
        let mut link = it.link.take()?;
        let unanswered = std::mem::take(&mut link.asked);
        it.unanswered.extend(unanswered.into_values());
        Some(link)
    }

    pub(super) fn link_closed(&mut self, device: usize, number: LinkNo, code: Option<CloseCode>) {
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

    /// Leaves when the gateway said so, or when the session found a violation.
    pub(super) fn leave_if_told(&mut self, device: usize) {
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
}
