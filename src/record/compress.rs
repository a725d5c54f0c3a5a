//! The codecs of record batches, in Kafka's framings.
//!
//! | Codec  | Written                                         | Read as well                                      |
//! |--------|-------------------------------------------------|---------------------------------------------------|
//! | gzip   | one member                                      | several members; whatever follows the last        |
//! | snappy | a header, then blocks of 32 KiB with lengths    | one raw block; several streams                    |
//! | lz4    | one frame, independent blocks of 64 KiB         | larger blocks, checksums; whatever follows        |
//! | zstd   | one frame                                       | several frames, nothing else                      |
//!
//! Each codec is behind its feature. Output is bounded by the caller, and memory grows with what was decoded, never
//! by a length that the bytes claim.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use std::ops::RangeInclusive;

use std::path::Path;

use crate::error::{Error, Result};
use crate::wire::Invalid;

/// How the records of a batch are compressed. Kafka: `compression.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// Slow and small; in every client. Feature `gzip`.
    Gzip,
    /// Fast. Feature `snappy`.
    Snappy,
    /// Fastest. Feature `lz4`.
    Lz4,
    /// Smallest for its speed. Feature `zstd`.
    Zstd,
}

impl Codec {
    /// All codecs, whether this build has them or not.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Kafka's name of it, in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// The levels it has; none for a codec without levels.
    #[must_use]
    pub fn levels(self) -> Option<RangeInclusive<i32>> {
        match self {
            Self::None | Self::Snappy => None,
            Self::Gzip => Some(-1..=9),
            Self::Lz4 => Some(1..=17),
            Self::Zstd => Some(-131_072..=22),
        }
    }

    /// Whether this build can read and write it.
    #[must_use]
    pub fn is_supported(self) -> bool {
        match self {
            Self::None => true,
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    pub(super) fn is_none(self) -> bool {
        self == Self::None
    }

    pub(super) fn from_id(id: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.id() == id)
    }

    pub(super) fn id(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

/// A codec and how hard it tries.
///
/// ```
/// use chiplog::record::{Codec, Compression};
///
/// let compression = Compression::new(Codec::Zstd).level(9)?;
/// assert_eq!(compression.codec(), Codec::Zstd);
/// assert!(Compression::new(Codec::Gzip).level(10).is_err());
/// # Ok::<(), chiplog::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compression {
    codec: Codec,
    level: Option<i32>,
}

impl Compression {
    /// No compression.
    pub const NONE: Self = Self::new(Codec::None);

    /// A codec at its default level.
    #[must_use]
    pub const fn new(codec: Codec) -> Self {
        Self { codec, level: None }
    }

    /// Sets the level. Higher is smaller and slower; lz4 accepts Kafka's levels and has one speed.
    ///
    /// Default: 6 for gzip, 9 for lz4, 3 for zstd. Range: see [`Codec::levels`]; 0 is not a level of gzip.
    /// Kafka: `compression.gzip.level`, `compression.lz4.level`, `compression.zstd.level`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if the codec has no such level.
    pub fn level(mut self, level: i32) -> Result<Self> {
        let is_known = self.codec.levels().is_some_and(|levels| levels.contains(&level));
        if !is_known || (self.codec == Codec::Gzip && level == 0) {
            return Err(Error::InvalidSetting {
                key: format!("compression.{}.level", self.codec.name()).into(),
                value: level.to_string().into(),
                allowed: allowed_levels(self.codec).into(),
            });
        }
        self.level = Some(level);
        Ok(self)
    }

    /// The codec.
    #[must_use]
    pub fn codec(self) -> Codec {
        self.codec
    }
}

fn allowed_levels(codec: Codec) -> String {
    match (codec, codec.levels()) {
        (_, None) => "it has no levels".to_owned(),
        (Codec::Gzip, _) => "-1, or 1 to 9".to_owned(),
        (_, Some(levels)) => format!("{} to {}", levels.start(), levels.end()),
    }
}

/// Why the records of a batch could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes are not what the format or the codec wants.
    #[error("{0}")]
    Invalid(Invalid),
    /// The records are longer, in plain form, than the caller allows, in bytes.
    #[error("decompressed records are over the limit of {limit} bytes")]
    TooLong {
        /// What the caller allows.
        limit: usize,
    },
    /// This build lacks the codec: see the crate's features.
    #[error("codec {} is not supported by this build", .0.name())]
    Unsupported(Codec),
}

impl From<Invalid> for RecordError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl RecordError {
    /// This error about a batch that a caller handed in or asked for.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Invalid(Invalid { at, what }) => Error::InvalidBatch { reason: what, position: at },
            Self::TooLong { .. } => Error::InvalidBatch {
                reason: "decompressed records over the limit",
                position: super::BatchHeader::LEN,
            },
            Self::Unsupported(codec) => Error::Unsupported { what: codec.name() },
        }
    }

    /// This error about a batch that is stored at `position` of the file at `path`.
    pub(crate) fn at(self, path: &Path, position: u64) -> Error {
        match self {
            Self::Invalid(Invalid { what, .. }) => Error::corrupt(path, position, what),
            Self::TooLong { limit } => {
                Error::TooLong { what: "a decompressed batch", len: limit as u64 + 1, limit: limit as u64 }
            }
            Self::Unsupported(codec) => Error::Unsupported { what: codec.name() },
        }
    }
}

