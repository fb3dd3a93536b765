//! Applies records in log order to one shard's users and conversations and says what must happen next.

use std::hash::Hasher;

use quipu_protocol::id::{ConversationId, UserId};
use siphasher::sip::SipHasher24;

/// One shard of the cluster, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// How many shards there are; fixed for a cluster's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardCount(pub u16);

impl ShardCount {
    /// The shard of a user: SipHash-2-4 with zero keys over `"u"` and the name, modulo the count.
    pub fn of_user(self, user: &UserId) -> ShardId {
        self.of(b'u', user.as_str().as_bytes())
    }

    /// The shard of a conversation: the same over `"c"` and its 16 bytes.
    pub fn of_conversation(self, conversation: &ConversationId) -> ShardId {
        self.of(b'c', conversation.as_bytes())
    }

    /// Every shard.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }

    fn of(self, domain: u8, bytes: &[u8]) -> ShardId {
        let mut hasher = SipHasher24::new();
        hasher.write(&[domain]);
        hasher.write(bytes);
        ShardId((hasher.finish() % u64::from(self.0.max(1))) as u16)
    }
}
