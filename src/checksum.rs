//! The two checksums on disk.
//!
//! Kafka's own structures (batches, producer snapshots) carry CRC-32C, the Castagnoli polynomial. The files
//! that are ours alone (catalog, marks, notes, seals) carry CRC-32, the IEEE one.

/// CRC-32C of `bytes`: what Kafka stores in batch headers and producer snapshots.
#[must_use]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    // The low half is the checksum: the library serves every width through one `u64`.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32C of bytes that come in pieces.
pub(crate) struct Crc32c(crc_fast::Digest);

impl Crc32c {
    pub(crate) fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// CRC-32 of `bytes`: what our own files carry.
#[must_use]
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC-32 of bytes that come in pieces.
pub(crate) struct Crc32(crc32fast::Hasher);

impl std::fmt::Debug for Crc32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crc32").finish_non_exhaustive()
    }
}

impl Crc32 {
    pub(crate) fn new() -> Self {
        Self(crc32fast::Hasher::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// Length and CRC-32 of a small file, by which another one vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Digest {
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { len: bytes.len() as u32, crc: crc32(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of each polynomial, from its published definition.
    #[test]
    fn both_polynomials_give_their_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32c(b""), 0);
    }

    /// A table-free bit-by-bit implementation agrees at every length around the block sizes of the fast one.
    #[test]
    fn the_fast_checksum_equals_the_definition_at_every_length() {
        let bytes: Vec<u8> = (0..700_u32).map(|i| (i * 31 + i / 7) as u8).collect();
        for len in (0..=bytes.len()).step_by(7).chain([255, 256, 257, 511, 512, 513]) {
            assert_eq!(crc32c(&bytes[..len]), by_definition(&bytes[..len]), "{len} bytes");
            let mut pieces = Crc32c::new();
            bytes[..len].chunks(61).for_each(|piece| pieces.update(piece));
            assert_eq!(pieces.finish(), crc32c(&bytes[..len]), "{len} bytes in pieces");
        }
    }

    fn by_definition(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
            }
        }
        !crc
    }
}
