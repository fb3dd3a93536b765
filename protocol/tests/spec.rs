//! Holds SPEC.md against the code: its tables, its vectors, and the names of its rules.
//!
//! `BLESS=1 cargo test -p quipu-protocol --test spec` writes the generated parts anew; review the difference like code.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use common::{examples, hex, recode, stream_named, unhex};
use quipu_protocol::error::{CloseCode, RejectCode, Retry, StreamCode};
use quipu_protocol::frame::{FrameDecoder, FrameType, StreamKind};
use quipu_protocol::limits;

const SPEC: &str = include_str!("../SPEC.md");

/// The text between a generated part's two marks.
fn part(name: &str) -> &'static str {
    let start = format!("<!-- generated: {name} -->\n");
    let (_, rest) = SPEC
        .split_once(&start)
        .unwrap_or_else(|| panic!("SPEC.md has a part {name}"));
    let (part, _) = rest
        .split_once("<!-- end -->")
        .expect("a generated part ends");
    part
}

/// Compares a generated part with what the code says, or writes it.
fn check(name: &str, expected: &str) {
    if std::env::var_os("BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md");
        // Other tests of this file write other parts; read what is there now.
        static WRITING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _alone = WRITING.lock().expect("no test panics while it writes");
        let spec = std::fs::read_to_string(&path).expect("SPEC.md is there");
        let start = format!("<!-- generated: {name} -->\n");
        let from = spec.find(&start).expect("SPEC.md has the part") + start.len();
        let to = from + spec[from..].find("<!-- end -->").expect("the part ends");
        std::fs::write(&path, format!("{}{expected}{}", &spec[..from], &spec[to..]))
            .expect("SPEC.md can be written");
        return;
    }
    assert_eq!(
        part(name),
        expected,
        "SPEC.md and the code differ in: {name}. If the code is right, run this test with BLESS=1"
    );
}

fn retry(retry: Retry) -> &'static str {
    match retry {
        Retry::No => "no",
        Retry::Now => "now",
        Retry::After => "after",
        Retry::Elsewhere => "elsewhere",
    }
}

/// The table of one registry, with the first sentence of each code's documentation as its meaning.
macro_rules! registry_table {
    ($registry:ident) => {{
        let mut table =
            String::from("| code | name | means | retry | resume |\n|---|---|---|---|---|\n");
        for code in $registry::ALL {
            let resume = if code.may_resume() { "yes" } else { "no" };
            writeln!(
                table,
                "| {:#04x} | {} | {} | {} | {resume} |",
                code.code(),
                code.name(),
                meaning(stringify!($registry), code.name()),
                retry(code.retry()),
            )
            .expect("strings take everything");
        }
        table
    }};
}

/// What error.rs says above a code.
fn meaning(registry: &str, name: &str) -> String {
    let source = include_str!("../src/error.rs");
    let (_, source) = source
        .split_once(&format!("    {registry}: u32"))
        .expect("error.rs declares the registry");
    let (before, _) = source
        .split_once(&format!("\"{name}\""))
        .expect("error.rs declares the code");
    let doc = before
        .rsplit_once("    /// ")
        .expect("every code is documented")
        .1;
    doc.lines()
        .next()
        .expect("a line")
        .trim_end_matches('.')
        .to_owned()
}

#[test]
fn error_registries_are_those_of_the_code() {
    check("close codes", &registry_table!(CloseCode));
    check("stream codes", &registry_table!(StreamCode));
    check("reject codes", &registry_table!(RejectCode));
}

#[test]
fn frame_types_are_those_of_the_code() {
    let mut table =
        String::from("| type | name | stream | sender | body |\n|---|---|---|---|---|\n");
    for kind in FrameType::ALL {
        let (stream, sender) = placed(*kind);
        let body = body_name(*kind);
        writeln!(
            table,
            "| {:#04x} | {} | {stream} | {sender} | {body} |",
            *kind as u8,
            kind.name()
        )
        .expect("strings take everything");
    }
    check("frame types", &table);
}

/// The one stream that a frame may travel on.
fn placed(kind: FrameType) -> (&'static str, &'static str) {
    let places = [
        (StreamKind::S0FromClient, ("S0", "client")),
        (StreamKind::S0FromGateway, ("S0", "gateway")),
        (StreamKind::Lane, ("lane", "gateway")),
        (StreamKind::RequestFromClient, ("request", "client")),
        (StreamKind::RequestFromGateway, ("request", "gateway")),
        (StreamKind::BlobFromClient, ("blob", "client")),
        (StreamKind::BlobFromGateway, ("blob", "gateway")),
        (StreamKind::DatagramFromClient, ("datagram", "client")),
        (StreamKind::DatagramFromGateway, ("datagram", "gateway")),
    ];
    if kind == FrameType::Typing {
        return ("datagram", "both");
    }
    if kind == FrameType::Failure {
        return ("request, blob", "gateway");
    }
    let mut found = places
        .iter()
        .filter(|(stream, _)| stream.frames().contains(kind));
    let place = found.next().expect("every frame has a place");
    assert!(found.next().is_none(), "{kind:?} has one place");
    place.1
}

