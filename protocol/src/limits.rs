//! Every bound in the protocol, and the const assertions that relate them.

/// Shortest user id, in bytes.
pub const USER_ID_BYTES_MIN: usize = 2;
/// Longest user id, in bytes: with its length it fills 32 bytes.
pub const USER_ID_BYTES_MAX: usize = 31;
/// Shortest password, in bytes.
pub const PASSWORD_BYTES_MIN: usize = 8;
/// Longest password, in bytes: hashing cost must not depend on what a stranger sends.
pub const PASSWORD_BYTES_MAX: usize = 256;
/// Longest device label and software name, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;
/// Longest invitation, in bytes.
pub const INVITATION_BYTES_MAX: usize = 128;
/// Longest token of an external issuer, in bytes.
pub const JWT_BYTES_MAX: usize = 4096;
/// A session token, in bytes.
pub const TOKEN_BYTES: usize = 32;
/// Longest reason phrase in a close, a reset or a rejection, in bytes.
pub const REASON_BYTES_MAX: usize = 256;

/// Longest frame on S0 and on lanes, body only, in bytes.
pub const FRAME_BYTES_MAX: usize = 32 * 1024;
/// Longest frame on a request stream, body only, in bytes.
pub const REQUEST_FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Longest text of one message, in bytes of UTF-8.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Longest content of one message on the wire, in bytes: text, mentions and descriptions of files together.
pub const CONTENT_BYTES_MAX: usize = 24 * 1024;
/// Users that one message mentions.
pub const MENTIONS_MAX: usize = 32;
/// Files of one message.
pub const ATTACHMENTS_MAX: usize = 8;
/// Longest media type, in bytes.
pub const MEDIA_TYPE_BYTES_MAX: usize = 127;
/// Longest name of a file, in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// Longest thumbnail inside a message, in bytes.
pub const THUMBNAIL_BYTES_MAX: usize = 4096;
/// Longest reaction, in bytes: one emoji with its modifiers.
pub const EMOJI_BYTES_MAX: usize = 32;
/// Reactions that one message keeps, over all users.
pub const REACTIONS_MAX: usize = 128;
/// Changes of one message's content that are accepted; their old contents are kept.
pub const EDITS_MAX: usize = 32;
/// How long after sending a message its author may edit it, in milliseconds: 48 hours.
pub const EDIT_WINDOW_MS: u64 = 48 * 60 * 60 * 1000;
/// How long after sending a message its author may delete it for all, in milliseconds: 30 days. Admins of a group always may.
pub const DELETE_WINDOW_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// Shortest time that a conversation may keep its messages, in milliseconds.
pub const KEEP_MS_MIN: u64 = 5_000;
/// Longest time that a conversation may keep its messages, in milliseconds, unless it keeps them for good.
pub const KEEP_MS_MAX: u64 = 365 * 24 * 60 * 60 * 1000;
/// Longest title of a group, in bytes.
pub const TITLE_BYTES_MAX: usize = 128;
/// Longest topic of a group, in bytes.
pub const TOPIC_BYTES_MAX: usize = 512;
/// Members of a group, those invited included.
pub const GROUP_MEMBERS_MAX: usize = 10_000;
/// Users that one command invites.
pub const INVITES_MAX: usize = 64;
/// Conversations that a user may be in, invitations included.
pub const CONVERSATIONS_MAX: usize = 10_000;
/// Users that a user may block.
pub const BLOCKS_MAX: usize = 1_000;
/// Longest reason of a report, in bytes.
pub const REPORT_BYTES_MAX: usize = 1024;
/// Members up to which a group's receipts go to all of them; in a larger one only to the reader's own devices.
pub const RECEIPT_FAN_OUT_MAX: usize = 32;
/// Entries in one page of the conversation list.
pub const CONVERSATIONS_PAGE_MAX: usize = 128;
/// Members in one page of a member list.
pub const MEMBERS_PAGE_MAX: usize = 256;
/// Changes of a pulled group that one answer covers.
pub const CHANGES_PAGE_MAX: usize = 128;
/// Changes of a pulled group that a gateway keeps the numbers of. A device that missed more reads again what it keeps.
pub const CHANGES_KEPT_MAX: usize = 1024;
/// Users that one query about presence names, and that a session watches.
pub const PRESENCE_USERS_MAX: usize = 256;
/// How often a client asks anew about those whom it watches, in milliseconds: what it was told in datagrams may be lost.
pub const PRESENCE_REFRESH_MS: u64 = 120_000;
/// Members up to which a group is told who types.
pub const TYPING_FAN_OUT_MAX: usize = 32;
/// How often a client says at most that its user types in a conversation, in milliseconds.
pub const TYPING_REPEAT_MS: u64 = 2_500;
/// When somebody who was said to type no longer does, unless it was said again, in milliseconds.
pub const TYPING_EXPIRES_MS: u64 = 6_000;
/// Longest datagram with its frame's header, in bytes: it fits the smallest packet that QUIC allows.
pub const DATAGRAM_BYTES_MAX: usize = 1024;
/// What a message adds to its content in a frame at the most: ids, names, numbers and protobuf tags.
pub const MESSAGE_OVERHEAD_BYTES_MAX: usize = 256;
/// QUIC flow-control window of one stream, in bytes.
pub const STREAM_WINDOW_BYTES: usize = 64 * 1024;

