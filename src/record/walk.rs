//! Walking the records of a batch: once to check them all, then without a chance to fail.

use super::header::{BatchHeader, RECORD_COUNT_AT, TimestampType};
use super::record::{Fields, RecordRef, check_headers, read_fields};
use crate::types::{Offset, Timestamp};
use crate::wire::{Invalid, Reader};

/// Checks the records of a batch in plain form: as many as the header says, each as long as it says, nothing after
/// them, and every offset one that can be stored. Whether offsets and timestamps make sense is not asked.
///
/// Positions count from the start of the batch, as if its records had been stored plain.
pub(crate) fn check_records(header: &BatchHeader, body: &[u8]) -> Result<(), Invalid> {
    each_record(header, body, |_, _, _| Ok(()))
}

/// Checks as [`check_records`] does, and hands out each record: its index, where it begins, its fields.
#[inline]
pub(super) fn each_record<'a, E: From<Invalid>>(
    header: &BatchHeader,
    body: &'a [u8],
    mut visit: impl FnMut(usize, usize, &Fields<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let Ok(count) = usize::try_from(header.record_count) else {
        return Err(Invalid { at: RECORD_COUNT_AT, what: "negative record count" }.into());
    };
    if count == 0 {
        return Ok(()); // Kafka does not look at the body then.
    }
    let mut reader = Reader::new(body);
    let mut index = 0;
    // Each round takes a byte at least, or fails: a count alone does not keep this going.
    while index < count {
        let at = BatchHeader::LEN + reader.position();
        let fields = read_checked(&mut reader)?;
        check_offset(header, &fields, at)?;
        visit(index, at, &fields)?;
        index += 1;
    }
    if reader.is_empty() { Ok(()) } else { Err(in_batch(reader.invalid("bytes after the last record")).into()) }
}

/// Reads the next record of a batch, and checks its headers.
#[inline]
pub(super) fn read_checked<'a>(reader: &mut Reader<'a>) -> Result<Fields<'a>, Invalid> {
    let fields = read_fields(reader).map_err(in_batch)?;
    let headers_at = reader.position() - fields.headers.encoded_len();
    check_headers(fields.headers).map_err(|invalid| in_batch(Invalid { at: headers_at + invalid.at, ..invalid }))?;
    Ok(fields)
}

#[inline]
pub(super) fn check_offset(header: &BatchHeader, fields: &Fields<'_>, at: usize) -> Result<(), Invalid> {
    let offset = header.base_offset.0.checked_add_signed(i64::from(fields.offset_delta));
    match offset {
        Some(offset) if Offset(offset) <= Offset::MAX => Ok(()),
        _ => Err(Invalid { at, what: "record offset out of range" }),
    }
}

#[cold]
fn in_batch(invalid: Invalid) -> Invalid {
    Invalid { at: BatchHeader::LEN + invalid.at, ..invalid }
}

/// The records of a batch that was checked, in stored order.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    reader: Reader<'a>,
    left: usize,
    base_offset: Offset,
    base_timestamp: i64,
    /// The time all records have, if the log set it.
    append_time: Option<Timestamp>,
}

impl<'a> RecordIter<'a> {
    /// Walks `body`, which [`check_records`] accepted together with `header`. Stops at anything it would not have.
    pub(crate) fn new(header: &BatchHeader, body: &'a [u8]) -> Self {
        let is_append_time = header.attributes.timestamp_type() == TimestampType::LogAppendTime;
        Self {
            reader: Reader::new(body),
            left: usize::try_from(header.record_count).unwrap_or(0),
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp.0,
            append_time: is_append_time.then_some(header.max_timestamp),
        }
    }

    /// Goes on behind the first `done` records of `body`, which end at its byte `at`: as [`bytes_read`](Self::bytes_read)
    /// said then.
    pub(crate) fn resume(header: &BatchHeader, body: &'a [u8], at: usize, done: usize) -> Self {
        let mut resumed = Self::new(header, body.get(at..).unwrap_or_default());
        resumed.left = resumed.left.saturating_sub(done);
        resumed
    }

    /// How many bytes the records take that were walked over.
    pub(crate) fn bytes_read(&self) -> usize {
        self.reader.position()
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = RecordRef<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        let fields = read_fields(&mut self.reader).ok()?;
        // Deltas wrap as Kafka's do: any 64 bits are a timestamp, and offsets were checked.
        let created = Timestamp(self.base_timestamp.wrapping_add(fields.timestamp_delta));
        Some(RecordRef {
            offset: Offset(self.base_offset.0.wrapping_add_signed(i64::from(fields.offset_delta))),
            timestamp: self.append_time.unwrap_or(created),
            key: fields.key,
            value: fields.value,
            headers: fields.headers,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for RecordIter<'_> {}
impl std::iter::FusedIterator for RecordIter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions, BatchRef, Header, Record};

    /// A batch of `count` records from offset `base`, its header and body apart.
    fn batch(base: Offset, count: usize) -> (BatchHeader, Vec<u8>) {
        let mut builder = BatchBuilder::new();
        builder.begin(BatchOptions::default().base_offset(base));
        for _ in 0..count {
            builder.push(&Record::new("v").headers(&[Header::new("h", "x")]), Timestamp(9)).unwrap();
        }
        let bytes = builder.finish().unwrap();
        let batch = BatchRef::verify(bytes).unwrap();
        (*batch.header(), batch.body().to_vec())
    }

    #[test]
    fn the_count_must_be_exact() {
        let (header, body) = batch(Offset(0), 3);
        assert_eq!(check_records(&header, &body), Ok(()));
        for (count, what) in [
            (2, "bytes after the last record"),
            (4, "varint cut short"),
            (i32::MAX, "varint cut short"),
            (-1, "negative record count"),
        ] {
            let header = BatchHeader { record_count: count, ..header };
            assert_eq!(check_records(&header, &body).map_err(|invalid| invalid.what), Err(what), "{count}");
        }
        assert_eq!(check_records(&BatchHeader { record_count: 0, ..header }, b"anything"), Ok(()));
    }

    #[test]
    fn an_offset_that_cannot_be_stored_is_refused() {
        let (header, body) = batch(Offset(Offset::MAX.0 - 2), 2);
        assert_eq!(check_records(&header, &body), Ok(()));
        let header = BatchHeader { base_offset: Offset::MAX, ..header };
        let at = BatchHeader::LEN + body.len() / 2;
        assert_eq!(check_records(&header, &body), Err(Invalid { at, what: "record offset out of range" }));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_in_the_batch() {
        let (header, mut body) = batch(Offset(0), 1);
        let key_at = body.len() - 4;
        assert_eq!(body[key_at..], [2, b'h', 2, b'x']);
        body[key_at] = 1;
        let expected = Invalid { at: BatchHeader::LEN + key_at, what: "header without a key" };
        assert_eq!(check_records(&header, &body), Err(expected));
    }

    #[test]
    fn an_iterator_stops_where_the_check_would_have_failed() {
        let (header, body) = batch(Offset(0), 3);
        assert_eq!(RecordIter::new(&header, &body).count(), 3);
        assert_eq!(RecordIter::new(&header, &body[..body.len() - 1]).count(), 2);
    }
}
