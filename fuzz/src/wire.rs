//! Every message of the wire: decoded, checked, encoded, and read again as the same.

use prost::Message;
use quipu_protocol::credentials::Hello;
use quipu_protocol::event::{
    Changed, Content, Event, Invitation, Message as ChatMessage, MessageState, Notice, Reply,
};
use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::media::{Blob, Download, Upload};
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::welcome::{GoAway, Welcome};
use quipu_protocol::wire;

/// Bytes that are a message of this kind and pass its checks come through another round unchanged.
macro_rules! round_trips {
    ($bytes:expr; $( $wire:ty => $checked:ty, $back:expr; )*) => {
        $(
            if let Ok(message) = <$wire>::decode($bytes)
                && let Ok(checked) = <$checked>::try_from(message)
            {
                let back: fn(&$checked) -> $wire = $back;
                let encoded = back(&checked).encode_to_vec();
                let again = <$wire>::decode(encoded.as_slice()).ok();
                let again = again.and_then(|again| <$checked>::try_from(again).ok());
                assert_eq!(again.as_ref(), Some(&checked));
            }
        )*
    };
}

/// The bytes are read as every message in turn.
pub fn every_message(bytes: &[u8]) {
    round_trips! { bytes;
        wire::Hello => Hello, |checked| checked.clone().into();
        wire::Welcome => Welcome, |checked| checked.clone().into();
        wire::GoAway => GoAway, |checked| checked.clone().into();
        wire::Event => Event, |checked| checked.into();
        wire::Notice => Notice, |checked| checked.into();
        wire::Changed => Changed, |checked| checked.into();
        wire::Invitation => Invitation, |checked| checked.into();
        wire::Reply => Reply, |checked| checked.into();
        wire::Message => ChatMessage, |checked| checked.into();
        // These two are also what a client keeps in its cache.
        wire::Content => Content, |checked| checked.into();
        wire::MessageState => MessageState, |checked| checked.into();
        wire::Query => Query, |checked| checked.into();
        wire::Answer => Answer, |checked| checked.clone().into();
        wire::Upload => Upload, |checked| checked.into();
        wire::Download => Download, |checked| checked.into();
        wire::Blob => Blob, |checked| checked.into();
        wire::HistoryRequest => HistoryRequest, |checked| checked.into();
        wire::HistoryPage => HistoryPage, |checked| checked.into();
    }
}
