//! The names of topics and of their partitions' directories: Kafka's rules, with a reason for each refusal.
//!
//! | Name                                    | Stands for                                            |
//! |-----------------------------------------|-------------------------------------------------------|
//! | `<topic>-<partition>`                   | a partition; split at the last `-`                    |
//! | `<topic>-<partition>.<32 hex>-delete`   | one of a deleted topic, to be removed                 |
//! | `<topic>-<partition>.<32 hex>-stray`    | one that a broker found it should not have            |
//! | `<topic>-<partition>.<32 hex>-future`   | one that a broker was moving here                     |
//!
//! A topic of 249 bytes and a partition of five digits are exactly the 255 bytes a file name may have. With a suffix
//! the topic part is cut to fit, as Kafka does, so such a name tells the topic only in part.

use crate::error::{Error, Result};
pub(crate) use crate::types::{INTERNAL_TOPICS, OFFSETS_TOPIC, QUEUES_TOPIC, TRANSACTIONS_TOPIC};
use crate::types::{TopicId, TopicPartition};

/// Checks that `name` can be a topic's.
///
/// # Errors
///
/// [`Error::InvalidTopicName`] with the first rule it breaks.
pub(crate) fn check_topic(name: &str) -> Result<()> {
    match flaw(name) {
        None => Ok(()),
        Some(reason) => Err(Error::InvalidTopicName { name: shortened(name), reason }),
    }
}

/// The first rule that `name` breaks, in words.
pub(crate) fn flaw(name: &str) -> Option<&'static str> {
    match name {
        "" => return Some("it is empty"),
        "." | ".." => return Some("it stands for a directory"),
        _ => {}
    }
    if let Some(reason) = name.chars().find_map(flaw_of_char) {
        return Some(reason);
    }
    (name.len() > MAX_TOPIC_LEN).then_some("it is longer than 249 bytes")
}

fn flaw_of_char(letter: char) -> Option<&'static str> {
    match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => None,
        '\0' => Some("it has a NUL byte"),
        '/' | '\\' => Some("it has a path separator"),
        letter if letter.is_ascii_control() => Some("it has a control character"),
        letter if !letter.is_ascii() => Some("it has a character outside ASCII"),
        _ => Some("it has a character other than a-z A-Z 0-9 . _ -"),
    }
}

/// Enough of a refused name to recognize it by: an error is no place for a megabyte.
fn shortened(name: &str) -> Box<str> {
    match name.char_indices().nth(MAX_TOPIC_LEN + 1) {
        None => name.into(),
        Some((cut, _)) => format!("{}...", &name[..cut]).into(),
    }
}

/// Whether two names differ, but only by `.` for `_`. Kafka refuses the second: its metrics cannot tell them apart.
pub(crate) fn collide(one: &str, other: &str) -> bool {
    let unified = |byte: u8| if byte == b'.' { b'_' } else { byte };
    one != other && one.bytes().map(unified).eq(other.bytes().map(unified))
}

/// The name that the directory of a partition is renamed to when its topic is deleted. The id makes it differ from
/// that of an earlier or later topic of the name.
pub(crate) fn deleted_dir(partition: &TopicPartition, id: TopicId) -> String {
    let suffix = format!("-{}.{:032x}-delete", partition.partition, u128::from_be_bytes(*id.as_bytes()));
    let kept = partition.topic.len().min(MAX_FILE_NAME_LEN - suffix.len());
    // A topic name is ASCII; were it not, a name without its beginning would still be a valid one.
    format!("{}{suffix}", partition.topic.get(..kept).unwrap_or(""))
}

/// What a directory in the log's directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DirName {
    /// A partition.
    Partition(TopicPartition),
    /// A partition of a deleted topic, to be removed.
    Deleted,
    /// A partition that a broker put aside or was moving: not ours to judge.
    PutAside,
    /// None of ours. Left alone.
    Other,
}

/// Tells what a directory is by its name.
pub(crate) fn classify_dir(name: &str) -> DirName {
    if let Some(stem) = name.strip_suffix("-delete") {
        return if is_suffixed(stem) { DirName::Deleted } else { DirName::Other };
    }
    if let Some(stem) = name.strip_suffix("-stray").or(name.strip_suffix("-future")) {
        return if is_suffixed(stem) { DirName::PutAside } else { DirName::Other };
    }
    match TopicPartition::from_dir_name(name) {
        // A cluster's own metadata has the form of a partition and is none, in Kafka, too.
        Some(partition) if &*partition.topic != METADATA_TOPIC && flaw(&partition.topic).is_none() => {
            DirName::Partition(partition)
        }
        _ => DirName::Other,
    }
}

