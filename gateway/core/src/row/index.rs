//! Keys of the rows that are found by range: lists of conversations, old versions, references, numbered changes, things that fall due.

use quipu_protocol::event::Content;
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq, TimestampMs, UserId};

use super::CorruptRow;
use crate::codec::corrupt;

/// Names a row of the index. The order of [`encode`](Self::encode)d keys is the order in which ranges give them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IndexKey {
    /// The user is in this conversation, or invited.
    Listed(UserId, ConversationId),
    /// What a message said before this edit of it, counted from 1: [`OldContent`](super::OldContent).
    Version(ConversationId, Seq, u32),
    /// A message refers to the uploaded file with this hash.
    MediaRef(ConversationId, [u8; 32], Seq),
    /// The message goes at this time.
    Due(TimestampMs, ConversationId, Seq),
    /// A complaint: when it came, about which conversation, from whom, and about which message of it:
    /// [`Report`](super::Report).
    Report(TimestampMs, ConversationId, UserId, Option<Seq>),
    /// A change of a pulled group by its number; of the last [`CHANGES_KEPT_MAX`](quipu_protocol::limits::CHANGES_KEPT_MAX) ones:
    /// [`NumberedChange`](super::NumberedChange).
    Changed(ConversationId, ChangeNumber),
    /// The user is in this group, or invited. It lies in the group's shard, and is written with the [`Membership`](super::Membership).
    Seated(ConversationId, UserId),
    /// A device of the user has a session, as far as the log knows.
    Here(UserId),
    /// The offline topic: messages wait for the user, and no device takes them. Its value is an
    /// [`OfflineRow`](super::OfflineRow).
    Offline(UserId),
}

/// Keys that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexRange {
    /// The conversations of a user that come after this one.
    Listed(UserId, Option<ConversationId>),
    /// The old versions of a message.
    Versions(ConversationId, Seq),
    /// The messages that refer to a file.
    MediaRefs(ConversationId, [u8; 32]),
    /// What falls due up to this time, the earliest first.
    Due(TimestampMs),
    /// All complaints, the oldest first.
    Reports,
    /// The changes of a pulled group that come after this one.
    Changes(ConversationId, ChangeNumber),
    /// Who is in a group, or invited, and comes after this user.
    Seated(ConversationId, Option<UserId>),
    /// The users with sessions that come after this one.
    Here(Option<UserId>),
    /// The users in the offline topic that come after this one.
    Offline(Option<UserId>),
}

const LISTED: u8 = 1;
const VERSION: u8 = 2;
const MEDIA_REF: u8 = 3;
const DUE: u8 = 4;
const REPORT: u8 = 5;
const CHANGED: u8 = 6;
const SEATED: u8 = 7;
const HERE: u8 = 0x10;
const OFFLINE: u8 = 0x11;
/// Ends a name inside a longer key. No name holds it, and it is below every byte of one.
const NAME_END: u8 = 0;

impl IndexKey {
    /// The references of a message to uploaded files: rows to write when it is accepted, and to take away when this content
    /// of it goes, unless another version of the message that is kept has the same file.
    pub fn media_refs(conversation: ConversationId, seq: Seq, content: &Content) -> Vec<Self> {
        match content {
            Content::Rich(rich) => {
                let files = rich.attachments.iter();
                let keys = files.map(|file| Self::MediaRef(conversation, file.hash, seq));
                keys.collect()
            }
            Content::Text(_) | Content::Note(_) | Content::Gone(_) => Vec::new(),
        }
    }

