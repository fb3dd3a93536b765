//! `Debug` of what carries the hash of a password: a hash in a log can be guessed at, at leisure.

use std::fmt;

use super::CommandKind;
use crate::row::Account;

/// Whether there is a password, and nothing of it.
fn redacted(password: Option<&String>) -> Option<&'static str> {
    password.map(|_| "(redacted)")
}

impl fmt::Debug for CommandKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send {
                conversation,
                client_seq,
                id,
                content,
            } => f
                .debug_struct("Send")
                .field("conversation", conversation)
                .field("client_seq", client_seq)
                .field("id", id)
                .field("content", content)
                .finish(),
            Self::OpenDirect { request, peer } => f
                .debug_struct("OpenDirect")
                .field("request", request)
                .field("peer", peer)
                .finish(),
            Self::Receipt {
                conversation,
                delivered,
                read,
                quiet,
            } => f
                .debug_struct("Receipt")
                .field("conversation", conversation)
                .field("delivered", delivered)
                .field("read", read)
                .field("quiet", quiet)
                .finish(),
            Self::Change {
                request,
                client_seq,
                change,
                fan_out_max,
            } => f
                .debug_struct("Change")
                .field("request", request)
                .field("client_seq", client_seq)
                .field("change", change)
                .field("fan_out_max", fan_out_max)
                .finish(),
            Self::Register {
                request,
                password,
                device,
            } => f
                .debug_struct("Register")
                .field("request", request)
                .field("password", &redacted(password.as_ref()))
                .field("device", device)
                .finish(),
            Self::AddDevice { request, device } => f
                .debug_struct("AddDevice")
                .field("request", request)
                .field("device", device)
                .finish(),
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("password", &redacted(self.password.as_ref()))
            .field("created_at", &self.created_at)
            .field("devices", &self.devices)
            .finish()
    }
}
