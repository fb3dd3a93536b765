//! A screen without terminal or gateway: feed it events and keys, look at what it shows and asks for.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use quipu_protocol::event::{Content, Message, Receipt};
use quipu_protocol::id::{
    ClientSeq, ConversationId, DeviceId, MessageId, Seq, TimestampMs, UserId,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use crate::app::conversations::Conversation;
use crate::app::timeline::Waiting;
use crate::app::{App, Connection, Effect, Event, Loaded, Page};
use crate::{keymap, view};

/// Tuesday 3 November 2026, 12:00 UTC.
const NOON_MS: u64 = 1_793_707_200_000;

/// A screen under test.
pub(super) struct Scene {
    pub(super) app: App,
    pub(super) effects: Vec<Effect>,
    size: (u16, u16),
}

pub(super) fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid name")
}

pub(super) fn direct(peer: &str) -> ConversationId {
    ConversationId::direct(&user("alice"), &user(peer))
}

pub(super) fn seq(number: u64) -> Seq {
    Seq::new(number).expect("not zero")
}

pub(super) fn message_id(peer: &str, number: u64) -> MessageId {
    let mut id = direct(peer).0;
    id[8..].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}

/// A message in alice's conversation with `peer`, so many minutes after noon.
pub(super) fn message(peer: &str, from: &str, number: u64, minutes: i64, text: &str) -> Message {
    Message {
        conversation: direct(peer),
        seq: seq(number),
        id: message_id(peer, number),
        from: user(from),
        from_device: DeviceId::new(1).expect("not zero"),
        client_seq: ClientSeq::FIRST,
        to: Some(user(if from == "alice" { peer } else { "alice" })),
        sent_at: TimestampMs(NOON_MS.saturating_add_signed(minutes * 60_000)),
        content: Content::Text(text.to_owned()),
        state: None,
    }
}

/// A line of the list.
pub(super) fn conversation(peer: &str, last: &Message, unread: u64) -> Conversation {
    let mut row = Conversation::new(direct(peer), Some(user(peer)));
    row.set_last(last);
    row.head = Some(last.seq);
    row.unread = unread;
    row.read = Seq::new(last.seq.get() - unread).ok();
    row
}

impl Scene {
    /// Alice's screen, online, with nothing in it.
    pub(super) fn alice(columns: u16, rows: u16) -> Self {
        let mut scene = Self::new(Some(user("alice")), columns, rows);
        scene.event(Event::Connection(Connection::Online));
        scene
    }

    /// A screen of whoever, at noon.
    pub(super) fn new(me: Option<UserId>, columns: u16, rows: u16) -> Self {
        let now = Timestamp::from_millisecond(NOON_MS as i64).expect("in range");
        let zone = TimeZone::fixed(Offset::UTC);
        Self {
            app: App::new(me, "127.0.0.1:4433".into(), zone, now, (columns, rows)),
            effects: Vec::new(),
            size: (columns, rows),
        }
    }

    /// Alice and bob, some words of today and yesterday, everything read.
    pub(super) fn with_bob(columns: u16, rows: u16) -> Self {
        let mut scene = Self::alice(columns, rows);
        let messages = vec![
            message("bob", "bob", 1, -1440, "Did the runner arrive?"),
            message(
                "bob",
                "alice",
                2,
                -1438,
                "Yes, before dark. He brought three cords and a sack of potatoes.",
            ),
            message("bob", "bob", 3, -20, "Then read me the knots."),
            message("bob", "bob", 4, -20, "Slowly."),
            message(
                "bob",
                "alice",
                5,
                -12,
                "Four llamas, two hundred ears of maize, and a debt of one blanket to the house at the bridge.",
            ),
        ];
        scene.load("bob", messages, 0);
        scene
    }

    /// Tells the screen of a conversation, lets it open it if nothing is open, and answers what it asks for.
    pub(super) fn load(&mut self, peer: &str, messages: Vec<Message>, unread: u64) {
        let last = messages.last().expect("a conversation has messages");
        let mut row = conversation(peer, last, unread);
        row.peer_delivered = row.head;
        row.peer_read = row.head.and_then(|head| Seq::new(head.get() - 1).ok());
        let none_open = self.app.open.is_none();
        self.event(Event::Conversations(vec![row]));
        if none_open {
            self.page(peer, Page::Latest, messages);
        }
    }

    /// Answers a request for a page.
    pub(super) fn page(&mut self, peer: &str, page: Page, messages: Vec<Message>) {
        let loaded = Loaded {
            messages,
            ..Loaded::default()
        };
        self.event(Event::Page {
            conversation: direct(peer),
            page,
            result: Ok(loaded),
        });
    }

