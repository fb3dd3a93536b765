//! The fuzz targets. Under `cargo test` each runs its committed seeds and some thousand random inputs.

use std::time::Instant;

use bolero::check;

/// Random inputs of each target in a plain test; `cargo bolero` runs as many as one likes.
const ITERATIONS: usize = 20_000;

#[test]
fn frames_in_any_split() {
    check!()
        .with_iterations(ITERATIONS)
        .for_each(quipu_fuzz::frames::any_split);
}

#[test]
fn datagrams() {
    check!()
        .with_iterations(ITERATIONS)
        .for_each(quipu_fuzz::datagrams::either_side);
}

#[test]
fn server_session() {
    let start = Instant::now();
    check!()
        .with_iterations(ITERATIONS)
        .for_each(|input: &[u8]| quipu_fuzz::sessions::server(start, input));
}

#[test]
fn client_session() {
    let start = Instant::now();
    check!()
        .with_iterations(ITERATIONS)
        .for_each(|input: &[u8]| quipu_fuzz::sessions::client(start, input));
}

#[test]
fn wire_messages() {
    check!()
        .with_iterations(ITERATIONS)
        .for_each(quipu_fuzz::wire::every_message);
}

#[test]
fn stored_rows() {
    check!()
        .with_iterations(ITERATIONS)
        .for_each(quipu_fuzz::rows::every_row);
}

#[test]
fn store_keys() {
    check!()
        .with_iterations(ITERATIONS)
        .for_each(quipu_fuzz::keys::two_keys);
}

#[test]
fn configuration() {
    check!()
        .with_iterations(ITERATIONS)
        .for_each(quipu_fuzz::configuration::any_file);
}
