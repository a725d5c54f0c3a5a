//! The form of the log's own small text files: the catalog, the checkpoints, the mark of an orderly close.
//!
//! ```text
//! chiplog <what> <version>
//! log 00112233445566778899aabbccddeeff
//! ...
//! crc32 1a2b3c4d
//! ```
//!
//! Every line ends in a line feed. The last one is the CRC-32 of everything before it. First and last line keep their
//! form in every version to come, so that a newer version is told from rot.

use std::fmt;

use crate::checksum::crc32;

/// The identity of a log: drawn when its directory is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LogId(pub(crate) u128);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl LogId {
    fn parse(text: &str) -> Option<Self> {
        let id = u128::from_str_radix(text, 16).ok().map(Self)?;
        (id.to_string() == text).then_some(id)
    }
}

/// One kind of file, in the version that this code writes.
pub(super) struct Form {
    pub(super) what: &'static str,
    pub(super) version: u32,
}

impl Form {
    /// The text up to the lines of the file's own, which are to be added before it is [sealed](seal).
    pub(super) fn begin(&self, log: LogId) -> String {
        format!("chiplog {} {}\nlog {log}\n", self.what, self.version)
    }

    /// Whose file this is, and the lines of its own. It may be anything.
    pub(super) fn open<'a>(&self, bytes: &'a [u8]) -> Result<(LogId, Lines<'a>), Invalid> {
        let mut lines = Lines { text: checked_body(bytes)?, at: 0 };
        let version = lines
            .next()
            .and_then(|line| number(line.strip_prefix("chiplog ")?.strip_prefix(self.what)?.strip_prefix(' ')?))
            .ok_or_else(|| {
                lines.invalid(&format!("the first line is not \"chiplog {}\" and a version", self.what))
            })?;
        if version != self.version {
            let is_newer = version > self.version;
            return Err(if is_newer { Invalid::Newer(version) } else { lines.invalid("no such version") });
        }
        let log = lines.next().and_then(|line| LogId::parse(line.strip_prefix("log ")?));
        Ok((log.ok_or_else(|| lines.invalid("no id of the log"))?, lines))
    }
}

/// Adds the last line.
pub(super) fn seal(body: String) -> String {
    let crc = crc32(body.as_bytes());
    body + &format!("{TRAILER}{crc:08x}\n")
}

/// Why bytes are no file of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// They are one, of a version that is newer than this code.
    Newer(u32),
    /// What is wrong, and the position of the line.
    At(usize, String),
}

/// The text before the last line, if that line is its checksum.
fn checked_body(bytes: &[u8]) -> Result<&str, Invalid> {
    let invalid = |reason: &str| Invalid::At(bytes.len().saturating_sub(TRAILER_LEN), reason.to_owned());
    let Some((body, trailer)) = bytes.split_last_chunk::<TRAILER_LEN>() else {
        return Err(Invalid::At(0, "it is too short".into()));
    };
    let expected = format!("{TRAILER}{:08x}\n", crc32(body));
    if trailer[..] != *expected.as_bytes() {
        return Err(invalid("the last line is not the checksum of what is before it"));
    }
    let text = std::str::from_utf8(body).map_err(|error| Invalid::At(error.valid_up_to(), "not text".into()))?;
    if text.ends_with('\n') { Ok(text) } else { Err(invalid("a line does not end")) }
}

/// Lines of a text that ends with a line end.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (line, _) = self.text.get(self.at..)?.split_once('\n')?;
        self.at += line.len() + 1;
        Some(line)
    }
}

impl Lines<'_> {
    /// What is wrong with the line just taken.
    pub(super) fn invalid(&self, reason: &str) -> Invalid {
        let before = self.text.get(..self.at.saturating_sub(1)).and_then(|text| text.rfind('\n'));
        Invalid::At(before.map_or(0, |end| end + 1), reason.to_owned())
    }
}

/// A number in the one form it is written in: no sign, no zero in front.
pub(super) fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

const TRAILER: &str = "crc32 ";
const TRAILER_LEN: usize = TRAILER.len() + 8 + 1;

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form { what: "test", version: 2 };
    const LOG: LogId = LogId(7);

    fn open(body: &str) -> Result<Vec<String>, Invalid> {
        let bytes = seal(body.to_owned()).into_bytes();
        let (log, lines) = FORM.open(&bytes)?;
        assert_eq!(log, LOG);
        Ok(lines.map(str::to_owned).collect())
    }

    #[test]
    fn lines_read_back() {
        assert_eq!(open(&FORM.begin(LOG)), Ok(vec![]));
        assert_eq!(open(&(FORM.begin(LOG) + "a b\n\nc\n")), Ok(vec!["a b".into(), "".into(), "c".into()]));
    }

    #[test]
    fn a_newer_version_is_told_from_an_older_one_and_from_another_file() {
        let log = "log 00000000000000000000000000000007\n";
        assert_eq!(open(&format!("chiplog test 3\n{log}")), Err(Invalid::Newer(3)));
        assert_eq!(open("chiplog test 4\nwhatever\n"), Err(Invalid::Newer(4)), "what follows may be new, too");
        for head in ["chiplog test 1", "chiplog test 03", "chiplog tes 3", "chiplog test", "chiplog test2", ""] {
            assert!(matches!(open(&format!("{head}\n{log}")), Err(Invalid::At(0, _))), "{head}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_position_of_its_line() {
        let begun = FORM.begin(LOG);
        assert_eq!(open("chiplog test 2\nlog 7\n"), Err(Invalid::At(15, "no id of the log".into())));
        assert_eq!(open(&(begun.clone() + "a")), Err(Invalid::At(begun.len() + 1, "a line does not end".into())));
        let bytes = seal(begun.clone() + "one\ntwo\n").into_bytes();
        let (_, mut lines) = FORM.open(&bytes).unwrap();
        lines.next();
        assert_eq!(lines.invalid("x"), Invalid::At(begun.len(), "x".into()));
        lines.next();
        assert_eq!(lines.invalid("x"), Invalid::At(begun.len() + 4, "x".into()));
    }
}
