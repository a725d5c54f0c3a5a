//! What must be true after a power cut, by what the workload said until then.

use std::collections::{HashMap, HashSet};

use super::Result;
use super::identity::Id;

/// What is known of a topic that comes and goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    There,
    Unknown,
    Gone,
}

/// The moment of a cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) at: u64,
    /// What was acknowledged from here on is not held to be promised.
    pub(crate) held: u64,
}

impl Cut {
    /// After all that was said, all of which is held.
    pub(crate) const NONE: Self = Self { at: u64::MAX, held: u64::MAX };
}

/// Everything there is to compare a log with.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) partitions: HashMap<(String, u32), Partition>,
    pub(crate) topics: HashMap<String, Fate>,
    /// How many promises it was made of.
    pub(crate) acks: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Partition {
    /// What was appended, by offset: all that may be found, and more, as it goes on after the cut.
    pub(crate) known: HashMap<u64, Id>,
    /// Everything below was acknowledged as synced.
    pub(crate) synced: u64,
    /// The offset that deletion reached for sure, and the one it may have reached.
    pub(crate) deleted: u64,
    pub(crate) deleting: u64,
    /// The same of what the group committed.
    pub(crate) committed: Option<u64>,
    pub(crate) committing: Option<u64>,
}

impl Expected {
    /// Takes in all that was said. What was said before `cut` is done, and what was acknowledged before `held` is
    /// promised; the rest only says what was appended.
    pub(crate) fn at(said: &str, cut: Cut) -> Result<Self> {
        let mut expected = Self::default();
        // Topics that were made again after the cut: what is appended to them is none of what is found.
        let mut other = HashSet::new();
        for line in said.lines() {
            let strange = || format!("the workload says: {line}");
            let (time, rest) = line.split_once(' ').ok_or_else(strange)?;
            let is_announced = rest.starts_with(char::is_uppercase);
            let is_before = time.parse::<u64>()? < if is_announced { cut.at } else { cut.at.min(cut.held) };
            let words: Vec<&str> = rest.split(' ').collect();
            let topic = words.get(1).copied().unwrap_or("");
            let numbers: Vec<u64> = words.iter().skip(2).filter_map(|word| word.parse().ok()).collect();
            match (words[0], &numbers[..]) {
                ("appended", [partition, offset, records, life, thread, first]) => {
                    if !other.contains(topic) {
                        let known = &mut expected.partition(topic, *partition)?.known;
                        for at in 0..*records {
                            let (life, thread, count) = (*life, *thread, first + at);
                            let id = Id { life, partition: *partition as u32, thread, count };
                            if let Some(other) = known.insert(offset + at, id) {
                                return Err(format!("{} was given to {other:?} and {id:?}", offset + at).into());
                            }
                        }
                    }
                }
                // Retention says so afterwards, so what it said last may have been done before the cut.
                ("retained", [partition, start]) => {
                    let deleting = &mut expected.partition(topic, *partition)?.deleting;
                    *deleting = (*deleting).max(*start);
                }
                ("CREATE" | "REMOVE", _) if !is_before => drop(other.insert(topic.to_owned())),
                (
                    "synced" | "committed" | "COMMIT" | "deleted" | "DELETE" | "created" | "removed" | "TRIES"
                    | "refused" | "accepted" | "failed" | "ended",
                    _,
                ) if !is_before => {}
                ("CREATE", _) => {
                    // A topic of this name was another one.
                    expected.partitions.retain(|(name, _), _| name != topic);
                    expected.topics.insert(topic.to_owned(), Fate::Unknown);
                }
                ("REMOVE", _) => drop(expected.topics.insert(topic.to_owned(), Fate::Unknown)),
                ("created", _) => drop(expected.topics.insert(topic.to_owned(), Fate::There)),
                ("removed", _) => drop(expected.topics.insert(topic.to_owned(), Fate::Gone)),
                ("synced", [partition, end]) => raise(&mut expected.partition(topic, *partition)?.synced, *end),
                ("DELETE", [partition, to]) => raise(&mut expected.partition(topic, *partition)?.deleting, *to),
                ("deleted", [partition, to]) => raise(&mut expected.partition(topic, *partition)?.deleted, *to),
                ("COMMIT", [partition, to]) => expected.partition(topic, *partition)?.committing = Some(*to),
                ("committed", [partition, to]) => expected.partition(topic, *partition)?.committed = Some(*to),
                ("TRIES" | "refused" | "accepted" | "failed" | "ended", _) => {}
                _ => return Err(strange().into()),
            }
            let promises = matches!(words[0], "synced" | "committed" | "deleted" | "created" | "removed");
            expected.acks += u64::from(is_before && promises);
        }
        Ok(expected)
    }

    fn partition(&mut self, topic: &str, number: u64) -> Result<&mut Partition> {
        Ok(self.partitions.entry((topic.to_owned(), number.try_into()?)).or_default())
    }
}

fn raise(mark: &mut u64, to: u64) {
    *mark = (*mark).max(to);
}