/// SENDs of one device in one conversation that may be unanswered at once.
pub const SENDS_IN_FLIGHT_MAX: usize = 64;
/// SENDs of one connection that may be unanswered at once, over all conversations. At it the client's machine refuses more.
pub const SENDS_IN_FLIGHT_TOTAL_MAX: usize = 1024;
/// Answered SENDs after which a client syncs its disk before it sends more: what it may forget in a loss of power.
pub const SENDS_UNSYNCED_MAX: usize = SENDS_IN_FLIGHT_MAX / 2;
/// COMMANDs that a device may have given since the oldest one that is unanswered, that one included.
pub const CHANGES_IN_FLIGHT_MAX: usize = 64;
/// How many answered SENDs per device a conversation remembers with their seq or rejection, and how many answered COMMANDs
/// with their outcome whoever decides about them.
pub const DEDUP_WINDOW: usize = 64;

/// Events pushed to a device and not yet acked by it.
pub const DELIVERY_WINDOW_EVENTS: usize = 256;
/// Bytes of frames pushed to a device and not yet acked by it.
pub const DELIVERY_WINDOW_BYTES: usize = 256 * 1024;

/// Kept events after which a client acks at once: a quarter of the window, so that the gateway never waits for an ack.
pub const ACK_EVENTS: usize = DELIVERY_WINDOW_EVENTS / 4;
/// Bytes of kept events after which a client acks at once.
pub const ACK_BYTES: usize = DELIVERY_WINDOW_BYTES / 4;
/// Below those, an ack waits this long for something to go with, in milliseconds. A gateway that waits for acks before it
/// does something waits for several times as long.
pub const ACK_DELAY_MS: u64 = 2_000;
/// How many times the delivery window a gateway may overrun before the client closes. Memory of a client is bounded by it.
pub const DELIVERY_WINDOW_TOLERANCE: usize = 2;

/// Request streams that a client may have open at once.
pub const REQUEST_STREAMS_MAX: usize = 8;
/// Blob streams that a client may have open at once, beside its request streams.
pub const BLOB_STREAMS_MAX: usize = 2;
/// The hash that names a file, in bytes.
pub const MEDIA_HASH_BYTES: usize = 32;
/// Messages in one page of history.
pub const HISTORY_PAGE_MESSAGES_MAX: usize = 256;
/// Body bytes in one page of history: the page ends early rather than pass it.
pub const HISTORY_PAGE_BYTES_MAX: usize = 256 * 1024;
/// Gateways named in a WELCOME.
pub const NEXT_GATEWAYS_MAX: usize = 8;
/// REDIRECTs that a client follows in a row before it backs off.
pub const REDIRECT_HOPS_MAX: usize = 3;

/// How long the gateway waits for HELLO after the handshake, in milliseconds.
pub const HELLO_TIMEOUT_MS: u64 = 5_000;
/// How long the answer to HELLO may take, in milliseconds.
pub const AUTH_TIMEOUT_MS: u64 = 10_000;
/// How long a client waits for WELCOME, in milliseconds.
pub const WELCOME_TIMEOUT_MS: u64 = 20_000;
/// How often a client lets itself be heard, in milliseconds.
pub const KEEP_ALIVE_MS: u64 = 25_000;
/// Silence after which a connection is dead, in milliseconds.
pub const IDLE_TIMEOUT_MS: u64 = 75_000;

/// Outputs that a session machine holds. At it the machine takes no more input until they are polled.
pub const SESSION_OUTPUTS_MAX: usize = 64;
/// Bytes for S0 that a session machine holds. At it a gateway's machine closes with BUSY, for its peer does not read the
/// answers; a client's machine refuses further commands.
pub const SESSION_TRANSMIT_BYTES_MAX: usize = 128 * 1024;

// A text fits a frame, and a frame fits the stream's window: a reader that needs a whole frame never waits for credit.
const _: () = assert!(TEXT_BYTES_MAX <= CONTENT_BYTES_MAX);
const _: () = assert!(CONTENT_BYTES_MAX + MESSAGE_OVERHEAD_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX * 2 <= STREAM_WINDOW_BYTES);
// Every unanswered SEND that was decided is still remembered, so "not remembered" proves "never accepted" (QP-SEND-4).
const _: () = assert!(SENDS_IN_FLIGHT_MAX <= DEDUP_WINDOW);
// The same for a COMMAND (QP-CMD-4).
const _: () = assert!(CHANGES_IN_FLIGHT_MAX <= DEDUP_WINDOW);
// One event always fits the delivery window.
const _: () = assert!(FRAME_BYTES_MAX <= DELIVERY_WINDOW_BYTES);
// A page with one message too many still fits its frame.
const _: () = assert!(HISTORY_PAGE_BYTES_MAX + FRAME_BYTES_MAX <= REQUEST_FRAME_BYTES_MAX);
// Who missed a page of changes is told of them.
const _: () = assert!(CHANGES_PAGE_MAX <= CHANGES_KEPT_MAX);
// Two keep-alives may be lost before the connection is.
const _: () = assert!(KEEP_ALIVE_MS * 3 <= IDLE_TIMEOUT_MS);
// A client gives up later than the gateway, so that the gateway's reason arrives.
const _: () = assert!(HELLO_TIMEOUT_MS + AUTH_TIMEOUT_MS < WELCOME_TIMEOUT_MS);
// One lost datagram of two does not end what is still going on.
const _: () = assert!(TYPING_REPEAT_MS * 2 < TYPING_EXPIRES_MS);
// Acks come well before the window is full.
const _: () = assert!(ACK_EVENTS * 2 <= DELIVERY_WINDOW_EVENTS);
const _: () = assert!(ACK_BYTES * 2 <= DELIVERY_WINDOW_BYTES);
// Below half of it a machine takes input, and one frame makes less than the other half.
const _: () = assert!(FRAME_BYTES_MAX * 2 < SESSION_TRANSMIT_BYTES_MAX);