    /// The key in a store that orders by bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(64);
        match self {
            Self::Listed(user, conversation) => {
                key.push(LISTED);
                push_user(&mut key, user);
                key.extend_from_slice(conversation.as_bytes());
            }
            Self::Version(conversation, seq, version) => {
                push_message(&mut key, VERSION, conversation, *seq);
                key.extend_from_slice(&version.to_be_bytes());
            }
            Self::MediaRef(conversation, hash, seq) => {
                key.push(MEDIA_REF);
                key.extend_from_slice(conversation.as_bytes());
                key.extend_from_slice(hash);
                key.extend_from_slice(&seq.get().to_be_bytes());
            }
            Self::Due(time, conversation, seq) => {
                key.push(DUE);
                key.extend_from_slice(&time.0.to_be_bytes());
                key.extend_from_slice(conversation.as_bytes());
                key.extend_from_slice(&seq.get().to_be_bytes());
            }
            Self::Report(time, conversation, user, seq) => {
                key.push(REPORT);
                key.extend_from_slice(&time.0.to_be_bytes());
                key.extend_from_slice(conversation.as_bytes());
                push_user(&mut key, user);
                key.extend_from_slice(&seq.map_or(0, Seq::get).to_be_bytes());
            }
            Self::Changed(conversation, number) => {
                key.push(CHANGED);
                key.extend_from_slice(conversation.as_bytes());
                key.extend_from_slice(&number.0.to_be_bytes());
            }
            Self::Seated(conversation, user) => {
                key.push(SEATED);
                key.extend_from_slice(conversation.as_bytes());
                push_user(&mut key, user);
            }
            Self::Here(user) => {
                key.push(HERE);
                push_user(&mut key, user);
            }
            Self::Offline(user) => {
                key.push(OFFLINE);
                push_user(&mut key, user);
            }
        }
        key
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(key: &[u8]) -> Result<Self, CorruptRow> {
        let mut rest = Reader { key, rest: key };
        let tag: [u8; 1] = rest.array()?;
        let decoded = match tag[0] {
            LISTED => Self::Listed(rest.user()?, rest.conversation()?),
            VERSION => Self::Version(
                rest.conversation()?,
                rest.seq()?,
                u32::from_be_bytes(rest.array()?),
            ),
            MEDIA_REF => Self::MediaRef(rest.conversation()?, rest.array()?, rest.seq()?),
            DUE => Self::Due(rest.time()?, rest.conversation()?, rest.seq()?),
            REPORT => Self::Report(
                rest.time()?,
                rest.conversation()?,
                rest.user()?,
                Seq::new(u64::from_be_bytes(rest.array()?)).ok(),
            ),
            CHANGED => Self::Changed(
                rest.conversation()?,
                ChangeNumber(u64::from_be_bytes(rest.array()?)),
            ),
            SEATED => Self::Seated(rest.conversation()?, rest.user()?),
            HERE => Self::Here(rest.user()?),
            OFFLINE => Self::Offline(rest.user()?),
            _ => return Err(rest.lacks("a known tag")),
        };
        if !rest.rest.is_empty() {
            return Err(rest.lacks("its end"));
        }
        Ok(decoded)
    }
}

impl IndexRange {
    /// The first encoded key of the range, and the first one behind it.
    pub fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::Listed(user, after) => {
                let mut prefix = vec![LISTED];
                push_user(&mut prefix, user);
                let end = next_prefix(&prefix);
                match after {
                    None => (prefix, end),
                    Some(after) => {
                        let mut start = IndexKey::Listed(*user, *after).encode();
                        start.push(0);
                        (start, end)
                    }
                }
            }
            Self::Versions(conversation, seq) => {
                let mut prefix = Vec::new();
                push_message(&mut prefix, VERSION, conversation, *seq);
                let end = next_prefix(&prefix);
                (prefix, end)
            }
            Self::MediaRefs(conversation, hash) => {
                let mut prefix = vec![MEDIA_REF];
                prefix.extend_from_slice(conversation.as_bytes());
                prefix.extend_from_slice(hash);
                let end = next_prefix(&prefix);
                (prefix, end)
            }
            Self::Due(until) => {
                let mut end = vec![DUE];
                end.extend_from_slice(&until.0.to_be_bytes());
                let end = next_prefix(&end);
                (vec![DUE], end)
            }
            Self::Reports => (vec![REPORT], vec![REPORT + 1]),
            Self::Changes(conversation, after) => {
                let mut prefix = vec![CHANGED];
                prefix.extend_from_slice(conversation.as_bytes());
                let end = next_prefix(&prefix);
                prefix.extend_from_slice(&after.next().0.to_be_bytes());
                (prefix, end)
            }
            Self::Seated(conversation, after) => {
                let mut prefix = vec![SEATED];
                prefix.extend_from_slice(conversation.as_bytes());
                users_after(prefix, after.as_ref())
            }
            Self::Here(after) => users_after(vec![HERE], after.as_ref()),
            Self::Offline(after) => users_after(vec![OFFLINE], after.as_ref()),
        }
    }
}

/// The keys of a prefix and a name that come after this name.
fn users_after(prefix: Vec<u8>, after: Option<&UserId>) -> (Vec<u8>, Vec<u8>) {
    let end = next_prefix(&prefix);
    let mut start = prefix;
    if let Some(after) = after {
        push_user(&mut start, after);
        start.push(0);
    }
    (start, end)
}

fn push_user(key: &mut Vec<u8>, user: &UserId) {
    key.extend_from_slice(user.as_str().as_bytes());
    key.push(NAME_END);
}

fn push_message(key: &mut Vec<u8>, tag: u8, conversation: &ConversationId, seq: Seq) {
    key.push(tag);
    key.extend_from_slice(conversation.as_bytes());
    key.extend_from_slice(&seq.get().to_be_bytes());
}

/// The first key that does not begin with `prefix` and is above all that do. The tag in front is never 255.
fn next_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            break;
        }
    }
    next
}

