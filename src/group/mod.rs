//! Consumer groups, as records of the topic `__consumer_offsets`: who is a member, and what was committed; and which
//! member reads which partition. Pure.
//!
//! A group belongs to one partition of that topic, so all that is known of it lies in one sequence of records, of which
//! the state is the fold:
//!
//! ```text
//! request --> records --> appended by the caller --> fold --> what is answered
//!                         (and again at each open) --^
//! ```
//!
//! What is asked for has no effect before its records are in the log, so the state after an open is that before it.
//!
//! | To | See |
//! |---|---|
//! | commit offsets of a log of this process | [`Log::group`](crate::Log::group) |
//! | coordinate groups with members, for a protocol server or a storage of your own | [`Coordinator`] |
//! | divide partitions among the members of a group, as Kafka's clients do or in a way of your own | [`assign`] |
//!
//! The coordinator does nothing by itself: it has no disk, no clock, no threads.

pub mod assign;
mod coordinator;
mod offsets;
mod records;
pub(crate) mod share;

#[cfg(any(fuzzing, test))]
pub(crate) use coordinator::world;
pub use coordinator::*;
pub(crate) use coordinator::{MAX_CLIENT_ID_LEN, batches};
#[cfg(any(fuzzing, test))]
pub(crate) use offsets::Offsets;
pub(crate) use offsets::check_group_id;
pub use offsets::{Committed, GroupOffset, GroupRecord, LogRecord};
#[cfg(any(fuzzing, test))]
pub(crate) use records::{GroupValue, offset_key};
#[cfg(any(fuzzing, feature = "sim", test))]
pub(crate) use records::{Key, OffsetValue};

/// The host of members in this process. They die with it.
pub(crate) const IN_PROCESS: &str = "in-process";

/// The partition, of `count`, of `__consumer_offsets` that a group belongs to: Java's string hash, made positive.
pub(crate) fn partition_for_group(group: &str, count: u32) -> u32 {
    debug_assert!(count > 0);
    let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    // Kafka's absolute value of the least number is 0.
    hash.checked_abs().unwrap_or(0).unsigned_abs().checked_rem(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_belongs_to_the_partition_kafka_gives_it() {
        for (group, partition) in
            [("g1", 42), ("my-group", 12), ("console-consumer-12345", 6), ("payments", 13), ("", 0)]
        {
            assert_eq!(partition_for_group(group, 50), partition, "{group}");
        }
        // Hashes to the least i32, whose absolute value does not exist.
        assert_eq!(partition_for_group("polygenelubricants", 50), 0);
        // Two units in UTF-16, not one character: 31 * 0xD83D + 0xDE00.
        assert_eq!(partition_for_group("\u{1F600}", 1_000_000_000), 31 * 0xD83D + 0xDE00);
    }
}
