//! What a poll does with what the group decided: partitions are taken over, given up and lost, and the listener is told.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Consumer;
use super::cursor::Cursor;
use super::listener::RebalanceListener;
use super::member::Step;
use crate::error::{Error, Result};
use crate::probe;
use crate::types::TopicPartition;

impl Consumer {
    pub(super) fn rebalance(&mut self, now: Duration) -> Result<()> {
        let mut first = Ok(());
        while let Some(membership) = &mut self.membership {
            if membership.look_at_topics() {
                let missing = std::mem::take(&mut membership.missing);
                self.renew();
                first = first.and(self.take_over(&missing));
                continue;
            }
            let carried_out = match membership.advance(now)? {
                None => break,
                Some(Step::Revoked(given_up)) => self.give_up(&given_up),
                Some(Step::Lost(lost)) => self.lose(&lost),
                Some(Step::Assigned(added)) => self.take_over(&added),
                Some(_) => Ok(()),
            };
            first = first.and(carried_out);
        }
        first
    }

    /// Reads the new topic where one was deleted and another made under its name: the group may divide that as it did the old
    /// one, and then says nothing.
    fn renew(&mut self) {
        let is_other = |cursor: &&Cursor| {
            let topic = self.log.find_topic(&cursor.id.topic);
            topic.is_some_and(|topic| topic.id() != cursor.topic_id())
        };
        let old: Vec<_> = self.cursors.iter().filter(is_other).map(|cursor| cursor.id.clone()).collect();
        for id in old {
            // One that the new topic does not have, the group takes away.
            if let Ok(cursor) = self.open(&id) {
                probe::reached("consumer.topic_made_again");
                self.cursors.replace(cursor);
                self.fetch.forget();
            }
        }
    }

    /// Stops reading these, after the application had its say.
    pub(super) fn give_up(&mut self, ids: &BTreeSet<TopicPartition>) -> Result<()> {
        let known = self.known(ids);
        let committed = if self.settings.auto_commit.is_some() { self.commit_unless_refused() } else { Ok(()) };
        let told = self.tell(&known, ids, |listener, consumer| listener.revoked(consumer, &known));
        committed.and(told)
    }

    pub(super) fn lose(&mut self, ids: &BTreeSet<TopicPartition>) -> Result<()> {
        let known = self.known(ids);
        self.tell(&known, ids, |listener, consumer| listener.lost(consumer, &known))
    }

    /// Reads these, too.
    fn take_over(&mut self, ids: &BTreeSet<TopicPartition>) -> Result<()> {
        let (mut opened, mut first) = (Vec::new(), Ok(()));
        for id in ids {
            let failed = match self.open(id) {
                Ok(cursor) => {
                    self.cursors.insert(cursor);
                    opened.push(id.clone());
                    continue;
                }
                // Gone since it was assigned. The group hears of it, unless there is one of its name again by then.
                Err(Error::TopicNotFound { .. } | Error::PartitionNotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            };
            self.membership.iter_mut().for_each(|membership| _ = membership.missing.insert(id.clone()));
            first = first.and(failed);
        }
        let told = self.tell(&opened, &BTreeSet::new(), |listener, consumer| listener.assigned(consumer, &opened));
        first.and(told)
    }

    /// Those of them that it reads.
    fn known(&self, ids: &BTreeSet<TopicPartition>) -> Vec<TopicPartition> {
        ids.iter().filter(|id| self.cursors.get(id).is_ok()).cloned().collect()
    }

    /// Lets the listener have its say, then stops reading what is given up.
    fn tell(
        &mut self,
        ids: &[TopicPartition],
        gives_up: &BTreeSet<TopicPartition>,
        call: impl FnOnce(&mut dyn RebalanceListener, &mut Self) -> Result<()>,
    ) -> Result<()> {
        let listener = self.membership.as_mut().filter(|_| !ids.is_empty()).and_then(|member| member.listener.take());
        let mut telling = Telling { consumer: self, listener, gives_up };
        let Some(listener) = &mut telling.listener else { return Ok(()) };
        telling.consumer.is_rebalancing = true;
        call(&mut **listener, telling.consumer)
    }
}

/// While a listener is told. Whatever comes of that, also if it panics: what the group decided is carried out.
struct Telling<'c> {
    consumer: &'c mut Consumer,
    listener: Option<Box<dyn RebalanceListener>>,
    gives_up: &'c BTreeSet<TopicPartition>,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let Self { consumer, listener, gives_up } = self;
        consumer.is_rebalancing = false;
        if !gives_up.is_empty() {
            consumer.cursors.remove(gives_up);
        }
        if let Some(membership) = &mut consumer.membership {
            membership.listener = listener.take().or(membership.listener.take());
            membership.missing.retain(|id| !gives_up.contains(id));
        }
    }
}
