//! Kafka's record batches, format v2: bytes to records and back.
//!
//! ```text
//! batch   |-- header, 61 bytes --|-- records, plain or as one compressed blob --|
//!            \ CRC over everything from the attributes to the end
//! ```
//!
//! Reading goes in three steps, each of which may be the last: [`BatchHeader::read`] looks at the header alone,
//! [`BatchRef::verify`] proves the checksum, [`BatchRef::records`] decompresses and checks every record. What has
//! passed a step is not checked again: iterating over records cannot fail.
//!
//! Writing is [`BatchBuilder`] for records of our own, and the leader's validation for batches that others built.
//!
//! Nothing here touches a file, a clock or a thread. No length that bytes claim makes memory grow.

mod batch;
mod builder;
mod compress;
mod control;
mod header;
mod open;
#[allow(clippy::module_inception)] // The record of a record batch.
mod record;
mod rewrite;
mod validate;
mod walk;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, fuzzing))]
mod naive;
#[cfg(test)]
mod vectors;

pub use crate::wire::Invalid;
pub use batch::BatchRef;
pub use builder::{BatchBuilder, BatchOptions, Producer};
pub use compress::{Codec, Compression, RecordError};
pub use control::Control;
pub(crate) use control::{Marker, encode_marker};
pub use header::{Attributes, BatchHeader, TimestampType};
pub use record::{Header, Headers, Record, RecordRef, TopicRecord};
pub use walk::RecordIter;

pub(crate) use compress::Compressor;
pub(crate) use header::{Frame, stamp};
pub(crate) use open::{OpenBatch, Sender, pack};
pub(crate) use rewrite::{Rewriter, emptied};
pub(crate) use validate::{Origin as BatchOrigin, Rules, Stamp, Validator};
pub(crate) use walk::check_records;
