//! Committed seeds are the vectors of SPEC.md and a few rows, in the form of each target's inputs: `QUIPU_BLESS=1` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use quipu_core::record::{Command, CommandKind, Entry, EntryBody, NewDevice, Position, Record};
use quipu_core::row::{EntityKey, IndexKey, Row};
use quipu_core::shard::{Effects, ShardCount, ShardId, ShardState};
use quipu_gateway::store::keys;
use quipu_protocol::event::{Change, Content};
use quipu_protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, DeviceId, InboxSeq, MessageId, RequestId, Seq,
    TimestampMs, UserId,
};

/// Where the fuzzer looks for the seeds of a target.
fn corpus(target: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__");
    tests.join(format!("targets__{target}")).join("corpus")
}

/// Name, stream and bytes of each vector in SPEC.md.
fn vectors() -> Vec<(String, String, Vec<u8>)> {
    let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/SPEC.md");
    let text = fs::read_to_string(spec).expect("SPEC.md is there");
    let (_, text) = text
        .split_once("<!-- generated: vectors -->")
        .expect("it has vectors");
    let mut found = Vec::new();
    for block in text.split("\n**").skip(1) {
        let mut parts = block.split("```");
        let name = parts.next().unwrap_or_default();
        let Some((stream, digits)) = parts.next().and_then(|code| code.split_once('\n')) else {
            continue;
        };
        let bytes: Vec<u8> = digits
            .split_whitespace()
            .map(|digit| u8::from_str_radix(digit, 16).expect("two digits"))
            .collect();
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        found.push((name.to_lowercase(), stream.to_owned(), bytes));
    }
    found
}

/// The seeds of every target, by path.
fn seeds() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut seeds = BTreeMap::new();
    for (name, stream, frame) in vectors() {
        let mut add = |target: &str, input: Vec<u8>| {
            seeds.insert(corpus(target).join(&name), input);
        };
        // Length and type are one byte each in the vectors below 128 bytes, and the length is two above.
        let header = if frame.first().is_some_and(|byte| byte & 0x80 != 0) {
            3
        } else {
            2
        };
        add("wire_messages", frame[header.min(frame.len())..].to_vec());
        let number = match stream.as_str() {
            "S0FromClient" => 0,
            "S0FromGateway" => 1,
            "Lane" => 2,
            "RequestFromClient" => 3,
            "BlobFromClient" => 5,
            "BlobFromGateway" => 6,
            // What travels as a datagram is read from a request stream, which must refuse it.
            _ => 4,
        };
        add("frames_in_any_split", [&[number, 5], &frame[..]].concat());
        match stream.as_str() {
            "S0FromClient" => add("server_session", [&[255], &frame[..]].concat()),
            "S0FromGateway" | "Lane" => add("client_session", [&[255], &frame[..]].concat()),
            "DatagramFromClient" => add("datagrams", [&[0], &frame[..]].concat()),
            "DatagramFromGateway" => add("datagrams", [&[1], &frame[..]].concat()),
            _ => {}
        }
    }
    // A whole session: HELLO, and everything that a welcomed device may say.
    let said = vectors().into_iter();
    let said = said.filter(|(name, stream, _)| {
        stream == "S0FromClient" && (!name.starts_with("hello") || name.contains("session"))
    });
    let said = said.flat_map(|(_, _, frame)| frame);
    let session = std::iter::once(255).chain(said).collect();
    seeds.insert(corpus("server_session").join("session"), session);
    for (name, row) in rows() {
        seeds.insert(corpus("stored_rows").join(name), row.to_vec());
    }
    for (name, input) in pairs_of_keys() {
        seeds.insert(corpus("store_keys").join(name), input);
    }
    for (name, file) in files() {
        seeds.insert(corpus("configuration").join(name), file.into_bytes());
    }
    seeds
}

/// Each key beside the one before it.
fn pairs_of_keys() -> Vec<(String, Vec<u8>)> {
    let user = |name: &str| UserId::new(name).expect("a name");
    let (ana, group) = (user("ana"), ConversationId([0xcc; 16]));
    let entities = [
        EntityKey::Account(ana),
        EntityKey::Inbox(ana),
        EntityKey::Conversation(group),
        EntityKey::Settings(ana),
        EntityKey::Member(group, ana),
        EntityKey::Roster(group, ShardId(258)),
        EntityKey::Answers(ana, ShardId(258)),
        EntityKey::News(group, ShardId(258)),
        EntityKey::Presence(ana),
        EntityKey::DeadLetters(ShardId(3)),
    ];
    let indexed = [
        IndexKey::Listed(ana, group),
        IndexKey::Version(group, Seq::FIRST, 1),
        IndexKey::MediaRef(group, [7; 32], Seq::FIRST),
        IndexKey::Due(TimestampMs(5), group, Seq::FIRST),
        IndexKey::Report(TimestampMs(5), group, ana, Some(Seq::FIRST)),
        IndexKey::Report(TimestampMs(5), group, ana, None),
        IndexKey::Seated(group, ana),
        IndexKey::Here(ana),
        IndexKey::Offline(ana),
        IndexKey::Changed(group, ChangeNumber(1)),
    ];
    let mut all: Vec<Vec<u8>> = entities.iter().map(keys::entity).collect();
    all.extend(indexed.iter().map(IndexKey::encode));
    all.push(keys::inbox(&ana, InboxSeq::FIRST));
    all.push(keys::inbox(&user("ana-2"), InboxSeq::FIRST));
    all.push(keys::history(&group, Seq::FIRST).to_vec());
    all.push(keys::shard(ShardId(258)).to_vec());
    let pair = |(number, pair): (usize, &[Vec<u8>])| {
        let cut = u8::try_from(pair[0].len()).expect("a short key");
        (
            format!("key-{number}"),
            [&[cut], &pair[0][..], &pair[1][..]].concat(),
        )
    };
    all.windows(2).enumerate().map(pair).collect()
}

