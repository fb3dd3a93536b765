//! Tells somebody else, by webhook, about messages that no device of a user took in time.

pub mod post;
pub mod schedule;
pub mod sign;
