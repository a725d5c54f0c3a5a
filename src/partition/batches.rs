//! Records by the batches that they are stored in: what a batch says of all its records at once.

use std::fmt;

use super::records::{Hidden, Records};
use crate::record::{BatchHeader, RecordIter, RecordRef};
use crate::types::Offset;

/// The records of one batch that a read returned, in order of their offsets, and the header they share. Made by
/// [`Records::batches`].
#[derive(Clone)]
pub struct RecordBatch<'a> {
    header: BatchHeader,
    records: RecordIter<'a>,
    from: Offset,
    end: Offset,
}

impl fmt::Debug for RecordBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As for `Records`: no payload.
        f.debug_struct("RecordBatch").field("header", &self.header).finish()
    }
}

impl RecordBatch<'_> {
    /// The header, as it is stored: the leader's epoch, the kind of timestamps, the producer. The batch may hold more
    /// records than the read returned.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }
}

impl<'a> Iterator for RecordBatch<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<RecordRef<'a>> {
        let (from, end) = (self.from, self.end);
        // A read may begin, or end, inside a batch.
        self.records.find(|record| record.offset >= from).filter(|record| record.offset < end)
    }
}

impl Records {
    /// The batches that the records are stored in, in order, each with those of its records that
    /// [`iter`](Self::iter) would give. A batch that compaction emptied is among them and has none.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{LeaderEpoch, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append_all(["paid", "sent"])?;
    ///
    /// let records = partition.read(Offset(1))?;
    /// for batch in records.batches() {
    ///     assert_eq!(batch.header().leader_epoch, LeaderEpoch(0));
    ///     assert_eq!(batch.map(|record| record.offset).collect::<Vec<_>>(), [Offset(1)]);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn batches(&self) -> impl Iterator<Item = RecordBatch<'_>> {
        let (mut rest, mut handed) = (self.stored.as_slice(), self.handed);
        let mut hidden = Hidden::new(self.aborted.as_deref().unwrap_or_default());
        let all = std::iter::from_fn(move || {
            let header = BatchHeader::read(rest).ok()?;
            let (batch, behind) = rest.split_at_checked(header.batch_len as usize)?;
            rest = behind;
            let body = self.body(&header, batch, &mut handed)?;
            let records = handed.resume(&header, body);
            Some(RecordBatch { header, records, from: self.from, end: self.next_offset })
        });
        all.filter(move |batch| self.shows(&batch.header, &mut hidden))
    }
}
