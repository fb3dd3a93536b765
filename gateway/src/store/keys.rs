//! How rows are keyed in a byte-ordered store: the order of the bytes is the order of the rows.

use quipu_core::row::{CorruptRow, EntityKey};
use quipu_core::shard::ShardId;
use quipu_protocol::id::{ConversationId, InboxSeq, InvalidId, Seq, UserId};

const ACCOUNT: u8 = 1;
const INBOX: u8 = 2;
const CONVERSATION: u8 = 3;
const SETTINGS: u8 = 4;
const MEMBER: u8 = 5;
const ROSTER: u8 = 6;
const ANSWERS: u8 = 7;
const NEWS: u8 = 8;
const PRESENCE: u8 = 0x10;
const DEAD_LETTERS: u8 = 0x11;
/// Ends a name inside a longer key. No name holds it, and it is below every byte of one.
const NAME_END: u8 = 0;

/// `shard`, two bytes, big-endian.
pub fn shard(shard: ShardId) -> [u8; 2] {
    shard.0.to_be_bytes()
}

/// Reads what [`shard`] wrote; anything else is corrupt.
pub fn read_shard(key: &[u8]) -> Result<ShardId, CorruptRow> {
    let bytes = key.try_into().map_err(|_| corrupt("two bytes", key))?;
    Ok(ShardId(u16::from_be_bytes(bytes)))
}

/// A tag, then the 16 bytes of the conversation, the name, both, the two bytes of the shard, conversation and shard, or name, a
/// zero byte and shard. A message has no key of this kind: it is in the history.
pub fn entity(key: &EntityKey) -> Vec<u8> {
    let parts = |tag: u8, first: &[u8], second: &[u8]| {
        let mut bytes = Vec::with_capacity(1 + first.len() + second.len());
        bytes.push(tag);
        bytes.extend_from_slice(first);
        bytes.extend_from_slice(second);
        bytes
    };
    match key {
        EntityKey::Account(user) => parts(ACCOUNT, user.as_str().as_bytes(), &[]),
        EntityKey::Inbox(user) => parts(INBOX, user.as_str().as_bytes(), &[]),
        EntityKey::Conversation(conversation) => parts(CONVERSATION, conversation.as_bytes(), &[]),
        EntityKey::Message(conversation, seq) => history(conversation, *seq).to_vec(),
        EntityKey::Settings(user) => parts(SETTINGS, user.as_str().as_bytes(), &[]),
        EntityKey::Presence(user) => parts(PRESENCE, user.as_str().as_bytes(), &[]),
        EntityKey::DeadLetters(of) => parts(DEAD_LETTERS, &shard(*of), &[]),
        EntityKey::Member(conversation, user) => {
            parts(MEMBER, conversation.as_bytes(), user.as_str().as_bytes())
        }
        EntityKey::Roster(conversation, of) => parts(ROSTER, conversation.as_bytes(), &shard(*of)),
        EntityKey::Answers(user, of) => {
            let [high, low] = shard(*of);
            let end = [NAME_END, high, low];
            parts(ANSWERS, user.as_str().as_bytes(), &end)
        }
        EntityKey::News(conversation, of) => parts(NEWS, conversation.as_bytes(), &shard(*of)),
    }
}

/// Reads what [`entity`] wrote; anything else is corrupt.
pub fn read_entity(key: &[u8]) -> Result<EntityKey, CorruptRow> {
    match key.split_first() {
        Some((&ACCOUNT, name)) => Ok(EntityKey::Account(read_user(name, key)?)),
        Some((&INBOX, name)) => Ok(EntityKey::Inbox(read_user(name, key)?)),
        Some((&SETTINGS, name)) => Ok(EntityKey::Settings(read_user(name, key)?)),
        Some((&CONVERSATION, id)) => {
            let id = ConversationId::from_slice(id).map_err(|error| invalid(&error, key))?;
            Ok(EntityKey::Conversation(id))
        }
        Some((&MEMBER, rest)) => {
            let (id, name) = split_conversation(rest, key)?;
            Ok(EntityKey::Member(id, read_user(name, key)?))
        }
        Some((&ROSTER, rest)) => {
            let (id, of) = split_conversation(rest, key)?;
            Ok(EntityKey::Roster(id, read_shard(of)?))
        }
        Some((&ANSWERS, rest)) => {
            let Some((name, [NAME_END, of @ ..])) = rest.split_last_chunk::<3>() else {
                return Err(corrupt("a name that ends, and a shard", key));
            };
            Ok(EntityKey::Answers(read_user(name, key)?, read_shard(of)?))
        }
        Some((&NEWS, rest)) => {
            let (id, of) = split_conversation(rest, key)?;
            Ok(EntityKey::News(id, read_shard(of)?))
        }
        Some((&PRESENCE, name)) => Ok(EntityKey::Presence(read_user(name, key)?)),
        Some((&DEAD_LETTERS, shard)) => Ok(EntityKey::DeadLetters(read_shard(shard)?)),
        Some(_) | None => Err(corrupt("a known tag", key)),
    }
}

fn split_conversation<'a>(
    rest: &'a [u8],
    key: &[u8],
) -> Result<(ConversationId, &'a [u8]), CorruptRow> {
    let (id, rest) = rest
        .split_first_chunk()
        .ok_or_else(|| corrupt("a conversation", key))?;
    Ok((ConversationId(*id), rest))
}

/// `conversation`, 16 bytes, then the seq, eight bytes big-endian.
pub fn history(conversation: &ConversationId, seq: Seq) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(conversation.as_bytes());
    key[16..].copy_from_slice(&seq.get().to_be_bytes());
    key
}

