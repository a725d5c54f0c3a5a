//! The LZ4 frame, as Kafka reads and writes it. Little-endian inside.
//!
//! ```text
//! 04 22 4D 18    magic
//! flags          version, independent blocks; content size, checksums; written as 60
//! block size     its number in bits 4 to 6, written as 40: 64 KiB
//! [content size  8 bytes]
//! header check   one byte of the xxh32 of the fields since the flags
//! repeated       length (u32), high bit: stored as it is; block; [xxh32 of the block]
//! 00 00 00 00    end
//! [content checksum]
//! ```
//!
//! Kafka's reader refuses linked blocks, does not compare the content checksum and ignores what follows the frame.
//! So does this one: a batch must mean the same to both.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use twox_hash::XxHash32;

use super::RecordError;
use crate::wire::{Invalid, Reader};

pub(super) fn compress(table: &mut CompressTable, body: &[u8], into: &mut Vec<u8>) -> Result<(), RecordError> {
    into.extend_from_slice(&HEADER);
    for block in body.chunks(BLOCK_LEN) {
        let len_at = into.len();
        let start = len_at + size_of::<u32>();
        into.resize(start + get_maximum_output_size(block.len()), 0);
        let packed = compress_into_with_table(block, &mut into[start..], table);
        let len = packed.map_err(|_| Invalid { at: 0, what: "lz4 cannot compress this" })?;
        let mut field = len as u32;
        into.truncate(start + len);
        if len >= block.len() {
            field = block.len() as u32 | STORED;
            into.truncate(start);
            into.extend_from_slice(block);
        }
        into[len_at..start].copy_from_slice(&field.to_le_bytes());
    }
    into.extend_from_slice(&END);
    Ok(())
}

pub(super) fn decompress(body: &[u8], limit: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
    let mut reader = Reader::new(body);
    let frame = read_header(&mut reader)?;
    loop {
        let at = reader.position();
        let field = le_u32(&mut reader)?;
        let len = (field & !STORED) as usize;
        if len == 0 {
            break;
        }
        if len > frame.max_block_len {
            return Err(Invalid { at, what: "lz4 block too long" }.into());
        }
        let block = reader.take(len)?;
        if field & STORED != 0 {
            super::append(block, limit, into)?;
        } else {
            decompress_block(block, at, frame.max_block_len, limit, into)?;
        }
        if frame.has_block_checksums && le_u32(&mut reader)? != XxHash32::oneshot(0, block) {
            return Err(Invalid { at, what: "lz4 block checksum does not match" }.into());
        }
    }
    if frame.has_content_checksum {
        le_u32(&mut reader)?;
    }
    Ok(())
}

struct Frame {
    max_block_len: usize,
    has_block_checksums: bool,
    has_content_checksum: bool,
}

fn read_header(reader: &mut Reader<'_>) -> Result<Frame, Invalid> {
    if reader.take(4)? != &HEADER[..4] {
        return Err(Invalid { at: 0, what: "not an lz4 frame" });
    }
    let mut described = reader.clone();
    let (flags, block_size) = (reader.u8()?, reader.u8()?);
    if flags & VERSION_MASK != VERSION || flags & RESERVED_FLAGS != 0 || block_size & !BLOCK_SIZE_MASK != 0 {
        return Err(Invalid { at: 4, what: "unknown lz4 frame version or flags" });
    }
    if flags & INDEPENDENT == 0 {
        return Err(Invalid { at: 4, what: "linked lz4 blocks" });
    }
    let number = u32::from(block_size >> 4);
    if number < 4 {
        return Err(Invalid { at: 5, what: "unknown lz4 block size" });
    }
    if flags & CONTENT_SIZE != 0 {
        reader.take(8)?;
    }
    let fields = described.take(reader.position() - 4)?;
    if reader.u8()? != (XxHash32::oneshot(0, fields) >> 8) as u8 {
        return Err(Invalid { at: 4, what: "lz4 header check does not match" });
    }
    Ok(Frame {
        max_block_len: 1 << (8 + 2 * number),
        has_block_checksums: flags & BLOCK_CHECKSUMS != 0,
        has_content_checksum: flags & CONTENT_CHECKSUM != 0,
    })
}

fn decompress_block(
    block: &[u8],
    at: usize,
    max_len: usize,
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let start = into.len();
    // What a block may become, what it can become (a byte stands for 255 at most), and what the caller allows.
    let possible = max_len.min(block.len().saturating_mul(255));
    let room = possible.min(limit.saturating_sub(start));
    into.resize(start + room, 0);
    match decompress_into(block, &mut into[start..]) {
        Ok(len) => {
            into.truncate(start + len);
            Ok(())
        }
        Err(error) => {
            into.truncate(start);
            let is_out_of_room = matches!(error, lz4_flex::block::DecompressError::OutputTooSmall { .. });
            if is_out_of_room && room < possible {
                return Err(RecordError::TooLong { limit });
            }
            Err(Invalid { at, what: "damaged lz4 block" }.into())
        }
    }
}

fn le_u32(reader: &mut Reader<'_>) -> Result<u32, Invalid> {
    reader.u32().map(u32::swap_bytes)
}

/// Magic, flags, block size, header check.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4D, 0x18, VERSION | INDEPENDENT, 0x40, 0x82];
const END: [u8; 4] = [0; 4];
const BLOCK_LEN: usize = 64 * 1024;
const STORED: u32 = 1 << 31;

const VERSION_MASK: u8 = 0xC0;
const VERSION: u8 = 0x40;
const INDEPENDENT: u8 = 0x20;
const BLOCK_CHECKSUMS: u8 = 0x10;
const CONTENT_SIZE: u8 = 0x08;
const CONTENT_CHECKSUM: u8 = 0x04;
const RESERVED_FLAGS: u8 = 0x03;
const BLOCK_SIZE_MASK: u8 = 0x70;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        compress(&mut CompressTable::large(), body, &mut packed).unwrap();
        packed
    }

    fn decompressed(body: &[u8]) -> Result<Vec<u8>, RecordError> {
        let mut plain = Vec::new();
        decompress(body, 200_000, &mut plain).map(|()| plain)
    }

    #[test]
    fn what_does_not_shrink_is_stored() {
        let noise: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let packed = frame(&noise);
        assert_eq!(decompressed(&packed), Ok(noise));
        assert_eq!(frame(b"abc"), [&HEADER[..], &[3, 0, 0, 0x80], b"abc", &END].concat());
        assert_eq!(frame(b""), [&HEADER[..], &END].concat());
    }

    #[test]
    fn every_part_of_the_frame_must_be_there() {
        let packed = frame(&[b'x'; 1000]);
        for len in 0..packed.len() {
            assert!(decompressed(&packed[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn every_bit_of_the_descriptor_is_covered() {
        let packed = frame(&[b'x'; 1000]);
        for bit in 0..7 * 8 {
            let mut bad = packed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decompressed(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_claimed_content_size_allocates_nothing() {
        let mut packed = vec![0x04, 0x22, 0x4D, 0x18, VERSION | INDEPENDENT | CONTENT_SIZE, 0x40];
        packed.extend([0xFF; 8]);
        packed.push((XxHash32::oneshot(0, &packed[4..]) >> 8) as u8);
        packed.extend([1, 0, 0, 0x80, b'a', 0, 0, 0, 0]);
        let mut plain = Vec::new();
        decompress(&packed, usize::MAX, &mut plain).unwrap();
        assert!(plain == b"a" && plain.capacity() < 100);
    }
}
