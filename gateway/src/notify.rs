//! Tells somebody else, by webhook, about messages that no device of a user took in time.
//!
//! The offline topic is a part of the store: processors write into it what waits, in the turn that makes it wait. The notifier
//! posts what has waited for long enough and reports to the log, whose answer takes it out again. So a webhook that was not
//! posted, or posted and not reported, is posted again after whatever crash, under the same id.

pub mod dead_letters;
pub mod letters;
pub mod notifier;
pub mod post;
pub mod schedule;
pub mod sign;
pub mod sweep;
pub mod topic;
mod visit;

pub use self::notifier::Notifier;
pub use self::topic::Topic;
