//! A record of a raft log: one thing that the storage was told, in an envelope. Its key is null.
//!
//! | Byte | Size | Field   | Notes                                         |
//! |-----:|-----:|---------|-----------------------------------------------|
//! |    0 |    1 | mark    | `R`: tells what is newer from what is foreign |
//! |    1 |    1 | version | 1                                             |
//! |    2 |    1 | kind    | `E`, `T`, `P`, `V` or `C`                     |
//! |    3 |      | body    | by the kind, to the end                       |
//!
//! | Kind             | Body                                                                                  |
//! |------------------|---------------------------------------------------------------------------------------|
//! | `E`, an entry    | its index, 8 bytes; the entry, by the codec                                           |
//! | `T`, truncation  | the index of the first entry that is gone, 8 bytes                                    |
//! | `P`, a purge     | the first offset that is still needed, 8 bytes; the last log id that is gone, a field |
//! |                  | (there is one); the vote, a field; the last committed log id, a field                 |
//! | `V`, a vote      | a field (there is one)                                                                |
//! | `C`, committed   | the last committed log id, a field                                                    |
//!
//! A field is a length in 4 bytes and as many bytes, by the codec; the length -1 is that of nothing. Numbers are
//! big-endian. The checksum is that of the batch.

use crate::types::Offset;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Entry { index: u64, entry: &'a [u8] },
    Truncate { from: u64 },
    Purge(Purge<'a>),
    Vote(&'a [u8]),
    Committed(Option<&'a [u8]>),
}

/// What a purge says, so that nothing before `keep_from` is needed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Purge<'a> {
    pub(super) keep_from: Offset,
    pub(super) purged: &'a [u8],
    pub(super) vote: Option<&'a [u8]>,
    pub(super) committed: Option<&'a [u8]>,
}

/// Why bytes are none of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    Foreign(&'static str),
    Newer(u8),
}

impl<'a> Part<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![MARK, VERSION];
        match *self {
            Self::Entry { index, entry } => {
                bytes.reserve_exact(1 + size_of::<u64>() + entry.len());
                bytes.push(ENTRY);
                bytes.extend(index.to_be_bytes());
                bytes.extend(entry);
            }
            Self::Truncate { from } => {
                bytes.push(TRUNCATE);
                bytes.extend(from.to_be_bytes());
            }
            Self::Purge(Purge { keep_from, purged, vote, committed }) => {
                bytes.push(PURGE);
                bytes.extend(keep_from.0.to_be_bytes());
                [Some(purged), vote, committed].into_iter().for_each(|field| put_field(&mut bytes, field));
            }
            Self::Vote(vote) => {
                bytes.push(VOTE);
                put_field(&mut bytes, Some(vote));
            }
            Self::Committed(committed) => {
                bytes.push(COMMITTED);
                put_field(&mut bytes, committed);
            }
        }
        bytes
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let (&[mark, version, kind], body) = bytes.split_first_chunk().ok_or(TOO_SHORT)?;
        match (mark, version) {
            (MARK, VERSION) => {}
            (MARK, newer @ 1..) => return Err(Flaw::Newer(newer)),
            _ => return Err(Flaw::Foreign("it does not begin as one")),
        }
        let (part, rest) = match kind {
            ENTRY => {
                let (index, entry) = take_number(body)?;
                (Self::Entry { index, entry }, &[][..])
            }
            TRUNCATE => {
                let (from, rest) = take_number(body)?;
                (Self::Truncate { from }, rest)
            }
            PURGE => {
                let (keep_from, rest) = take_number(body)?;
                let (purged, rest) = take_some(rest)?;
                let (vote, rest) = take_field(rest)?;
                let (committed, rest) = take_field(rest)?;
                (Self::Purge(Purge { keep_from: Offset(keep_from), purged, vote, committed }), rest)
            }
            VOTE => {
                let (vote, rest) = take_some(body)?;
                (Self::Vote(vote), rest)
            }
            COMMITTED => {
                let (committed, rest) = take_field(body)?;
                (Self::Committed(committed), rest)
            }
            _ => return Err(Flaw::Foreign("its kind is unknown")),
        };
        if rest.is_empty() { Ok(part) } else { Err(Flaw::Foreign("bytes are left at its end")) }
    }
}

fn put_field(bytes: &mut Vec<u8>, field: Option<&[u8]>) {
    // What is too long for its length is too long for a record, and refused as that.
    let len = field.map_or(NOTHING, |field| i32::try_from(field.len()).unwrap_or(i32::MAX));
    bytes.extend(len.to_be_bytes());
    bytes.extend(field.unwrap_or_default());
}

