//! Everything that shows results: the report as JSON, text, Markdown and HTML, gates, comparisons, and the live screen.
//!
//! [`model`] is what a report holds; the engine's data becomes a [`model::Report`] in one place, [`build`]. Everything else
//! reads it: what one form of a report says, all of them say.

pub(crate) mod build;
pub(crate) mod ceiling;
pub(crate) mod command;
pub(crate) mod compare;
pub(crate) mod distribution;
pub(crate) mod environment;
pub(crate) mod gate;
pub(crate) mod html;
pub(crate) mod live;
pub(crate) mod markdown;
pub(crate) mod metrics;
pub(crate) mod model;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod schema;
pub(crate) mod text;
pub(crate) mod versus;
