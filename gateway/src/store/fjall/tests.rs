//! The fjall store against the contract.

use std::path::Path;

use quipu_core::shard::ShardCount;

use super::*;
use crate::contract::store::{durable_suite, suite};

const CACHE_BYTES: u64 = 1024 * 1024;

fn open(path: &Path) -> FjallStore {
    let folder = DataFolder::open_or_create(path, ShardCount(4)).expect("the folder opens");
    FjallStore::open(&folder, CACHE_BYTES).expect("the store opens")
}

#[test]
fn passes_the_contract() {
    let mut folders = Vec::new();
    suite(&mut || {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        folders.push(dir);
        Box::new(store)
    });
}

#[test]
fn survives_being_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    durable_suite(&mut || Box::new(open(dir.path())));
}

#[test]
fn the_store_of_another_log_is_refused() {
    let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    drop(open(one.path()));
    drop(open(other.path()));
    let [from, to] = [one.path().join("store"), other.path().join("store")];
    std::fs::remove_dir_all(&to).unwrap();
    std::fs::rename(from, to).unwrap();
    let folder = DataFolder::open_existing(other.path()).unwrap();
    let Err(refused) = FjallStore::open(&folder, CACHE_BYTES) else {
        panic!("it must be refused");
    };
    assert!(refused.to_string().contains("another log"), "{refused}");
}