/// Replaces what is in `into` by `body` in plain form, up to `limit` bytes. Positions in errors count from the start
/// of the batch.
pub(super) fn decompress(
    codec: Codec,
    body: &[u8],
    limit: usize,
    into: &mut Vec<u8>,
) -> std::result::Result<(), RecordError> {
    into.clear();
    let decompressed = match codec {
        Codec::None => append(body, limit, into),
        #[cfg(feature = "gzip")]
        Codec::Gzip => gzip::decompress(body, limit, into),
        #[cfg(feature = "snappy")]
        Codec::Snappy => snappy::decompress(body, limit, into),
        #[cfg(feature = "lz4")]
        Codec::Lz4 => lz4::decompress(body, limit, into),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::decompress(body, limit, into),
        #[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
        codec => Err(RecordError::Unsupported(codec)),
    };
    decompressed.map_err(|error| match error {
        RecordError::Invalid(invalid) => {
            RecordError::Invalid(Invalid { at: super::BatchHeader::LEN + invalid.at, ..invalid })
        }
        other => other,
    })
}

/// Appends `bytes` to `into`, which stays within `limit`.
fn append(bytes: &[u8], limit: usize, into: &mut Vec<u8>) -> std::result::Result<(), RecordError> {
    if bytes.len() > limit.saturating_sub(into.len()) {
        return Err(RecordError::TooLong { limit });
    }
    into.extend_from_slice(bytes);
    Ok(())
}

