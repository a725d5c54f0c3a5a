//! What a poll returns.

use std::fmt;

use crate::partition::{Records, RecordsIter};
use crate::record::RecordRef;
use crate::types::{Offset, TopicPartition};

/// Records of one poll, by partition, in order of their offsets. Made by [`Consumer::poll`](crate::Consumer::poll).
///
/// Borrows the stored bytes, as [`Records`] does: keeping this keeps their memory, and so a file's disk space.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use chiplog::{Log, Offset, Record, TopicPartition};
///
/// let log = Log::open(dir.path())?;
/// log.append(Record::new("paid").to("orders"))?;
///
/// let orders = TopicPartition::new("orders", 0);
/// let mut consumer = log.consumer("billing").assign([orders.clone()])?;
/// consumer.seek_to_beginning(&[])?;
/// let polled = consumer.poll(Duration::ZERO)?;
/// for (partition, record) in &polled {
///     assert_eq!((partition, record.offset, record.value), (&orders, Offset(0), Some(&b"paid"[..])));
/// }
/// assert_eq!(polled.iter().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Polled {
    pub(super) parts: Vec<(TopicPartition, Records)>,
    pub(super) resets: Vec<Reset>,
    pub(super) is_woken: bool,
}

impl Polled {
    /// Iterates over the records: partition by partition, and in each in order of their offsets.
    #[must_use]
    pub fn iter(&self) -> PolledIter<'_> {
        PolledIter { parts: self.parts.iter(), current: None }
    }

    /// The partitions that have records here, each with them.
    pub fn partitions(&self) -> impl Iterator<Item = (&TopicPartition, &Records)> {
        self.parts.iter().map(|(partition, records)| (partition, records))
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether the poll ended early because of a [`ConsumerWaker`](crate::ConsumerWaker).
    #[must_use]
    pub fn was_woken(&self) -> bool {
        self.is_woken
    }

    /// Where the log did not have what was to be read next, so that records were passed over, or will come again:
    /// [`ConsumerBuilder::auto_offset_reset`](crate::ConsumerBuilder::auto_offset_reset) said where to go on.
    #[must_use]
    pub fn resets(&self) -> &[Reset] {
        &self.resets
    }
}

/// That a consumer went on elsewhere than it wanted: retention had taken what was next, say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reset {
    /// Where.
    pub partition: TopicPartition,
    /// The offset that was to be read, and that the log does not have.
    pub wanted: Offset,
    /// The one that was gone on from.
    pub resumed: Offset,
}

impl<'a> IntoIterator for &'a Polled {
    type Item = (&'a TopicPartition, RecordRef<'a>);
    type IntoIter = PolledIter<'a>;

    fn into_iter(self) -> PolledIter<'a> {
        self.iter()
    }
}

/// Iterates over [`Polled`]: made by [`Polled::iter`].
#[derive(Clone)]
pub struct PolledIter<'a> {
    parts: std::slice::Iter<'a, (TopicPartition, Records)>,
    current: Option<(&'a TopicPartition, RecordsIter<'a>)>,
}

impl fmt::Debug for PolledIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partition = self.current.as_ref().map(|(partition, _)| partition);
        f.debug_struct("PolledIter").field("partition", &partition).field("left", &self.parts.len()).finish()
    }
}

impl<'a> Iterator for PolledIter<'a> {
    type Item = (&'a TopicPartition, RecordRef<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((partition, records)) = &mut self.current
                && let Some(record) = records.next()
            {
                return Some((*partition, record));
            }
            let (partition, records) = self.parts.next()?;
            self.current = Some((partition, records.iter()));
        }
    }

    /// As a loop over [`next`](Iterator::next), and faster: see [`RecordsIter`].
    #[inline]
    fn fold<B, F: FnMut(B, Self::Item) -> B>(self, init: B, mut f: F) -> B {
        let rest = self.parts.map(|(partition, records)| (partition, records.iter()));
        self.current.into_iter().chain(rest).fold(init, |folded, (partition, records)| {
            records.fold(folded, |folded, record| f(folded, (partition, record)))
        })
    }
}

/// One record that was consumed, and what it is stored in. Made by [`Consumer::iter`](crate::Consumer::iter) and
/// [`Consumer::merge_by_time`](crate::Consumer::merge_by_time).
///
/// Copies nothing: keeping it keeps the bytes that it was read with, up to
/// [`max_partition_bytes`](crate::ConsumerBuilder::max_partition_bytes), and so a file's disk space.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Consumed, Log, Record, TopicPartition};
///
/// let log = Log::open(dir.path())?;
/// log.append(Record::new("paid").to("orders"))?;
/// let mut consumer = log.consumer("billing").assign([TopicPartition::new("orders", 0)])?;
/// consumer.seek_to_beginning(&[])?;
/// let consumed: Consumed = consumer.iter().next().unwrap()?;
/// assert_eq!(consumed.record().value, Some(&b"paid"[..]));
/// assert_eq!(consumed.partition().to_string(), "orders-0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Consumed {
    pub(super) partition: TopicPartition,
    /// Exactly one.
    pub(super) records: Records,
}

impl Consumed {
    /// The partition it is from.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The record. Decoded at each call.
    #[must_use]
    pub fn record(&self) -> RecordRef<'_> {
        // There is one: an empty record only stands in for the impossible.
        self.records.iter().next().unwrap_or_else(|| RecordRef::empty(self.records.next_offset()))
    }
}
