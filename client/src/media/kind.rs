//! What a file is, told from its name and its first bytes; and what it may be called on this machine.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use quipu_protocol::media::MediaType;

/// Bytes of a file that are looked at.
const HEAD_BYTES: usize = 32;
/// Longest name of a file, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Types of names that people use, by their last part.
const ENDINGS: &[(&str, &str)] = &[
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("csv", "text/csv"),
    ("doc", "application/msword"),
    (
        "docx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("heic", "image/heic"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("m4a", "audio/mp4"),
    ("md", "text/markdown"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("ogg", "audio/ogg"),
    ("opus", "audio/ogg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("txt", "text/plain"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("zip", "application/zip"),
];

/// What a file is: by its first bytes where they are telling, else by its name.
pub fn guess(path: &Path) -> MediaType {
    let mut head = [0; HEAD_BYTES];
    let read = File::open(path).and_then(|mut file| file.read(&mut head));
    let by_bytes = read.ok().and_then(|read| by_first_bytes(&head[..read]));
    let by_name = || {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        let found = ENDINGS.iter().find(|(known, _)| *known == ending)?;
        Some(found.1)
    };
    let text = by_bytes.or_else(by_name).unwrap_or(MediaType::UNKNOWN);
    MediaType::new(text).unwrap_or_default()
}

fn by_first_bytes(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some("image/webp"),
        [b'%', b'P', b'D', b'F', b'-', ..] => Some("application/pdf"),
        _ => None,
    }
}

/// A name that is safe to give to a file here, made of one that somebody else chose: no folders, no hidden files, no
/// control characters, none that turn the order of the others round, at most 255 bytes, never empty.
pub fn safe_file_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept: String = last
        .chars()
        .filter(|c| !c.is_control() && !matches!(c, ':' | '*' | '?' | '"' | '<' | '>' | '|'))
        .filter(|c| !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        .collect();
    let kept = kept.trim_matches(|c: char| c.is_whitespace() || c == '.');
    let end = kept.floor_char_boundary(NAME_BYTES_MAX);
    match &kept[..end] {
        "" => "file".to_owned(),
        kept => kept.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_stay_in_their_folder() {
        for (given, safe) in [
            ("holiday.jpg", "holiday.jpg"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Windows\\a.exe", "a.exe"),
            ("..", "file"),
            (".bashrc", "bashrc"),
            ("", "file"),
            ("a\u{1b}[2Jb\n", "a[2Jb"),
            ("x/", "file"),
            ("cat\u{202e}gpj.exe", "catgpj.exe"),
        ] {
            assert_eq!(safe_file_name(given), safe, "{given:?}");
        }
        let long = safe_file_name(&"é".repeat(400));
        assert!(long.len() <= NAME_BYTES_MAX && long.chars().all(|c| c == 'é'));
    }

    #[test]
    fn types_are_told_from_bytes_before_names() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let of = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            guess(&path).to_string()
        };
        assert_eq!(of("a.txt", b"\xff\xd8\xff\xe0"), "image/jpeg");
        assert_eq!(of("a.MP4", b"whatever"), "video/mp4");
        assert_eq!(of("nothing", b"at all"), MediaType::UNKNOWN);
        for (_, text) in ENDINGS {
            assert!(MediaType::new(*text).is_ok(), "{text}");
        }
    }
}
