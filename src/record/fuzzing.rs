//! What must hold for any bytes at all. The fuzzers call these with bytes they find, the tests with bytes they make.

use super::header::ATTRIBUTES_AT;
use super::validate::{Origin, Rules, Stamp, Validator};
use super::walk::RecordIter;
use super::{
    Attributes, BatchBuilder, BatchHeader, BatchOptions, BatchRef, Codec, Header, Record, RecordRef, TimestampType,
    check_records, compress, naive,
};
use crate::checksum::crc32c;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::wire::{Reader, put_varint, put_varlong};

const LIMIT: usize = 1 << 16;

/// Any bytes as what a file holds: the naive decoder agrees on the batch and its records, and what the leader
/// accepts is a batch that reads the same.
pub fn batch(bytes: &[u8]) {
    let naive_len = naive::batch_len(bytes);
    match BatchRef::verify(bytes) {
        Err(_) => assert_eq!(naive_len, None),
        Ok(batch) => {
            assert_eq!(Some(batch.bytes().len()), naive_len);
            assert_eq!(&batch.header().encode()[..], &bytes[..BatchHeader::LEN]);
            let _ = batch.control();
            same_records(&batch);
        }
    }
    validate(bytes);
    // Few bytes have a right checksum by chance: ask again with it put right.
    if let Ok(header) = BatchHeader::read(bytes)
        && let Some(whole) = bytes.get(..header.batch_len as usize)
    {
        let crc = crc32c(&whole[ATTRIBUTES_AT..]);
        if crc != header.crc {
            let mut mended = whole.to_vec();
            mended[..BatchHeader::LEN].copy_from_slice(&BatchHeader { crc, ..header }.encode());
            self::batch(&mended);
        }
    }
}

/// Any bytes as the records of a batch: the naive decoder agrees, and what is read can be written and read again.
pub fn record(bytes: &[u8]) {
    let Some((fields, body)) = bytes.split_first_chunk::<4>() else { return };
    let header = BatchHeader {
        base_offset: Offset(u64::from(fields[0])),
        batch_len: BatchHeader::LEN as u32,
        leader_epoch: LeaderEpoch::NONE,
        crc: 0,
        attributes: Attributes(i16::from(fields[1] & 0x08)),
        last_offset_delta: 0,
        base_timestamp: Timestamp(i64::from(fields[2])),
        max_timestamp: Timestamp(i64::from(fields[2]) + 1),
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
        base_sequence: -1,
        record_count: i32::from(fields[3]),
    };
    let expected = naive::records(&header.encode(), body);
    assert_eq!(check_records(&header, body).is_ok(), expected.is_some());
    let Some(expected) = expected else { return };
    let records: Vec<_> = RecordIter::new(&header, body).collect();
    assert_eq!(records.iter().map(to_naive).collect::<Vec<_>>(), expected);
    re_encode(&records);
}

/// Any bytes as one varint of each width: the naive decoder agrees, and the shortest form is no longer.
pub fn varint(bytes: &[u8]) {
    for max_len in [5, 10] {
        let mut at = 0;
        let expected = naive::varint(bytes, &mut at, max_len);
        let mut reader = Reader::new(bytes);
        let mut shortest = Vec::new();
        let value = if max_len == 5 {
            reader.varint().map(|value| (put_varint(&mut shortest, value), i128::from(value)).1)
        } else {
            reader.varlong().map(|value| (put_varlong(&mut shortest, value), i128::from(value)).1)
        };
        assert_eq!(value.ok(), expected);
        if let Some(value) = expected {
            assert_eq!(reader.position(), at);
            assert!(shortest.len() <= at);
            assert_eq!(naive::varint(&shortest, &mut 0, max_len), Some(value));
        }
    }
}

/// Any bytes as the headers of one record, with their count in front: as [`record`].
pub fn headers(bytes: &[u8]) {
    let mut body = Vec::new();
    put_varint(&mut body, 5 + bytes.len() as i32);
    body.extend([0, 0, 0, 1, 1]); // Attributes, deltas, null key, null value.
    body.extend(bytes);
    record(&[&[0, 0, 0, 1], &body[..]].concat());
    // A record of zeros follows in the same batch: its headers are its own.
    record(&[&[0, 0, 0, 2], &body[..], &[14, 0, 0, 0, 0, 0, 0, 0]].concat());
}

/// Any bytes as a compressed body, after a byte that chooses codec and limit: no more comes out than allowed, the
/// limit changes nothing but whether it is reached, and what comes out can be packed again.
pub fn decompress(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else { return };
    let codec = Codec::ALL[usize::from(choice % 5)];
    let limit = LIMIT >> (choice / 5 % 16);
    let (mut plain, mut roomy) = (Vec::new(), Vec::new());
    let bounded = compress::decompress(codec, body, limit, &mut plain);
    assert!(plain.len() <= limit && plain.capacity() <= 2 * limit + 64);
    let unbounded = compress::decompress(codec, body, LIMIT, &mut roomy);
    if bounded.is_ok() {
        assert_eq!((unbounded, &plain), (Ok(()), &roomy));
        let mut packed = Vec::new();
        let compression = super::Compression::new(codec);
        assert_eq!(compress::Compressor::default().compress(compression, &plain, &mut packed), Ok(()));
        assert_eq!(compress::decompress(codec, &packed, limit, &mut roomy), Ok(()));
        assert_eq!(plain, roomy);
    } else if unbounded.is_ok() {
        assert!(roomy.len() > limit);
    }
}

