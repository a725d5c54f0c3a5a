//! One record: as a caller hands it in, as a batch stores it, as a reader sees it.
//!
//! | Field           | Encoding | Notes                                     |
//! |-----------------|----------|-------------------------------------------|
//! | length          | varint   | bytes after this field                    |
//! | attributes      | i8       | 0; not looked at                          |
//! | timestamp delta | varlong  | from the base timestamp, may be negative  |
//! | offset delta    | varint   | from the base offset                      |
//! | key length, key | varint   | negative: null                            |
//! | value length, value | varint | negative: null, a tombstone if keyed    |
//! | header count    | varint   | then per header: key as above but never null and UTF-8, value as above |

use super::header::BatchHeader;
use crate::error::{Error, Result};
use crate::types::{Offset, Timestamp};
use crate::wire::{Invalid, Reader, varint_len, varlong_len};

/// A record to append. Borrows everything: appending copies the bytes once, into the log.
///
/// ```
/// use chiplog::Timestamp;
/// use chiplog::record::{Header, Record};
///
/// let headers = [Header::new("trace", "4f1d")];
/// let record = Record::new("paid").key("o-17").headers(&headers).timestamp(Timestamp(1_000));
/// assert_eq!(record.value, Some(&b"paid"[..]));
/// assert_eq!(Record::tombstone("o-17").value, None);
/// assert_eq!(Record::from("paid").to("orders").topic, "orders");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Record<'a> {
    /// What chooses the partition, and what compaction keeps the last record of.
    pub key: Option<&'a [u8]>,
    /// The payload; none means, together with a key, that the key is deleted.
    pub value: Option<&'a [u8]>,
    /// Names and values beside the payload, in order; a name may occur more than once.
    pub headers: &'a [Header<'a>],
    /// When it happened; the time of the append if not given. [`Timestamp::NONE`] stores none.
    ///
    /// A topic keeps records for 7 days by default, counted from this time: see
    /// [`TopicConfig::retention_time`](crate::TopicConfig::retention_time). The time of the append is that of the log's
    /// clock; [`SystemClock`](crate::SystemClock) is up to a tick behind, at most 4 ms on usual kernels.
    pub timestamp: Option<Timestamp>,
}

impl<'a> Record<'a> {
    /// A record with a value and nothing else.
    #[must_use]
    pub fn new(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { value: Some(value.as_ref()), ..Self::default() }
    }

    /// A record that deletes `key` from a compacted topic: it has no value.
    #[must_use]
    pub fn tombstone(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { key: Some(key.as_ref()), ..Self::default() }
    }

