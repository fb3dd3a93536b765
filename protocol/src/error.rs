//! The three registries of error codes: connection close, stream reset, rejected command.
//!
//! Each code says its scope, whether a client may retry and when, and whether its session may resume. SPEC.md prints the
//! same tables and a test compares them. An unknown code means `INTERNAL` of its registry.

/// What a client does after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Not by itself: a person or a programmer must change something.
    No,
    /// At once.
    Now,
    /// After a back-off with full jitter, or after the time that came with the code.
    After,
    /// At the address that came with the code.
    Elsewhere,
}

/// Declares a registry: an enum, its numbers, and what a client concludes from each.
macro_rules! registry {
    (
        $(#[$doc:meta])*
        $name:ident: $repr:ty, unknown = $unknown:ident;
        $( $(#[$code_doc:meta])* $code:ident = $value:literal, $text:literal, $retry:ident, resume = $resume:literal; )*
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr($repr)]
        pub enum $name {
            $( $(#[$code_doc])* $code = $value, )*
        }

        impl $name {
            /// Every code of the registry, in the order of its numbers.
            pub const ALL: &[Self] = &[$( Self::$code, )*];

            /// The number on the wire.
            pub const fn code(self) -> $repr {
                self as $repr
            }

            /// Reads a number from the wire; one that is not in the registry is taken for the general failure.
            pub fn from_code(code: u64) -> Self {
                match code {
                    $( $value => Self::$code, )*
                    _ => Self::$unknown,
                }
            }

            /// The name that SPEC.md gives it.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$code => $text, )* }
            }

            /// Whether and when to try again.
            pub const fn retry(self) -> Retry {
                match self { $( Self::$code => Retry::$retry, )* }
            }

            /// Whether the session may be resumed with the same token.
            pub const fn may_resume(self) -> bool {
                match self { $( Self::$code => $resume, )* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

registry! {
    /// Why a connection was closed (QUIC application close). Scope: the connection.
    CloseCode: u32, unknown = Internal;
    /// The side that closes has finished.
    Ok = 0x00, "OK", No, resume = true;
    /// A fault of the side that closes.
    Internal = 0x01, "INTERNAL", After, resume = true;
    /// The peer broke a rule of SPEC.md; the reason names it.
    ProtocolViolation = 0x02, "PROTOCOL_VIOLATION", No, resume = true;
    /// A frame above the limit of its stream.
    FrameTooLarge = 0x03, "FRAME_TOO_LARGE", No, resume = true;
    /// A critical frame type or feature that this side does not know.
    Unsupported = 0x04, "UNSUPPORTED", No, resume = true;
    /// S0 was finished or reset while the connection was in use.
    CriticalStreamClosed = 0x05, "CRITICAL_STREAM_CLOSED", After, resume = true;
    /// HELLO did not come in time.
    HelloTimeout = 0x06, "HELLO_TIMEOUT", After, resume = true;
    /// Unknown user, wrong password, or a token that is not this device's.
    Unauthenticated = 0x20, "UNAUTHENTICATED", No, resume = false;
    /// The name to register belongs to somebody.
    NameTaken = 0x21, "NAME_TAKEN", No, resume = false;
    /// This gateway takes no registrations, or not without an invitation.
    RegistrationClosed = 0x22, "REGISTRATION_CLOSED", No, resume = false;
    /// A name, password or label outside its limits.
    InvalidCredentials = 0x23, "INVALID_CREDENTIALS", No, resume = false;
    /// The same device connected again; this is the older connection.
    Replaced = 0x24, "REPLACED", No, resume = true;
    /// The account has as many devices as it may.
    TooManyDevices = 0x25, "TOO_MANY_DEVICES", No, resume = false;
    /// The user's session is over because its external token is; refresh it and come again.
    TokenExpired = 0x26, "TOKEN_EXPIRED", After, resume = true;
    /// Another device of the user has thrown this one out.
    Revoked = 0x27, "REVOKED", No, resume = false;
    /// Too much at once; nothing is wrong with the client.
    Busy = 0x40, "BUSY", After, resume = true;
    /// The gateway is stopping.
    Shutdown = 0x41, "SHUTDOWN", After, resume = true;
    /// The log or the store does not answer.
    Unavailable = 0x42, "UNAVAILABLE", After, resume = true;
    /// This user or address asks too often.
    RateLimited = 0x43, "RATE_LIMITED", After, resume = true;
    /// The user is pinned to another gateway, which GOAWAY named.
    Redirect = 0x60, "REDIRECT", Elsewhere, resume = true;
}

registry! {
    /// Why a stream was reset or refused (RESET_STREAM, STOP_SENDING). Scope: the stream.
    StreamCode: u32, unknown = Internal;
    /// No longer wanted.
    Cancelled = 0x00, "CANCELLED", No, resume = true;
    /// A fault of the side that resets.
    Internal = 0x01, "INTERNAL", After, resume = true;
    /// Bytes that are no frame, or a frame that does not belong here.
    FrameError = 0x02, "FRAME_ERROR", No, resume = true;
    /// The first frame states a purpose that this side does not know.
    UnknownStream = 0x03, "UNKNOWN_STREAM", No, resume = true;
    /// A frame above the limit of its stream.
    FrameTooLarge = 0x04, "FRAME_TOO_LARGE", No, resume = true;
    /// The stream was opened before WELCOME.
    NotWelcomed = 0x05, "NOT_WELCOMED", After, resume = true;
    /// Too much at once.
    Busy = 0x40, "BUSY", After, resume = true;
}

registry! {
    /// Why a command or a request was refused. Scope: the command; the session goes on.
    RejectCode: u32, unknown = Internal;
    /// A fault of the gateway.
    Internal = 0x01, "INTERNAL", After, resume = true;
    /// No such conversation; a direct one is made by OPEN_DIRECT.
    UnknownConversation = 0x02, "UNKNOWN_CONVERSATION", No, resume = true;
    /// The user was a member, or is invited and has not joined; to a stranger the conversation is unknown.
    NotAMember = 0x03, "NOT_A_MEMBER", No, resume = true;
    /// No such user.
    UnknownUser = 0x04, "UNKNOWN_USER", No, resume = true;
    /// A field outside its range; the reason names it.
    Invalid = 0x05, "INVALID", No, resume = true;
    /// The text is longer than Limits.text_bytes.
    TextTooLong = 0x06, "TEXT_TOO_LONG", No, resume = true;
    /// The client seq is below the last answered one and was never answered itself: send the message under a new one.
    StaleClientSeq = 0x07, "STALE_CLIENT_SEQ", Now, resume = true;
    /// The name to register belongs to somebody.
    NameTaken = 0x08, "NAME_TAKEN", No, resume = true;
    /// The account has as many devices as it may.
    TooManyDevices = 0x09, "TOO_MANY_DEVICES", No, resume = true;
    /// The user takes no messages from this one.
    Blocked = 0x0a, "BLOCKED", No, resume = true;
    /// The user's role does not allow it.
    Forbidden = 0x0b, "FORBIDDEN", No, resume = true;
    /// A named limit of this page is reached; the reason says which.
    TooMany = 0x0c, "TOO_MANY", No, resume = true;
    /// The time in which this was allowed is over.
    WindowClosed = 0x0d, "WINDOW_CLOSED", No, resume = true;
    /// No such message, or one that the user may not see, or one without content.
    UnknownMessage = 0x0e, "UNKNOWN_MESSAGE", No, resume = true;
    /// No such file in this conversation.
    UnknownMedia = 0x0f, "UNKNOWN_MEDIA", No, resume = true;
    /// A file larger than this gateway takes.
    TooLarge = 0x10, "TOO_LARGE", No, resume = true;
    /// Something else has this id.
    Conflict = 0x11, "CONFLICT", No, resume = true;
    /// Too much at once.
    Busy = 0x40, "BUSY", After, resume = true;
    /// This user asks too often; comes with a time.
    RateLimited = 0x41, "RATE_LIMITED", After, resume = true;
}