/// Configuration files: one with every setting, and some that are wrong.
fn files() -> Vec<(&'static str, String)> {
    vec![
        ("every-setting", quipu_gateway::config::sample()),
        (
            "limits",
            "[limits]\ncommands_per_user = \"10/s burst 20\"\n".to_owned(),
        ),
        ("unknown", "[limit]\ncommands = 1\n".to_owned()),
        ("out-of-range", "[storage]\nshards = 100000\n".to_owned()),
        ("no-toml", "[storage\n".to_owned()),
        ("nested", "a.b.c.d = [{ e = 1 }]\n".to_owned()),
    ]
}

/// A record with commands, and the rows of the entities that they make.
fn rows() -> Vec<(&'static str, Bytes)> {
    let user = |name: &str| UserId::new(name).expect("a name");
    let device = DeviceId::new(7).expect("not 0");
    let conversation = ConversationId::direct(&user("ana"), &user("ben"));
    let command = |kind| Entry {
        source: None,
        body: EntryBody::Command(Command {
            user: user("ana"),
            device,
            kind,
        }),
    };
    let entries = [
        command(CommandKind::Register {
            request: RequestId(1),
            password: Some("$argon2id$".to_owned()),
            device: NewDevice {
                label: "laptop".to_owned(),
                token_hash: [1; 32],
            },
        }),
        command(CommandKind::OpenDirect {
            request: RequestId(2),
            peer: user("ben"),
        }),
        command(CommandKind::Send {
            conversation,
            client_seq: ClientSeq::FIRST,
            id: MessageId([3; 16]),
            content: Content::Text("hello".to_owned()),
        }),
        command(CommandKind::Change {
            request: RequestId(3),
            client_seq: ClientSeq::new(2).ok(),
            change: Box::new(Change::SetTimer(conversation, 3_600_000)),
            fan_out_max: 256,
        }),
        command(CommandKind::Change {
            request: RequestId(4),
            client_seq: ClientSeq::new(300).ok(),
            change: Box::new(Change::Delete(conversation, Seq::FIRST)),
            fan_out_max: 256,
        }),
    ];
    let record = Record {
        position: Position(1),
        time: TimestampMs(1),
        entries: entries.to_vec(),
    };
    let mut state = ShardState::new(ShardId(0), ShardCount(1));
    let (mut missing, mut effects) = (BTreeSet::new(), Effects::default());
    state.missing(&record, &mut missing);
    for key in missing {
        state.load(key, None).expect("no row is no corrupt row");
    }
    state.apply(&record, &mut effects);
    let mut found = vec![("record", Record::encode_entries(&entries))];
    let outgoing: Vec<Entry> = effects
        .outgoing
        .into_iter()
        .map(|(_, entry)| entry)
        .collect();
    found.push(("deliveries", Record::encode_entries(&outgoing)));
    let mut rows = effects.rows;
    state.drain_dirty(&mut rows);
    for row in rows {
        found.push(match row {
            Row::History(row) => ("message", row.encode_value()),
            Row::Inbox(row) => ("inbox-entry", row.encode_value()),
            Row::Entity(EntityKey::Account(_), value) => ("account", value),
            Row::Entity(EntityKey::Conversation(_), value) => ("conversation", value),
            Row::Entity(EntityKey::Answers(..), value) => ("answers", value),
            Row::Entity(_, value) => ("entity", value),
            Row::Shard(_, value) => ("shard", value),
            Row::Index(key, _) => ("index-key", key.encode().into()),
            Row::Trimmed(..) => continue,
        });
    }
    found
}

#[test]
fn seeds_are_fresh() {
    let seeds = seeds();
    assert!(seeds.len() > 40, "{} seeds", seeds.len());
    if std::env::var_os("QUIPU_BLESS").is_some() {
        for (path, input) in &seeds {
            let folder = path.parent().expect("a seed is in a folder");
            fs::create_dir_all(folder).expect("a folder");
            fs::write(path, input).expect("a file");
        }
    }
    for (path, input) in &seeds {
        let kept = fs::read(path).unwrap_or_default();
        assert_eq!(
            &kept,
            input,
            "{} is stale: QUIPU_BLESS=1 cargo test -p quipu-fuzz --test seeds",
            path.display()
        );
    }
}
