//! Tests of the screen as a whole: what it shows, and what it survives.

mod news;
mod properties;
mod scene;
mod screens;
mod wishes;
