//! Webhooks against a real HTTP receiver that answers, refuses, stalls and comes back.

#[path = "../edge/peer.rs"]
#[allow(dead_code, reason = "these tests need a part of what it can")]
mod peer;
mod post;
mod receiver;
mod webhooks;
mod whole;
mod world;