fn take_number(bytes: &[u8]) -> Result<(u64, &[u8]), Flaw> {
    let (number, rest) = bytes.split_first_chunk().ok_or(TOO_SHORT)?;
    Ok((u64::from_be_bytes(*number), rest))
}

fn take_field(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Flaw> {
    let (len, rest) = bytes.split_first_chunk().ok_or(TOO_SHORT)?;
    match i32::from_be_bytes(*len) {
        NOTHING => Ok((None, rest)),
        len => {
            let len = usize::try_from(len).map_err(|_| Flaw::Foreign("a length is negative"))?;
            let (field, rest) = rest.split_at_checked(len).ok_or(TOO_SHORT)?;
            Ok((Some(field), rest))
        }
    }
}

fn take_some(bytes: &[u8]) -> Result<(&[u8], &[u8]), Flaw> {
    let (field, rest) = take_field(bytes)?;
    Ok((field.ok_or(Flaw::Foreign("a field is missing"))?, rest))
}

pub(super) const VERSION: u8 = 1;
const MARK: u8 = b'R';
const ENTRY: u8 = b'E';
const TRUNCATE: u8 = b'T';
const PURGE: u8 = b'P';
const VOTE: u8 = b'V';
const COMMITTED: u8 = b'C';
/// The length of a field that is not there.
const NOTHING: i32 = -1;
const TOO_SHORT: Flaw = Flaw::Foreign("it is too short");

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    struct Fields {
        kind: u8,
        number: u64,
        some: Vec<u8>,
        fields: [Option<Vec<u8>>; 2],
    }

    impl Fields {
        fn part(&self) -> Part<'_> {
            let [vote, committed] = self.fields.each_ref().map(|field| field.as_deref());
            let purge = Purge { keep_from: Offset(self.number), purged: &self.some, vote, committed };
            match self.kind {
                0 => Part::Entry { index: self.number, entry: &self.some },
                1 => Part::Truncate { from: self.number },
                2 => Part::Purge(purge),
                3 => Part::Vote(&self.some),
                _ => Part::Committed(committed),
            }
        }
    }

    fn any_fields() -> impl Strategy<Value = Fields> {
        let bytes = || vec(any::<u8>(), 0..20);
        let any = (0..5_u8, any::<u64>(), bytes(), option::of(bytes()), option::of(bytes()));
        any.prop_map(|(kind, number, some, vote, committed)| Fields { kind, number, some, fields: [vote, committed] })
    }

    proptest! {
        #[test]
        fn records_round_trip(fields in any_fields()) {
            let bytes = fields.part().encode();
            prop_assert_eq!(Part::decode(&bytes), Ok(fields.part()));
        }

        /// But for an entry, which goes to the end of its record, one byte less or more is seen.
        #[test]
        fn a_record_that_is_cut_or_longer_is_refused(fields in any_fields(), cut in any::<prop::sample::Index>()) {
            let mut bytes = fields.part().encode();
            let cut = cut.index(bytes.len());
            prop_assert!(fields.kind == 0 || Part::decode(&bytes[..cut]).is_err());
            bytes.push(0);
            prop_assert!(fields.kind == 0 || Part::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_a_record_or_a_flaw(bytes in vec(any::<u8>(), 0..40), kind in any::<prop::sample::Index>()) {
            let kind = *kind.get(b"ETPVC");
            let known = [&[MARK, VERSION, kind], &bytes[..]].concat();
            for bytes in [bytes, known] {
                if let Ok(part) = Part::decode(&bytes) {
                    prop_assert_eq!(part.encode(), bytes);
                }
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let purge = Purge { keep_from: Offset(258), purged: b"id", vote: None, committed: Some(b"") };
        let bytes = Part::Purge(purge).encode();
        assert_eq!(bytes, *b"R\x01P\0\0\0\0\0\0\x01\x02\0\0\0\x02id\xff\xff\xff\xff\0\0\0\0");
        assert_eq!(Part::Entry { index: 3, entry: b"abc" }.encode(), *b"R\x01E\0\0\0\0\0\0\0\x03abc");
        assert_eq!(Part::Truncate { from: 1 }.encode(), *b"R\x01T\0\0\0\0\0\0\0\x01");
        assert_eq!(Part::Vote(b"v").encode(), *b"R\x01V\0\0\0\x01v");
        assert_eq!(Part::Committed(None).encode(), *b"R\x01C\xff\xff\xff\xff");
    }

    #[test]
    fn a_newer_version_is_told_from_what_is_foreign() {
        assert_eq!(Part::decode(b"R\x02E"), Err(Flaw::Newer(2)));
        for foreign in [&b"R\0E"[..], b"R\x01X", b"r\x01E", b"R", b""] {
            assert!(matches!(Part::decode(foreign), Err(Flaw::Foreign(_))), "{foreign:?}");
        }
    }
}
