//! Prints what one message and one session cost the processors: `cargo run --release -p quipu-core --example apply_cost`.
//!
//! One message is a Send to the conversation's shard and a Deliver to the shards of its two members; a turn takes 256
//! entries in one record, with 1,000 conversations in memory, whose members all listen. One session is its beginning and its
//! end, each an entry of its user's shard.

#![allow(
    clippy::disallowed_methods,
    reason = "this measures; nothing depends on the time"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quipu_core::record::{
    Command, CommandKind, Entry, EntryBody, Fact, NewDevice, Record, SessionId,
};
use quipu_core::row::Row;
use quipu_core::shard::{Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::event::Content;
use quipu_protocol::id::{
    ClientSeq, ConversationId, Cursor, DeviceId, InvalidId, MessageId, RequestId, TimestampMs,
    UserId,
};

const PAIRS: usize = 1_000;
const TURN_ENTRIES: usize = 256;
const TURNS: usize = 2_000;
const TEXT_BYTES: usize = 100;
const SESSIONS: usize = TURN_ENTRIES * 400;

#[derive(Default)]
struct Cost {
    encode: Duration,
    decode: Duration,
    apply: Duration,
    rows: Duration,
    log_bytes: usize,
    row_bytes: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = DeviceId::new(1)?;
    let pairs = (0..PAIRS)
        .map(|i| {
            Ok((
                UserId::new(&format!("a{i}"))?,
                UserId::new(&format!("b{i}"))?,
            ))
        })
        .collect::<Result<Vec<_>, InvalidId>>()?;
    let mut state = ShardState::new(ShardId(0), ShardCount(1));
    let mut cost = Cost::default();
    let setup: Vec<Entry> = pairs.iter().flat_map(|pair| setup(device, *pair)).collect();
    turn(&mut state, &setup, &mut cost)?;
    let everybody: Vec<UserId> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let sessions = sessions(&mut state, device, &everybody)?;
    cost = Cost::default();

    let mut sends = 0;
    for number in 1..=TURNS {
        let mut entries = Vec::with_capacity(TURN_ENTRIES);
        for _ in 0..TURN_ENTRIES {
            let (from, to) = pairs[sends % PAIRS];
            entries.push(send(device, from, to, sends as u64 + 1)?);
            sends += 1;
        }
        let outgoing = turn(&mut state, &entries, &mut cost)?;
        assert_eq!(
            outgoing.len(),
            TURN_ENTRIES,
            "turn {number} accepted every message"
        );
        turn(&mut state, &outgoing, &mut cost)?;
    }
    println!("{sends} messages of {TEXT_BYTES} bytes in turns of {TURN_ENTRIES}, ns a message:");
    cost.print(sends);
    println!("{SESSIONS} sessions in turns of {TURN_ENTRIES}, ns a session:");
    sessions.print(SESSIONS);
    Ok(())
}

impl Cost {
    fn print(&self, count: usize) {
        let each = |time: Duration| time.as_nanos() as f64 / count as f64;
        println!(
            "  encode both records   {:8.0}   {} bytes",
            each(self.encode),
            self.log_bytes / count
        );
        println!("  decode both records   {:8.0}", each(self.decode));
        println!("  apply both            {:8.0}", each(self.apply));
        println!(
            "  drain and encode rows {:8.0}   {} bytes",
            each(self.rows),
            self.row_bytes / count
        );
    }
}

/// Sessions begin and end; at the end everybody has one.
fn sessions(
    state: &mut ShardState,
    device: DeviceId,
    users: &[UserId],
) -> Result<Cost, quipu_core::row::CorruptRow> {
    let mut cost = Cost::default();
    let mut number = 0;
    while number < SESSIONS {
        let (mut begin, mut end) = (Vec::new(), Vec::new());
        for _ in 0..TURN_ENTRIES {
            let user = users[number % users.len()];
            let session = SessionId {
                boot: u64::MAX / 3,
                number: number as u64,
            };
            let cursor = Cursor::START;
            let fact = |fact| Entry {
                source: None,
                body: EntryBody::Fact { user, fact },
            };
            begin.push(fact(Fact::Attached {
                device,
                session,
                cursor,
            }));
            end.push(fact(Fact::Detached {
                device,
                session,
                cursor,
            }));
            number += 1;
        }
        turn(state, &begin, &mut cost)?;
        turn(state, &end, &mut cost)?;
    }
    let session = SessionId { boot: 1, number: 1 };
    let cursor = Cursor::START;
    let here: Vec<Entry> = users
        .iter()
        .map(|user| Entry {
            source: None,
            body: EntryBody::Fact {
                user: *user,
                fact: Fact::Attached {
                    device,
                    session,
                    cursor,
                },
            },
        })
        .collect();
    turn(state, &here, &mut Cost::default())?;
    Ok(cost)
}

fn turn(
    state: &mut ShardState,
    entries: &[Entry],
    cost: &mut Cost,
) -> Result<Vec<Entry>, quipu_core::row::CorruptRow> {
    let begin = Instant::now();
    let payload = Record::encode_entries(entries);
    cost.encode += begin.elapsed();
    cost.log_bytes += payload.len();

    let begin = Instant::now();
    let record = Record::decode(state.applied().next(), TimestampMs(1), &payload)?;
    cost.decode += begin.elapsed();

    let begin = Instant::now();
    let (mut missing, mut effects) = (BTreeSet::new(), Effects::default());
    state.missing(&record, &mut missing);
    for key in missing {
        state.load(key, None)?;
    }
    state.apply(&record, &mut effects);
    cost.apply += begin.elapsed();

    let begin = Instant::now();
    let mut rows = std::mem::take(&mut effects.rows);
    state.drain_dirty(&mut rows);
    let values: Vec<Bytes> = rows.iter().map(value).collect();
    cost.rows += begin.elapsed();
    cost.row_bytes += values.iter().map(Bytes::len).sum::<usize>();
    Ok(effects
        .outgoing
        .into_iter()
        .map(|(_, entry)| entry)
        .collect())
}

fn value(row: &Row) -> Bytes {
    match row {
        Row::History(row) => row.encode_value(),
        Row::Inbox(row) => row.encode_value(),
        Row::Entity(_, value) | Row::Shard(_, value) => value.clone(),
        Row::Index(_, value) => value.clone().unwrap_or_default(),
        Row::Trimmed(..) => Bytes::new(),
    }
}

fn setup(device: DeviceId, (a, b): (UserId, UserId)) -> [Entry; 3] {
    let register = |user| {
        let device_row = NewDevice {
            label: String::new(),
            token_hash: [1; 32],
        };
        let request = RequestId(1);
        command(
            user,
            device,
            CommandKind::Register {
                request,
                password: None,
                device: device_row,
            },
        )
    };
    let open = CommandKind::OpenDirect {
        request: RequestId(2),
        peer: b,
    };
    [register(a), register(b), command(a, device, open)]
}

fn send(device: DeviceId, from: UserId, to: UserId, number: u64) -> Result<Entry, InvalidId> {
    let kind = CommandKind::Send {
        conversation: ConversationId::direct(&from, &to),
        client_seq: ClientSeq::new(number)?,
        id: MessageId(u128::from(number).to_be_bytes()),
        content: Content::Text("x".repeat(TEXT_BYTES)),
    };
    Ok(command(from, device, kind))
}

fn command(user: UserId, device: DeviceId, kind: CommandKind) -> Entry {
    Entry {
        source: None,
        body: EntryBody::Command(Command { user, device, kind }),
    }
}