/// Compresses, and keeps what the codecs need for the next time.
#[derive(Default)]
pub(crate) struct Compressor {
    #[cfg(feature = "snappy")]
    snappy: Option<snap::raw::Encoder>,
    #[cfg(feature = "lz4")]
    lz4: Option<lz4_flex::block::CompressTable>,
    #[cfg(feature = "zstd")]
    zstd: Option<::zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    /// Appends `body`, compressed, to `into`.
    pub(super) fn compress(
        &mut self,
        compression: Compression,
        body: &[u8],
        into: &mut Vec<u8>,
    ) -> std::result::Result<(), RecordError> {
        match compression.codec {
            Codec::None => {
                into.extend_from_slice(body);
                Ok(())
            }
            #[cfg(feature = "gzip")]
            Codec::Gzip => gzip::compress(compression.level, body, into),
            #[cfg(feature = "snappy")]
            Codec::Snappy => snappy::compress(self.snappy.get_or_insert_with(snap::raw::Encoder::new), body, into),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => {
                let table = self.lz4.get_or_insert_with(lz4_flex::block::CompressTable::large);
                lz4::compress(table, body, into)
            }
            #[cfg(feature = "zstd")]
            Codec::Zstd => zstd::compress(&mut self.zstd, compression.level, body, into),
            #[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
            codec => Err(RecordError::Unsupported(codec)),
        }
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn supported() -> impl Iterator<Item = Codec> {
        Codec::ALL.into_iter().filter(|codec| codec.is_supported())
    }

    proptest! {
        /// Any body comes back unchanged at a limit of just its length, and is refused one byte below.
        #[test]
        fn a_body_survives_every_codec(seed: Vec<u8>, repeat in 1..3_000_usize) {
            let body = seed.repeat(repeat);
            let mut compressor = Compressor::default();
            for codec in supported() {
                let (mut packed, mut plain) = (vec![1, 2, 3], vec![9; 4]);
                compressor.compress(Compression::new(codec), &body, &mut packed).unwrap();
                decompress(codec, &packed[3..], body.len(), &mut plain).unwrap();
                prop_assert!(plain == body, "{codec:?} at {} bytes", body.len());
                if let Some(limit) = body.len().checked_sub(1) {
                    let result = decompress(codec, &packed[3..], limit, &mut plain);
                    prop_assert_eq!(result, Err(RecordError::TooLong { limit }), "{:?}", codec);
                }
            }
        }

        /// Whatever the bytes, no more than the limit comes out, and little more than that is allocated.
        #[test]
        fn output_and_memory_stay_within_the_limit(bytes: Vec<u8>, limit in 0..5_000_usize) {
            for codec in supported() {
                let mut plain = Vec::new();
                let _ = decompress(codec, &bytes, limit, &mut plain);
                prop_assert!(plain.len() <= limit, "{codec:?}");
                prop_assert!(plain.capacity() <= 2 * limit + 64, "{codec:?}: {}", plain.capacity());
            }
        }
    }

    /// The same mistake is the caller's in what it hands over, and damage in what is stored.
    #[test]
    fn an_error_says_whose_it_is() {
        let invalid = || RecordError::Invalid(Invalid { at: 70, what: "no lz4 frame" });
        let path = Path::new("a-0/00000000000000000000.log");
        assert_eq!(
            invalid().into_error().to_string(),
            Error::InvalidBatch { reason: "no lz4 frame", position: 70 }.to_string()
        );
        assert_eq!(invalid().at(path, 4096).to_string(), Error::corrupt(path, 4096, "no lz4 frame").to_string());
        let too_long = RecordError::TooLong { limit: 100 };
        let Error::TooLong { what, len, limit } = too_long.at(path, 0) else { panic!("of another kind") };
        assert_eq!((what, len, limit), ("a decompressed batch", 101, 100));
        for codec in Codec::ALL {
            let unsupported =
                [RecordError::Unsupported(codec).into_error(), RecordError::Unsupported(codec).at(path, 0)];
            for error in unsupported {
                assert!(matches!(error, Error::Unsupported { what } if what == codec.name()), "{error}");
            }
        }
    }

    /// A codec that is not compiled in is said to be, in both directions.
    #[test]
    fn a_codec_that_is_left_out_is_named() {
        for codec in Codec::ALL.into_iter().filter(|codec| !codec.is_supported()) {
            let unsupported = Err(RecordError::Unsupported(codec));
            let mut into = Vec::new();
            assert_eq!(Compressor::default().compress(Compression::new(codec), b"body", &mut into), unsupported);
            assert_eq!(decompress(codec, b"body", 100, &mut into), unsupported);
        }
        assert_eq!(format!("{:?}", Compressor::default()), "Compressor { .. }");
    }

    /// The level is the codec's own: gzip at 1 is larger than at 9.
    #[cfg(feature = "gzip")]
    #[test]
    fn gzip_has_levels() {
        let body: Vec<u8> = (0..20_000_u32).flat_map(|number| (number * number % 1009).to_be_bytes()).collect();
        let len = |level| {
            let mut packed = Vec::new();
            gzip::compress(level, &body, &mut packed).unwrap();
            packed.len()
        };
        assert!(len(Some(1)) > len(Some(9)), "{} and {}", len(Some(1)), len(Some(9)));
        assert_eq!(len(Some(-1)), len(None), "Kafka's word for the default");
    }

    #[test]
    fn every_codec_has_its_number_and_its_name() {
        for (id, codec) in Codec::ALL.into_iter().enumerate() {
            assert_eq!(Codec::from_id(id as i16), Some(codec));
            assert_eq!(Codec::from_name(codec.name()), Some(codec));
        }
        assert_eq!((Codec::from_id(5), Codec::from_name("lzma")), (None, None));
    }

    #[test]
    fn a_level_the_codec_lacks_is_an_error() {
        for (codec, level) in [(Codec::Gzip, 0), (Codec::Lz4, 18), (Codec::Zstd, 23), (Codec::Snappy, 1)] {
            assert!(Compression::new(codec).level(level).is_err(), "{codec:?} {level}");
        }
        let error = Compression::new(Codec::Gzip).level(0).unwrap_err();
        assert_eq!(error.to_string(), "setting compression.gzip.level cannot be \"0\": -1, or 1 to 9");
    }

    #[test]
    fn a_codec_this_build_lacks_is_named() {
        for codec in Codec::ALL.into_iter().filter(|codec| !codec.is_supported()) {
            let unsupported = Err(RecordError::Unsupported(codec));
            assert_eq!(decompress(codec, b"", 10, &mut Vec::new()), unsupported);
            assert_eq!(Compressor::default().compress(Compression::new(codec), b"", &mut Vec::new()), unsupported);
        }
    }
}
