//! How a session begins and ends: HELLO is judged, the registry and the log learn of the device, and of its leaving.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quipu_core::delivery::DeliveryWindow;
use quipu_core::record::Fact;
use quipu_protocol::credentials::Hello;
use quipu_protocol::frame::{self, FrameType};
use quipu_protocol::id::UserId;
use quipu_protocol::wire;

use super::commands::carry;
use super::{Counted, Driver, Member, Work, close};
use crate::accounts::{Admitted, Refusal, now_ms};
use crate::edge::attendance::Attendance;
use crate::edge::throttle::Throttle;
use crate::router::{NoRoom, Submission};

/// Longest time that a close waits for what S0 still holds; below the second that QP-SELF-1 allows.
const FAREWELL_MAX: Duration = Duration::from_millis(500);
/// Round trips that it waits for what is written.
const FAREWELL_RTTS: u32 = 4;

impl Driver {
    pub(super) fn authenticate(&mut self, hello: Hello) {
        let shared = Arc::clone(&self.shared);
        let from = self.connection.remote_address().ip();
        self.work = Some(Box::pin(async move {
            Work::Admitted(Box::new(shared.with.accounts.admit(hello, from).await))
        }));
    }

    pub(super) fn admitted(&mut self, result: Result<Admitted, Refusal>) {
        let Admitted {
            welcome,
            expires_at,
        } = match result {
            Ok(admitted) => admitted,
            Err(refusal) => return self.session.close(refusal.code, &refusal.words()),
        };
        let (user, device, cursor) = (welcome.user, welcome.device, welcome.cursor);
        self.session.welcome(welcome);
        if !self.session.is_welcomed() {
            // It timed out, or was told to go away, while its credentials were being checked.
            return;
        }
        self.unwelcomed = None;
        if let Some(at) = expires_at {
            self.session.expire_at(at);
        }
        // Attached before the inbox is read for the first time, or an event between the two would be missed.
        let attached = self
            .shared
            .with
            .registry
            .attach(user, device, Arc::clone(&self.mailbox));
        let attendance = Attendance::new(&self.shared.with.sessions, device);
        self.announce(user, attendance.attached(cursor));
        self.member = Some(Member {
            user,
            device,
            window: DeliveryWindow::new(cursor),
            attendance,
            reading: None,
            gap_tries: 0,
            retry_at: None,
            throttle: Throttle::default(),
            blobs: None,
            settings: None,
            talk: None,
            watch: None,
            check_due: false,
            _attached: attached,
            _counted: Counted::new(&self.shared),
        });
        let mut bytes = BytesMut::new();
        let lane = wire::Lane { index: 0, lanes: 1 };
        frame::encode(FrameType::Lane, &lane, &mut bytes);
        self.lane.push(bytes.freeze());
        if self.shared.draining.load(Ordering::SeqCst) {
            self.go_away();
        }
    }

    /// Tells the log that the session began; before any command of it.
    fn announce(&mut self, user: UserId, fact: Fact) {
        let shared = Arc::clone(&self.shared);
        match shared.with.router.try_submit(Submission::Fact(user, fact)) {
            Ok(()) => {
                shared.with.metrics.facts_submitted.inc();
            }
            Err(NoRoom::Full(fact)) => {
                self.work = Some(Box::pin(async move {
                    Work::Submitted(carry(&shared, *fact).await)
                }));
            }
            Err(NoRoom::Unavailable(_)) => self.unavailable(),
        }
    }

    /// Tells the log when the device has stopped acking, or goes on.
    pub(super) fn check_attendance(&mut self) {
        let Some(member) = &mut self.member else {
            return;
        };
        let now = Instant::now();
        let cursor = member.window.acked();
        let Some(fact) = member.attendance.check(now, now_ms(), cursor) else {
            return;
        };
        let with = &self.shared.with;
        let told = with.router.try_submit(Submission::Fact(member.user, fact));
        member.attendance.told(told.is_ok(), now);
        if told.is_ok() {
            with.metrics.facts_submitted.inc();
            if member.attendance.is_stalled() {
                with.metrics.sessions_stalled.inc();
            }
        }
    }

    pub(super) fn go_away(&mut self) {
        let go_away = self.shared.go_away();
        self.session.go_away(Instant::now(), go_away);
    }

    /// Writes what S0 holds and gives it the time to arrive, also if its packet is lost once. A close drops what is under way,
    /// and S0 cannot be finished, which the peer would take for a fault.
    async fn finish_s0(&mut self) {
        while !self.s0.is_empty() {
            if self.s0.write_some(&mut self.s0_send).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(self.connection.rtt() * FAREWELL_RTTS).await;
    }

    /// Tells the log that the session is over, and up to where its device has come.
    pub(super) async fn leave(mut self) {
        if let Some((code, reason)) = self.farewell.take() {
            // A peer that does not read is not waited for.
            let _ = tokio::time::timeout(FAREWELL_MAX, self.finish_s0()).await;
            close(&self.connection, code, &reason);
        }
        let Some(member) = self.member.take() else {
            return;
        };
        let fact = member.attendance.detached(member.window.acked());
        let user = member.user;
        // From here on nothing is pushed to it, so that the log may say so.
        drop(member);
        // Without a router the gateway is stopping, and its next life finds out.
        let _ = carry(&self.shared, Submission::Fact(user, fact)).await;
    }
}
