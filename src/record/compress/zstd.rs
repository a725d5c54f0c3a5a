//! zstd: standard frames, one after the other.
//!
//! Bodies are decoded in one go, into a buffer that doubles until they fit. The streaming decoder would allocate
//! the window that the frame claims, up to 128 MiB for a batch of a few bytes.

use zstd::bulk::Compressor;
use zstd::zstd_safe::{self, zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall};

use super::RecordError;
use crate::wire::Invalid;

pub(super) fn compress(
    compressor: &mut Option<Compressor<'static>>,
    level: Option<i32>,
    body: &[u8],
    into: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let failed = |_| Invalid { at: 0, what: "zstd cannot compress this" };
    let compressor = match compressor {
        Some(compressor) => compressor,
        none => none.insert(Compressor::new(DEFAULT_LEVEL).map_err(failed)?),
    };
    compressor.set_compression_level(level.unwrap_or(DEFAULT_LEVEL)).map_err(failed)?;
    let start = into.len();
    into.resize(start + zstd_safe::compress_bound(body.len()), 0);
    let len = compressor.compress_to_buffer(body, &mut into[start..]).map_err(failed)?;
    into.truncate(start + len);
    Ok(())
}

pub(super) fn decompress(body: &[u8], limit: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
    let mut room = first_room(body).min(limit);
    loop {
        into.clear();
        into.resize(room, 0);
        match zstd_safe::decompress(&mut into[..], body) {
            Ok(len) => {
                into.truncate(len);
                return Ok(());
            }
            Err(code) if code == TOO_SMALL && room < limit => room = room.saturating_mul(2).max(1024).min(limit),
            Err(code) => {
                into.clear();
                let damaged = Invalid { at: 0, what: "damaged zstd frame" };
                return Err(if code == TOO_SMALL { RecordError::TooLong { limit } } else { damaged.into() });
            }
        }
    }
}

/// How much to expect: what the first frame says, if it is likely.
fn first_room(body: &[u8]) -> usize {
    let likely = body.len().saturating_mul(LIKELY_RATIO);
    match zstd_safe::get_frame_content_size(body) {
        Ok(Some(len)) => usize::try_from(len).unwrap_or(likely).min(likely),
        _ => likely,
    }
}

const DEFAULT_LEVEL: i32 = 3;
const LIKELY_RATIO: usize = 8;
/// The library returns error codes as negative sizes.
const TOO_SMALL: usize = 0_usize.wrapping_sub(ZSTD_error_dstSize_tooSmall as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        compress(&mut None, None, body, &mut packed).unwrap();
        packed
    }

    fn decompressed(body: &[u8]) -> Result<Vec<u8>, RecordError> {
        let mut plain = Vec::new();
        decompress(body, 1_000_000, &mut plain).map(|()| plain)
    }

    #[test]
    fn frames_follow_each_other_and_nothing_else_does() {
        let (one, two) = (frame(b"one"), frame(b"two"));
        assert_eq!(decompressed(&[&one[..], &two].concat()), Ok(b"onetwo".to_vec()));
        assert!(decompressed(&[&one[..], b"garbage"].concat()).is_err());
        assert!(decompressed(&one[..one.len() - 1]).is_err());
    }

    #[test]
    fn a_body_far_longer_than_its_frame_fits_at_last() {
        let body = vec![7; 1_000_000];
        let packed = frame(&body);
        assert!(packed.len() < 200);
        assert_eq!(decompressed(&packed), Ok(body));
        assert_eq!(decompress(&packed, 999_999, &mut Vec::new()), Err(RecordError::TooLong { limit: 999_999 }));
    }
}
