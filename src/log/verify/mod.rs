//! Verifying a log while it is open: which partitions and segments, by whom, how far.
//!
//! ```text
//! plan      the log's own files, then for each partition: its directory, its segments      in this order
//! threads   take the next unit each until none is left, or somebody said stop
//! report    of all units before the first that was not finished: there a later call goes on
//! ```
//!
//! Files that maintenance finishes or removes are opened with its lock held, so that none is met half made; what is
//! opened then stays. No lock is held while anything is judged.

mod files;
mod options;
mod plan;
mod report;

use std::ops::ControlFlow;
use std::thread;

use parking_lot::Mutex;

pub use options::{VerifyOptions, VerifyProgress};
pub use report::{InvalidVerifyPosition, VerifyPosition, VerifyReport};

use self::plan::{Plan, Unit};
use super::{Inner, Log};
use crate::error::{Error, Result};
use crate::observe::Quiet;
use crate::partition::verify::{self, Verdict};

impl Log {
    /// Judges what is on disk against the log itself: every batch, and every file that follows from the batches.
    ///
    /// | File | Checked |
    /// |---|---|
    /// | `.log` | each batch: length, checksum, header; offsets that follow one another (in a compacted partition: that rise); leader epochs that never fall; segments that meet; bytes behind the end of a log that was closed |
    /// | `.index` | each entry leads to a batch that ends with its offset; entries rise |
    /// | `.timeindex` | each entry has the largest time up to its offset; times rise; the last is the largest of the segment |
    /// | `.txnindex` | the aborted transactions, with their stable offsets, are those of the batches |
    /// | `.snapshot` | reads; and says of producers what the batches say |
    /// | `.seal` | reads; and the files are as it says |
    /// | `leader-epoch-checkpoint` | reads; and has the epochs of the batches |
    /// | `partition.metadata` | reads; and is of this topic |
    /// | `catalog`, `checkpoints`, `clean`, Kafka's checkpoints | read; and speak of offsets that are in the log |
    ///
    /// Records inside of a batch are not looked at: its checksum says that they are what was written. Neither are files
    /// that count only until the machine is restarted (`staging`, `notes`), and nothing is changed.
    ///
    /// The log may be written meanwhile. What is judged is what was in data files when this was called, and of the other
    /// files those that are final; retention and deletion go on, and what they remove is no finding. A partition that
    /// could not be opened is judged by what is in its directory: where its batches end to verify, and where they begin
    /// again.
    ///
    /// Everything is read once, by [`threads`](VerifyOptions::threads) that share the segments. Memory is bounded: a
    /// buffer, or a map, for each; and what is known of producers.
    ///
    /// # Errors
    ///
    /// What is wrong with the files is in the report, an unreadable one included. Errors are:
    ///
    /// - [`Error::InvalidSetting`] if there were to be no threads.
    /// - [`Error::TopicNotFound`], [`Error::PartitionNotFound`] if there is no such partition.
    /// - [`Error::Closed`] if the log is closed, or was meanwhile.
    /// - [`Error::Io`] if the process may open no more files.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{FindingKind, Log, VerifyOptions};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("orders")?.append("paid")?;
    /// log.close()?;
    ///
    /// let path = dir.path().join("orders-0/00000000000000000000.log");
    /// let mut bytes = std::fs::read(&path)?;
    /// bytes[40] ^= 1; // rot
    /// std::fs::write(&path, bytes)?;
    ///
    /// let log = Log::builder(dir.path()).read_only().open()?;
    /// let report = log.verify(&VerifyOptions::default().threads(2))?;
    /// let found = report.findings().iter().find(|finding| finding.kind == FindingKind::Batch).unwrap();
    /// assert_eq!(found.position, 0);
    /// assert!(found.path.ends_with("orders-0/00000000000000000000.log"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(&self, options: &VerifyOptions<'_>) -> Result<VerifyReport> {
        self.opened.inner.verify(options)
    }
}

