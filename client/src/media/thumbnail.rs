//! The small picture that travels inside a message.

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageDecoder as _, ImageReader, Limits};

/// Bytes of a small picture at the most.
pub const THUMBNAIL_BYTES_MAX: usize = 4096;
/// Files above this are not looked at: their pictures take too much memory.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Memory that decoding a picture may take, in bytes.
const DECODE_BYTES_MAX: u64 = 512 << 20;
/// Sides that are tried, in pixels, and with each some qualities, until the small picture fits.
const SIDES: [u32; 3] = [128, 96, 64];
const QUALITIES: [u8; 3] = [70, 50, 30];

/// What a picture looks like before it is fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct Preview {
    /// Pixels, as it is to be shown.
    pub width: u32,
    /// Pixels, as it is to be shown.
    pub height: u32,
    /// A JPEG of at most [`THUMBNAIL_BYTES_MAX`] bytes.
    pub thumbnail: Vec<u8>,
}

impl std::fmt::Debug for Preview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.thumbnail.len();
        write!(f, "{} x {} pixels, {bytes} bytes", self.width, self.height)
    }
}

/// The preview of a picture; `None` for everything that is none, or none that we can read. Blocks.
pub(super) fn of_file(path: &Path, size: u64) -> Option<Preview> {
    if size > FILE_BYTES_MAX {
        return None;
    }
    let mut reader = ImageReader::open(path).ok()?.with_guessed_format().ok()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().ok()?;
    // Cameras store how they were held; without turning it the small picture would lie on its side.
    let orientation = decoder.orientation().ok();
    let mut picture = DynamicImage::from_decoder(decoder).ok()?;
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    Some(Preview {
        width: picture.width(),
        height: picture.height(),
        thumbnail: shrink(&picture)?,
    })
}

fn shrink(picture: &DynamicImage) -> Option<Vec<u8>> {
    for side in SIDES {
        let small = picture.thumbnail(side, side).to_rgb8();
        for quality in QUALITIES {
            let mut bytes = Vec::new();
            let encoder = JpegEncoder::new_with_quality(Cursor::new(&mut bytes), quality);
            small.write_with_encoder(encoder).ok()?;
            if bytes.len() <= THUMBNAIL_BYTES_MAX {
                return Some(bytes);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_small_picture_and_others_have_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Noise is what compresses worst.
        let mut state = 7u32;
        let noise = image::RgbImage::from_fn(640, 360, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            image::Rgb([(state >> 8) as u8, (state >> 16) as u8, (state >> 24) as u8])
        });
        let path = folder.path().join("noise.png");
        noise.save(&path).expect("saved");
        let preview = of_file(&path, 1).expect("it is a picture");
        assert_eq!((preview.width, preview.height), (640, 360));
        assert!(preview.thumbnail.len() <= THUMBNAIL_BYTES_MAX);
        let small = image::load_from_memory(&preview.thumbnail).expect("a JPEG");
        assert!(small.width() <= 128 && small.height() < small.width());

        let text = folder.path().join("text.png");
        std::fs::write(&text, "\u{89}PNG but not really").expect("written");
        assert_eq!(of_file(&text, 1), None);
        assert_eq!(of_file(&path, FILE_BYTES_MAX + 1), None);
    }
}
