//! snappy in the framing of the Java library, which Kafka took over: not the framing format of snappy itself.
//!
//! ```text
//! 82 53 4E 41 50 50 59 00   magic
//! 00 00 00 01               version
//! 00 00 00 01               the oldest version that can read this
//! then, repeated: length (i32), that many bytes of one snappy block
//! ```
//!
//! Without the magic, the whole body is one block: some clients write that.

use snap::raw::{Decoder, Encoder};

use super::RecordError;
use crate::wire::{Invalid, Reader};

pub(super) fn compress(encoder: &mut Encoder, body: &[u8], into: &mut Vec<u8>) -> Result<(), RecordError> {
    into.extend_from_slice(&HEADER);
    for block in body.chunks(BLOCK_LEN) {
        let len_at = into.len();
        let start = len_at + size_of::<i32>();
        into.resize(start + snap::raw::max_compress_len(block.len()), 0);
        let len = encoder
            .compress(block, &mut into[start..])
            .map_err(|_| Invalid { at: 0, what: "snappy cannot compress this" })?;
        into[len_at..start].copy_from_slice(&(len as i32).to_be_bytes());
        into.truncate(start + len);
    }
    Ok(())
}

pub(super) fn decompress(body: &[u8], limit: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
    if body.len() < HEADER.len() || !body.starts_with(&HEADER[..8]) {
        return decompress_block(body, 0, limit, into);
    }
    let mut reader = Reader::new(body);
    skip_header(&mut reader, 8)?;
    while reader.remaining() >= size_of::<i32>() {
        let at = reader.position();
        let len = reader.i32()?;
        if len == STREAM_AGAIN {
            skip_header(&mut reader, 4)?;
            continue;
        }
        match usize::try_from(len) {
            Ok(len) if len <= MAX_BLOCK_LEN => decompress_block(reader.take(len)?, at, limit, into)?,
            _ => return Err(Invalid { at, what: "snappy block length out of range" }.into()),
        }
    }
    Ok(())
}

/// Takes what is left of a header after `seen` bytes of its magic.
fn skip_header(reader: &mut Reader<'_>, seen: usize) -> Result<(), Invalid> {
    let at = reader.position();
    let rest = if seen == 4 { 4 } else { 8 };
    reader.take(rest)?;
    let version = reader.i32()?;
    reader.i32()?;
    if version < 1 {
        return Err(Invalid { at, what: "unknown snappy version" });
    }
    Ok(())
}

fn decompress_block(block: &[u8], at: usize, limit: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
    let damaged = |_| RecordError::Invalid(Invalid { at, what: "damaged snappy block" });
    let len = snap::raw::decompress_len(block).map_err(damaged)?;
    // A block cannot become longer than this, whatever it claims: its best element makes 64 bytes of 3.
    if len > block.len().saturating_mul(64) {
        return Err(RecordError::Invalid(Invalid { at, what: "snappy block claims too much" }));
    }
    if len > limit.saturating_sub(into.len()) {
        return Err(RecordError::TooLong { limit });
    }
    let start = into.len();
    into.resize(start + len, 0);
    Decoder::new().decompress(block, &mut into[start..]).map_err(damaged)?;
    Ok(())
}

const HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
/// The first four bytes of a header, where a block length would be.
const STREAM_AGAIN: i32 = i32::from_be_bytes([0x82, b'S', b'N', b'A']);
const BLOCK_LEN: usize = 32 * 1024;
const MAX_BLOCK_LEN: usize = 512 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(body: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        compress(&mut Encoder::new(), body, &mut packed).unwrap();
        packed
    }

    fn decompressed(body: &[u8]) -> Result<Vec<u8>, RecordError> {
        let mut plain = Vec::new();
        decompress(body, 100_000, &mut plain).map(|()| plain)
    }

    #[test]
    fn blocks_have_32_kib_and_streams_may_follow_each_other() {
        let body = vec![7; BLOCK_LEN + 1];
        let packed = stream(&body);
        assert_eq!(decompressed(&packed), Ok(body.clone()));
        let second_len = packed.len() - 3 - 4;
        assert_eq!(packed[second_len..second_len + 4], [0, 0, 0, 3], "the last block holds one byte");
        assert_eq!(decompressed(&[&stream(b"one")[..], &stream(b"two")].concat()), Ok(b"onetwo".to_vec()));
    }

    #[test]
    fn a_body_without_the_magic_is_one_block() {
        let raw = Encoder::new().compress_vec(b"raw raw raw raw").unwrap();
        assert_eq!(decompressed(&raw), Ok(b"raw raw raw raw".to_vec()));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut plain = Vec::new();
        let claim = [0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0];
        assert!(decompress(&claim, usize::MAX, &mut plain).is_err());
        assert_eq!(plain.capacity(), 0);
        let long = [&HEADER[..], &[0x7F, 0xFF, 0xFF, 0xFF, 0]].concat();
        assert!(decompressed(&long).is_err());
    }
}