    /// Sets the key. An empty key is a key.
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// Sets the headers.
    #[must_use]
    pub fn headers(mut self, headers: &'a [Header<'a>]) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the time, in place of the time of the append.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Names the topic to append to.
    #[must_use]
    pub fn to(self, topic: &'a str) -> TopicRecord<'a> {
        TopicRecord { topic, record: self }
    }

    /// How long a batch of this record alone is at most, uncompressed, in bytes.
    pub(crate) fn len_alone_at_most(&self) -> u64 {
        // Varints have 5 bytes at most, that of the time 10.
        let field = |bytes: Option<&[u8]>| 5 + bytes.map_or(0, <[u8]>::len) as u64;
        let headers = self.headers.iter().map(|header| field(Some(header.key.as_bytes())) + field(header.value));
        let fixed = BatchHeader::LEN as u64 + 5 + 1 + 10 + 5 + 5;
        fixed + field(self.key) + field(self.value) + headers.sum::<u64>()
    }

    /// How long a batch of this record alone is, uncompressed, in bytes.
    pub(crate) fn len_alone(&self) -> Result<usize> {
        Ok(BatchHeader::LEN + Self::whole_len(self.body_len(0, 0)?))
    }

    /// The length of the stored form after its length field, in bytes.
    #[inline(always)]
    pub(super) fn body_len(&self, timestamp_delta: i64, offset_delta: i32) -> Result<i32> {
        let mut len = 1 + varlong_len(timestamp_delta) as u64 + varint_len(offset_delta) as u64;
        len += nullable_len("key", self.key)? + nullable_len("value", self.value)?;
        len += varint_len(narrow("header count", self.headers.len())?) as u64;
        for header in self.headers {
            len += nullable_len("header key", Some(header.key.as_bytes()))?;
            len += nullable_len("header value", header.value)?;
        }
        i32::try_from(len).map_err(|_| Error::TooLong { what: "record", len, limit: i32::MAX as u64 })
    }

    /// The length of the stored form, given that after its length field.
    #[inline]
    pub(super) fn whole_len(body_len: i32) -> usize {
        varint_len(body_len) + body_len as usize
    }

    /// Puts the stored form into `bytes`, which are as many as [`whole_len`](Self::whole_len) says.
    #[inline(always)]
    pub(super) fn encode_into(&self, body_len: i32, timestamp_delta: i64, offset_delta: i32, bytes: &mut [u8]) {
        let mut fill = Fill { rest: bytes };
        fill.varint(body_len);
        fill.byte(0);
        fill.varlong(timestamp_delta);
        fill.varint(offset_delta);
        fill.nullable(self.key);
        fill.nullable(self.value);
        fill.varint(self.headers.len() as i32);
        for header in self.headers {
            fill.nullable(Some(header.key.as_bytes()));
            fill.nullable(header.value);
        }
        debug_assert!(fill.rest.is_empty(), "the length was that of another record");
    }

    /// Appends the stored form to `into`, which stays below `limit` bytes, or is left as it is.
    pub(super) fn encode(
        &self,
        timestamp_delta: i64,
        offset_delta: i32,
        limit: usize,
        into: &mut Vec<u8>,
    ) -> Result<()> {
        let body_len = self.body_len(timestamp_delta, offset_delta)?;
        let begin = into.len();
        let end = begin + Self::whole_len(body_len);
        check_limit(end, limit)?;
        into.resize(end, 0);
        self.encode_into(body_len, timestamp_delta, offset_delta, &mut into[begin..]);
        Ok(())
    }
}

/// Refuses a batch that would be `len` bytes long.
#[inline]
pub(super) fn check_limit(len: usize, limit: usize) -> Result<()> {
    if len > limit {
        return Err(Error::TooLong { what: "batch", len: len as u64, limit: limit as u64 });
    }
    Ok(())
}

impl<'a> From<&'a str> for Record<'a> {
    fn from(value: &'a str) -> Self {
        Self::new(value)
    }
}

impl<'a> From<&'a String> for Record<'a> {
    fn from(value: &'a String) -> Self {
        Self::new(value)
    }
}

impl<'a> From<&'a [u8]> for Record<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::new(value)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Record<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Self::new(value)
    }
}

impl<'a> From<&'a Vec<u8>> for Record<'a> {
    fn from(value: &'a Vec<u8>) -> Self {
        Self::new(value)
    }
}

/// A record and the topic it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicRecord<'a> {
    /// The name of the topic.
    pub topic: &'a str,
    /// What to append to it.
    pub record: Record<'a>,
}

/// A name and a value beside a record's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name. May be empty, and may occur more than once in a record.
    pub key: &'a str,
    /// The value, if it is not null.
    pub value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// A header with a value.
    #[must_use]
    pub fn new(key: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { key, value: Some(value.as_ref()) }
    }
}

/// A record as it is stored. Borrows from what it was read from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// The number of the record in its partition.
    pub offset: Offset,
    /// The producer's time, or the time of the append, as the batch says.
    pub timestamp: Timestamp,
    /// The key, if it is not null.
    pub key: Option<&'a [u8]>,
    /// The value, if it is not null.
    pub value: Option<&'a [u8]>,
    pub(super) headers: Headers<'a>,
}

impl<'a> RecordRef<'a> {
    /// A record of nothing.
    pub(crate) fn empty(offset: Offset) -> Self {
        let headers = Headers { left: 0, bytes: &[] };
        Self { offset, timestamp: Timestamp::NONE, key: None, value: None, headers }
    }

    /// The headers, in the order they were given.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }

    /// Appends the stored form, with these deltas, to `into`, which stays below `limit` bytes, or is left as it is.
    pub(super) fn encode(
        &self,
        timestamp_delta: i64,
        offset_delta: i32,
        limit: usize,
        into: &mut Vec<u8>,
    ) -> Result<()> {
        let headers = self.headers.left as i32;
        let mut len = 1 + varlong_len(timestamp_delta) as u64 + varint_len(offset_delta) as u64;
        len += nullable_len("key", self.key)? + nullable_len("value", self.value)?;
        len += varint_len(headers) as u64 + self.headers.bytes.len() as u64;
        let body_len =
            i32::try_from(len).map_err(|_| Error::TooLong { what: "record", len, limit: i32::MAX as u64 })?;
        let begin = into.len();
        let end = begin + Record::whole_len(body_len);
        check_limit(end, limit)?;
        into.resize(end, 0);
        let mut fill = Fill { rest: &mut into[begin..] };
        fill.varint(body_len);
        fill.byte(0);
        fill.varlong(timestamp_delta);
        fill.varint(offset_delta);
        fill.nullable(self.key);
        fill.nullable(self.value);
        fill.varint(headers);
        fill.put(self.headers.bytes);
        Ok(())
    }
}

impl std::fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordRef")
            .field("offset", &self.offset)
            .field("timestamp", &self.timestamp)
            .field("key", &self.key)
            .field("value", &self.value)
            .field("headers", &self.headers().collect::<Vec<_>>())
            .finish()
    }
}

/// The headers of a stored record, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl Headers<'_> {
    /// How many bytes the headers that are left take.
    pub(super) fn encoded_len(&self) -> usize {
        self.bytes.len()
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let header = read_header(&mut reader).ok()?;
        self.bytes = self.bytes.get(reader.position()..)?;
        Some(header)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// The fields of a stored record, before the batch gives them their meaning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Headers<'a>,
}

/// Reads the record that `reader` stands at, its headers unread.
#[inline(always)]
pub(super) fn read_fields<'a>(reader: &mut Reader<'a>) -> Result<Fields<'a>, Invalid> {
    let at = reader.position();
    let Ok(len) = usize::try_from(reader.varint()?) else {
        return Err(Invalid { at, what: "negative record length" });
    };
    let start = reader.position();
    let mut body = Reader::new(reader.take(len)?);
    read_body(&mut body).map_err(|invalid| Invalid { at: start + invalid.at, ..invalid })
}

#[inline(always)]
fn read_body<'a>(body: &mut Reader<'a>) -> Result<Fields<'a>, Invalid> {
    body.u8()?; // The attributes: Kafka defines none and looks at none.
    let timestamp_delta = body.varlong()?;
    let offset_delta = body.varint()?;
    let key = read_nullable(body)?;
    let value = read_nullable(body)?;
    let at = body.position();
    let Ok(left) = u32::try_from(body.varint()?) else {
        return Err(Invalid { at, what: "negative header count" });
    };
    let headers = Headers { left, bytes: body.take(body.remaining())? };
    Ok(Fields { timestamp_delta, offset_delta, key, value, headers })
}

/// Checks that the headers are as many as the record says, and that nothing follows them. The position of what is
/// wrong counts from the first header.
#[inline]
pub(super) fn check_headers(headers: Headers<'_>) -> Result<(), Invalid> {
    let mut reader = Reader::new(headers.bytes);
    for _ in 0..headers.left {
        read_header(&mut reader)?;
    }
    if reader.is_empty() { Ok(()) } else { Err(reader.invalid("record longer than its fields")) }
}

fn read_header<'a>(reader: &mut Reader<'a>) -> Result<Header<'a>, Invalid> {
    let at = reader.position();
    let Some(key) = read_nullable(reader)? else {
        return Err(Invalid { at, what: "header without a key" });
    };
    let key = std::str::from_utf8(key).map_err(|_| Invalid { at, what: "header key is not UTF-8" })?;
    Ok(Header { key, value: read_nullable(reader)? })
}

#[inline(always)]
fn read_nullable<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Invalid> {
    // Any negative length is null, as in Kafka.
    match usize::try_from(reader.varint()?) {
        Ok(len) => reader.take(len).map(Some),
        Err(_) => Ok(None),
    }
}

/// Fills bytes from front to back.
struct Fill<'a> {
    rest: &'a mut [u8],
}

