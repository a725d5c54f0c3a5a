//! The seal of a segment: a small file of ours beside Kafka's, which vouches for the others.
//!
//! Kafka's checksum leaves the first 21 bytes of each batch uncovered, and nothing covers an index. So maintenance
//! reads a sealed segment once and writes what it saw beside it. An index without a seal is rebuilt, not believed.
//!
//! | Byte | Size | Field                     | Notes                                        |
//! |-----:|-----:|---------------------------|----------------------------------------------|
//! |    0 |    4 | magic                     | `CLSG`                                       |
//! |    4 |    2 | version                   | 1; 2 with the last field but one             |
//! |    6 |    8 | base offset               |                                              |
//! |   14 |    8 | end                       | the offset after the last record             |
//! |   22 |    8 | length of the `.log`      | bytes                                        |
//! |   30 |    8 | largest timestamp         | -1 if no record has one                      |
//! |   38 |    8 | its offset                | last offset of the batch that holds it       |
//! |   46 |    4 | CRC-32 of the `.log`      |                                              |
//! |   50 |    8 | length and CRC-32 of the `.index`     |                                  |
//! |   58 |    8 | length and CRC-32 of the `.timeindex` |                                  |
//! |   66 |    8 | length and CRC-32 of the `.txnindex`  | length 0 if there is none        |
//! |   74 |    4 | CRC-32 of the first 21 bytes of each batch | of a compacted topic only |
//! |   74, 78 | 4 | CRC-32 of all bytes before |                                             |
//!
//! Where offsets follow one another, a wrong one shows. In a compacted topic it may not, so there the seal says what
//! offsets, lengths and leader epochs are.

use std::path::Path;

use super::{FileKind, file_path};
use crate::checksum::{Digest, crc32};
use crate::disk::{self, Disk};
use crate::error::Result;
use crate::types::{Offset, Timestamp};
use crate::wire::{Invalid, Reader};

/// What a segment looked like when it was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) log_len: u64,
    pub(crate) largest: Option<(Timestamp, Offset)>,
    pub(crate) log_crc: u32,
    pub(crate) index: Digest,
    pub(crate) time_index: Digest,
    pub(crate) txn_index: Digest,
    /// Of what no checksum of a batch covers, if offsets may be missing: see [`frames_crc`](super::scan::frames_crc).
    pub(crate) frames: Option<u32>,
}

impl Seal {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (timestamp, offset) = self.largest.unwrap_or((Timestamp::NONE, self.base));
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend_from_slice(MAGIC);
        let version = if self.frames.is_some() { WITH_FRAMES } else { VERSION };
        bytes.extend_from_slice(&version.to_be_bytes());
        for value in [self.base.0, self.end.0, self.log_len, timestamp.0 as u64, offset.0] {
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        bytes.extend_from_slice(&self.log_crc.to_be_bytes());
        for digest in [self.index, self.time_index, self.txn_index] {
            bytes.extend_from_slice(&digest.len.to_be_bytes());
            bytes.extend_from_slice(&digest.crc.to_be_bytes());
        }
        if let Some(frames) = self.frames {
            bytes.extend_from_slice(&frames.to_be_bytes());
        }
        bytes.extend_from_slice(&crc32(&bytes).to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        if bytes.len() < LEN || reader.take(4)? != MAGIC {
            return Err(Invalid { at: 0, what: "not a seal" });
        }
        let (len, has_frames) = match reader.i16()? {
            VERSION => (LEN, false),
            WITH_FRAMES => (LEN_WITH_FRAMES, true),
            _ => return Err(Invalid { at: 4, what: "unknown version of a seal" }),
        };
        if bytes.len() != len {
            return Err(Invalid { at: 0, what: "not a seal" });
        }
        if crc32(&bytes[..len - 4]) != Reader::new(&bytes[len - 4..]).u32()? {
            return Err(Invalid { at: len - 4, what: "checksum does not match" });
        }
        let (base, end, log_len) = (Offset(reader.u64()?), Offset(reader.u64()?), reader.u64()?);
        let (timestamp, offset) = (Timestamp(reader.i64()?), Offset(reader.u64()?));
        let log_crc = reader.u32()?;
        let mut digest = || Ok(Digest { len: reader.u32()?, crc: reader.u32()? });
        Ok(Self {
            base,
            end,
            log_len,
            largest: timestamp.is_some().then_some((timestamp, offset)),
            log_crc,
            index: digest()?,
            time_index: digest()?,
            txn_index: digest()?,
            frames: if has_frames { Some(Reader::new(&bytes[LEN - 4..]).u32()?) } else { None },
        })
    }

    /// What an index file was like.
    pub(crate) fn digest(&self, kind: FileKind) -> Digest {
        match kind {
            FileKind::Index => self.index,
            FileKind::TimeIndex => self.time_index,
            FileKind::TxnIndex => self.txn_index,
            FileKind::Log | FileKind::Snapshot | FileKind::Seal => Digest::default(),
        }
    }

    /// The seal of segment `base` in `dir`, if there is one that fits a `.log` of `log_len` bytes. A missing or
    /// damaged seal is none: it is never evidence about the log, only for the files it vouches for.
    pub(crate) fn load(disk: &dyn Disk, dir: &Path, base: Offset, log_len: u64) -> Option<Self> {
        Self::read(disk, dir, base).filter(|seal| seal.log_len == log_len)
    }

    /// The same, whatever the length of the `.log` is now.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path, base: Offset) -> Option<Self> {
        let bytes = disk::read_file(disk, &file_path(dir, base, FileKind::Seal), LEN_WITH_FRAMES as u64).ok()?;
        Self::decode(&bytes).ok().filter(|seal| seal.base == base)
    }
}

const MAGIC: &[u8; 4] = b"CLSG";
const VERSION: i16 = 1;
const WITH_FRAMES: i16 = 2;
const LEN: usize = 78;
const LEN_WITH_FRAMES: usize = LEN + 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn any_seal() -> Seal {
        Seal {
            base: Offset(7),
            end: Offset(1 << 40),
            log_len: 3 << 30,
            largest: Some((Timestamp(1_700_000_000_000), Offset(9))),
            log_crc: 0xDEAD_BEEF,
            index: Digest::of(b"12345678"),
            time_index: Digest::of(b"123456789012"),
            txn_index: Digest::default(),
            frames: None,
        }
    }

    #[test]
    fn a_seal_reads_back() {
        for seal in [any_seal(), Seal { largest: None, ..any_seal() }, Seal { frames: Some(9), ..any_seal() }] {
            let expected = seal.clone();
            assert_eq!(Seal::decode(&seal.encode()), Ok(expected));
        }
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        for frames in [None, Some(7)] {
            let bytes = Seal { frames, ..any_seal() }.encode();
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Seal::decode(&damaged).is_err(), "bit {bit}");
            }
            assert!((0..bytes.len()).all(|len| Seal::decode(&bytes[..len]).is_err()));
        }
    }
}
