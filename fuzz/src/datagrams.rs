//! Datagrams of either side: read or ignored, and said again as the same.

use bytes::Bytes;
use quipu_protocol::datagram::{self, FromGateway};
use quipu_protocol::limits::DATAGRAM_BYTES_MAX;

/// The first byte says who sent the rest.
pub fn either_side(input: &[u8]) {
    let [side, bytes @ ..] = input else { return };
    let bytes = Bytes::copy_from_slice(bytes);
    if side.is_multiple_of(2) {
        if let Ok(typing) = datagram::from_client(&bytes) {
            let again = datagram::from_client(&datagram::typing(&typing, None));
            assert_eq!(again, Ok(typing));
        }
        return;
    }
    match datagram::from_gateway(&bytes) {
        Ok(FromGateway::Typing(user, typing)) => {
            let again = datagram::from_gateway(&datagram::typing(&typing, Some(&user)));
            assert_eq!(again, Ok(FromGateway::Typing(user, typing)));
        }
        Ok(FromGateway::Presence(users)) => {
            let mut again = Vec::new();
            for packed in datagram::presence(&users, usize::MAX) {
                assert!(packed.len() <= DATAGRAM_BYTES_MAX);
                match datagram::from_gateway(&packed) {
                    Ok(FromGateway::Presence(users)) => again.extend(users),
                    other => panic!("PRESENCE is read as {other:?}"),
                }
            }
            assert_eq!(again, users);
        }
        Err(_) => {}
    }
}
