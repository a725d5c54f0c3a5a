//! Reading and writing the primitive types of Kafka's formats: big-endian integers, zigzag varints, lengths.
//!
//! [`Reader`] never reads past its slice and never trusts a length: what does not fit is an [`Invalid`], which says
//! where and what. Its callers add the file.

use byteorder::{BigEndian, ByteOrder};

/// What a reader met in place of what it wanted. Positions count from the start of the slice it was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Invalid {
    /// Where, counted from the start of the bytes that were given.
    pub at: usize,
    /// What is wrong there, or what is missing.
    pub what: &'static str,
}

/// A cursor over bytes that may be anything.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the next read begins.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// An error at the current position.
    pub(crate) fn invalid(&self, what: &'static str) -> Invalid {
        Invalid { at: self.at, what }
    }

    /// Takes `len` bytes.
    #[inline(always)]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Invalid> {
        if len > self.remaining() {
            return Err(self.invalid("length past the end"));
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    #[inline(always)]
    pub(crate) fn u8(&mut self) -> Result<u8, Invalid> {
        Ok(self.take(1)?[0])
    }

    #[inline]
    pub(crate) fn i16(&mut self) -> Result<i16, Invalid> {
        Ok(BigEndian::read_i16(self.take(2)?))
    }

    #[inline]
    pub(crate) fn i32(&mut self) -> Result<i32, Invalid> {
        Ok(BigEndian::read_i32(self.take(4)?))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Invalid> {
        Ok(BigEndian::read_u32(self.take(4)?))
    }

    #[inline]
    pub(crate) fn i64(&mut self) -> Result<i64, Invalid> {
        Ok(BigEndian::read_i64(self.take(8)?))
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, Invalid> {
        Ok(BigEndian::read_u64(self.take(8)?))
    }

    /// A zigzag varint of at most 5 bytes. Non-minimal forms are accepted, as Kafka does.
    #[inline(always)]
    pub(crate) fn varint(&mut self) -> Result<i32, Invalid> {
        let raw = self.varint_bits(5)? as u32;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// A varint of at most 5 bytes without zigzag, as the flexible forms of Kafka's messages have for lengths.
    pub(crate) fn unsigned_varint(&mut self) -> Result<u32, Invalid> {
        Ok(self.varint_bits(5)? as u32)
    }

    /// Passes over the tagged fields of the flexible forms: what newer brokers added.
    pub(crate) fn skip_tags(&mut self) -> Result<(), Invalid> {
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let len = self.unsigned_varint()?;
            self.take(len as usize)?;
        }
        Ok(())
    }

    /// A string of the flexible forms: its length + 1 as an unsigned varint comes first.
    pub(crate) fn compact_str(&mut self) -> Result<&'a str, Invalid> {
        let at = self.at;
        let len = self.unsigned_varint()?.checked_sub(1).ok_or(Invalid { at, what: "string is null" })?;
        let bytes = self.take(len as usize)?;
        std::str::from_utf8(bytes).map_err(|_| Invalid { at, what: "string is not UTF-8" })
    }

    /// A zigzag varint of at most 10 bytes.
    #[inline(always)]
    pub(crate) fn varlong(&mut self) -> Result<i64, Invalid> {
        let raw = self.varint_bits(10)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    #[inline(always)]
    fn varint_bits(&mut self, max_len: usize) -> Result<u64, Invalid> {
        // Nearly all are so short: no loop is entered for them. Scans are a third faster for it.
        match *self.bytes.get(self.at..).unwrap_or_default() {
            [first, ..] if first < 0x80 => {
                self.at += 1;
                Ok(u64::from(first))
            }
            [first, second, ..] if second < 0x80 => {
                self.at += 2;
                Ok(u64::from(first & 0x7F) | u64::from(second) << 7)
            }
            _ => self.long_varint_bits(max_len),
        }
    }

    fn long_varint_bits(&mut self, max_len: usize) -> Result<u64, Invalid> {
        let start = self.at;
        let mut value = 0_u64;
        for index in 0..max_len {
            let byte = *self.bytes.get(self.at).ok_or(Invalid { at: self.at, what: "varint cut short" })?;
            self.at += 1;
            value |= u64::from(byte & 0x7F).checked_shl(7 * index as u32).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Invalid { at: start, what: "varint too long" })
    }

    /// A string with an i16 length before it; `None` for length -1.
    pub(crate) fn nullable_str(&mut self) -> Result<Option<&'a str>, Invalid> {
        let start = self.at;
        let len = self.i16()?;
        if len == -1 {
            return Ok(None);
        }
        let len = usize::try_from(len).map_err(|_| Invalid { at: start, what: "negative string length" })?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| Invalid { at: start, what: "string is not UTF-8" })
    }

    /// A string with an i16 length before it.
    pub(crate) fn str(&mut self) -> Result<&'a str, Invalid> {
        let start = self.at;
        self.nullable_str()?.ok_or(Invalid { at: start, what: "string is null" })
    }
}