struct Reader<'a> {
    key: &'a [u8],
    rest: &'a [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], CorruptRow> {
        let Some((taken, rest)) = self.rest.split_first_chunk() else {
            return Err(self.lacks("a field"));
        };
        self.rest = rest;
        Ok(*taken)
    }

    fn conversation(&mut self) -> Result<ConversationId, CorruptRow> {
        self.array().map(ConversationId)
    }

    fn seq(&mut self) -> Result<Seq, CorruptRow> {
        let seq = u64::from_be_bytes(self.array()?);
        Seq::new(seq).map_err(|error| self.lacks(&error.to_string()))
    }

    fn time(&mut self) -> Result<TimestampMs, CorruptRow> {
        Ok(TimestampMs(u64::from_be_bytes(self.array()?)))
    }

    fn user(&mut self) -> Result<UserId, CorruptRow> {
        let Some(end) = self.rest.iter().position(|byte| *byte == NAME_END) else {
            return Err(self.lacks("the end of a name"));
        };
        let (name, rest) = self.rest.split_at(end);
        let name = std::str::from_utf8(name).map_err(|_| self.lacks("a name"))?;
        let user = UserId::new(name).map_err(|error| self.lacks(&error.to_string()))?;
        self.rest = &rest[1..];
        Ok(user)
    }

    fn lacks(&self, what: &str) -> CorruptRow {
        corrupt(
            "index key",
            format_args!("{} lacks: {what}", self.key.escape_ascii()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<IndexKey> {
        let user = |name| UserId::new(name).unwrap();
        let seq = |n| Seq::new(n).unwrap();
        let (a, b) = (ConversationId([0; 16]), ConversationId([0xff; 16]));
        vec![
            IndexKey::Listed(user("ann"), a),
            IndexKey::Listed(user("ann"), b),
            IndexKey::Listed(user("anna"), a),
            IndexKey::Version(a, seq(255), 1),
            IndexKey::Version(a, seq(255), 2),
            IndexKey::Version(a, seq(256), 1),
            IndexKey::MediaRef(b, [0xff; 32], seq(1)),
            IndexKey::MediaRef(b, [0xff; 32], seq(u64::MAX)),
            IndexKey::Due(TimestampMs(5), b, seq(1)),
            IndexKey::Due(TimestampMs(6), a, seq(1)),
            IndexKey::Report(TimestampMs(u64::MAX), b, user("zed"), None),
            IndexKey::Report(TimestampMs(u64::MAX), b, user("zed"), Some(seq(2))),
            IndexKey::Changed(a, ChangeNumber(255)),
            IndexKey::Changed(a, ChangeNumber(256)),
            IndexKey::Changed(b, ChangeNumber(1)),
            IndexKey::Seated(a, user("zed")),
            IndexKey::Seated(b, user("ann")),
            IndexKey::Seated(b, user("anna")),
            IndexKey::Here(user("ann")),
        ]
    }

    #[test]
    fn keys_read_back_and_keep_their_order() {
        let keys = keys();
        assert!(keys.is_sorted());
        let encoded: Vec<_> = keys.iter().map(IndexKey::encode).collect();
        assert!(encoded.is_sorted());
        for (key, encoded) in keys.iter().zip(&encoded) {
            assert_eq!(IndexKey::decode(encoded).as_ref(), Ok(key));
        }
    }

    #[test]
    fn ranges_hold_what_they_say() {
        let (a, b) = (ConversationId([0; 16]), ConversationId([0xff; 16]));
        let ann = UserId::new("ann").unwrap();
        let cases = [
            (IndexRange::Listed(ann, None), 0..2),
            (IndexRange::Listed(ann, Some(a)), 1..2),
            (IndexRange::Versions(a, Seq::new(255).unwrap()), 3..5),
            (IndexRange::MediaRefs(b, [0xff; 32]), 6..8),
            (IndexRange::Due(TimestampMs(5)), 8..9),
            (IndexRange::Due(TimestampMs(u64::MAX)), 8..10),
            (IndexRange::Reports, 10..12),
            (IndexRange::Changes(a, ChangeNumber::START), 12..14),
            (IndexRange::Changes(a, ChangeNumber(255)), 13..14),
            (IndexRange::Changes(a, ChangeNumber(256)), 14..14),
            (IndexRange::Changes(b, ChangeNumber::START), 14..15),
            (IndexRange::Seated(a, None), 15..16),
            (IndexRange::Seated(b, None), 16..18),
            (IndexRange::Seated(b, Some(ann)), 17..18),
            (IndexRange::Here(None), 18..19),
        ];
        for (range, expected) in cases {
            let (start, end) = range.bounds();
            let keys = keys().into_iter().enumerate();
            let found: Vec<usize> = keys
                .filter(|(_, key)| (&start..&end).contains(&&key.encode()))
                .map(|(at, _)| at)
                .collect();
            assert_eq!(found, expected.collect::<Vec<_>>(), "{range:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_key_are_corrupt_not_a_panic() {
        for key in keys() {
            let whole = key.encode();
            for end in 0..whole.len() {
                assert!(IndexKey::decode(&whole[..end]).is_err());
            }
            assert!(IndexKey::decode(&[&whole[..], b"x"].concat()).is_err());
        }
        assert!(IndexKey::decode(b"\x09").is_err());
        assert!(IndexKey::decode(b"\x01UPPER\0").is_err());
    }
}
