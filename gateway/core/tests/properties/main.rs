//! Properties of the machines over random histories. A failure prints one seed's smallest case, which becomes a script.

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod bytes;
mod changes;
mod cluster;
mod delivery;
mod groups;
mod large_group;
mod offline;
mod repeats;
mod retention;
mod shard;
mod story;

/// So many cases, or as many as `PROPTEST_CASES` says: a longer search is one variable away.
fn config(cases: u32) -> proptest::prelude::ProptestConfig {
    let default = proptest::prelude::ProptestConfig::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default.cases,
        None => cases,
    };
    proptest::prelude::ProptestConfig { cases, ..default }
}