fn body_name(kind: FrameType) -> &'static str {
    match kind {
        FrameType::Hello => "Hello",
        FrameType::Welcome => "Welcome",
        FrameType::Send => "Send",
        FrameType::OpenDirect => "OpenDirect",
        FrameType::Receipt => "Receipt",
        FrameType::Ack => "Ack",
        FrameType::Reply => "Reply",
        FrameType::GoAway => "GoAway",
        FrameType::Command => "Command",
        FrameType::Refresh => "Refresh",
        FrameType::Lane => "Lane",
        FrameType::Notice => "Notice",
        FrameType::Query => "Query",
        FrameType::Answer => "Answer",
        FrameType::Event => "Event",
        FrameType::History => "HistoryRequest",
        FrameType::HistoryPage => "HistoryPage",
        FrameType::Failure => "Rejected",
        FrameType::Upload => "Upload",
        FrameType::UploadState => "UploadState",
        FrameType::Uploaded => "Uploaded",
        FrameType::Download => "Download",
        FrameType::Blob => "Blob",
        FrameType::Typing => "Typing",
        FrameType::Presence => "Presences",
    }
}

/// Limits with their names and values, as (name, value).
macro_rules! limit_values {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), limits::$name as u64)),*]
    };
}

/// Bounds of this implementation that a peer does not see.
const INTERNAL: &[&str] = &[
    "MESSAGE_OVERHEAD_BYTES_MAX",
    "SENDS_IN_FLIGHT_TOTAL_MAX",
    "SENDS_UNSYNCED_MAX",
    "SESSION_OUTPUTS_MAX",
    "SESSION_TRANSMIT_BYTES_MAX",
];

