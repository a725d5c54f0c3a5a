//! Which records a reader of committed data is shown, asked in order of their offsets.

use chiplog::record::BatchHeader;
use chiplog::{Error, Isolation, Offset, Partition, ReadOptions};

/// The view of such a reader, beside that of one who is shown everything.
pub(crate) struct Committed {
    /// Whether nothing else is looked at anyway.
    is_all: bool,
    /// Nobody is shown anything from here on.
    stable: Offset,
    /// The offsets it is shown below `next`, from where it was asked last.
    shown: Vec<Offset>,
    next: Offset,
    /// What ended the view before its time.
    pub(crate) ended_by: Option<Error>,
}

impl Committed {
    pub(crate) fn of(partition: &Partition, is_all: bool) -> Self {
        let offsets = partition.offsets();
        Self { is_all, stable: offsets.stable, shown: Vec::new(), next: offsets.start, ended_by: None }
    }

    /// Whether it is shown the record at `offset`, of the batch with this header.
    pub(crate) fn has(&mut self, partition: &Partition, header: &BatchHeader, offset: Offset) -> bool {
        if self.is_all || offset >= self.stable || !header.attributes.is_transactional() {
            return self.is_all || offset < self.stable;
        }
        while self.next <= offset {
            // What lies between was not asked for: it is in no transaction.
            let from = self.next.max(header.base_offset).max(partition.offsets().start);
            if let Err(error) = self.look(partition, from) {
                // The record is there. Whether it was committed is not known any more.
                (self.stable, self.ended_by) = (offset, Some(error));
                return false;
            }
        }
        self.shown.binary_search(&offset).is_ok()
    }

    fn look(&mut self, partition: &Partition, from: Offset) -> Result<(), Error> {
        let options = ReadOptions::default().isolation(Isolation::Committed);
        // As when reading everything: what is damaged behind the first batch is not yet of interest.
        let records = match partition.read_with(from, options) {
            Ok(records) => records,
            Err(_) => partition.read_with(from, options.max_bytes(1))?,
        };
        self.shown.clear();
        self.shown.extend(records.iter().map(|record| record.offset));
        // Where nothing is shown any more, nothing is up to the stable offset.
        self.next = if records.next_offset() > from { records.next_offset() } else { self.stable };
        Ok(())
    }
}
