//! Topics of values: what is appended is encoded, what is read is decoded.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::Topic;
use crate::partition::{Appended, Records};
use crate::record::{Record, RecordRef};
use crate::types::{Offset, Timestamp};

#[cfg(feature = "avro")]
mod avro;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "protobuf")]
mod protobuf;

#[cfg(feature = "avro")]
pub use avro::Avro;
#[cfg(feature = "json")]
pub use json::Json;
#[cfg(feature = "protobuf")]
pub use protobuf::Protobuf;

/// Why a value could not be encoded, or bytes not decoded.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Turns values into bytes and back. Those of this crate are behind the features `json`, `avro` and `protobuf`.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::typed::{Codec, CodecError};
/// use chiplog::{Log, Offset};
///
/// /// A count, as eight bytes.
/// #[derive(Default)]
/// struct Counts;
///
/// impl Codec<u64> for Counts {
///     fn encode(&self, value: &u64, into: &mut Vec<u8>) -> Result<(), CodecError> {
///         into.extend(value.to_be_bytes());
///         Ok(())
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<u64, CodecError> {
///         Ok(u64::from_be_bytes(bytes.try_into()?))
///     }
/// }
///
/// let log = Log::open(dir.path())?;
/// let counts = log.topic("counts")?.typed::<u64, Counts>();
/// counts.append(&17)?;
/// let records = counts.topic().partition(0)?.read(Offset::ZERO)?;
/// assert_eq!(counts.iter(&records).next().unwrap().value?, Some(17));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Codec<T> {
    /// Appends the bytes of `value` to `into`.
    ///
    /// # Errors
    ///
    /// If it has none. What was put into `into` by then is not used.
    fn encode(&self, value: &T, into: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The value that has these bytes: all of them. They may be anybody's.
    ///
    /// # Errors
    ///
    /// If there is none.
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;
}

/// A topic whose records are values of one type. Made by [`Topic::typed`].
///
/// Nothing is stored but the bytes, so other programs may append others. A record that cannot be decoded is an error in its
/// place, with its offset; the next one is read all the same.
///
/// Consumers, producers and queues have records, and this gives and takes their bytes: [`iter`](Self::iter) what a poll returned,
/// [`decode`](Self::decode) the record of a [`Task`](crate::Task), [`encode`](Self::encode) for what a
/// [`Producer`](crate::Producer) or a transaction sends. An error names the offset; the partition is that of the records.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use chiplog::typed::{Codec, CodecError};
/// use chiplog::{Log, Record, TopicPartition};
///
/// #[derive(Default)]
/// struct Counts;
///
/// impl Codec<u64> for Counts {
///     fn encode(&self, value: &u64, into: &mut Vec<u8>) -> Result<(), CodecError> {
///         into.extend(value.to_be_bytes());
///         Ok(())
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<u64, CodecError> {
///         Ok(u64::from_be_bytes(bytes.try_into()?))
///     }
/// }
///
/// let log = Log::open(dir.path())?;
/// let counts = log.topic("counts")?.typed::<u64, Counts>();
///
/// let producer = log.producer().build()?;
/// for count in [17, 4] {
///     producer.send(Record::new(&counts.encode(&count)?).to("counts"))?;
/// }
/// producer.flush()?;
/// counts.topic().append("many")?; // by somebody else
///
/// let mut consumer = log.consumer("sums").assign([TopicPartition::new("counts", 0)])?;
/// consumer.seek_to_beginning(&[])?;
/// let (mut sum, mut odd) = (0, Vec::new());
/// for (partition, records) in consumer.poll(Duration::ZERO)?.partitions() {
///     for count in counts.iter(records) {
///         match count.value {
///             Ok(value) => sum += value.unwrap_or(0), // none of a tombstone
///             Err(_) => odd.push(format!("{partition}:{}", count.offset)),
///         }
///     }
/// }
/// assert_eq!((sum, odd), (21, vec!["counts-0:2".to_owned()]));
///
/// let mut queue = log.queue("workers", "counts").open()?;
/// let task = queue.take(Duration::ZERO)?.unwrap();
/// assert_eq!(counts.decode(&task.record())?, Some(17));
/// task.accept()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// See [`Codec`] for appends and reads.
pub struct Typed<T, C> {
    topic: Topic,
    codec: Arc<C>,
    values: PhantomData<fn() -> T>,
}

impl<T, C> Clone for Typed<T, C> {
    fn clone(&self) -> Self {
        Self { topic: self.topic.clone(), codec: Arc::clone(&self.codec), values: PhantomData }
    }
}

impl<T, C> fmt::Debug for Typed<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Topic {
    /// This topic with values of the type `T` for records, in the form that `C` gives them.
    ///
    /// # Example
    ///
    /// See [`Codec`].
    #[must_use]
    pub fn typed<T, C: Codec<T> + Default>(&self) -> Typed<T, C> {
        self.typed_with(C::default())
    }

    /// As [`typed`](Self::typed), by a codec of the caller's.
    #[must_use]
    pub fn typed_with<T, C: Codec<T>>(&self, codec: C) -> Typed<T, C> {
        Typed { topic: self.clone(), codec: Arc::new(codec), values: PhantomData }
    }
}

impl<T, C: Codec<T>> Typed<T, C> {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Appends a value, as [`Topic::append`] does a record without a key.
    ///
    /// # Errors
    ///
    /// [`Error::NotEncoded`]; those of [`Topic::append`].
    pub fn append(&self, value: &T) -> Result<Appended<'_>> {
        let bytes = self.encode(value)?;
        self.topic.append(Record::new(&bytes))
    }

    /// Appends a value under a key, which chooses the partition.
    ///
    /// # Errors
    ///
    /// As for [`append`](Self::append).
    pub fn append_keyed(&self, key: &(impl AsRef<[u8]> + ?Sized), value: &T) -> Result<Appended<'_>> {
        let bytes = self.encode(value)?;
        self.topic.append(Record::new(&bytes).key(key))
    }

    /// The bytes of a value: for a record with more than a key, or for a producer.
    ///
    /// # Errors
    ///
    /// [`Error::NotEncoded`] if it has none.
    pub fn encode(&self, value: &T) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let encoded = self.codec.encode(value, &mut bytes);
        encoded.map_err(|error| Error::NotEncoded { reason: error.to_string().into() })?;
        Ok(bytes)
    }

    /// The value of a record; `None` for a tombstone.
    ///
    /// # Errors
    ///
    /// [`Error::NotDecoded`], with the record's offset, if its bytes are those of no value.
    pub fn decode(&self, record: &RecordRef<'_>) -> Result<Option<T>> {
        let Some(bytes) = record.value else { return Ok(None) };
        let decoded = self.codec.decode(bytes);
        decoded
            .map(Some)
            .map_err(|error| Error::NotDecoded { offset: record.offset, reason: error.to_string().into() })
    }

    /// The values of records that were read.
    pub fn iter<'r>(&self, records: &'r Records) -> impl Iterator<Item = TypedRecord<'r, T>> {
        records.iter().map(|record| TypedRecord {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key,
            value: self.decode(&record),
        })
    }
}

/// A record of a [`Typed`] topic.
#[derive(Debug)]
#[non_exhaustive]
pub struct TypedRecord<'r, T> {
    /// Its offset.
    pub offset: Offset,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its key, if it is not null.
    pub key: Option<&'r [u8]>,
    /// Its value; `None` for a tombstone. [`Error::NotDecoded`] of bytes that are those of no value: step over it.
    pub value: Result<Option<T>>,
}
