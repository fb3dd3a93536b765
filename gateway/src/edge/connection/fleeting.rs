//! The way of typing and presence: datagrams of the device, what its session is told, and what the user decides about either.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quipu_core::row::Settings;
use quipu_protocol::limits::FRAME_BYTES_MAX;

use super::Driver;
use crate::edge::talk::Found;
use crate::ephemeral::{Fleeting, Watch};

/// Bytes that wait on a lane above which typing and presence are not told: the device does not keep up with messages.
const LANE_BEFORE_DATAGRAMS_BYTES_MAX: usize = FRAME_BYTES_MAX;

impl Driver {
    /// Takes a datagram of the device.
    pub(super) fn hear(&mut self, datagram: &Bytes) {
        let welcomed = self.session.is_welcomed();
        let Some(member) = self.member.as_mut().filter(|_| welcomed) else {
            self.shared.with.metrics.datagrams_ignored.inc();
            return;
        };
        let talk = member.talk.get_or_insert_default();
        talk.hear(Instant::now(), datagram, &self.shared);
        self.talk();
    }

    /// Takes what the session is told.
    pub(super) fn told(&mut self, fleeting: Fleeting) {
        if let Some(member) = &mut self.member {
            member.talk.get_or_insert_default().tell(fleeting);
            self.talk();
        }
    }

    /// Takes what typing or presence waited for.
    pub(super) fn found(&mut self, found: Found) {
        let Some(member) = &mut self.member else {
            return;
        };
        let Some(talk) = &mut member.talk else {
            return;
        };
        talk.finding = None;
        match found {
            Found::Settings(Ok(settings)) => {
                member.settings.get_or_insert_with(|| Arc::new(settings));
            }
            Found::Members(conversation, Ok(members)) => {
                talk.learn(Instant::now(), conversation, members);
            }
            Found::Settings(Err(_)) | Found::Members(_, Err(_)) => talk.give_up(),
        }
        self.talk();
    }

    /// What the user has decided anew holds for everything that is told from now on.
    pub(super) fn decided(&mut self, settings: Arc<Settings>) {
        let Some(member) = &mut self.member else {
            return;
        };
        member.settings = Some(settings);
        if let Some(talk) = &mut member.talk {
            talk.forget_presence();
        }
        let Some(Watch(watching)) = &member.watch else {
            return;
        };
        let watching = Arc::clone(watching);
        if let Some(begun) = watching.begin_again() {
            let queries = self.shared.with.queries.clone();
            tokio::spawn(async move { queries.presence_again(watching, begun).await });
        }
    }

    /// Brings typing and presence on their way as far as there is room. They are what is dropped first.
    fn talk(&mut self) {
        let Some(member) = &mut self.member else {
            return;
        };
        let Some(talk) = &mut member.talk else {
            return;
        };
        let settings = member.settings.as_deref();
        let bytes_max = self.connection.max_datagram_size();
        let (now, user) = (Instant::now(), member.user);
        let datagrams = talk.go_on(now, &self.shared, user, settings, bytes_max);
        let metrics = &self.shared.with.metrics;
        for datagram in datagrams {
            let fits = self.lane.len() <= LANE_BEFORE_DATAGRAMS_BYTES_MAX
                && self.connection.datagram_send_buffer_space() >= datagram.len();
            if fits && self.connection.send_datagram(datagram).is_ok() {
                metrics.datagrams_sent.inc();
            } else {
                metrics.datagrams_dropped.inc();
            }
        }
    }
}