/// Whether a name is `<part of a topic>-<partition>.<32 hex>`.
fn is_suffixed(stem: &str) -> bool {
    let Some((partition, unique)) = stem.rsplit_once('.') else { return false };
    let is_unique = unique.len() == 32 && unique.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = partition.rsplit_once('-').map_or("", |(_, number)| number);
    is_unique && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// A cluster's own metadata. No partition, whatever its directory is called.
const METADATA_TOPIC: &str = "__cluster_metadata";
const MAX_FILE_NAME_LEN: usize = 255;
const MAX_TOPIC_LEN: usize = MAX_FILE_NAME_LEN - "-99999".len();

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_names_are_legal_where_kafka_takes_them() {
        for name in ["...", "....", "-", "--", "_", ".a", "a.", "-0", "0", "a-1-0", "__consumer_offsets", "A.b_C-9"] {
            assert_eq!(flaw(name), None, "{name}");
        }
        assert_eq!(flaw(&"x".repeat(249)), None);
    }

    #[test]
    fn every_refusal_says_which_rule_was_broken() {
        for (name, reason) in [
            ("", "it is empty"),
            (".", "it stands for a directory"),
            ("..", "it stands for a directory"),
            ("a\0b", "it has a NUL byte"),
            ("a/b", "it has a path separator"),
            ("../a", "it has a path separator"),
            ("a\\b", "it has a path separator"),
            ("a\nb", "it has a control character"),
            ("\x7F", "it has a control character"),
            ("caf\u{e9}", "it has a character outside ASCII"),
            ("\u{ff0e}", "it has a character outside ASCII"),
            ("a b", "it has a character other than a-z A-Z 0-9 . _ -"),
            ("a:b", "it has a character other than a-z A-Z 0-9 . _ -"),
            ("*", "it has a character other than a-z A-Z 0-9 . _ -"),
        ] {
            assert_eq!(flaw(name), Some(reason), "{name:?}");
        }
        assert_eq!(flaw(&"x".repeat(250)), Some("it is longer than 249 bytes"));
    }

    /// Every single byte, beside the 65 that may be in a name.
    #[test]
    fn sixty_five_characters_are_legal_and_no_other() {
        let legal =
            (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| flaw(&format!("a{c}")).is_none());
        let expected: String = ('-'..='.').chain('0'..='9').chain('A'..='Z').chain(['_']).chain('a'..='z').collect();
        assert_eq!(legal.collect::<String>(), expected);
    }

    #[test]
    fn a_refused_name_is_shortened_in_the_error() {
        let error = check_topic(&"\u{e9}".repeat(100_000)).unwrap_err();
        assert!(error.to_string().len() < 1000, "{} bytes", error.to_string().len());
        assert!(check_topic("orders").is_ok());
    }

    #[test]
    fn names_collide_if_only_dot_and_underscore_tell_them_apart() {
        assert!(collide("a.b", "a_b") && collide("a.b_c", "a_b.c") && collide("...", "___"));
        for (one, other) in [("a.b", "a.b"), ("a.b", "a-b"), ("a", "b"), ("a.", "a"), ("a.b", "A_b")] {
            assert!(!collide(one, other), "{one} {other}");
        }
    }

    #[test]
    fn the_longest_topic_and_partition_fill_a_file_name_exactly() {
        let longest = TopicPartition::new("x".repeat(MAX_TOPIC_LEN), 99_999);
        assert_eq!(longest.to_string().len(), MAX_FILE_NAME_LEN);
        assert_eq!(deleted_dir(&longest, TopicId::from_bytes([0xAB; 16])).len(), MAX_FILE_NAME_LEN);
    }

    #[test]
    fn a_deleted_partition_is_named_as_kafka_does() {
        let id = TopicId::from_bytes(0x38ee_4b53_3194_0805_8010_770c_aa90_7ac3_u128.to_be_bytes());
        let name = deleted_dir(&TopicPartition::new("dropped", 0), id);
        assert_eq!(name, "dropped-0.38ee4b53319408058010770caa907ac3-delete");
        assert_eq!(classify_dir(&name), DirName::Deleted);
    }

    #[test]
    fn a_directory_is_told_by_its_name() {
        let partition = |topic: &str, number| DirName::Partition(TopicPartition::new(topic, number));
        let unique = "0123456789abcdef0123456789ABCDEF";
        for (name, expected) in [
            ("orders-0", partition("orders", 0)),
            ("a-1-b-1", partition("a-1-b", 1)),
            ("--0", partition("-", 0)),
            ("x-delete-3", partition("x-delete", 3)),
            ("__consumer_offsets-49", partition("__consumer_offsets", 49)),
            ("__cluster_metadata-0", DirName::Other),
            ("remote-log-index-cache", DirName::Other),
            ("orders", DirName::Other),
            ("orders-00", DirName::Other),
            ("..-0", DirName::Other),
            ("a b-0", DirName::Other),
            ("x-delete", DirName::Other),
            ("x-0.abc-delete", DirName::Other),
            ("lost+found", DirName::Other),
        ] {
            assert_eq!(classify_dir(name), expected, "{name}");
        }
        assert_eq!(classify_dir(&format!("orders-0.{unique}-stray")), DirName::PutAside);
        assert_eq!(classify_dir(&format!("orders-0.{unique}-future")), DirName::PutAside);
        assert_eq!(classify_dir(&format!("a.b-c-12.{unique}-delete")), DirName::Deleted);
    }

    proptest! {
        /// Whatever the legal name and partition, the directory's name leads back to both.
        #[test]
        fn a_legal_name_survives_its_directory(name in "[a-zA-Z0-9._-]{1,249}", number in 0..100_000_u32, id: [u8; 16]) {
            prop_assume!(flaw(&name).is_none());
            let partition = TopicPartition::new(name, number);
            prop_assert!(partition.to_string().len() <= MAX_FILE_NAME_LEN);
            let deleted = deleted_dir(&partition, TopicId::from_bytes(id));
            prop_assert!(deleted.len() <= MAX_FILE_NAME_LEN);
            prop_assert_eq!(classify_dir(&deleted), DirName::Deleted);
            prop_assert_eq!(classify_dir(&partition.to_string()), DirName::Partition(partition));
        }
    }
}
