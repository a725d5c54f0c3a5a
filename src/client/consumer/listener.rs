//! Who is told of partitions that come and go.

use super::Consumer;
use crate::error::Result;
use crate::types::TopicPartition;

/// Told of partitions that a member is given and has to give up: in polls, in [`join`](crate::ConsumerBuilder::join), which may
/// come as far as that, and in [`close`](Consumer::close). Kafka: `ConsumerRebalanceListener`.
///
/// The consumer that is handed in can do all but poll, which returns nothing meanwhile. An error ends the poll, which returns
/// it; what the group decided is carried out all the same, also after a panic.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
/// use chiplog::{Consumer, GroupConfig, Log, RebalanceListener, Record, Result, TopicPartition};
///
/// /// Commits what was processed before another goes on with it.
/// #[derive(Clone, Default)]
/// struct HandOver(Arc<Mutex<Vec<String>>>);
///
/// impl RebalanceListener for HandOver {
///     fn assigned(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
///         self.0.lock().unwrap().extend(partitions.iter().map(|partition| format!("+{partition}")));
///         Ok(())
///     }
///
///     fn revoked(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
///         self.0.lock().unwrap().extend(partitions.iter().map(|partition| format!("-{partition}")));
///         consumer.commit()
///     }
/// }
///
/// let at_once = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
/// let log = Log::builder(dir.path()).groups(at_once).open()?;
/// log.append(Record::new("paid").to("orders"))?;
/// let told = HandOver::default();
/// let mut consumer = log.consumer("billing").topics(["orders"]).listener(told.clone()).join()?;
/// while consumer.assignment().is_empty() {
///     consumer.poll(Duration::from_millis(10))?;
/// }
/// consumer.close()?;
/// assert_eq!(*told.0.lock().unwrap(), ["+orders-0", "-orders-0"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait RebalanceListener: Send {
    /// The consumer was given these, beside those that it has. Their positions are those that the group committed, or as
    /// [`AutoOffsetReset`](crate::AutoOffsetReset) says; [`Consumer::seek`] moves them.
    ///
    /// # Errors
    ///
    /// Whatever the poll is to return.
    fn assigned(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        let _ = (consumer, partitions);
        Ok(())
    }

    /// The consumer has to give these up. It still has them: what was processed can be committed, and is not delivered again
    /// then.
    ///
    /// # Errors
    ///
    /// Whatever the poll is to return.
    fn revoked(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        let _ = (consumer, partitions);
        Ok(())
    }

    /// The consumer had these, and was not heard of for too long: others have them by now, perhaps. Commits are refused.
    ///
    /// # Errors
    ///
    /// Whatever the poll is to return.
    fn lost(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        let _ = (consumer, partitions);
        Ok(())
    }
}
