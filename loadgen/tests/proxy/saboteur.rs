//! The plan of a sabotage: which frame it strikes, and what becomes of it.

use std::hash::Hasher as _;

use quipu_protocol::error::RejectCode;
use quipu_protocol::wire;
use quipu_protocol::wire::{content, event, reply};
use siphasher::sip::SipHasher13;

/// Frames that pass before it strikes, so that traffic is under way.
const BEFORE: u64 = 6;
/// Hexadecimal digits of the checksum at the end of a text.
const SUM_DIGITS: usize = 16;

/// What is done to one frame of a run, or to each that it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Nothing: the proxy is honest.
    None,
    /// A SEND never reaches the gateway.
    SwallowSend,
    /// A SEND is answered as accepted and never reaches the gateway.
    InventAck,
    /// A SEND is accepted with another seq than the gateway gives it.
    WrongAck,
    /// A SEND is refused for good.
    Refuse,
    /// A SEND is put off, three times.
    Busy,
    /// A receiver is never shown a message.
    DropDelivery,
    /// A member of a group is never shown that another one joined.
    DropNote,
    /// A member is never shown that a message was edited.
    DropEdit,
    /// Somebody is told that another one has received and read what was not sent yet.
    ForgeReceipt,
    /// A sender is never shown its own message.
    DropOwn,
    /// A receiver is shown a message twice, with numbers of their own.
    Repeat,
    /// Two messages of a conversation change places.
    Swap,
    /// A stranger is shown a message as well.
    Misdeliver,
    /// A byte of a text is changed.
    Corrupt,
    /// A receiver is shown a message that nobody sent.
    Ghost,
    /// Devices that come back are shown what they missed too late.
    Late,
    /// Each event waits behind the one before it.
    Trickle,
    /// A byte of a file is changed on its way to who fetches it.
    CorruptFile,
}

/// An event on its way to a device.
pub(crate) struct Show {
    /// Whose.
    pub(crate) to: String,
    pub(crate) event: wire::Event,
    /// Its number is that of the gateway's inbox of this very user.
    pub(crate) is_of_gateway: bool,
}

/// What becomes of a SEND.
pub(crate) struct Fate {
    pub(crate) forward: bool,
    /// Goes to the device before anything else.
    pub(crate) reply: Option<wire::Reply>,
}

/// Carries out one sabotage.
pub(crate) struct Saboteur {
    sabotage: Sabotage,
    seen: u64,
    struck: u64,
    /// The first of two events that change places.
    held: Option<Show>,
}

impl Saboteur {
    pub(crate) fn new(sabotage: Sabotage) -> Self {
        Self {
            sabotage,
            seen: 0,
            struck: 0,
            held: None,
        }
    }

    /// How often it has struck.
    pub(crate) fn struck(&self) -> u64 {
        self.struck
    }

    /// Whether returned devices wait.
    pub(crate) fn is_late(&self) -> bool {
        self.sabotage == Sabotage::Late
    }

    /// Whether every event waits.
    pub(crate) fn is_trickle(&self) -> bool {
        self.sabotage == Sabotage::Trickle
    }

    /// Whether the file that begins now is to be changed.
    pub(crate) fn strikes_file(&mut self) -> bool {
        self.sabotage == Sabotage::CorruptFile && self.strikes()
    }

    /// One more frame that could be struck; says whether this is the one.
    fn strikes(&mut self) -> bool {
        let times = if self.sabotage == Sabotage::Busy {
            3
        } else {
            1
        };
        self.seen += 1;
        let strikes = self.seen > BEFORE && self.struck < times;
        self.struck += u64::from(strikes);
        strikes
    }

    /// A device sends.
    pub(crate) fn send(&mut self, send: &wire::Send) -> Fate {
        let honest = Fate {
            forward: true,
            reply: None,
        };
        let (forward, outcome) = match self.sabotage {
            Sabotage::SwallowSend => (false, None),
            Sabotage::InventAck => (false, Some(accepted(1_000_000))),
            Sabotage::WrongAck => (true, Some(accepted(1_000_000))),
            Sabotage::Refuse => (false, Some(rejected(RejectCode::Invalid, 0))),
            Sabotage::Busy => (false, Some(rejected(RejectCode::Busy, 20))),
            Sabotage::None
            | Sabotage::DropDelivery
            | Sabotage::DropNote
            | Sabotage::DropEdit
            | Sabotage::ForgeReceipt
            | Sabotage::DropOwn
            | Sabotage::Repeat
            | Sabotage::Swap
            | Sabotage::Misdeliver
            | Sabotage::Corrupt
            | Sabotage::Ghost
            | Sabotage::Late
            | Sabotage::Trickle
            | Sabotage::CorruptFile => return honest,
        };
        if !self.strikes() {
            return honest;
        }
        let to = reply::To::Send(wire::SendRef {
            conversation: send.conversation.clone(),
            client_seq: send.client_seq,
        });
        let reply = outcome.map(|outcome| wire::Reply {
            to: Some(to),
            outcome: Some(outcome),
        });
        Fate { forward, reply }
    }