/// Appends `value` as a zigzag varint, in its shortest form.
#[cfg(any(test, fuzzing))]
pub(crate) fn put_varint(into: &mut Vec<u8>, value: i32) {
    put_unsigned(into, u64::from((value << 1 ^ value >> 31) as u32));
}

/// Appends `value` as a zigzag varint of up to 10 bytes, in its shortest form.
#[cfg(any(test, fuzzing))]
pub(crate) fn put_varlong(into: &mut Vec<u8>, value: i64) {
    put_unsigned(into, (value << 1 ^ value >> 63) as u64);
}

/// Appends `value` as a varint without zigzag, in its shortest form.
pub(crate) fn put_unsigned_varint(into: &mut Vec<u8>, value: u32) {
    put_unsigned(into, u64::from(value));
}

fn put_unsigned(into: &mut Vec<u8>, mut rest: u64) {
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

/// How many bytes a zigzag varint of `value` takes.
#[inline]
pub(crate) fn varint_len(value: i32) -> usize {
    unsigned_len(u64::from((value << 1 ^ value >> 31) as u32))
}

/// How many bytes a longer one takes.
#[inline]
pub(crate) fn varlong_len(value: i64) -> usize {
    unsigned_len((value << 1 ^ value >> 63) as u64)
}

#[inline]
fn unsigned_len(value: u64) -> usize {
    // Nearly all are so short, and a branch that is foreseen costs less than counting.
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => (64 - value.leading_zeros() as usize).div_ceil(7),
    }
}

/// Appends a string with its i16 length; `false`, and nothing appended, if it is longer than the length can say.
pub(crate) fn put_str(into: &mut Vec<u8>, text: &str) -> bool {
    let Ok(len) = i16::try_from(text.len()) else { return false };
    into.extend_from_slice(&len.to_be_bytes());
    into.extend_from_slice(text.as_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_read_back_in_their_announced_length(value: i64, narrow: i32) {
            let mut bytes = Vec::new();
            put_varlong(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varlong_len(value));
            put_varint(&mut bytes, narrow);
            prop_assert_eq!(bytes.len(), varlong_len(value) + varint_len(narrow));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varlong(), Ok(value));
            prop_assert_eq!(reader.varint(), Ok(narrow));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn unsigned_varints_are_read_in_full(value: u32) {
            let mut bytes = Vec::new();
            put_unsigned_varint(&mut bytes, value);
            prop_assert_eq!(Reader::new(&bytes).unsigned_varint(), Ok(value));
        }

        /// Whatever the bytes, a reader stays inside them.
        #[test]
        fn a_reader_never_leaves_its_slice(bytes: Vec<u8>, steps in prop::collection::vec(0..11_u8, 0..20)) {
            let mut reader = Reader::new(&bytes);
            for step in steps {
                let _ = match step {
                    0 => reader.varint().map(drop),
                    1 => reader.varlong().map(drop),
                    2 => reader.i16().map(drop),
                    3 => reader.i32().map(drop),
                    4 => reader.i64().map(drop),
                    5 => reader.u32().map(drop),
                    6 => reader.u8().map(drop),
                    7 => reader.nullable_str().map(drop),
                    8 => reader.unsigned_varint().map(drop),
                    9 => reader.compact_str().map(drop),
                    _ => reader.take(3).map(drop),
                };
                prop_assert!(reader.position() <= bytes.len());
            }
        }
    }

    #[test]
    fn zigzag_maps_small_numbers_to_small_bytes() {
        for (value, bytes) in [(0, &[0][..]), (-1, &[1]), (1, &[2]), (-64, &[127]), (64, &[0x80, 1])] {
            let mut encoded = Vec::new();
            put_varint(&mut encoded, value);
            assert_eq!(encoded, bytes, "{value}");
        }
    }

    #[test]
    fn a_varint_stops_at_its_fifth_byte() {
        assert_eq!(Reader::new(&[0xFF; 6]).varint(), Err(Invalid { at: 0, what: "varint too long" }));
        assert_eq!(Reader::new(&[0xFF; 3]).varint(), Err(Invalid { at: 3, what: "varint cut short" }));
        assert_eq!(Reader::new(&[0x90, 0x00]).varint(), Ok(8), "non-minimal forms are read");
        assert_eq!(Reader::new(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]).varint(), Ok(i32::MIN));
    }

    #[test]
    fn a_length_past_the_end_is_named_with_its_place() {
        let mut reader = Reader::new(&[0, 5, b'a']);
        assert_eq!(reader.str(), Err(Invalid { at: 2, what: "length past the end" }));
        assert_eq!(Reader::new(&[0xFF, 0xFF]).nullable_str(), Ok(None));
        assert_eq!(Reader::new(&[0xFF, 0xFE]).str(), Err(Invalid { at: 0, what: "negative string length" }));
    }
}
