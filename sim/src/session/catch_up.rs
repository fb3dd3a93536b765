//! What a session missed, read from the store: pages of the inbox, as messages are now.

use bytes::BytesMut;
use quipu_core::delivery::Want;
use quipu_core::row::{HistoryRow, InboxKind};
use quipu_protocol::error::CloseCode;
use quipu_protocol::event::{Changed, ChangedKind, Content, EventBody, MessageState};
use quipu_protocol::frame::{self, FrameType};
use quipu_protocol::id::{Cursor, InboxSeq, UserId};
use quipu_protocol::wire;

use super::UNAVAILABLE;
use crate::plan::{MS, Us};
use crate::sabotage::Sabotage;
use crate::world::{AtGateway, LinkNo, Stream, World};

/// Waits before a page that ended at a missing history row is read again.
const GAP_WAIT_MIN: Us = 2 * MS;
const GAP_WAIT_MAX: Us = 500 * MS;
/// Tries without progress after which a session is closed.
const GAP_TRIES_MAX: u32 = 64;

/// Part of an inbox, as EVENT frames.
#[derive(Debug, Default)]
pub(crate) struct Page {
    frames: BytesMut,
    events: Vec<(InboxSeq, usize)>,
    last: Option<InboxSeq>,
    exhausted: bool,
    gap: bool,
    /// The event after the cursor is no longer kept.
    trimmed: bool,
}

impl World {
    pub(super) fn start_reading(&mut self, gateway: usize, link: LinkNo) {
        let session = self.session(gateway, link);
        let Some(member) = session.and_then(|session| session.member.as_mut()) else {
            return;
        };
        if member.reading || member.retry_at.is_some() || member.window.want() == Want::Nothing {
            return;
        }
        member.reading = true;
        let after = self.moment();
        self.tell_gateway(gateway, after, AtGateway::ReadPage(link));
    }

    /// The store is read; what was found takes a while to come back.
    pub(crate) fn read_page(&mut self, gateway: usize, link: LinkNo) {
        let session = self.session(gateway, link);
        let Some(member) = session.and_then(|session| session.member.as_mut()) else {
            return;
        };
        let user = member.user;
        let Want::Read {
            after,
            max_events,
            max_bytes,
        } = member.window.want()
        else {
            member.reading = false;
            return;
        };
        let page = self.inbox_page(user, after, max_events, max_bytes);
        let last = page.last.map_or(0, InboxSeq::get);
        let from = after.0;
        self.note("page", &[("link", link), ("from", from), ("last", last)]);
        let after = self.moment();
        self.tell_gateway(gateway, after, AtGateway::Page(link, Box::new(page)));
    }

    fn inbox_page(&self, user: UserId, after: Cursor, max_events: usize, max_bytes: usize) -> Page {
        let rows = self.store.inbox(user, after, max_events);
        let first = rows.first().map(|row| row.inbox_seq);
        if first.is_some_and(|first| first != after.next()) && !self.inbox(&user).keeps_after(after)
        {
            return Page {
                trimmed: true,
                ..Page::default()
            };
        }
        let mut page = Page {
            last: rows.last().map(|row| row.inbox_seq),
            exhausted: rows.len() < max_events,
            ..Page::default()
        };
        for row in rows {
            let body = match row.kind {
                InboxKind::Receipt(receipt) => EventBody::Receipt(receipt),
                InboxKind::Invitation(invitation) => EventBody::Invitation(invitation),
                InboxKind::Changed(changed) => match self.as_it_is_now(*changed) {
                    Some(changed) => EventBody::Changed(Box::new(changed)),
                    None => {
                        page.gap = true;
                        page.exhausted = false;
                        break;
                    }
                },
                InboxKind::Message { conversation, seq } => {
                    let Some(HistoryRow(message)) = self.store.message(conversation, seq) else {
                        page.gap = true;
                        page.exhausted = false;
                        break;
                    };
                    let mut message = self.readable(message);
                    if let Some(state) = &mut message.state {
                        // Each change has an event of its own, which is still to come.
                        let counts = self.sabotage == Some(Sabotage::CountAhead);
                        **state = MessageState {
                            version: if counts { state.version } else { 0 },
                            expires_at: state.expires_at,
                            ..MessageState::default()
                        };
                    }
                    EventBody::Message(message)
                }
            };
            let start = page.frames.len();
            let event = wire::Event::numbered(row.inbox_seq, &body);
            frame::encode(FrameType::Event, &event, &mut page.frames);
            if page.frames.len() > max_bytes && start > 0 {
                page.frames.truncate(start);
                page.exhausted = false;
                break;
            }
            page.events.push((row.inbox_seq, page.frames.len() - start));
        }
        page
    }

    /// A change with the words that the message has now. `None`: the history has not come so far.
    fn as_it_is_now(&self, mut changed: Changed) -> Option<Changed> {
        if !matches!(changed.kind, ChangedKind::Edited(_)) {
            return Some(changed);
        }
        let found = self.store.message(changed.conversation, changed.seq)?;
        let message = self.readable(found.0);
        let version = message.state.as_ref().map_or(0, |state| state.version);
        if version < changed.version && self.sabotage != Some(Sabotage::StaleWords) {
            return None;
        }
        changed.kind = match message.content {
            Content::Gone(gone) => ChangedKind::Gone(gone),
            content => ChangedKind::Edited(content),
        };
        Some(changed)
    }

    pub(crate) fn take_page(&mut self, gateway: usize, link: LinkNo, page: Page) {
        let now = self.now;
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        let Some(member) = &mut session.member else {
            return;
        };
        member.reading = false;
        if page.trimmed {
            let reason = "the next event is no longer kept";
            session.session.close(CloseCode::Busy, reason);
            return self.settle(gateway, link);
        }
        let mut wrong = None;
        let hole = page
            .events
            .first()
            .is_some_and(|(first, _)| *first != member.window.next());
        if hole {
            wrong = Some(format!("the inbox of {} has a hole", member.user));
        }
        let mut bytes = 0;
        for (inbox_seq, length) in page.events.iter().filter(|_| !hole) {
            if !member.window.fits(*length) {
                break;
            }
            member.window.sent(*inbox_seq, *length);
            bytes += length;
        }
        if bytes > 0 {
            member.gap_tries = 0;
        } else if page.gap {
            member.gap_tries += 1;
            let wait = GAP_WAIT_MIN << member.gap_tries.min(16);
            member.retry_at = Some(now + wait.min(GAP_WAIT_MAX));
        }
        if let Err(error) = member.window.page(page.last, page.exhausted) {
            wrong = Some(format!("{}: {error}", member.user));
        }
        if member.gap_tries > GAP_TRIES_MAX {
            session
                .session
                .close(UNAVAILABLE.0, "a history row does not come");
        }
        if let Some(what) = wrong {
            session.session.close(UNAVAILABLE.0, UNAVAILABLE.1);
            self.checker
                .condemn("the store lacks what was pushed", what);
        }
        if bytes > 0 {
            self.write(link, Stream::Lane, &page.frames[..bytes]);
        }
        self.settle(gateway, link);
    }

    /// Inbox entries that a user has, by the store.
    pub(crate) fn inbox_head(&self, user: UserId) -> u64 {
        self.inbox(&user).head.map_or(0, InboxSeq::get)
    }
}
