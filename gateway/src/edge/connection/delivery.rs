//! What goes to the device on its lane: live events, pages of the inbox, notices; and what it acks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quipu_core::delivery::{Offer, Want};
use quipu_protocol::error::CloseCode;
use quipu_protocol::event::Notice;
use quipu_protocol::id::Cursor;
use quipu_protocol::limits::FRAME_BYTES_MAX;

use super::Driver;
use crate::queries::{InboxPage, QueryError};
use crate::registry::{MailboxItem, Taken, notice_frame};

/// First wait before an inbox page that ended at a missing history row is read again; doubles with each try.
const GAP_WAIT_MIN: Duration = Duration::from_millis(2);
/// Longest such wait.
const GAP_WAIT_MAX: Duration = Duration::from_millis(500);
/// Tries without progress after which the session is closed with UNAVAILABLE: about half a minute.
const GAP_TRIES_MAX: u32 = 64;

/// Bytes that wait on a lane above which notices are dropped. They have no window: nobody acks them.
const LANE_NOTICES_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

impl Driver {
    pub(super) fn acked(&mut self, cursor: Cursor) {
        let Some(member) = &mut self.member else {
            return;
        };
        self.shared.with.metrics.acks_received.inc();
        let before = member.window.acked();
        let acked = member.window.ack(cursor);
        if member.window.acked() > before {
            let in_flight = member.window.in_flight_events() > 0;
            member.attendance.acked(in_flight, Instant::now());
        }
        if let Err(ahead) = acked {
            self.shared.with.metrics.acks_ahead.inc();
            let reason = format!("QP-ACK-2: {ahead}");
            self.session.close(CloseCode::ProtocolViolation, &reason);
        }
    }

    /// Tells the client that notices were dropped, once the lane has room again.
    pub(super) fn say_check(&mut self) {
        if let Some(member) = &mut self.member
            && member.check_due
            && self.lane.len() <= LANE_NOTICES_BYTES_MAX / 2
        {
            member.check_due = false;
            self.shared.with.metrics.notices_sent.inc();
            self.lane.push(notice_frame(&Notice::Check));
        }
    }

    pub(super) fn take_mail(&mut self) {
        let Taken {
            items,
            lagged,
            notices_dropped,
            settings,
            fleeting,
            close,
            go_away,
        } = self.mailbox.take();
        let metrics = &self.shared.with.metrics;
        for item in items {
            match item {
                MailboxItem::Reply(reply) => self.session.reply(&reply),
                MailboxItem::Notice(frame) => {
                    let Some(member) = &mut self.member else {
                        continue;
                    };
                    if member.check_due || self.lane.len() > LANE_NOTICES_BYTES_MAX {
                        member.check_due = true;
                        metrics.notices_dropped.inc();
                    } else {
                        metrics.notices_sent.inc();
                        self.lane.push(frame);
                    }
                }
                MailboxItem::Event(event) => {
                    let Some(member) = &mut self.member else {
                        continue;
                    };
                    match member.window.offer(event.inbox_seq) {
                        Offer::Send => {
                            member.window.sent(event.inbox_seq, event.frame.len());
                            metrics.events_pushed.inc();
                            metrics.event_bytes.inc_by(event.frame.len() as u64);
                            self.lane.push(event.frame.clone());
                        }
                        Offer::Known | Offer::Behind => {}
                    }
                }
            }
        }
        if let Some(settings) = settings {
            self.decided(settings);
        }
        if let Some(fleeting) = fleeting {
            self.told(*fleeting);
        }
        if let (Some(inbox_seq), Some(member)) = (lagged, &mut self.member) {
            member.window.missed(inbox_seq);
        }
        if let (true, Some(member)) = (notices_dropped, &mut self.member) {
            member.check_due = true;
        }
        if go_away {
            self.go_away();
        }
        if let Some((code, reason)) = close {
            // Nobody waits for room for a command of a session that is over, or the device would stay as long as that.
            self.work = None;
            self.session.end(code, reason);
        }
    }

    /// Reads on in the inbox when the device is behind and its window has room.
    pub(super) fn start_reading(&mut self) {
        let Some(member) = &mut self.member else {
            return;
        };
        if member.reading.is_some() || member.retry_at.is_some() {
            return;
        }
        match member.window.want() {
            Want::Nothing => {}
            Want::Read {
                after,
                max_events,
                max_bytes,
            } => {
                let (shared, user) = (Arc::clone(&self.shared), member.user);
                member.reading = Some(Box::pin(async move {
                    let queries = &shared.with.queries;
                    queries.inbox_page(user, after, max_events, max_bytes).await
                }));
            }
        }
    }

    pub(super) fn retry_read(&mut self) {
        if let Some(member) = &mut self.member
            && member.retry_at.is_some_and(|at| at <= Instant::now())
        {
            member.retry_at = None;
        }
    }

    pub(super) fn take_page(&mut self, page: Result<InboxPage, QueryError>) {
        let Some(member) = &mut self.member else {
            return;
        };
        member.reading = None;
        let Ok(page) = page else {
            return self.unavailable();
        };
        let metrics = &self.shared.with.metrics;
        if page.trimmed {
            metrics.sessions_closed_trimmed.inc();
            let reason =
                "QP-RESUME-3: the next event is no longer kept; connect again and begin anew";
            return self.session.close(CloseCode::Busy, reason);
        }
        if page
            .events
            .first()
            .is_some_and(|(first, _)| *first != member.window.next())
        {
            tracing::error!(user = %member.user, next = %member.window.next(), "the inbox has a hole");
            return self
                .session
                .close(CloseCode::Internal, "the inbox has a hole");
        }
        let mut bytes = 0;
        for (inbox_seq, len) in &page.events {
            if !member.window.fits(*len) {
                break;
            }
            member.window.sent(*inbox_seq, *len);
            metrics.events_caught_up.inc();
            bytes += len;
        }
        if bytes > 0 {
            metrics.event_bytes.inc_by(bytes as u64);
            self.lane.push(page.frames.slice(..bytes));
            member.gap_tries = 0;
        } else if page.gap {
            member.gap_tries += 1;
            let wait = GAP_WAIT_MIN * 2u32.pow(member.gap_tries.min(16));
            member.retry_at = Some(Instant::now() + wait.min(GAP_WAIT_MAX));
        }
        if let Err(error) = member.window.page(page.last, page.exhausted) {
            tracing::error!(user = %member.user, %error, "the inbox ends too early");
            return self.unavailable();
        }
        if member.gap_tries > GAP_TRIES_MAX {
            tracing::error!(user = %member.user, next = %member.window.next(), "a history row does not come");
            self.unavailable();
        }
    }
}
