//! `Debug` of the wire messages that carry secrets: it shows everything else.

use std::fmt;

use crate::wire;

/// Stands for a secret: says only whether there is one.
const fn hidden(is_empty: bool) -> &'static str {
    if is_empty { "none" } else { "hidden" }
}

impl fmt::Debug for wire::Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register")
            .field("name", &self.name)
            .field("password", &hidden(self.password.is_empty()))
            .field("device_label", &self.device_label)
            .field("invitation", &hidden(self.invitation.is_empty()))
            .finish()
    }
}

impl fmt::Debug for wire::Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("name", &self.name)
            .field("password", &hidden(self.password.is_empty()))
            .field("device_label", &self.device_label)
            .finish()
    }
}

impl fmt::Debug for wire::SessionAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionAuth")
            .field("name", &self.name)
            .field("device", &self.device)
            .field("token", &hidden(self.token.is_empty()))
            .finish()
    }
}

impl fmt::Debug for wire::External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("External")
            .field("jwt", &hidden(self.jwt.is_empty()))
            .field("device_label", &self.device_label)
            .field("device", &self.device)
            .field("token", &hidden(self.token.is_empty()))
            .finish()
    }
}

impl fmt::Debug for wire::Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh")
            .field("request", &self.request)
            .field("jwt", &hidden(self.jwt.is_empty()))
            .finish()
    }
}

impl fmt::Debug for wire::Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome")
            .field("user", &self.user)
            .field("device", &self.device)
            .field("token", &hidden(self.token.is_empty()))
            .field("resume", &self.resume)
            .field("cursor", &self.cursor)
            .field("life", &self.life)
            .field("server_time_ms", &self.server_time_ms)
            .field("agent", &self.agent)
            .field("limits", &self.limits)
            .field("gateway", &self.gateway)
            .field("next_gateways", &self.next_gateways)
            .finish()
    }
}
