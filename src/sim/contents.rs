//! The bytes of one simulated file: sparse, and copied only where they are written.
//!
//! Pages are shared between all copies of a disk, so that an image after each call costs a few pointers. A page
//! that is missing reads as zeros. Pages may lie past the length: they are reserved.

use std::ops::Range;
use std::sync::Arc;

const PAGE: usize = 1024;

type Page = [u8; PAGE];

#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    len: u64,
    pages: Arc<Vec<Option<Arc<Page>>>>,
}

impl Contents {
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut contents = Self::default();
        contents.write(0, bytes);
        contents
    }

    /// Writes `bytes` at `position`; a gap before them reads as zeros.
    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        let pages = Arc::make_mut(&mut self.pages);
        for (index, within, range) in pieces(position, bytes.len() as u64) {
            if pages.len() <= index {
                pages.resize(index + 1, None);
            }
            let page = pages[index].get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within].copy_from_slice(&bytes[range]);
        }
        self.len = self.len.max(position + bytes.len() as u64);
    }

    /// Zeroes a range and gives its whole pages back. The length does not change.
    pub(super) fn zero(&mut self, position: u64, len: u64) {
        if self.pages.is_empty() {
            return;
        }
        let pages = Arc::make_mut(&mut self.pages);
        let len = len.min((pages.len() * PAGE) as u64 - position.min((pages.len() * PAGE) as u64));
        for (index, within, _) in pieces(position, len) {
            match &mut pages[index] {
                whole if within.len() == PAGE => *whole = None,
                Some(page) => Arc::make_mut(page)[within].fill(0),
                None => {}
            }
        }
    }

    /// Cuts or extends; new bytes are zero, also if there were others before a cut.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, u64::MAX - len);
        }
        self.len = len;
    }

    /// Gives a range its pages.
    pub(super) fn reserve(&mut self, position: u64, len: u64) {
        let pages = Arc::make_mut(&mut self.pages);
        for (index, _, _) in pieces(position, len) {
            if pages.len() <= index {
                pages.resize(index + 1, None);
            }
            pages[index].get_or_insert_with(|| Arc::new([0; PAGE]));
        }
    }

    /// Whether there is anything but zeros in a range.
    pub(super) fn holds_data(&self, range: Range<u64>) -> bool {
        let end = range.end.min(self.len).min((self.pages.len() * PAGE) as u64);
        pieces(range.start, end.saturating_sub(range.start)).any(|(index, within, _)| match &self.pages[index] {
            Some(page) => page[within.clone()] != [0; PAGE][within],
            None => false,
        })
    }

    /// The pieces below `end` that hold anything but zeros, and where each begins.
    pub(super) fn data(&self, end: u64) -> impl Iterator<Item = (u64, &[u8])> {
        pieces(0, self.len.min(end)).filter_map(|(index, within, range)| {
            let piece = &self.pages.get(index)?.as_ref()?[within];
            (*piece != [0; PAGE][..piece.len()]).then_some((range.start as u64, piece))
        })
    }

    /// Reads what there is at `position`, and tells how many bytes that were.
    pub(super) fn read(&self, position: u64, into: &mut [u8]) -> usize {
        let count = (self.len.saturating_sub(position)).min(into.len() as u64);
        for (index, within, range) in pieces(position, count) {
            match self.pages.get(index) {
                Some(Some(page)) => into[range].copy_from_slice(&page[within]),
                _ => into[range].fill(0),
            }
        }
        count as usize
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes);
        bytes
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of disk space in use.
    pub(super) fn allocated(&self) -> u64 {
        (self.pages.iter().flatten().count() * PAGE) as u64
    }

    /// Bytes of disk space that a write to this range would take beyond what is in use.
    pub(super) fn missing(&self, position: u64, len: u64) -> u64 {
        let missing = pieces(position, len).filter(|(index, ..)| !matches!(self.pages.get(*index), Some(Some(_))));
        (missing.count() * PAGE) as u64
    }
}

/// How a range of the file falls on pages: the page's index, the range in it, and the same range in the caller's
/// bytes.
fn pieces(position: u64, len: u64) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = position + done;
        let within = (at % PAGE as u64) as usize;
        let count = (PAGE - within).min(usize::try_from(len - done).unwrap_or(PAGE));
        let range = done as usize..done as usize + count;
        done += count as u64;
        Some(((at / PAGE as u64) as usize, within..within + count, range))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Edit {
        Write(u64, Vec<u8>),
        Zero(u64, u64),
        SetLen(u64),
        Reserve(u64, u64),
    }

    fn any_edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            (0..4_000_u64, prop::collection::vec(any::<u8>(), 1..2_500))
                .prop_map(|(at, bytes)| Edit::Write(at, bytes)),
            (0..4_000_u64, 0..4_000_u64).prop_map(|(at, len)| Edit::Zero(at, len)),
            (0..6_000_u64).prop_map(Edit::SetLen),
            (0..6_000_u64, 0..2_000_u64).prop_map(|(at, len)| Edit::Reserve(at, len)),
        ]
    }

    proptest! {
        /// Pages and holes never show: the bytes are those of a plain vector, and a copy made before stays as it was.
        #[test]
        fn contents_behave_as_a_vector(edits in prop::collection::vec(any_edit(), 0..12)) {
            let (mut contents, mut plain) = (Contents::default(), Vec::new());
            for edit in edits {
                let (copy, before) = (contents.clone(), plain.clone());
                match edit {
                    Edit::Write(at, bytes) => {
                        contents.write(at, &bytes);
                        let end = at as usize + bytes.len();
                        plain.resize(plain.len().max(end), 0);
                        plain[at as usize..end].copy_from_slice(&bytes);
                    }
                    Edit::Zero(at, len) => {
                        contents.zero(at, len);
                        let range = (at as usize).min(plain.len())..((at + len) as usize).min(plain.len());
                        plain[range].fill(0);
                    }
                    Edit::SetLen(len) => {
                        contents.set_len(len);
                        plain.resize(len as usize, 0);
                    }
                    Edit::Reserve(at, len) => contents.reserve(at, len),
                }
                prop_assert_eq!(contents.to_vec(), plain.clone());
                prop_assert_eq!(copy.to_vec(), before);
            }
        }
    }

    #[test]
    fn space_is_counted_where_it_is_used() {
        let mut contents = Contents::default();
        contents.set_len(1 << 40);
        assert_eq!((contents.allocated(), contents.missing(1 << 30, 1)), (0, PAGE as u64));
        contents.write(1_000, &[1; 100]);
        assert_eq!((contents.allocated(), contents.missing(1_000, 100)), (2 * PAGE as u64, 0));
        contents.zero(0, 1_024);
        assert_eq!(contents.allocated(), PAGE as u64);
    }
}
