//! `resume N`, `push N [BYTES]`, `missed N`, `page A..B [BYTES] more|end`, `page empty`, `ack N`.

use quipu_core::delivery::{DeliveryWindow, Offer, Want};
use quipu_protocol::id::{Cursor, InboxSeq};

const BYTES: usize = 100;

pub(crate) struct Session(DeliveryWindow);

impl Default for Session {
    fn default() -> Self {
        Self(DeliveryWindow::new(Cursor::START))
    }
}

impl crate::Machine for Session {
    fn run(&mut self, instruction: &str) -> Result<Vec<String>, String> {
        let words: Vec<&str> = instruction.split_whitespace().collect();
        let mut followed = Vec::new();
        match words[..] {
            ["resume", cursor] => self.0 = DeliveryWindow::new(Cursor(number(cursor)?)),
            ["push", seq] => followed.push(self.push(inbox_seq(seq)?, BYTES)),
            ["push", seq, bytes] => {
                let bytes = number(bytes)? as usize;
                followed.push(self.push(inbox_seq(seq)?, bytes));
            }
            ["missed", seq] => self.0.missed(inbox_seq(seq)?),
            ["page", "empty"] => followed.extend(self.end_page(None, true)),
            ["page", range, end] => followed.extend(self.page(range, BYTES, end)?),
            ["page", range, bytes, end] => {
                followed.extend(self.page(range, number(bytes)? as usize, end)?);
            }
            ["ack", cursor] => {
                if let Err(e) = self.0.ack(Cursor(number(cursor)?)) {
                    followed.push(format!("refused: {e}"));
                }
            }
            _ => return Err("not an instruction".to_owned()),
        }
        followed.push(self.state());
        Ok(followed)
    }
}

impl Session {
    fn push(&mut self, seq: InboxSeq, bytes: usize) -> String {
        match self.0.offer(seq) {
            Offer::Send => {
                self.0.sent(seq, bytes);
                format!("sends {seq}")
            }
            Offer::Known => "known already".to_owned(),
            Offer::Behind => "left to the store".to_owned(),
        }
    }

    fn page(&mut self, range: &str, bytes: usize, end: &str) -> Result<Option<String>, String> {
        let (first, last) = range.split_once("..").ok_or("a range is A..B")?;
        let (first, last) = (number(first)?, number(last)?);
        let mut sent = 0;
        for seq in first..=last {
            if !self.0.fits(bytes) {
                break;
            }
            self.0
                .sent(InboxSeq::new(seq).map_err(|e| e.to_string())?, bytes);
            sent += 1;
        }
        let error = self.end_page(InboxSeq::new(last).ok(), end == "end");
        let line = match sent {
            0 => "sends nothing".to_owned(),
            n => format!("sends {first} to {}", first + n - 1),
        };
        Ok(Some(match error {
            Some(error) => format!("{line}, {error}"),
            None => line,
        }))
    }

    fn end_page(&mut self, last: Option<InboxSeq>, exhausted: bool) -> Option<String> {
        self.0
            .page(last, exhausted)
            .err()
            .map(|e| format!("fails: {e}"))
    }

    fn state(&self) -> String {
        let window = &self.0;
        let want = match window.want() {
            Want::Nothing => "wants nothing".to_owned(),
            Want::Read {
                after,
                max_events,
                max_bytes,
            } => format!("wants {max_events} events, {max_bytes} bytes after {after}"),
        };
        format!(
            "acked {}, {} events with {} bytes in flight, {}, {want}",
            window.acked(),
            window.in_flight_events(),
            window.in_flight_bytes(),
            if window.is_behind() {
                "behind"
            } else {
                "level"
            },
        )
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn inbox_seq(text: &str) -> Result<InboxSeq, String> {
    InboxSeq::new(number(text)?).map_err(|e| e.to_string())
}
