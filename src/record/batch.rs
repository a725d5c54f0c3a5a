//! One whole batch among bytes: finding its end, proving its checksum, getting at its records.

use super::compress::{self, RecordError};
use super::control::{self, Control};
use super::header::{ATTRIBUTES_AT, BatchHeader};
use super::walk::{RecordIter, check_records};
use crate::checksum::crc32c;
use crate::wire::Invalid;

/// One whole batch whose checksum is right.
///
/// ```
/// use chiplog::Timestamp;
/// use chiplog::record::{BatchBuilder, BatchRef, Record};
///
/// let mut builder = BatchBuilder::new();
/// builder.push(&Record::new("paid").key("o-17"), Timestamp(1_000))?;
/// let bytes = builder.finish()?;
///
/// let mut scratch = Vec::new();
/// let batch = BatchRef::verify(bytes)?;
/// let record = batch.records(1 << 20, &mut scratch)?.next().unwrap();
/// assert_eq!(record.key, Some(&b"o-17"[..]));
///
/// let last = bytes.len() - 1;
/// bytes[last] ^= 1;
/// assert!(BatchRef::verify(bytes).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct BatchRef<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> BatchRef<'a> {
    /// Takes the batch that starts `bytes`, if it is whole and its checksum is right. Its records are not looked
    /// at; bytes after it are left alone.
    ///
    /// # Errors
    ///
    /// What [`BatchHeader::read`] refuses, a batch cut short, a wrong checksum.
    pub fn verify(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let batch = Self::framed(bytes)?;
        batch.check()?;
        Ok(batch)
    }

    /// Refuses a batch whose checksum is not that of its bytes.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if crc32c(&self.bytes[ATTRIBUTES_AT..]) != self.header.crc {
            return Err(Invalid { at: ATTRIBUTES_AT, what: "checksum does not match" });
        }
        Ok(())
    }

    /// As [`verify`](Self::verify), for bytes whose checksum was compared a moment ago, or is about to be.
    pub(crate) fn framed(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let header = BatchHeader::read(bytes)?;
        let Some(bytes) = bytes.get(..header.batch_len as usize) else {
            return Err(Invalid { at: bytes.len(), what: "batch cut short" });
        };
        Ok(Self { header, bytes })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch, as it is stored.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows the header: the records, compressed if the header says so.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[BatchHeader::LEN..]
    }

    /// Replaces what is in `into` by the records in plain form, up to `limit` bytes. They are not checked.
    ///
    /// # Errors
    ///
    /// - [`RecordError::Invalid`] if the bytes are not the codec's, or there is no such codec.
    /// - [`RecordError::TooLong`] if there are more than `limit` bytes.
    /// - [`RecordError::Unsupported`] if this build lacks the codec.
    pub fn decompress(&self, limit: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
        compress::decompress(self.header.codec()?, self.body(), limit, into)
    }

    /// Checks all records and returns an iterator over them. It borrows `scratch` if the batch is compressed, and
    /// the batch's own bytes if it is not; `limit` bounds what is decompressed, in bytes.
    ///
    /// # Errors
    ///
    /// Those of [`BatchRef::decompress`], and [`RecordError::Invalid`] if the records are not as many as the header
    /// says, or one is not made as the format wants. Its position counts as if the records had been stored plain.
    pub fn records<'s>(&self, limit: usize, scratch: &'s mut Vec<u8>) -> Result<RecordIter<'s>, RecordError>
    where
        'a: 's,
    {
        let body = self.plain_body(limit, scratch)?;
        check_records(&self.header, body)?;
        Ok(RecordIter::new(&self.header, body))
    }

    /// The records in plain form, not checked: the batch's own bytes if it is not compressed, else `scratch`.
    pub(super) fn plain_body<'s>(&self, limit: usize, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], RecordError>
    where
        'a: 's,
    {
        // Nobody reads the body of a batch without records, whatever its codec says.
        if self.header.record_count == 0 || self.header.codec()?.is_none() {
            return Ok(self.body());
        }
        self.decompress(limit, scratch)?;
        Ok(scratch)
    }

    /// What the batch says if it is a control batch that still has its record.
    ///
    /// # Errors
    ///
    /// If it is one and its record is not a control record.
    pub fn control(&self) -> Result<Option<Control>, Invalid> {
        if !self.header.attributes.is_control() || self.header.record_count == 0 {
            return Ok(None);
        }
        control::read(&self.header, self.body()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::header::framed_len;
    use crate::record::{BatchBuilder, Record};
    use crate::types::Timestamp;

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.push(&Record::new("value").key("key"), Timestamp(5)).unwrap();
        builder.finish().unwrap().to_vec()
    }

    #[test]
    fn the_first_17_bytes_tell_the_length_and_no_prefix_is_a_batch() {
        let bytes = batch();
        let batch_len = bytes.len() as u32;
        for len in 0..bytes.len() {
            let known = (len >= 17).then_some(batch_len);
            assert_eq!(framed_len(&bytes[..len]), Ok(known), "{len} bytes");
            assert!(BatchRef::verify(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert_eq!(framed_len(&[&bytes[..], b"more"].concat()), Ok(Some(batch_len)));
    }

    /// One flipped bit is found wherever it is covered; the rest is the leader's to change.
    #[test]
    fn a_flipped_bit_under_the_checksum_is_found() {
        let good = batch();
        for at in ATTRIBUTES_AT..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(BatchRef::verify(&bad).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn zeros_are_no_batch() {
        assert_eq!(framed_len(&[0; 11]), Ok(None));
        assert_eq!(framed_len(&[0; 12]), Err(Invalid { at: 8, what: "batch length too small" }));
    }
}
