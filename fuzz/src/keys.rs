//! Keys of the store: bytes that are a key are the only bytes of that key, and the order of bytes is the order of keys.

use std::fmt::Debug;

use quipu_core::row::IndexKey;
use quipu_gateway::store::keys;

/// The first byte says where the rest is cut into two keys.
pub fn two_keys(input: &[u8]) {
    let [cut, bytes @ ..] = input else { return };
    let (one, other) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    agree(one, other, |key| keys::read_entity(key).ok(), keys::entity);
    agree(
        one,
        other,
        |key| IndexKey::decode(key).ok(),
        IndexKey::encode,
    );
    agree(
        one,
        other,
        |key| keys::read_shard(key).ok(),
        |shard| keys::shard(*shard).to_vec(),
    );
    agree(
        one,
        other,
        |key| keys::read_history(key).ok(),
        |(conversation, seq)| keys::history(conversation, *seq).to_vec(),
    );
    agree(
        one,
        other,
        |key| keys::read_inbox(key).ok(),
        |(user, seq)| keys::inbox(user, *seq),
    );
}

fn agree<K: Ord + Debug>(
    one: &[u8],
    other: &[u8],
    read: impl Fn(&[u8]) -> Option<K>,
    write: impl Fn(&K) -> Vec<u8>,
) {
    let (first, second) = (read(one), read(other));
    for (key, bytes) in [(&first, one), (&second, other)] {
        if let Some(key) = key {
            assert_eq!(write(key), bytes, "{key:?}");
        }
    }
    if let (Some(first), Some(second)) = (&first, &second) {
        assert_eq!(
            first.cmp(second),
            one.cmp(other),
            "{first:?} and {second:?}"
        );
    }
}