/// The records of a verified batch are the naive decoder's, and can be written again.
fn same_records(batch: &BatchRef<'_>) {
    let mut scratch = Vec::new();
    let plain = match batch.plain_body(LIMIT, &mut scratch) {
        Ok(plain) => plain,
        Err(_) => return assert!(batch.records(LIMIT, &mut Vec::new()).is_err()),
    };
    let expected = naive::records(batch.bytes(), plain);
    let mut again = Vec::new();
    let records = batch.records(LIMIT, &mut again).map(Iterator::collect::<Vec<_>>);
    assert_eq!(records.as_ref().ok().map(|records| records.iter().map(to_naive).collect()), expected);
    if let Ok(records) = records {
        re_encode(&records);
    }
}

fn to_naive(record: &RecordRef<'_>) -> naive::Naive {
    let headers = record.headers().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect();
    let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
    (i128::from(record.offset.0), record.timestamp.0, key, value, headers)
}

/// Builds a batch of the same records, as far as a builder takes them, and reads it back.
fn re_encode(records: &[RecordRef<'_>]) {
    let is_ours = |record: &&RecordRef<'_>| record.timestamp >= Timestamp::NONE;
    let records: Vec<_> = records.iter().filter(is_ours).collect();
    let mut builder = BatchBuilder::new();
    builder.begin(BatchOptions::default());
    for record in &records {
        let headers: Vec<Header<'_>> = record.headers().collect();
        let mut copy = Record::default().headers(&headers).timestamp(record.timestamp);
        (copy.key, copy.value) = (record.key, record.value);
        assert!(builder.push(&copy, Timestamp(0)).is_ok());
    }
    let Ok(bytes) = builder.finish() else { return assert!(records.is_empty()) };
    let mut scratch = Vec::new();
    let Ok(batch) = BatchRef::verify(bytes) else { unreachable!("a built batch verifies") };
    let Ok(read) = batch.records(0, &mut scratch) else { unreachable!("a built batch has records") };
    assert_eq!(read.len(), records.len());
    for ((index, read), written) in read.enumerate().zip(records) {
        let expected = RecordRef { offset: Offset(index as u64), ..*written };
        assert_eq!(to_naive(&read), to_naive(&expected));
    }
}

/// What the leader stores of a batch reads as the sender's records at the next offsets.
fn validate(bytes: &[u8]) {
    let rules = Rules {
        origin: Origin::Coordinator,
        is_compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: u64::MAX,
        after_max_ms: u64::MAX,
        compression: (bytes.len() % 2 == 1).then_some(super::Compression::NONE),
        max_message_bytes: LIMIT,
        decoded_limit: LIMIT,
    };
    let stamp = Stamp { first_offset: Offset(50), leader_epoch: LeaderEpoch(9), now: Timestamp(1_000) };
    let mut stored = Vec::new();
    let Ok(validated) = Validator::default().validate(bytes, &rules, &stamp, &mut stored) else { return };
    let (mut sent_scratch, mut stored_scratch) = (Vec::new(), Vec::new());
    let (Ok(sent), Ok(stored)) = (BatchRef::verify(bytes), BatchRef::verify(&stored)) else {
        unreachable!("both verify");
    };
    assert!(stored.header() == &validated.header && validated.header.check_range().is_ok());
    let sent = sent.records(LIMIT, &mut sent_scratch).into_iter().flatten();
    let stored = stored.records(LIMIT, &mut stored_scratch).into_iter().flatten();
    let mut next = Offset(50);
    for (sent, stored) in sent.zip(stored) {
        assert_eq!(to_naive(&stored), to_naive(&RecordRef { offset: next, ..sent }));
        next = next + 1;
    }
    assert_eq!(next, validated.header.next_offset());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A batch of some kind, from a few numbers.
    fn any_batch() -> impl Strategy<Value = Vec<u8>> {
        let text = proptest::collection::vec(any::<u8>(), 0..20);
        let record = (proptest::option::of(text.clone()), proptest::option::of(text), 0..3_usize, -1..5_000_i64);
        let options = (0..Codec::ALL.len(), any::<bool>(), 0..100_u64);
        (proptest::collection::vec(record, 1..12), options).prop_map(|(records, (codec, is_append_time, base))| {
            let codec = Codec::ALL[codec];
            let codec = if codec.is_supported() { codec } else { Codec::None };
            let kind = if is_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
            let mut builder = BatchBuilder::new();
            builder.begin(
                BatchOptions::default()
                    .base_offset(Offset(base))
                    .timestamp_type(kind)
                    .compression(crate::record::Compression::new(codec)),
            );
            for (key, value, header_count, time) in &records {
                let headers = [Header { key: "h", value: None }, Header::new("", "x")];
                let mut record = Record::default().headers(&headers[..*header_count]).timestamp(Timestamp(*time));
                (record.key, record.value) = (key.as_deref(), value.as_deref());
                builder.push(&record, Timestamp(6_000)).unwrap();
            }
            builder.finish().unwrap().to_vec()
        })
    }

    proptest! {
        /// Whatever the builder encodes, the view decodes unchanged, under every codec; and with a few bytes
        /// changed, the fast decoder and the naive one still see the same.
        #[test]
        fn built_and_mutated_batches_read_as_the_naive_decoder_reads_them(
            built in any_batch(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = built;
            prop_assert!(naive::batch_len(&bytes) == Some(bytes.len()));
            batch(&bytes);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            batch(&bytes);
        }

        #[test]
        fn any_bytes_are_read_as_the_naive_decoder_reads_them(bytes: Vec<u8>) {
            batch(&bytes);
            record(&bytes);
            varint(&bytes);
            headers(&bytes);
            decompress(&bytes);
        }
    }
}