    /// `user` gets an event; `users` are all there are. Says who is shown what now.
    pub(crate) fn event(&mut self, user: &str, users: &[String], event: wire::Event) -> Vec<Show> {
        let show = |to: &str, event: wire::Event, is_of_gateway| Show {
            to: to.to_owned(),
            event,
            is_of_gateway,
        };
        let original = show(user, event.clone(), true);
        let message = match event.body.clone() {
            Some(event::Body::Message(message)) => message,
            Some(other) => return self.aside(original, other),
            None => return vec![original],
        };
        if is_note(&message) {
            let is_struck =
                self.sabotage == Sabotage::DropNote && message.from != user && self.strikes();
            return match is_struck {
                true => Vec::new(),
                false => vec![original],
            };
        }
        if let Some(first) = self.held.take_if(|held| held.to == user) {
            return vec![original, first];
        }
        let is_own = message.from == user;
        if is_own != (self.sabotage == Sabotage::DropOwn) {
            return vec![original];
        }
        let altered = |message| {
            let body = Some(event::Body::Message(message));
            wire::Event {
                body,
                ..event.clone()
            }
        };
        let shows = match self.sabotage {
            Sabotage::DropDelivery | Sabotage::DropOwn => Vec::new(),
            Sabotage::Repeat => vec![
                show(user, event.clone(), true),
                show(user, event.clone(), false),
            ],
            Sabotage::Swap => {
                if self.strikes() {
                    self.held = Some(original);
                    return Vec::new();
                }
                return vec![original];
            }
            Sabotage::Misdeliver => {
                let is_stranger = |other: &&String| **other != message.from && *other != user;
                let stranger = users.iter().find(is_stranger).expect("more than a pair");
                vec![
                    show(user, event.clone(), true),
                    show(stranger, event.clone(), false),
                ]
            }
            Sabotage::Corrupt => vec![show(user, altered(corrupted(message)), true)],
            Sabotage::Ghost => vec![
                show(user, event.clone(), true),
                show(user, altered(forged(message)), false),
            ],
            Sabotage::None
            | Sabotage::SwallowSend
            | Sabotage::InventAck
            | Sabotage::WrongAck
            | Sabotage::Refuse
            | Sabotage::Busy
            | Sabotage::DropNote
            | Sabotage::DropEdit
            | Sabotage::ForgeReceipt
            | Sabotage::Late
            | Sabotage::Trickle
            | Sabotage::CorruptFile => return vec![original],
        };
        match self.strikes() {
            true => shows,
            false => vec![original],
        }
    }

    /// An event that is no message.
    fn aside(&mut self, original: Show, body: event::Body) -> Vec<Show> {
        match (self.sabotage, body) {
            (Sabotage::DropEdit, event::Body::Changed(changed))
                if changed.by != original.to && self.strikes() =>
            {
                Vec::new()
            }
            (Sabotage::ForgeReceipt, event::Body::Receipt(receipt)) if self.strikes() => {
                let body = event::Body::Receipt(wire::ReceiptEvent {
                    delivered: receipt.delivered + 1_000,
                    read: receipt.read + 1_000,
                    ..receipt
                });
                let event = wire::Event {
                    body: Some(body),
                    ..original.event
                };
                vec![Show { event, ..original }]
            }
            _ => vec![original],
        }
    }
}

fn is_note(message: &wire::Message) -> bool {
    let kind = message
        .content
        .as_ref()
        .and_then(|content| content.kind.as_ref());
    matches!(kind, Some(content::Kind::Note(_)))
}

fn accepted(seq: u64) -> reply::Outcome {
    reply::Outcome::Accepted(wire::Accepted { seq })
}

fn rejected(code: RejectCode, retry_after_ms: u64) -> reply::Outcome {
    reply::Outcome::Rejected(wire::Rejected {
        code: code.code(),
        reason: "the proxy says so".to_owned(),
        retry_after_ms,
    })
}

fn text(message: &mut wire::Message) -> &mut String {
    match message
        .content
        .as_mut()
        .and_then(|content| content.kind.as_mut())
    {
        Some(content::Kind::Text(text)) => text,
        other => panic!("the generator sends texts, not {other:?}"),
    }
}

fn corrupted(mut message: wire::Message) -> wire::Message {
    let text = text(&mut message);
    *text = text.replacen('.', "!", 1);
    message
}

/// A message as the generator would write it, with a number that it has not come to.
fn forged(mut message: wire::Message) -> wire::Message {
    message.seq += 1_000;
    let text = text(&mut message);
    text.truncate(text.len() - SUM_DIGITS);
    let mut fields: Vec<&str> = text.split(' ').collect();
    fields[4] = "0000000fffff";
    let body = fields.join(" ");
    let mut hasher = SipHasher13::new();
    hasher.write(body.as_bytes());
    *text = format!("{body}{:016x}", hasher.finish());
    message
}
