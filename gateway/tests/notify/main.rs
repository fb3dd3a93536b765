//! Webhooks against a real HTTP receiver that answers, refuses, stalls and comes back.

mod post;
mod receiver;
