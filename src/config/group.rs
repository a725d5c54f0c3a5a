//! The settings of consumer groups and their offsets: one set for the whole log, as Kafka has one for a broker.

use std::time::Duration;

use crate::error::{Error, Result};

/// The settings of consumer groups and their offsets, for the whole log.
///
/// ```
/// use std::time::Duration;
/// use chiplog::GroupConfig;
///
/// let keep_for_ever = GroupConfig::default().offset_retention(None);
/// assert!(keep_for_ever.validate().is_ok());
/// let impatient = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
/// assert!(impatient.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupConfig {
    pub(crate) offset_retention: Option<Duration>,
    pub(crate) max_metadata_units: u32,
    pub(crate) offsets_partitions: u32,
    pub(crate) min_session_timeout: Duration,
    pub(crate) max_session_timeout: Duration,
    pub(crate) initial_rebalance_delay: Duration,
    pub(crate) max_members: u32,
}

impl GroupConfig {
    /// Sets how long a group's offset is kept after it was committed; `None` keeps it until it is deleted. Commit
    /// within this time even if nothing was read, or the group begins anew. Looked at every 10 minutes while the log is
    /// open, so a group has that long to commit again after an open.
    ///
    /// Default: 7 days. Range: 1 ms or more. Kafka: `offsets.retention.minutes`.
    #[must_use]
    pub fn offset_retention(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.offset_retention = time.into();
        self
    }

    /// Sets how long the text beside a committed offset may be, in UTF-16 units, as Kafka counts.
    ///
    /// Default: 4096. Range: 0 to 10,000, so that even three bytes a unit fit in the stored length.
    /// Kafka: `offset.metadata.max.bytes`.
    #[must_use]
    pub fn max_metadata_units(mut self, units: u32) -> Self {
        self.max_metadata_units = units;
        self
    }

    /// Sets how many partitions `__consumer_offsets` gets when it is created. An existing one keeps its own, as
    /// the number decides which partition a group's offsets are in.
    ///
    /// Default: 1, where Kafka has 50: a partition is a directory with open files, and one takes the commits of a
    /// whole process. Range: 1 to 1000. Kafka: `offsets.topic.num.partitions`.
    #[must_use]
    pub fn offsets_partitions(mut self, count: u32) -> Self {
        self.offsets_partitions = count;
        self
    }

    /// Sets the shortest session time-out that a member may join with. A shorter one finds a dead member sooner, costs
    /// more heartbeats, and takes one that only paused for dead.
    ///
    /// Default: 6 s. Range: 1 ms to the longest session time-out. Kafka: `group.min.session.timeout.ms`.
    #[must_use]
    pub fn min_session_timeout(mut self, time: Duration) -> Self {
        self.min_session_timeout = time;
        self
    }

    /// Sets the longest session time-out that a member may join with: so long its partitions may stand still once it is
    /// dead.
    ///
    /// Default: 30 minutes. Range: the shortest session time-out to 2^31 - 1 ms, about 24 days.
    /// Kafka: `group.max.session.timeout.ms`.
    #[must_use]
    pub fn max_session_timeout(mut self, time: Duration) -> Self {
        self.max_session_timeout = time;
        self
    }

    /// Sets how long the first rebalance of a group without members waits for others to join. Each that joins meanwhile
    /// prolongs it by as much again, up to the rebalance time-out of the members. Members that start together are then
    /// assigned their partitions once, not once each. One that starts alone waits, too, and gets no records meanwhile: set 0 where
    /// there is one member, or in tests.
    ///
    /// Default: 3 s. Range: 0 to 2^31 - 1 ms. Kafka: `group.initial.rebalance.delay.ms`.
    #[must_use]
    pub fn initial_rebalance_delay(mut self, delay: Duration) -> Self {
        self.initial_rebalance_delay = delay;
        self
    }

    /// Sets how many members a group may have. One more is refused.
    ///
    /// Default: 2^31 - 1. Range: 1 to 2^31 - 1. Kafka: `group.max.size`.
    #[must_use]
    pub fn max_members(mut self, count: u32) -> Self {
        self.max_members = count;
        self
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for the first that is out of range.
    pub fn validate(&self) -> Result<()> {
        if self.offset_retention.is_some_and(|time| time < Duration::from_millis(1)) {
            return Err(invalid(
                "offset_retention",
                &format!("{:?}", self.offset_retention),
                "1 ms or more, or none",
            ));
        }
        let number = |key, value: u32, least: u32, most: u32| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err(invalid(key, &value.to_string(), &format!("{least} to {most}"))),
        };
        number("offset.metadata.max.bytes", self.max_metadata_units, 0, 10_000)?;
        number("offsets.topic.num.partitions", self.offsets_partitions, 1, 1000)?;
        number("group.max.size", self.max_members, 1, i32::MAX as u32)?;
        let time = |key, value: Duration, least: Duration, most: Duration| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err(invalid(key, &format!("{value:?}"), &format!("{least:?} to {most:?}"))),
        };
        let most = Duration::from_millis(i32::MAX as u64);
        time("group.initial.rebalance.delay.ms", self.initial_rebalance_delay, Duration::ZERO, most)?;
        time("group.max.session.timeout.ms", self.max_session_timeout, Duration::from_millis(1), most)?;
        let longest = self.max_session_timeout;
        time("group.min.session.timeout.ms", self.min_session_timeout, Duration::from_millis(1), longest)
    }
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            offset_retention: Some(Duration::from_secs(7 * 24 * 60 * 60)),
            max_metadata_units: 4096,
            offsets_partitions: 1,
            min_session_timeout: Duration::from_secs(6),
            max_session_timeout: Duration::from_secs(30 * 60),
            initial_rebalance_delay: Duration::from_secs(3),
            max_members: i32::MAX as u32,
        }
    }
}

fn invalid(key: &str, value: &str, allowed: &str) -> Error {
    Error::InvalidSetting { key: key.into(), value: value.into(), allowed: allowed.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_refused_outside_its_range() {
        let config = GroupConfig::default();
        assert!(config.validate().is_ok());
        for (wrong, key) in [
            (config.offset_retention(Duration::ZERO), "offset_retention"),
            (config.max_metadata_units(10_001), "offset.metadata.max.bytes"),
            (config.offsets_partitions(0), "offsets.topic.num.partitions"),
            (config.max_members(0), "group.max.size"),
            (config.max_members(1 << 31), "group.max.size"),
            (config.initial_rebalance_delay(Duration::MAX), "group.initial.rebalance.delay.ms"),
            (config.max_session_timeout(Duration::MAX), "group.max.session.timeout.ms"),
            (config.min_session_timeout(Duration::ZERO), "group.min.session.timeout.ms"),
            (config.max_session_timeout(Duration::from_secs(5)), "group.min.session.timeout.ms"),
        ] {
            assert!(wrong.validate().unwrap_err().to_string().contains(key), "{key}");
        }
    }
}