impl Inner {
    fn verify(&self, options: &VerifyOptions<'_>) -> Result<VerifyReport> {
        self.check_open()?;
        options.validate()?;
        let plan = Plan::new(self, options)?;
        let course = Mutex::new(Course::new(&plan));
        let runner = Runner { inner: self, plan: &plan, options, course: &course };
        thread::scope(|scope| {
            for _ in 1..options.thread_count().min(plan.units.len()) {
                // With as many as there can be.
                if thread::Builder::new().name("chiplog-verify".into()).spawn_scoped(scope, || runner.run()).is_err()
                {
                    break;
                }
            }
            runner.run();
        });
        course.into_inner().into_report(&plan)
    }
}

/// How far all threads together have come.
struct Course {
    /// The next unit that nobody has taken.
    next: usize,
    done: Vec<Option<Verdict>>,
    bytes: u64,
    findings: usize,
    is_stopped: bool,
    error: Option<Error>,
}

impl Course {
    fn new(plan: &Plan) -> Self {
        let done = plan.units.iter().map(|_| None).collect();
        Self { next: 0, done, bytes: 0, findings: 0, is_stopped: false, error: None }
    }

    /// What was found up to the first unit that was not finished.
    fn into_report(self, plan: &Plan) -> Result<VerifyReport> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut report = VerifyReport::default();
        for (unit, verdict) in plan.units.iter().zip(self.done) {
            match verdict {
                Some(verdict) => report.add(verdict),
                None => {
                    report.stop(plan.position(unit));
                    break;
                }
            }
        }
        Ok(report)
    }
}

/// What each thread has.
struct Runner<'a> {
    inner: &'a Inner,
    plan: &'a Plan,
    options: &'a VerifyOptions<'a>,
    course: &'a Mutex<Course>,
}

impl Runner<'_> {
    fn run(&self) {
        while let Some(at) = self.take() {
            let judged = self.inner.check_open().and_then(|()| self.judge(&self.plan.units[at]));
            let mut course = self.course.lock();
            match judged {
                Ok(Some(verdict)) => {
                    course.findings += verdict.findings.len();
                    course.done[at] = Some(verdict);
                }
                Ok(None) => course.is_stopped = true,
                Err(error) => {
                    course.is_stopped = true;
                    course.error.get_or_insert(error);
                }
            }
        }
    }

    fn take(&self) -> Option<usize> {
        let mut course = self.course.lock();
        if course.is_stopped || course.next == self.plan.units.len() {
            return None;
        }
        course.next += 1;
        Some(course.next - 1)
    }

    /// Judges a unit; `None` if this is to end.
    fn judge(&self, unit: &Unit) -> Result<Option<Verdict>> {
        match unit {
            Unit::Log => {
                let findings = files::log_wide(self.inner)?;
                Ok(Some(Verdict { findings, ..Verdict::default() }))
            }
            Unit::Directory(target) => {
                let target = &self.plan.targets[*target];
                let mut findings = {
                    let _schedule = Quiet::lock(&self.inner.schedule);
                    verify::directory(&target.target)?
                };
                findings.extend(target.refused.clone());
                Ok(Some(Verdict { findings, ..Verdict::default() }))
            }
            Unit::Segment(target, segment) => {
                let target = &self.plan.targets[*target].target;
                let gathered = {
                    let _schedule = Quiet::lock(&self.inner.schedule);
                    target.gather(*segment)
                };
                verify::segment(target, *segment, gathered, &mut |bytes| self.pace(&target.id, bytes))
            }
        }
    }

    /// Counts what was judged, and asks whether to go on.
    fn pace(&self, partition: &crate::types::TopicPartition, bytes: u64) -> ControlFlow<()> {
        let mut course = self.course.lock();
        course.bytes += bytes;
        let progress = VerifyProgress {
            partition,
            bytes: course.bytes,
            total_bytes: self.plan.total_bytes,
            findings: course.findings,
        };
        // Under the lock, so that what is told only rises.
        if self.options.tell(&progress).is_break() {
            course.is_stopped = true;
        }
        if course.is_stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
