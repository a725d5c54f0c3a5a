//! gzip: RFC 1952 members, one after the other.

use std::io::{Read, Write};

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use super::RecordError;
use crate::wire::Invalid;

pub(super) fn compress(level: Option<i32>, body: &[u8], into: &mut Vec<u8>) -> Result<(), RecordError> {
    let level = match level.and_then(|level| u32::try_from(level).ok()) {
        Some(level) => flate2::Compression::new(level),
        None => flate2::Compression::default(), // Kafka's -1 as well.
    };
    let mut encoder = GzEncoder::new(into, level);
    let written = encoder.write_all(body).and_then(|()| encoder.finish().map(drop));
    written.map_err(|_| Invalid { at: 0, what: "gzip cannot compress this" }.into())
}

pub(super) fn decompress(body: &[u8], limit: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
    let mut rest = body;
    loop {
        let at = body.len() - rest.len();
        let mut member = GzDecoder::new(rest);
        if member.header().is_none() && at > 0 {
            return Ok(()); // What follows the last member is ignored, as Java's reader does.
        }
        read_member(&mut member, limit, into).map_err(|error| match error {
            RecordError::Invalid(invalid) => RecordError::Invalid(Invalid { at, ..invalid }),
            other => other,
        })?;
        rest = member.into_inner();
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// Appends one member to `into`, which doubles only once it is full.
fn read_member(member: &mut impl Read, limit: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
    let mut chunk = [0; 4096];
    loop {
        match member.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(len) => super::append(&chunk[..len], limit, into)?,
            Err(_) => return Err(Invalid { at: 0, what: "damaged gzip member" }.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(body: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        compress(None, body, &mut packed).unwrap();
        packed
    }

    fn decompressed(body: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        decompress(body, 1000, &mut plain).ok().map(|()| plain)
    }

    #[test]
    fn members_follow_each_other_and_garbage_ends_them() {
        let (one, two) = (member(b"one"), member(b"two"));
        assert_eq!(decompressed(&[&one[..], &two].concat()).unwrap(), b"onetwo");
        assert_eq!(decompressed(&[&one[..], b"\x1F\x8Bgarbage"].concat()).unwrap(), b"one");
        assert_eq!(decompressed(&[&one[..], &two[..5]].concat()).unwrap(), b"one");
    }

    #[test]
    fn a_damaged_member_is_an_error_wherever_it_is() {
        let (one, mut two) = (member(b"one"), member(b"two"));
        assert_eq!(decompressed(b""), None);
        assert_eq!(decompressed(b"garbage"), None);
        assert_eq!(decompressed(&one[..one.len() - 1]), None);
        let checksum_at = two.len() - 8;
        two[checksum_at] ^= 1;
        assert_eq!(decompressed(&[&one[..], &two].concat()), None);
    }
}