impl Fill<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let rest = std::mem::take(&mut self.rest);
        let (here, rest) = rest.split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        self.rest = rest;
    }

    #[inline]
    fn byte(&mut self, byte: u8) {
        let rest = std::mem::take(&mut self.rest);
        let (here, rest) = rest.split_at_mut(1);
        here[0] = byte;
        self.rest = rest;
    }

    #[inline]
    fn varint(&mut self, value: i32) {
        self.unsigned(u64::from((value << 1 ^ value >> 31) as u32));
    }

    #[inline]
    fn varlong(&mut self, value: i64) {
        self.unsigned((value << 1 ^ value >> 63) as u64);
    }

    #[inline(always)]
    fn unsigned(&mut self, mut value: u64) {
        if value < 0x80 {
            return self.byte(value as u8);
        }
        if value < 0x4000 {
            return self.put(&[value as u8 | 0x80, (value >> 7) as u8]);
        }
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    #[inline(always)]
    fn nullable(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => {
                self.varint(bytes.len() as i32);
                self.put(bytes);
            }
            None => self.varint(-1),
        }
    }
}

/// How many bytes [`Fill::nullable`] takes.
#[inline]
fn nullable_len(what: &'static str, bytes: Option<&[u8]>) -> Result<u64> {
    let Some(bytes) = bytes else { return Ok(1) };
    Ok(varint_len(narrow(what, bytes.len())?) as u64 + bytes.len() as u64)
}

fn narrow(what: &'static str, len: usize) -> Result<i32> {
    i32::try_from(len).map_err(|_| Error::TooLong { what, len: len as u64, limit: i32::MAX as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_was_read_tells_what_is_in_it() {
        let header = crate::record::Header { key: "trace", value: Some(b"7") };
        let record = Record::new("paid").key("o-17").headers(std::slice::from_ref(&header));
        let mut builder = crate::record::BatchBuilder::new();
        builder.push(&record, crate::types::Timestamp(5)).unwrap();
        let batch = crate::record::BatchRef::verify(builder.finish().unwrap()).unwrap().bytes().to_vec();
        let mut scratch = Vec::new();
        let batch = crate::record::BatchRef::verify(&batch).unwrap();
        let told = format!("{:?}", batch.records(100, &mut scratch).unwrap().next().unwrap());
        for part in ["offset: Offset(0)", "timestamp: Timestamp(5)", "key: Some([111, 45, 49, 55])", "trace"] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
    }

    #[test]
    fn an_empty_key_is_not_a_null_key() {
        let mut bytes = Vec::new();
        Record::new("").key("").encode(0, 0, 100, &mut bytes).unwrap();
        Record::default().encode(0, 1, 100, &mut bytes).unwrap();
        assert_eq!(bytes, [0x0C, 0, 0, 0, 0, 0, 0, 0x0C, 0, 0, 2, 1, 1, 0]);
        let mut reader = Reader::new(&bytes);
        let (empty, null) = (read_fields(&mut reader).unwrap(), read_fields(&mut reader).unwrap());
        assert_eq!((empty.key, empty.value), (Some(&[][..]), Some(&[][..])));
        assert_eq!((null.key, null.value, null.offset_delta), (None, None, 1));
    }

    #[test]
    fn a_record_past_the_limit_leaves_the_buffer_alone() {
        let mut bytes = vec![7; 5];
        let error = Record::new("12345678").encode(0, 0, 19, &mut bytes).unwrap_err();
        assert!(matches!(error, Error::TooLong { what: "batch", len: 20, limit: 19 }), "{error}");
        assert_eq!(bytes, [7; 5]);
        Record::new("12345678").encode(0, 0, 20, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 20);
    }

    #[test]
    fn a_header_key_must_be_text() {
        let keys: [(&[u8], _); 3] = [
            (&[4, 0xC3, 0xA9, 1], Ok(())),
            (&[2, 0xFF, 1], Err(Invalid { at: 0, what: "header key is not UTF-8" })),
            (&[1, 1], Err(Invalid { at: 0, what: "header without a key" })),
        ];
        for (bytes, expected) in keys {
            assert_eq!(check_headers(Headers { left: 1, bytes }), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_header_count_is_no_reason_to_loop() {
        let endless = Headers { left: u32::MAX, bytes: &[0, 1] };
        assert_eq!(check_headers(endless).map_err(|invalid| invalid.at), Err(2));
        assert_eq!(endless.count(), 1);
    }
}