/// Reads what [`history`] wrote; anything else is corrupt.
pub fn read_history(key: &[u8]) -> Result<(ConversationId, Seq), CorruptRow> {
    let (conversation, seq) = split_number(key)?;
    let conversation =
        ConversationId::from_slice(conversation).map_err(|error| invalid(&error, key))?;
    let seq = Seq::new(seq).map_err(|error| invalid(&error, key))?;
    Ok((conversation, seq))
}

/// The name, a zero byte, then the inbox seq, eight bytes big-endian.
pub fn inbox(user: &UserId, seq: InboxSeq) -> Vec<u8> {
    let name = user.as_str().as_bytes();
    let mut key = Vec::with_capacity(name.len() + 9);
    key.extend_from_slice(name);
    key.push(NAME_END);
    key.extend_from_slice(&seq.get().to_be_bytes());
    key
}

/// Reads what [`inbox`] wrote; anything else is corrupt.
pub fn read_inbox(key: &[u8]) -> Result<(UserId, InboxSeq), CorruptRow> {
    let (name, seq) = split_number(key)?;
    let Some((&NAME_END, name)) = name.split_last() else {
        return Err(corrupt("a name that ends", key));
    };
    let seq = InboxSeq::new(seq).map_err(|error| invalid(&error, key))?;
    Ok((read_user(name, key)?, seq))
}

fn split_number(key: &[u8]) -> Result<(&[u8], u64), CorruptRow> {
    let (rest, number) = key
        .split_last_chunk()
        .ok_or_else(|| corrupt("a number at its end", key))?;
    Ok((rest, u64::from_be_bytes(*number)))
}

fn read_user(name: &[u8], key: &[u8]) -> Result<UserId, CorruptRow> {
    let name = std::str::from_utf8(name).map_err(|_| corrupt("a name", key))?;
    UserId::new(name).map_err(|error| invalid(&error, key))
}

fn invalid(error: &InvalidId, key: &[u8]) -> CorruptRow {
    corrupt(&error.to_string(), key)
}

fn corrupt(expected: &str, key: &[u8]) -> CorruptRow {
    CorruptRow {
        what: "key",
        why: format!("{} lacks: {expected}", key.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn keys_read_back() {
        let conversation = ConversationId::direct(&user("ann"), &user("bob"));
        for key in [
            EntityKey::Account(user("ann")),
            EntityKey::Inbox(user("a-very.long_name-of-31-characte")),
            EntityKey::Conversation(conversation),
            EntityKey::Settings(user("ann")),
            EntityKey::Member(conversation, user("ann")),
            EntityKey::Roster(conversation, ShardId(258)),
            EntityKey::Answers(user("ann"), ShardId(258)),
            EntityKey::News(conversation, ShardId(258)),
            EntityKey::Presence(user("ann")),
            EntityKey::DeadLetters(ShardId(259)),
        ] {
            assert_eq!(read_entity(&entity(&key)), Ok(key));
        }
        let seq = Seq::new(258).unwrap();
        let key = history(&conversation, seq);
        assert_eq!(read_history(&key), Ok((conversation, seq)));
        let seq = InboxSeq::new(u64::MAX).unwrap();
        let key = inbox(&user("ann"), seq);
        assert_eq!(read_inbox(&key), Ok((user("ann"), seq)));
        assert_eq!(read_shard(&shard(ShardId(700))), Ok(ShardId(700)));
    }

    #[test]
    fn the_order_of_keys_is_the_order_of_rows() {
        let names = ["aa", "aa.", "aaa", "ab", "b0", "b0-", "zz"].map(user);
        assert!(names.is_sorted());
        let seqs = [1, 2, 255, 256, u64::MAX].map(|seq| InboxSeq::new(seq).unwrap());
        let keys: Vec<Vec<u8>> = names
            .iter()
            .flat_map(|user| seqs.map(|seq| inbox(user, seq)))
            .collect();
        assert!(keys.is_sorted());
        let mut entities: Vec<EntityKey> = names.map(EntityKey::Inbox).into();
        entities.extend(names.map(EntityKey::Account));
        entities.push(EntityKey::Conversation(ConversationId([0; 16])));
        entities.extend(names.map(EntityKey::Settings));
        for id in [[0; 16], [0xff; 16]].map(ConversationId) {
            entities.extend(names.map(|user| EntityKey::Member(id, user)));
            entities.extend([0, 255, 256].map(|shard| EntityKey::Roster(id, ShardId(shard))));
            entities.extend([0, 255, 256].map(|shard| EntityKey::News(id, ShardId(shard))));
        }
        for user in names {
            entities.extend([0, 255, 256].map(|shard| EntityKey::Answers(user, ShardId(shard))));
        }
        entities.extend(names.map(EntityKey::Presence));
        entities.extend([2, 1, 256].map(|shard| EntityKey::DeadLetters(ShardId(shard))));
        entities.sort_unstable();
        assert!(entities.iter().map(entity).is_sorted());
    }

    #[test]
    fn bytes_that_are_no_key_are_corrupt_not_a_panic() {
        for key in [
            &b""[..],
            b"\x01",
            b"\x09ann",
            b"\x03short",
            b"\x01UPPER",
            b"\x05short",
            b"\x050123456789abcdefUPPER",
            b"\x060123456789abcdef1",
            b"\x07\0\x01",
            b"\x07ann\x01\0\0",
        ] {
            assert!(read_entity(key).is_err(), "{key:?}");
        }
        for key in [
            &b""[..],
            b"1234567",
            b"\0\0\0\0\0\0\0\0",
            b"ann\0\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0\x01",
        ] {
            assert!(read_inbox(key).is_err(), "{key:?}");
            assert!(read_history(key).is_err(), "{key:?}");
        }
        assert!(read_shard(b"123").is_err());
    }
}
