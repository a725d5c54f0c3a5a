//! What happened, call by call: an index for each, a digest over all, and lines for people when they are wanted.

use std::fmt;
use std::io;
use std::path::Path;

use super::fault::Kind;
use super::rng::mix;

/// One call, before it is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) kind: Kind,
    pub(super) path: &'a Path,
    pub(super) position: u64,
    pub(super) len: u64,
    /// Whether it may change the volume.
    pub(super) changes: bool,
}

impl<'a> Call<'a> {
    pub(super) fn looks(kind: Kind, path: &'a Path) -> Self {
        Self { kind, path, position: 0, len: 0, changes: false }
    }

    pub(super) fn changes(kind: Kind, path: &'a Path) -> Self {
        Self { changes: true, ..Self::looks(kind, path) }
    }

    pub(super) fn at(self, position: u64, len: u64) -> Self {
        Self { position, len, ..self }
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path.display())?;
        match (self.position, self.len) {
            (0, 0) => Ok(()),
            (position, len) => write!(f, " {position}+{len}"),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) calls: u64,
    pub(super) digest: u64,
    pub(super) lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn note<T>(&mut self, call: &Call<'_>, data: &[u8], result: &io::Result<T>) {
        let error = result.as_ref().err();
        let words = [call.kind as u64, call.position, call.len, error.map_or(0, |error| 1 + error.kind() as u64)];
        self.digest = words.iter().fold(self.digest, |digest, word| mix(digest ^ word));
        self.digest = absorb(self.digest, call.path.as_os_str().as_encoded_bytes());
        self.digest = absorb(self.digest, data);
        if let Some(lines) = &mut self.lines {
            let outcome = error.map_or(String::new(), |error| format!(" -> {error}"));
            lines.push(format!("{:>5} {call}{outcome}", self.calls));
        }
    }
}

/// A digest of `bytes`.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    absorb(0, bytes)
}

/// Mixes `bytes` into a running digest, eight at a time.
pub(super) fn absorb(digest: u64, bytes: &[u8]) -> u64 {
    let mut digest = mix(digest ^ bytes.len() as u64);
    let mut take =
        |word| digest = (digest.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().for_each(|word| take(*word));
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        take(word);
    }
    mix(digest)
}
