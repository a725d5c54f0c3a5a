//! Control batches: what Kafka writes into a log for itself. Each holds one record, which applications never see.
//!
//! | Key           | Value                                      |
//! |---------------|--------------------------------------------|
//! | version (i16), 0 | for abort and commit: version (i16), 0; |
//! | type (i16)    | coordinator epoch (i32)                    |

use super::header::{ATTRIBUTES_AT, Attributes, BatchHeader};
use super::record::Record;
use super::walk::{RecordIter, check_records};
use crate::error::Result;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::wire::{Invalid, Reader};

/// What a control batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // The field is named in each variant's text.
pub enum Control {
    /// The producer's open transaction is undone, by the transaction coordinator of this epoch.
    Abort { coordinator_epoch: i32 },
    /// The producer's open transaction counts, by the transaction coordinator of this epoch.
    Commit { coordinator_epoch: i32 },
    /// A record of another type, which a log keeps and skips.
    Other(i16),
}

const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// Reads the record of a control batch. Control batches are never compressed.
pub(super) fn read(header: &BatchHeader, body: &[u8]) -> Result<Control, Invalid> {
    if !header.codec()?.is_none() {
        return Err(Invalid { at: ATTRIBUTES_AT, what: "compressed control batch" });
    }
    check_records(header, body)?;
    let mut records = RecordIter::new(header, body);
    let (Some(record), None) = (records.next(), records.next()) else {
        return Err(at_record("control batch of several records"));
    };
    let mut key = Reader::new(record.key.unwrap_or_default());
    let (Ok(0..), Ok(kind)) = (key.i16(), key.i16()) else {
        return Err(at_record("control record without a type"));
    };
    if kind != ABORT && kind != COMMIT {
        return Ok(Control::Other(kind));
    }
    let mut value = Reader::new(record.value.unwrap_or_default());
    let (Ok(0..), Ok(coordinator_epoch)) = (value.i16(), value.i32()) else {
        return Err(at_record("transaction marker without a coordinator epoch"));
    };
    Ok(if kind == ABORT { Control::Abort { coordinator_epoch } } else { Control::Commit { coordinator_epoch } })
}

fn at_record(what: &'static str) -> Invalid {
    Invalid { at: BatchHeader::LEN, what }
}

/// The end of a transaction, to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: ProducerEpoch,
    pub(crate) timestamp: Timestamp,
    pub(crate) is_commit: bool,
    pub(crate) coordinator_epoch: i32,
}

/// Replaces what is in `into` by the control batch of `marker`: 78 bytes.
pub(crate) fn encode_marker(marker: &Marker, into: &mut Vec<u8>) -> Result<BatchHeader> {
    let kind = if marker.is_commit { COMMIT } else { ABORT };
    let mut key = [0; 4];
    key[2..].copy_from_slice(&kind.to_be_bytes());
    let mut value = [0; 6];
    value[2..].copy_from_slice(&marker.coordinator_epoch.to_be_bytes());

    into.clear();
    into.resize(BatchHeader::LEN, 0);
    Record::new(&value).key(&key).encode(0, 0, usize::MAX, into)?;
    let header = BatchHeader {
        base_offset: marker.offset,
        batch_len: 0,
        leader_epoch: marker.leader_epoch,
        crc: 0,
        attributes: Attributes::default().with_transactional(true).with_control(true),
        last_offset_delta: 0,
        base_timestamp: marker.timestamp,
        max_timestamp: marker.timestamp,
        producer_id: marker.producer_id,
        producer_epoch: marker.producer_epoch,
        base_sequence: -1,
        record_count: 1,
    };
    Ok(header.seal(into))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchRef;

    fn marker(is_commit: bool) -> Marker {
        Marker {
            offset: Offset(3),
            leader_epoch: LeaderEpoch(5),
            producer_id: ProducerId(4242),
            producer_epoch: ProducerEpoch(3),
            timestamp: Timestamp(1_000),
            is_commit,
            coordinator_epoch: 7,
        }
    }

    #[test]
    fn a_marker_reads_back() {
        let mut bytes = Vec::new();
        for (is_commit, expected) in
            [(true, Control::Commit { coordinator_epoch: 7 }), (false, Control::Abort { coordinator_epoch: 7 })]
        {
            let header = encode_marker(&marker(is_commit), &mut bytes).unwrap();
            let batch = BatchRef::verify(&bytes).unwrap();
            assert_eq!((bytes.len(), batch.header()), (78, &header));
            assert_eq!(batch.control(), Ok(Some(expected)));
        }
    }

    #[test]
    fn a_control_batch_is_one_record_in_plain_form() {
        let mut bytes = Vec::new();
        let header = encode_marker(&marker(true), &mut bytes).unwrap();
        let body = &bytes[BatchHeader::LEN..];
        let packed = BatchHeader { attributes: header.attributes.with_codec(crate::record::Codec::Lz4), ..header };
        let refused = Invalid { at: ATTRIBUTES_AT, what: "compressed control batch" };
        assert_eq!(read(&packed, body), Err(refused));
        let twice = BatchHeader { record_count: 2, last_offset_delta: 1, ..header };
        // The second has the first's offset delta but for one.
        let mut records = body.to_vec();
        records.extend_from_slice(body);
        let delta_at = body.len() + 3;
        records[delta_at] = 2;
        assert_eq!(read(&twice, &records), Err(at_record("control batch of several records")));
    }

    #[test]
    fn a_control_record_must_say_its_type() {
        let mut bytes = Vec::new();
        let header = encode_marker(&marker(true), &mut bytes).unwrap();
        for (key, value, what) in [
            (&[0, 0, 0][..], &[0; 6][..], Err("control record without a type")),
            (&[0x80, 0, 0, 0], &[0; 6], Err("control record without a type")),
            (&[0, 0, 0, 0], &[0; 5], Err("transaction marker without a coordinator epoch")),
            (&[0, 9, 0, 2], &[], Ok(Control::Other(2))),
        ] {
            let mut body = Vec::new();
            Record::new(value).key(key).encode(0, 0, 100, &mut body).unwrap();
            assert_eq!(read(&header, &body).map_err(|invalid| invalid.what), what);
        }
    }
}
