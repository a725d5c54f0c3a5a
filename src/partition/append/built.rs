//! Appending a batch that a producer built over some time: its rules are those of when it was begun.

use std::sync::Arc;

use super::super::core::Core;
use super::super::producers::Origin;
use super::{Admission, AppendRules, Placement, append_validated};
use crate::error::Result;
use crate::probe;
use crate::record::{BatchBuilder, BatchOrigin, TimestampType};
use crate::types::Timestamp;

/// Appends a batch that was built over some time, from its first record on under `rules`, with the times of its sender. It gets
/// its number when it gets its offset. After an error the batch is as it was. Returns also the time of all its records, if that
/// is the one of the append.
pub(crate) fn append_built(
    core: &Arc<Core>,
    builder: &mut BatchBuilder,
    rules: &AppendRules,
) -> Result<(Placement, Option<Timestamp>)> {
    let now = core.rules();
    let placed = if *rules == now {
        append_finished(core, builder, rules)?
    } else {
        // What was right for the topic may not be any more: it is looked at as if somebody else had built it.
        probe::reached("append.rules_changed");
        append_validated(core, builder.finish()?, BatchOrigin::Client, Origin::Local)?
    };
    Ok((placed, (now.timestamp_type == TimestampType::LogAppendTime).then_some(placed.timestamp)))
}

fn append_finished(core: &Arc<Core>, builder: &mut BatchBuilder, rules: &AppendRules) -> Result<Placement> {
    let (batch, mut header) = builder.finish_unsealed()?;
    rules.check_len(batch.len())?;
    if rules.timestamp_type == TimestampType::LogAppendTime {
        header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        header.max_timestamp = core.context.clock.now();
    }
    if !header.producer_id.is_some() {
        // One that is numbered is sealed with its number.
        header = header.seal(batch);
    }
    core.admit(Admission::IfSpace, batch.len() as u64)?;
    core.append_batch(batch, header, None, Origin::Local)
}
