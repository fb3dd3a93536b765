//! Whole clusters in virtual time: one seed chooses a world and what goes wrong in it, and a checker judges what people saw.
//!
//! The machines are the real ones: [`ShardState`](quipu_core::shard::ShardState) with the processor's turn around it,
//! [`DeliveryWindow`](quipu_core::delivery::DeliveryWindow), both halves of a session, the client's outbox and receipts. The
//! log, the store, the network, the disks and the clock are simulated, so that everything can fail at any moment. One
//! thread runs one seed, and a seed always gives the same run.
//!
//! Presence is what the [`Board`](quipu_core::watch::Board) of one gateway says: seeds with several gateways have nobody who
//! watches, since a gateway knows only of its own sessions who is here. Typing is decided outside the core, and is not simulated.

mod acts;
mod checker;
mod device;
mod disk;
mod faults;
mod gateway;
mod link;
mod log;
mod names;
mod plan;
mod processor;
mod queries;
mod retention;
mod rng;
mod run;
mod sabotage;
mod session;
mod spoil;
mod store;
mod story;
mod trace;
mod watch;
mod world;

pub use checker::Violation;
pub use run::{Options, Outcome, run};
pub use sabotage::Sabotage;