#[test]
fn limits_are_those_of_the_code() {
    let values = limit_values![
        USER_ID_BYTES_MIN,
        USER_ID_BYTES_MAX,
        PASSWORD_BYTES_MIN,
        PASSWORD_BYTES_MAX,
        LABEL_BYTES_MAX,
        INVITATION_BYTES_MAX,
        JWT_BYTES_MAX,
        TOKEN_BYTES,
        REASON_BYTES_MAX,
        FRAME_BYTES_MAX,
        REQUEST_FRAME_BYTES_MAX,
        TEXT_BYTES_MAX,
        CONTENT_BYTES_MAX,
        MENTIONS_MAX,
        ATTACHMENTS_MAX,
        MEDIA_TYPE_BYTES_MAX,
        FILE_NAME_BYTES_MAX,
        THUMBNAIL_BYTES_MAX,
        EMOJI_BYTES_MAX,
        REACTIONS_MAX,
        EDITS_MAX,
        EDIT_WINDOW_MS,
        DELETE_WINDOW_MS,
        KEEP_MS_MIN,
        KEEP_MS_MAX,
        TITLE_BYTES_MAX,
        TOPIC_BYTES_MAX,
        GROUP_MEMBERS_MAX,
        INVITES_MAX,
        CONVERSATIONS_MAX,
        BLOCKS_MAX,
        REPORT_BYTES_MAX,
        RECEIPT_FAN_OUT_MAX,
        CONVERSATIONS_PAGE_MAX,
        CHANGES_PAGE_MAX,
        CHANGES_KEPT_MAX,
        MEMBERS_PAGE_MAX,
        PRESENCE_USERS_MAX,
        PRESENCE_REFRESH_MS,
        TYPING_FAN_OUT_MAX,
        TYPING_REPEAT_MS,
        TYPING_EXPIRES_MS,
        DATAGRAM_BYTES_MAX,
        STREAM_WINDOW_BYTES,
        SENDS_IN_FLIGHT_MAX,
        CHANGES_IN_FLIGHT_MAX,
        DEDUP_WINDOW,
        DELIVERY_WINDOW_EVENTS,
        DELIVERY_WINDOW_BYTES,
        DELIVERY_WINDOW_TOLERANCE,
        ACK_EVENTS,
        ACK_BYTES,
        ACK_DELAY_MS,
        REQUEST_STREAMS_MAX,
        BLOB_STREAMS_MAX,
        MEDIA_HASH_BYTES,
        HISTORY_PAGE_MESSAGES_MAX,
        HISTORY_PAGE_BYTES_MAX,
        NEXT_GATEWAYS_MAX,
        REDIRECT_HOPS_MAX,
        HELLO_TIMEOUT_MS,
        AUTH_TIMEOUT_MS,
        WELCOME_TIMEOUT_MS,
        KEEP_ALIVE_MS,
        IDLE_TIMEOUT_MS,
    ];
    let declared: BTreeSet<&str> = include_str!("../src/limits.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    let listed = values.iter().map(|(name, _)| *name);
    let known: BTreeSet<&str> = listed.chain(INTERNAL.iter().copied()).collect();
    assert_eq!(
        declared, known,
        "every limit is in this test's list or in INTERNAL"
    );

    let mut table = String::from("| name | value | unit |\n|---|---|---|\n");
    for (name, value) in values {
        let unit = match name {
            _ if name.ends_with("_MS") || name.starts_with("KEEP_MS_") => "milliseconds",
            _ if name.contains("BYTES") => "bytes",
            _ => "",
        };
        writeln!(table, "| {name} | {value} | {unit} |").expect("strings take everything");
    }
    check("limits", &table);
}

#[test]
fn vectors_are_what_the_code_writes() {
    let mut blocks = String::new();
    for example in examples() {
        let bytes: Vec<String> = example.bytes.chunks(24).map(hex).collect();
        write!(
            blocks,
            "**{}**\n```{:?}\n{}\n```\n\n",
            example.title,
            example.stream,
            bytes.join("\n")
        )
        .expect("strings take everything");
    }
    check("vectors", &blocks);
}

#[test]
fn vectors_decode_and_encode_to_themselves() {
    let mut seen = BTreeSet::new();
    for block in part("vectors").split("**\n```").skip(1) {
        let (stream, rest) = block.split_once('\n').expect("a block names its stream");
        let (bytes, _) = rest.split_once("\n```").expect("a block ends");
        let bytes = unhex(bytes);
        let mut input = bytes.as_slice();
        let raw = FrameDecoder::new(stream_named(stream))
            .decode(&mut input)
            .expect("a vector is a frame")
            .expect("a whole one");
        assert!(input.is_empty(), "a vector is one frame");
        assert_eq!(
            hex(&recode(&raw).expect("a vector is valid")),
            hex(&bytes),
            "{:?}",
            raw.kind
        );
        seen.insert(raw.kind);
    }
    assert_eq!(
        seen,
        FrameType::ALL.iter().copied().collect(),
        "every frame type has a vector"
    );
}

#[test]
fn refused_headers_are_refused() {
    let (_, table) = SPEC
        .split_once("### Headers that are refused")
        .expect("SPEC.md has the table");
    let mut rows = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let bytes = unhex(cells[2]);
        let mut decoder = FrameDecoder::new(stream_named(cells[1]));
        let error = decoder
            .decode(&mut bytes.as_slice())
            .expect_err("the header is refused");
        assert_eq!(error.close_code().name(), cells[3], "{row}");
        assert!(error.to_string().starts_with(cells[4]), "{row}: {error}");
        rows += 1;
    }
    assert!(rows >= 5, "the table was found");
}

#[test]
fn the_example_of_a_direct_conversation() {
    let id = common::conversation().to_string();
    assert!(SPEC.contains(&id), "QP-ID-3 gives {id}");
}

/// Every rule that the code names exists, and no rule is numbered twice.
#[test]
fn rules_that_the_code_names_exist() {
    let mut defined = BTreeSet::new();
    for line in SPEC.lines() {
        if let Some((rule, _)) = line
            .strip_prefix("- **")
            .and_then(|rest| rest.split_once("**"))
        {
            assert!(defined.insert(rule.to_owned()), "{rule} is there twice");
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut named = rules_in(SPEC);
    for file in files(&source) {
        named.extend(rules_in(
            &std::fs::read_to_string(&file).expect("a source file is text"),
        ));
    }
    let missing: Vec<_> = named.difference(&defined).collect();
    assert!(missing.is_empty(), "SPEC.md has no rule {missing:?}");
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    entries
        .map(|entry| entry.expect("it can be read").path())
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// Names like `QP-SEND-4` in a text.
fn rules_in(text: &str) -> BTreeSet<String> {
    text.split("QP-")
        .skip(1)
        .filter_map(|rest| {
            let (area, rest) = rest.split_once('-')?;
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let is_rule = area.bytes().all(|byte| byte.is_ascii_uppercase()) && !number.is_empty();
            is_rule.then(|| format!("QP-{area}-{number}"))
        })
        .collect()
}
