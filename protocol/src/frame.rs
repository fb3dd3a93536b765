//! Length-prefixed frames: incremental decode that refuses by header before it allocates.

/// The frame types of this version (SPEC.md QP-FRAME-4). Odd types are critical, even ones may be skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum FrameType {
    /// S0, client: who connects.
    Hello = 0x01,
    /// S0, gateway: the answer to HELLO.
    Welcome = 0x03,
    /// S0, client: one message.
    Send = 0x05,
    /// S0, client: make sure a direct conversation exists.
    OpenDirect = 0x07,
    /// S0, client: delivered and read positions.
    Receipt = 0x09,
    /// S0, client: inbox cursor.
    Ack = 0x0b,
    /// S0, gateway: the answer to a command.
    Reply = 0x0d,
    /// S0, gateway: the connection will be closed.
    GoAway = 0x0f,
    /// First frame of a lane.
    Lane = 0x21,
    /// Lane: one inbox event.
    Event = 0x23,
    /// First frame of a request stream: a range of history.
    History = 0x31,
    /// Request stream, gateway: the answer to HISTORY.
    HistoryPage = 0x33,
    /// Request stream, gateway: the request was refused.
    Failure = 0x35,
}
