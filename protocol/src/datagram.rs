//! Typing and presence: one frame in a QUIC datagram, and which datagrams are ignored.
//!
//! A datagram may be lost, may come twice and may overtake another. Nothing that is said in one is needed: typing is over by
//! itself, and presence is asked for anew. So there is no violation here; what cannot be read is ignored.

use bytes::Bytes;
use prost::Message as _;

use crate::frame::{FrameDecoder, FrameType, RawFrame, StreamKind, encoded};
use crate::id::{ConversationId, UserId};
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::query::PresenceEntry;
use crate::wire;

/// Somebody writes a message, or no longer does (TYPING).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typing {
    /// Where.
    pub conversation: ConversationId,
    /// False: no longer.
    pub on: bool,
}

/// What a gateway says in a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromGateway {
    /// A member of the conversation writes, or no longer does.
    Typing(UserId, Typing),
    /// What is known now of users whom the session watches.
    Presence(Vec<PresenceEntry>),
}

/// Why a datagram is ignored (QP-DATAGRAM-2). Nobody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Longer than [`DATAGRAM_BYTES_MAX`].
    #[error("a datagram has at most {DATAGRAM_BYTES_MAX} bytes")]
    TooLarge,
    /// Not one whole frame that belongs here.
    #[error("a datagram is one frame, of a type that belongs there")]
    NoFrame,
    /// A body that is not the message of its type, or a field outside its range.
    #[error("the body of a datagram's frame is out of range")]
    OutOfRange,
}

/// Reads a datagram of a client.
pub fn from_client(datagram: &Bytes) -> Result<Typing, Ignored> {
    let frame = only_frame(StreamKind::DatagramFromClient, datagram)?;
    read_typing(&body(&frame)?)
}

/// Reads a datagram of a gateway.
pub fn from_gateway(datagram: &Bytes) -> Result<FromGateway, Ignored> {
    let frame = only_frame(StreamKind::DatagramFromGateway, datagram)?;
    if frame.kind == FrameType::Presence {
        let users = body::<wire::Presences>(&frame)?.users.into_iter();
        let users = users.map(|entry| PresenceEntry::try_from(entry).map_err(out_of_range));
        return Ok(FromGateway::Presence(users.collect::<Result<_, _>>()?));
    }
    let typing: wire::Typing = body(&frame)?;
    let user = UserId::new(&typing.user).map_err(out_of_range)?;
    Ok(FromGateway::Typing(user, read_typing(&typing)?))
}

/// The datagram that says `typing`; `user` names who types, when a gateway says it.
pub fn typing(typing: &Typing, user: Option<&UserId>) -> Bytes {
    let message = wire::Typing {
        conversation: Bytes::copy_from_slice(typing.conversation.as_bytes()),
        user: user.map(UserId::to_string).unwrap_or_default(),
        stopped: !typing.on,
    };
    encoded(FrameType::Typing, &message)
}

/// The datagrams that say all of `users`, as few as there can be. None is longer than `bytes_max`, or than
/// [`DATAGRAM_BYTES_MAX`] if that is less; an entry that does not fit is left out.
pub fn presence(users: &[PresenceEntry], bytes_max: usize) -> Vec<Bytes> {
    // Length and type of the frame, and what stands before an entry in it.
    const HEADER_BYTES_MAX: usize = 4;
    const BEFORE_ENTRY_BYTES: usize = 2;
    let room = bytes_max
        .min(DATAGRAM_BYTES_MAX)
        .saturating_sub(HEADER_BYTES_MAX);
    let (mut datagrams, mut body, mut bytes) = (Vec::new(), wire::Presences::default(), 0);
    for entry in users {
        let entry = wire::PresenceEntry::from(*entry);
        let len = entry.encoded_len() + BEFORE_ENTRY_BYTES;
        if len > room {
            continue;
        }
        if bytes + len > room {
            datagrams.push(encoded(FrameType::Presence, &std::mem::take(&mut body)));
            bytes = 0;
        }
        bytes += len;
        body.users.push(entry);
    }
    if !body.users.is_empty() {
        datagrams.push(encoded(FrameType::Presence, &body));
    }
    datagrams
}

