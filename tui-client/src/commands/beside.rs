//! What `listen --json` prints beside the messages of the inbox: changes, invitations, messages of large groups, and who types and
//! is here.

use std::collections::VecDeque;

use quipu_client::{ClientEvent, EventStream};
use quipu_protocol::id::Cursor;

use super::write_json;
use crate::json::{ChangedLine, InvitedLine, MessageLine, PresentLine, TypingLine};

/// Lines that wait for the messages before them. At the limit no more events are taken; the stream then says what it dropped.
const WAITING_MAX: usize = 1024;

/// A line that may be printed.
pub(super) struct BesideLine {
    pub(super) bytes: Vec<u8>,
    /// `--count` counts it. What is worth nothing a moment later is not counted: how much of it comes is a matter of luck.
    pub(super) counts: bool,
}

/// Lines in the order of the inbox: none before the messages that came before it are printed.
pub(super) struct Beside {
    events: EventStream,
    /// The last message that the stream has told of.
    told: Cursor,
    /// The last message that is printed, or looked at and left out.
    printed: Cursor,
    waiting: VecDeque<(Cursor, BesideLine)>,
}

impl Beside {
    /// Listens, given where the printing starts.
    pub(super) fn new(events: EventStream, start: Cursor) -> Self {
        Self {
            events,
            told: Cursor::START,
            printed: start,
            waiting: VecDeque::new(),
        }
    }

    /// The messages up to here are printed.
    pub(super) fn reached(&mut self, printed: Cursor) {
        self.printed = printed;
    }

    /// The next line that may be printed; `None` once the client is closed. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<BesideLine> {
        loop {
            if let Some((after, _)) = self.waiting.front()
                && *after <= self.printed
            {
                return self.waiting.pop_front().map(|(_, line)| line);
            }
            if self.waiting.len() >= WAITING_MAX {
                return std::future::pending().await;
            }
            let event = self.events.next().await?;
            self.take(&event);
        }
    }

    fn take(&mut self, event: &ClientEvent) {
        match event {
            ClientEvent::Message { inbox_seq, .. } => self.told = inbox_seq.cursor(),
            ClientEvent::Changed(changed) => self.wait(&ChangedLine::new(changed), true),
            ClientEvent::Invited(invitation) => self.wait(&InvitedLine::new(invitation), true),
            ClientEvent::Noticed(message) => self.wait(&MessageLine::new(message), true),
            ClientEvent::Typing {
                conversation,
                user,
                on,
            } => self.wait(&TypingLine::new(conversation, user, *on), false),
            ClientEvent::Presence(entry) => self.wait(&PresentLine::new(entry), false),
            ClientEvent::Resynced => {
                (self.told, self.printed) = (Cursor::START, Cursor::START);
                self.waiting.clear();
            }
            ClientEvent::Lagged { missed } => eprintln!(
                "quipu: {missed} events came faster than they were printed; messages are printed all the same, changes of \
                 them may be missing"
            ),
            ClientEvent::Queued(_)
            | ClientEvent::Acked { .. }
            | ClientEvent::Refused { .. }
            | ClientEvent::ChangeQueued(_)
            | ClientEvent::ChangeMade { .. }
            // The next command that changes messages of this conversation tells of it.
            | ClientEvent::ChangeRefused { .. }
            | ClientEvent::Receipt(_)
            | ClientEvent::CaughtUp(_)
            | ClientEvent::Listed => {}
        }
    }

    fn wait(&mut self, line: &impl serde::Serialize, counts: bool) {
        let mut bytes = Vec::new();
        // Plain data into memory: it does not fail.
        if write_json(&mut bytes, line).is_ok() {
            self.waiting
                .push_back((self.told, BesideLine { bytes, counts }));
        }
    }
}

#[cfg(test)]
mod tests {
    use quipu_client::{Client, Config};
    use quipu_protocol::event::Invitation;
    use quipu_protocol::id::{ConversationId, TimestampMs, UserId};
    use quipu_protocol::query::PresenceEntry;

    use super::*;

    fn ben() -> UserId {
        UserId::new("ben").expect("a valid name")
    }

    /// The lines that wait, with whether `--count` counts each.
    async fn lines(beside: &mut Beside) -> Vec<(String, bool)> {
        let mut lines = Vec::new();
        while !beside.waiting.is_empty() {
            let line = beside.next().await.expect("the client is open");
            let text = String::from_utf8(line.bytes).expect("JSON is UTF-8");
            lines.push((text, line.counts));
        }
        lines
    }

    #[tokio::test]
    async fn who_types_comes_and_goes_is_printed_and_not_counted() {
        let config = Config {
            data: None,
            ..Config::default()
        };
        let client = Client::open(config).await.expect("opens in memory");
        let mut beside = Beside::new(client.events(), Cursor::START);
        let conversation = ConversationId([7; 16]);
        for on in [true, false] {
            beside.take(&ClientEvent::Typing {
                conversation,
                user: ben(),
                on,
            });
        }
        for (here, seen_at) in [(true, None), (false, Some(TimestampMs(0)))] {
            beside.take(&ClientEvent::Presence(PresenceEntry {
                user: ben(),
                here,
                seen_at,
                order: 1,
            }));
        }
        beside.take(&ClientEvent::Invited(Invitation {
            conversation,
            by: ben(),
            title: "Ayllu".into(),
            at: TimestampMs(0),
        }));
        let typing = |on: bool| {
            let at = "07".repeat(16);
            let line =
                format!(r#"{{"type":"typing","conversation":"{at}","user":"ben","on":{on}}}"#);
            (line + "\n", false)
        };
        let present = |rest: &str| {
            let line = format!(r#"{{"type":"presence","user":"ben","here":{rest}}}"#);
            (line + "\n", false)
        };
        let mut printed = lines(&mut beside).await;
        let (invited, counts) = printed.pop().expect("the invitation");
        assert!(
            invited.contains(r#""type":"invited""#) && counts,
            "{invited}"
        );
        assert_eq!(
            printed,
            [
                typing(true),
                typing(false),
                present("true"),
                present(r#"false,"seen_at":"1970-01-01T00:00:00.000Z""#),
            ]
        );
        client.close().await;
    }
}
