//! Clients for whom time passes: producers whose batches linger, members of groups that are to be heard of.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Inner, Log, Reply};
use crate::clock::{Clock, Entropy};
use crate::error::Result;
use crate::group::Request;
use crate::partition::Ack;

/// A client that [maintenance](super::Log::maintain) looks after. None of the log's locks is held meanwhile.
pub(crate) trait Tended: fmt::Debug + Send + Sync {
    /// Does what is due at `now`, by the monotonic clock. Returns when there may be something again, if that is known.
    fn tend(&self, now: Duration) -> Option<Duration>;

    /// The members of these groups have to join again. This may be called by anybody, with locks of its own: it only notes it.
    fn rebalancing(&self, _groups: &BTreeSet<Box<str>>) {}

    /// The log is about to be closed: the last moment to append what it kept.
    fn before_close(&self) {}
}

/// The clients of one log. It does not keep them alive.
#[derive(Debug, Default)]
pub(super) struct Clients {
    all: Mutex<Vec<Weak<dyn Tended>>>,
}

impl Clients {
    fn living(&self) -> Vec<Arc<dyn Tended>> {
        let mut all = self.all.lock();
        all.retain(|client| client.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

/// What clients need of the log.
impl Log {
    /// Looks after the client from now on, for as long as it is there. When it has something to do, it says so by
    /// [`expect_by`](LogInside::expect_by).
    pub(crate) fn look_after(&self, client: Weak<dyn Tended>) {
        self.opened.inner.clients.all.lock().push(client);
    }

    /// What a client needs that maintenance holds for a moment, too: it does not keep the log open.
    pub(crate) fn inside(&self) -> LogInside {
        LogInside(Arc::clone(&self.opened.inner))
    }

    /// Sees to it that maintenance comes by at `deadline`, on the monotonic clock.
    pub(crate) fn expect_by(&self, deadline: Duration) {
        self.opened.inner.expect_by(deadline);
    }

    /// Refuses if the log is closed, or about to be.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.opened.inner.check_open()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.opened.inner.context.clock
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.opened.inner.context.entropy
    }
}

/// A log that is not kept open by this. Were it, the last handle might go in maintenance, some time after the application
/// let go of its own, and an open that follows would find the log in use.
#[derive(Debug, Clone)]
pub(crate) struct LogInside(Arc<Inner>);

impl LogInside {
    /// As [`Log::ask_coordinator`].
    pub(crate) fn ask_coordinator(&self, request: Request) -> Reply {
        self.0.ask(request, Ack::Synced).unwrap_or_else(Reply::failed)
    }

    /// Sees to it that maintenance comes by at `deadline`, on the monotonic clock.
    pub(crate) fn expect_by(&self, deadline: Duration) {
        self.0.expect_by(deadline);
    }

    /// Rises when a topic comes or goes, or gets more partitions: who remembers what there was looks again.
    pub(crate) fn topics_version(&self) -> u64 {
        self.0.topics_version.load(Ordering::Acquire)
    }

    /// Whether the log is closed, or about to be.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.check_open().is_err()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.context.clock
    }
}

impl Inner {
    /// Does what is due for clients. Returns when, on the monotonic clock, there will be something again.
    pub(super) fn tend_clients(&self, now: Duration) -> Option<Duration> {
        self.clients.living().iter().filter_map(|client| client.tend(now)).min()
    }

    /// Lets members ask at once, and not in their own time, what they have to do: the partitions of one that is gone are
    /// nobody's meanwhile.
    pub(super) fn tell_of_rebalance(&self, groups: &BTreeSet<Box<str>>) {
        self.clients.living().iter().for_each(|client| client.rebalancing(groups));
        self.expect_by(self.context.clock.monotonic());
    }

    /// Lets clients append what they kept.
    pub(super) fn settle_clients(&self) {
        self.clients.living().iter().for_each(|client| client.before_close());
    }
}
