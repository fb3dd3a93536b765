//! How the words of the command line become values.

use std::str::FromStr;
use std::time::Duration;

use quipu_client::Target;
use quipu_protocol::event::Role;
use quipu_protocol::id::{ConversationId, DeviceId, Seq, UserId};
use quipu_protocol::media::MediaType;

/// A conversation, as it is named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The direct one with this user.
    User(UserId),
    /// The one with this id.
    Conversation(ConversationId),
}

impl Place {
    /// Its id.
    pub(crate) fn id(self, me: &UserId) -> ConversationId {
        match self {
            Self::User(user) => ConversationId::direct(me, &user),
            Self::Conversation(id) => id,
        }
    }

    /// Where a message to it goes.
    pub(crate) fn target(self) -> Target {
        match self {
            Self::User(user) => Target::User(user),
            Self::Conversation(id) => Target::Conversation(id),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    /// A user id is shorter than the 32 digits of a conversation, so there is no doubt.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Conversation(id));
        }
        UserId::new(text).map(Self::User).map_err(|_| {
            "the name of a user, or the 32 hexadecimal digits of a conversation".to_owned()
        })
    }
}

/// A message, as `CONVERSATION:SEQ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageRef {
    /// Where it is.
    pub(crate) place: Place,
    /// Which.
    pub(crate) seq: Seq,
}

impl FromStr for MessageRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, number) = text
            .rsplit_once(':')
            .ok_or("CONVERSATION:SEQ, such as bob:12")?;
        Ok(Self {
            place: place.parse()?,
            seq: seq(number)?,
        })
    }
}

/// A group's id.
pub(crate) fn group(text: &str) -> Result<ConversationId, String> {
    text.parse()
        .ok()
        .filter(ConversationId::is_group)
        .ok_or_else(|| {
            "the 32 hexadecimal digits of a group, as `quipu conversations` prints them".into()
        })
}

/// A device's id.
pub(crate) fn device(text: &str) -> Result<DeviceId, String> {
    let wrong = "the 16 hexadecimal digits of a device, as `quipu devices` prints them";
    let number = u64::from_str_radix(text, 16)
        .ok()
        .filter(|_| text.len() == 16);
    number
        .and_then(|number| DeviceId::new(number).ok())
        .ok_or_else(|| wrong.into())
}

/// What a member may do.
pub(crate) fn role(text: &str) -> Result<Role, String> {
    match text {
        "member" => Ok(Role::Member),
        "admin" => Ok(Role::Admin),
        "owner" => Ok(Role::Owner),
        _ => Err("member, admin or owner".into()),
    }
}

/// On or off.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".into()),
    }
}

/// How long messages are kept, in milliseconds; 0: for good.
pub(crate) fn keep(text: &str) -> Result<u64, String> {
    let wrong = || "off, or a whole number with s, m, h or d, such as 30s or 7d".to_owned();
    if text == "off" {
        return Ok(0);
    }
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|number| number.parse().ok())
        .filter(|number| *number > 0)
        .ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds * 1000).ok_or_else(wrong)
}

/// A number of seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "a number of seconds, such as 10 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// What a file is.
pub(crate) fn media_type(text: &str) -> Result<MediaType, String> {
    MediaType::new(text).map_err(|error| error.to_string())
}

/// A message's place in its conversation.
pub(crate) fn seq(text: &str) -> Result<Seq, String> {
    let number = text.parse().map_err(|_| "a number from 1".to_owned())?;
    Seq::new(number).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_a_name_or_an_id() {
        let bob = UserId::new("bob").expect("a name");
        let id = ConversationId([0x8a; 16]);
        assert_eq!("bob".parse(), Ok(Place::User(bob)));
        assert_eq!(id.to_string().parse(), Ok(Place::Conversation(id)));
        assert_eq!(group(&id.to_string()), Ok(id));
        assert!(group(&ConversationId([1; 16]).to_string()).is_err());
        assert!("Bob".parse::<Place>().is_err());
        let message: MessageRef = "bob:12".parse().expect("valid");
        assert_eq!((message.place, message.seq.get()), (Place::User(bob), 12));
        assert!("bob:0".parse::<MessageRef>().is_err());
        assert!("12".parse::<MessageRef>().is_err());
    }

    #[test]
    fn times_that_messages_are_kept() {
        assert_eq!(keep("off"), Ok(0));
        assert_eq!(keep("30s"), Ok(30_000));
        assert_eq!(keep("7d"), Ok(7 * 86_400_000));
        for wrong in ["", "7", "s", "0s", "-1d", "1w", "99999999999999999d", "5µ"] {
            assert!(keep(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn devices_and_switches() {
        assert_eq!(device("00000000000000ff").map(|id| id.get()), Ok(255));
        assert!(device("ff").is_err() && device("0000000000000000").is_err());
        assert_eq!((switch("on"), switch("off")), (Ok(true), Ok(false)));
        assert!(switch("yes").is_err() && role("king").is_err());
    }
}
