//! A decoder of record batches that shares nothing with the real one: slow, from the format's table alone, in
//! wide signed integers. Tests compare the two on bytes of any kind.

/// A record as five plain values: offset, timestamp, key, value, headers.
pub(super) type Naive = (i128, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

/// Whether the first bytes are a whole batch with a right checksum; if so, its length.
pub(super) fn batch_len(bytes: &[u8]) -> Option<usize> {
    let len = 12 + big_endian(bytes, 8, 4)?;
    let is_batch = len >= 61 && bytes.get(16) == Some(&2) && big_endian(bytes, 0, 8)? >= 0;
    let body = bytes.get(21..usize::try_from(len).ok()?)?;
    let stored = big_endian(bytes, 17, 4)? as u32;
    (is_batch && crc(body) == stored).then_some(len as usize)
}

/// The records of a batch in plain form, or nothing if anything is wrong with them.
pub(super) fn records(header: &[u8], body: &[u8]) -> Option<Vec<Naive>> {
    let count = big_endian(header, 57, 4)?;
    let (base_offset, base_time) = (big_endian(header, 0, 8)?, big_endian(header, 27, 8)?);
    let append_time = (header[22] & 8 != 0).then_some(big_endian(header, 35, 8)? as i64);
    if count <= 0 {
        return (count == 0).then(Vec::new);
    }
    let (mut at, mut all) = (0, Vec::new());
    for _ in 0..count {
        let len = usize::try_from(varint(body, &mut at, 5)?).ok()?;
        let end = at.checked_add(len)?;
        let record = body.get(..end)?;
        record.get(at)?;
        at += 1;
        let time = (base_time as i64).wrapping_add(varint(record, &mut at, 10)? as i64);
        let offset = base_offset + varint(record, &mut at, 5)?;
        let (key, value) = (nullable(record, &mut at)?, nullable(record, &mut at)?);
        let header_count = varint(record, &mut at, 5)?;
        if header_count < 0 || !(0..1 << 63).contains(&offset) {
            return None;
        }
        let mut headers = Vec::new();
        for _ in 0..header_count {
            let name = String::from_utf8(nullable(record, &mut at)??).ok()?;
            headers.push((name, nullable(record, &mut at)?));
        }
        if at != end {
            return None;
        }
        all.push((offset, append_time.unwrap_or(time), key, value, headers));
    }
    (at == body.len()).then_some(all)
}

fn nullable(bytes: &[u8], at: &mut usize) -> Option<Option<Vec<u8>>> {
    let len = varint(bytes, at, 5)?;
    if len < 0 {
        return Some(None);
    }
    let taken = bytes.get(*at..at.checked_add(len as usize)?)?.to_vec();
    *at += taken.len();
    Some(Some(taken))
}

/// A zigzag number of at most `max_len` bytes, 5 for 32 bits and 10 for 64.
pub(super) fn varint(bytes: &[u8], at: &mut usize, max_len: usize) -> Option<i128> {
    let mut groups = Vec::new();
    loop {
        let byte = *bytes.get(*at)?;
        *at += 1;
        groups.push(u128::from(byte % 128));
        if byte < 128 {
            break;
        }
        if groups.len() == max_len {
            return None;
        }
    }
    let raw = groups.iter().rev().fold(0, |raw, group| raw * 128 + group);
    let raw = raw % if max_len == 5 { 1 << 32 } else { 1 << 64 };
    let half = (raw / 2) as i128;
    Some(if raw % 2 == 0 { half } else { -half - 1 })
}

fn big_endian(bytes: &[u8], at: usize, len: usize) -> Option<i128> {
    let field = bytes.get(at..at + len)?;
    let value = field.iter().fold(0, |value, byte| value * 256 + i128::from(*byte));
    Some(if field[0] < 128 { value } else { value - (1 << (8 * len)) })
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc % 2 == 1 { (crc / 2) ^ 0x82F6_3B78 } else { crc / 2 };
        }
    }
    !crc
}
