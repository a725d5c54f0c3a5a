//! Batches behind the end: what a torn write cannot have left.

use crate::disk::{DiskFile, read_exact_at};
use crate::record::BatchHeader;
use crate::segment::scan::Scan;
use crate::types::Offset;

/// Whether a whole batch that verifies, of the offset `offset`, begins anywhere in `from..to`.
pub(super) fn holds_batch(file: &dyn DiskFile, from: u64, to: u64, offset: Offset) -> std::io::Result<bool> {
    search(file, from, to, |header| header.base_offset == offset)
}

/// Whether a whole batch that verifies, of an offset above `offset` that may follow in the same segment, begins anywhere
/// in `from..to`.
pub(in crate::partition) fn hides_batch(
    file: &dyn DiskFile,
    from: u64,
    to: u64,
    offset: Offset,
) -> std::io::Result<bool> {
    search(file, from, to, |header| {
        let ahead = header.base_offset.0.checked_sub(offset.0);
        ahead.is_some_and(|ahead| (1..=i32::MAX as u64).contains(&ahead)) && header.check_range().is_ok()
    })
}

/// Whether a whole batch that is `wanted` begins anywhere in `from..to`. What merely looks like batches, overlapping one
/// another, is looked through up to a limit.
fn search(
    file: &dyn DiskFile,
    from: u64,
    to: u64,
    is_wanted: impl Fn(&BatchHeader) -> bool,
) -> std::io::Result<bool> {
    let (mut at, mut patience) = (from, to.saturating_sub(from).saturating_mul(16));
    let mut piece = vec![0; PIECE.min(to.saturating_sub(from) as usize)];
    while to.saturating_sub(at) >= BatchHeader::LEN as u64 {
        let bytes = &mut piece[..PIECE.min((to - at) as usize)];
        read_exact_at(file, bytes, at)?;
        for (skip, head) in bytes.windows(BatchHeader::LEN).enumerate() {
            let Some(header) = BatchHeader::read(head).ok().filter(&is_wanted) else { continue };
            let Some(left) = patience.checked_sub(u64::from(header.batch_len)) else { return Ok(false) };
            patience = left;
            let mut scan = Scan::new(file, at + skip as u64, to, header.base_offset, true);
            if scan.next()?.is_ok() {
                return Ok(true);
            }
        }
        at += (bytes.len() - (BatchHeader::LEN - 1)) as u64;
    }
    Ok(false)
}

const PIECE: usize = 256 << 10;
