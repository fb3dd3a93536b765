//! What the gateway says about the connection itself: WELCOME and GOAWAY, checked.

use std::fmt;

use bytes::Bytes;

use crate::credentials::Token;
use crate::error::CloseCode;
use crate::id::{Cursor, DeviceId, TimestampMs, UserId};
use crate::limits::{
    FRAME_BYTES_MAX, KEEP_ALIVE_MS, LABEL_BYTES_MAX, NEXT_GATEWAYS_MAX, REQUEST_STREAMS_MAX,
    SENDS_IN_FLIGHT_MAX, TEXT_BYTES_MAX,
};
use crate::violation::Violation;
use crate::wire;

/// The answer to HELLO: who the device is now, and where its events go on. `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The user who has connected.
    pub user: UserId,
    /// The device that has connected.
    pub device: DeviceId,
    /// After registering and logging in: what later connections prove themselves with. To be kept secret.
    pub token: Option<Token>,
    /// Whether events go on after the device's own cursor. If not, it drops what it has cached.
    pub resumed: bool,
    /// The first EVENT on the lane is the one after it.
    pub cursor: Cursor,
    /// Name of the inbox's life; a cursor is worth nothing in another.
    pub life: u64,
    /// The gateway's clock.
    pub server_time: TimestampMs,
    /// Gateway software and version; at most [`LABEL_BYTES_MAX`] bytes.
    pub agent: String,
    /// What this gateway accepts.
    pub limits: Limits,
    /// `HOST:PORT` that the user is pinned to; empty: this one.
    pub gateway: String,
    /// Who takes over if that one dies, in order; at most [`NEXT_GATEWAYS_MAX`].
    pub next_gateways: Vec<String>,
}

impl fmt::Debug for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome")
            .field("user", &self.user)
            .field("device", &self.device)
            .field("token", &self.token.map(|_| "secret"))
            .field("resumed", &self.resumed)
            .field("cursor", &self.cursor)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// What a gateway accepts. The default is what this version's gateways say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest frame on S0, body only, in bytes; at least [`FRAME_BYTES_MAX`].
    pub frame_bytes: u32,
    /// Longest text, in bytes; at least 1.
    pub text_bytes: u32,
    /// Unanswered SENDs of a device in one conversation; at least 1.
    pub sends_in_flight: u32,
    /// Request streams open at once; at least 1.
    pub request_streams: u32,
    /// How often the client lets itself be heard, in milliseconds; at least 1.
    pub keep_alive_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: FRAME_BYTES_MAX as u32,
            text_bytes: TEXT_BYTES_MAX as u32,
            sends_in_flight: SENDS_IN_FLIGHT_MAX as u32,
            request_streams: REQUEST_STREAMS_MAX as u32,
            keep_alive_ms: KEEP_ALIVE_MS as u32,
        }
    }
}

/// The gateway will close this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoAway {
    /// The code that it will close with.
    pub code: CloseCode,
    /// For a person; at most [`REASON_BYTES_MAX`](crate::limits::REASON_BYTES_MAX) bytes.
    pub reason: String,
    /// `HOST:PORT` to go to; empty: the same.
    pub authority: String,
    /// When it closes, in milliseconds from now.
    pub deadline_ms: u32,
    /// The client waits a random part of this before it connects anew, in milliseconds.
    pub jitter_ms: u32,
}

impl TryFrom<wire::Welcome> for Welcome {
    type Error = Violation;

    fn try_from(welcome: wire::Welcome) -> Result<Self, Violation> {
        let broken = |what| Violation::new("QP-WELCOME-2", what);
        let resumed = match wire::ResumeResult::try_from(welcome.resume) {
            Ok(wire::ResumeResult::Resumed) => true,
            Ok(wire::ResumeResult::Resync) => false,
            Ok(wire::ResumeResult::Unspecified) | Err(_) => {
                return Err(broken("resume is RESUMED or RESYNC"));
            }
        };
        let token = match welcome.token.as_ref() {
            [] => None,
            token => Some(
                token
                    .try_into()
                    .map_err(|_| broken("a token has 32 bytes"))?,
            ),
        };
        if welcome.agent.len() > LABEL_BYTES_MAX {
            return Err(broken("an agent has at most 64 bytes"));
        }
        if welcome.next_gateways.len() > NEXT_GATEWAYS_MAX {
            return Err(broken("at most 8 next gateways are named"));
        }
        let limits = welcome.limits.ok_or_else(|| broken("limits are present"))?;
        Ok(Self {
            user: UserId::new(&welcome.user).map_err(|_| broken("user is a user id"))?,
            device: DeviceId::new(welcome.device).map_err(|_| broken("device is not 0"))?,
            token,
            resumed,
            cursor: Cursor(welcome.cursor),
            life: welcome.life,
            server_time: TimestampMs(welcome.server_time_ms),
            agent: welcome.agent,
            limits: limits.try_into()?,
            gateway: welcome.gateway,
            next_gateways: welcome.next_gateways,
        })
    }
}

impl From<Welcome> for wire::Welcome {
    fn from(welcome: Welcome) -> Self {
        let resume = if welcome.resumed {
            wire::ResumeResult::Resumed
        } else {
            wire::ResumeResult::Resync
        };
        Self {
            user: welcome.user.to_string(),
            device: welcome.device.get(),
            token: welcome
                .token
                .map(|token| Bytes::copy_from_slice(&token))
                .unwrap_or_default(),
            resume: resume.into(),
            cursor: welcome.cursor.0,
            life: welcome.life,
            server_time_ms: welcome.server_time.0,
            agent: welcome.agent,
            limits: Some(welcome.limits.into()),
            gateway: welcome.gateway,
            next_gateways: welcome.next_gateways,
        }
    }
}

impl TryFrom<wire::Limits> for Limits {
    type Error = Violation;

    fn try_from(limits: wire::Limits) -> Result<Self, Violation> {
        let each = [
            limits.text_bytes,
            limits.sends_in_flight,
            limits.request_streams,
            limits.keep_alive_ms,
        ];
        if (limits.frame_bytes as usize) < FRAME_BYTES_MAX || each.contains(&0) {
            return Err(Violation::new(
                "QP-WELCOME-4",
                "no limit is below its minimum",
            ));
        }
        Ok(Self {
            frame_bytes: limits.frame_bytes,
            text_bytes: limits.text_bytes,
            sends_in_flight: limits.sends_in_flight,
            request_streams: limits.request_streams,
            keep_alive_ms: limits.keep_alive_ms,
        })
    }
}

impl From<Limits> for wire::Limits {
    fn from(limits: Limits) -> Self {
        Self {
            frame_bytes: limits.frame_bytes,
            text_bytes: limits.text_bytes,
            sends_in_flight: limits.sends_in_flight,
            request_streams: limits.request_streams,
            keep_alive_ms: limits.keep_alive_ms,
        }
    }
}

impl From<wire::GoAway> for GoAway {
    /// Takes whatever came: the connection ends anyway, and an unknown code is INTERNAL (QP-ERROR-2).
    fn from(go_away: wire::GoAway) -> Self {
        Self {
            code: CloseCode::from_code(u64::from(go_away.code)),
            reason: go_away.reason,
            authority: go_away.authority,
            deadline_ms: go_away.deadline_ms,
            jitter_ms: go_away.jitter_ms,
        }
    }
}

impl From<GoAway> for wire::GoAway {
    fn from(go_away: GoAway) -> Self {
        Self {
            code: go_away.code.code(),
            reason: go_away.reason,
            authority: go_away.authority,
            deadline_ms: go_away.deadline_ms,
            jitter_ms: go_away.jitter_ms,
        }
    }
}