    /// Feeds one event.
    pub(super) fn event(&mut self, event: Event) {
        if let Event::Resize { columns, rows } = event {
            self.size = (columns, rows);
        }
        self.effects.extend(self.app.update(event));
    }

    /// Presses keys: characters, and names in angle brackets like `<enter>`, `<ctrl-k>`, `<alt-down>`.
    pub(super) fn keys(&mut self, keys: &str) {
        let mut rest = keys;
        while !rest.is_empty() {
            let (key, after) = match rest
                .strip_prefix('<')
                .and_then(|named| named.split_once('>'))
            {
                Some((name, after)) => (named_key(name), after),
                None => {
                    let c = rest.chars().next().expect("not empty");
                    (
                        KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE),
                        &rest[c.len_utf8()..],
                    )
                }
            };
            rest = after;
            if let Some(command) = keymap::command(self.app.mode(), key) {
                self.event(Event::Command(command));
            }
        }
    }

    /// What a terminal of the present size shows, with `▏` where the cursor is, if it is shown.
    pub(super) fn screen(&self) -> String {
        let (cells, cursor) = self.draw();
        let mut lines: Vec<String> = Vec::new();
        for (y, row) in cells.iter().enumerate() {
            let mut line = String::new();
            for (x, symbol) in row.iter().enumerate() {
                if cursor == Some((x, y)) {
                    line.push('▏');
                }
                line.push_str(symbol);
            }
            lines.push(line.trim_end().to_owned());
        }
        lines.join("\n")
    }

    /// Every drawn cell, and the cursor. Cells behind a wide character are empty.
    pub(super) fn draw(&self) -> (Vec<Vec<String>>, Option<(usize, usize)>) {
        let mut terminal = Terminal::new(TestBackend::new(self.size.0, self.size.1))
            .expect("a test backend does not fail");
        let mut shown = None;
        terminal
            .draw(|frame| {
                view::draw(&self.app, frame);
            })
            .expect("a test backend does not fail");
        let backend = terminal.backend();
        if backend.cursor_visible() {
            let at = backend.cursor_position();
            shown = Some((usize::from(at.x), usize::from(at.y)));
        }
        let buffer = backend.buffer();
        let rows = (0..self.size.1)
            .map(|y| {
                let mut skip = 0_usize;
                (0..self.size.0)
                    .map(|x| {
                        if skip > 0 {
                            skip -= 1;
                            return String::new();
                        }
                        let symbol = buffer[(x, y)].symbol().to_owned();
                        skip = crate::text::width(&symbol).saturating_sub(1);
                        symbol
                    })
                    .collect()
            })
            .collect();
        (rows, shown)
    }

    /// A message of alice that is in the outbox.
    pub(super) fn waiting(peer: &str, number: u64, text: &str) -> Waiting {
        Waiting {
            id: message_id(peer, number),
            conversation: direct(peer),
            text: text.to_owned(),
            queued_at: TimestampMs(NOON_MS),
            refused: None,
        }
    }

    /// A position of a member.
    pub(super) fn receipt(peer: &str, of: &str, delivered: u64, read: u64) -> Event {
        Event::Receipt(Receipt {
            conversation: direct(peer),
            user: user(of),
            delivered: Seq::new(delivered).ok(),
            read: Seq::new(read).ok(),
        })
    }
}

fn named_key(name: &str) -> KeyEvent {
    let mut held = KeyModifiers::NONE;
    let mut name = name;
    for (prefix, modifier) in [
        ("ctrl-", KeyModifiers::CONTROL),
        ("alt-", KeyModifiers::ALT),
        ("shift-", KeyModifiers::SHIFT),
    ] {
        if let Some(rest) = name.strip_prefix(prefix) {
            held |= modifier;
            name = rest;
        }
    }
    let code = match name {
        "enter" => KeyCode::Enter,
        "esc" => KeyCode::Esc,
        "tab" => KeyCode::Tab,
        "backspace" => KeyCode::Backspace,
        "up" => KeyCode::Up,
        "down" => KeyCode::Down,
        "left" => KeyCode::Left,
        "right" => KeyCode::Right,
        "home" => KeyCode::Home,
        "end" => KeyCode::End,
        "pgup" => KeyCode::PageUp,
        "pgdn" => KeyCode::PageDown,
        "f1" => KeyCode::F(1),
        other => KeyCode::Char(other.chars().next().expect("a key has a name")),
    };
    KeyEvent::new(code, held)
}
