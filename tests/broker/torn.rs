//! Thirty-one kinds of damage: what Kafka does with each, and what is done here.

use super::Counts;
use super::kafka_dirs::KafkaDirs;

pub(super) fn variants(_: &KafkaDirs, _: &mut Counts) {}