/// The one frame that a datagram is.
fn only_frame(kind: StreamKind, datagram: &Bytes) -> Result<RawFrame, Ignored> {
    if datagram.len() > DATAGRAM_BYTES_MAX {
        return Err(Ignored::TooLarge);
    }
    let mut rest = datagram.clone();
    let frame = FrameDecoder::new(kind).decode(&mut rest);
    let frame = frame.ok().flatten().filter(|_| rest.is_empty());
    frame.ok_or(Ignored::NoFrame)
}

fn body<M: prost::Message + Default>(frame: &RawFrame) -> Result<M, Ignored> {
    frame.message().map_err(out_of_range)
}

fn read_typing(typing: &wire::Typing) -> Result<Typing, Ignored> {
    Ok(Typing {
        conversation: ConversationId::from_slice(&typing.conversation).map_err(out_of_range)?,
        on: !typing.stopped,
    })
}

fn out_of_range<E>(_: E) -> Ignored {
    Ignored::OutOfRange
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TimestampMs;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a good name")
    }

    fn entry(name: &str, order: u64) -> PresenceEntry {
        PresenceEntry {
            user: user(name),
            here: false,
            seen_at: Some(TimestampMs(1_800_000_000_000)),
            order,
        }
    }

    #[test]
    fn typing_comes_through_and_a_name_is_the_gateways_to_give() {
        let said = Typing {
            conversation: ConversationId([7; 16]),
            on: true,
        };
        assert_eq!(from_client(&typing(&said, None)), Ok(said));
        assert_eq!(
            from_gateway(&typing(&said, Some(&user("ana")))),
            Ok(FromGateway::Typing(user("ana"), said))
        );
        assert_eq!(
            from_gateway(&typing(&said, None)),
            Err(Ignored::OutOfRange),
            "who types?"
        );
    }

    #[test]
    fn what_is_not_one_good_frame_is_ignored() {
        let good = typing(
            &Typing {
                conversation: ConversationId([7; 16]),
                on: false,
            },
            None,
        );
        let with = |more: &[u8]| Bytes::from([&good[..], more].concat());
        assert_eq!(from_client(&with(&[0])), Err(Ignored::NoFrame));
        assert_eq!(from_client(&with(&good)), Err(Ignored::NoFrame));
        let cut = good.slice(..good.len() - 1);
        assert_eq!(from_client(&cut), Err(Ignored::NoFrame));
        assert_eq!(from_client(&Bytes::new()), Err(Ignored::NoFrame));
        let long = with(&[0; DATAGRAM_BYTES_MAX]);
        assert_eq!(from_client(&long), Err(Ignored::TooLarge));
        // Another type, known or not; an even one, which a stream would skip.
        for kind in [0x05, 0x43, 0x7b, 0x7c] {
            let mut other = good.to_vec();
            other[1..3].copy_from_slice(&[0x40, kind]);
            assert_eq!(
                from_client(&other.into()),
                Err(Ignored::NoFrame),
                "{kind:#x}"
            );
        }
        let short = encoded(FrameType::Typing, &wire::Typing::default());
        assert_eq!(from_client(&short), Err(Ignored::OutOfRange));
    }

    #[test]
    fn presence_is_packed_and_never_too_long() {
        let names: Vec<String> = (0..256).map(|n| format!("{n:031}")).collect();
        let users: Vec<_> = names.iter().map(|name| entry(name, u64::MAX)).collect();
        let datagrams = presence(&users, DATAGRAM_BYTES_MAX + 500);
        let lengths: Vec<usize> = datagrams.iter().map(Bytes::len).collect();
        assert!(
            lengths.iter().all(|len| *len <= DATAGRAM_BYTES_MAX),
            "{lengths:?}"
        );
        assert!(lengths[0] > DATAGRAM_BYTES_MAX - 64, "packed: {lengths:?}");
        let back = datagrams.iter().flat_map(|datagram| {
            match from_gateway(datagram).expect("it is read") {
                FromGateway::Presence(users) => users,
                FromGateway::Typing(..) => panic!("not typing"),
            }
        });
        assert_eq!(back.collect::<Vec<_>>(), users);
        assert_eq!(presence(&[], DATAGRAM_BYTES_MAX).len(), 0);
        assert_eq!(presence(&users, 10).len(), 0, "nothing fits");
    }
}
