//! The members of the group: consumers that share the partitions of the topic, and check each line that they are given.
//!
//! Two ways to deal with a line. At least once: a member checks it, and commits its positions from time to time. Exactly
//! once: it copies what it checked into another topic, and commits its positions in the same transaction.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use chiplog::group::assign::CooperativeSticky;
use chiplog::{
    Assignor, AutoOffsetReset, Consumer, ConsumerWaker, Error, ErrorKind, Group, Header, Log, Polled,
    RebalanceListener, Record, Topic, TopicPartition, Transaction,
};

use crate::checks::{Line, Seen, Tenure};
use crate::{Result, join};

/// What the members share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checking<'a> {
    pub(crate) log: &'a Log,
    pub(crate) topic: &'a Topic,
    pub(crate) group: &'a Group,
    pub(crate) seen: &'a Seen,
    /// Where the lines are copied to that were checked, exactly once.
    pub(crate) output: Option<&'a Topic>,
}

/// What a member may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Hand over to the others.
    Leave,
    /// Stop as a thread does that hangs: commit nothing, tell nobody.
    Die,
    /// All is done: leave.
    Finish,
}

impl Word {
    pub(crate) fn past(self) -> &'static str {
        match self {
            Self::Leave => "left",
            Self::Die => "was killed",
            Self::Finish => "stayed",
        }
    }
}

/// What one member did.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) number: usize,
    /// How many times it was given a partition.
    pub(crate) tenures: u64,
    /// The lines it dealt with.
    pub(crate) lines: u64,
    /// Of them, those that a member had dealt with before, which did not come to commit that.
    pub(crate) again: u64,
    /// What it was told in the end.
    pub(crate) ended: Word,
}

/// A member in a thread of its own.
pub(crate) struct Member<'scope> {
    words: Sender<Word>,
    waker: ConsumerWaker,
    thread: ScopedJoinHandle<'scope, Result<Report>>,
}

impl<'scope> Member<'scope> {
    /// Starts a member, in one of so many seats: of two in the same seat, the second takes over from the first.
    pub(crate) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        checking: Checking<'env>,
        number: usize,
        seat: usize,
    ) -> Result<Self> {
        let (tell, changes) = mpsc::channel();
        let consumer = checking
            .log
            .consumer(checking.group.id())
            .topics([checking.topic.name()])
            .client_id(&format!("member-{number}"))
            // A group that is new begins with the first record; without this, with those that come from now on.
            .auto_offset_reset(AutoOffsetReset::Earliest)
            // The others read on while one comes or goes.
            .assignors([Arc::new(CooperativeSticky) as Arc<dyn Assignor>])
            // One that is not polled for so long is out. In real life that is minutes: as long as work may take.
            .max_poll_interval(Duration::from_millis(500))
            .heartbeat_interval(Duration::from_millis(50))
            .max_poll_records(5_000)
            .listener(Tenures { tell, commits: checking.output.is_none() })
            .join()?;
        let (words, told) = mpsc::channel();
        let waker = consumer.waker();
        let report = Report { number, tenures: 0, lines: 0, again: 0, ended: Word::Finish };
        let checker = Checker { checking, consumer, changes, tenures: BTreeMap::new(), told, report };
        let thread = scope.spawn(move || match checking.output {
            None => checker.at_least_once(),
            Some(output) => checker.exactly_once(output, seat),
        });
        Ok(Self { words, waker, thread })
    }

    /// Whether it ended by itself, which it should not.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Tells it to end, now.
    pub(crate) fn tell(&self, word: Word) {
        // One that ended hears nothing: `end` returns why.
        let _ = self.words.send(word);
        self.waker.wake();
    }

    /// Tells it to end, and waits until it has.
    pub(crate) fn end(self, word: Word) -> Result<Report> {
        self.tell(word);
        join(self.thread)
    }
}

/// Told of partitions that come and go, in polls: passes it on to the loop that polls.
struct Tenures {
    tell: Sender<Change>,
    commits: bool,
}

enum Change {
    Began(Vec<TopicPartition>),
    Ended(Vec<TopicPartition>),
}

impl RebalanceListener for Tenures {
    fn assigned(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> chiplog::Result<()> {
        let _ = self.tell.send(Change::Began(partitions.to_vec()));
        Ok(())
    }

    /// The last chance to commit: who comes next then goes on behind it, and nothing is delivered twice.
    fn revoked(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> chiplog::Result<()> {
        let _ = self.tell.send(Change::Ended(partitions.to_vec()));
        if self.commits { unless_refused(consumer.commit()).map(drop) } else { Ok(()) }
    }

    /// Too late: others may have them.
    fn lost(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> chiplog::Result<()> {
        let _ = self.tell.send(Change::Ended(partitions.to_vec()));
        Ok(())
    }
}

/// Whether it was done. The group refuses a commit of a member that it took for dead, or while it divides the partitions anew:
/// what was to be committed is delivered again then.
fn unless_refused(committed: chiplog::Result<()>) -> chiplog::Result<bool> {
    match committed {
        Err(error @ Error::GroupRefused { .. }) if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Retry) => {
            Ok(false)
        }
        committed => committed.map(|()| true),
    }
}

/// The thread of a member.
struct Checker<'a> {
    checking: Checking<'a>,
    consumer: Consumer,
    changes: Receiver<Change>,
    tenures: BTreeMap<TopicPartition, Tenure>,
    told: Receiver<Word>,
    report: Report,
}

impl Checker<'_> {
    /// Checks lines, and commits every now and then. What was checked and not committed when it dies, another checks again.
    fn at_least_once(mut self) -> Result<Report> {
        let mut uncommitted = 0;
        loop {
            // Up to 5,000 records, which are not copied; none if none came within a moment.
            let polled = self.consumer.poll(A_MOMENT)?;
            self.note_changes();
            for (partition, records) in polled.partitions() {
                let tenure = self.tenures.get_mut(partition).ok_or_else(|| format!("{partition} is another's"))?;
                for record in records {
                    let line = Line::of(&record)?;
                    tenure.follow(record.offset, &line)?;
                    self.report.again += u64::from(!self.checking.seen.mark(&line)?);
                    self.report.lines += 1;
                    uncommitted += 1;
                }
            }
            let word = self.told.try_recv().ok();
            if word == Some(Word::Die) {
                return Ok(self.die());
            }
            // A commit is durable when it returns, so not one for each record.
            if uncommitted >= COMMIT_EVERY || uncommitted > 0 && (polled.is_empty() || word.is_some()) {
                unless_refused(self.consumer.commit())?;
                uncommitted = 0;
            }
            if let Some(word) = word {
                self.consumer.close()?;
                return Ok(Report { ended: word, ..self.report });
            }
        }
    }

    /// Copies lines that it checked, and commits both at once, the copies and how far it came: all of it or nothing.
    fn exactly_once(mut self, output: &Topic, seat: usize) -> Result<Report> {
        // Whoever takes the seat of one that died ends the transaction that was left open there.
        let id = format!("{}-{seat}", self.checking.group.id());
        let mut producer = self.checking.log.producer().transactional(&id)?;
        loop {
            let polled = self.consumer.poll(A_MOMENT)?;
            self.note_changes();
            let transaction = match polled.is_empty() {
                true => None,
                false => Some(self.copy(&polled, producer.begin()?, output)?),
            };
            let word = self.told.try_recv().ok();
            if word == Some(Word::Die) {
                mem::forget(transaction);
                return Ok(self.die());
            }
            if let Some(transaction) = transaction {
                self.commit(&polled, transaction)?;
            }
            if let Some(word) = word {
                self.consumer.close()?;
                return Ok(Report { ended: word, ..self.report });
            }
        }
    }

    /// Checks lines, and copies them into the other topic, as a part of the transaction.
    fn copy<'p>(
        &mut self,
        polled: &Polled,
        mut transaction: Transaction<'p>,
        output: &Topic,
    ) -> Result<Transaction<'p>> {
        for (partition, records) in polled.partitions() {
            let tenure = self.tenures.get_mut(partition).ok_or_else(|| format!("{partition} is another's"))?;
            for record in records {
                let line = Line::of(&record)?;
                tenure.follow(record.offset, &line)?;
                let headers: Vec<Header<'_>> = record.headers().collect();
                let copy = Record::new(line.text).key(line.key).headers(&headers);
                transaction.send(copy.to(output.name()))?;
            }
        }
        Ok(transaction)
    }

    /// Commits the copies together with the positions, which are those behind what polls returned. If the group refuses
    /// these, the copies must not count either: another makes them, or this one does again.
    fn commit(&mut self, polled: &Polled, mut transaction: Transaction<'_>) -> Result<()> {
        if !unless_refused(transaction.commit_positions(&self.consumer))? {
            transaction.abort()?;
            return self.go_back();
        }
        transaction.commit()?;
        for (_, record) in polled {
            self.checking.seen.mark_once(&Line::of(&record)?)?;
            self.report.lines += 1;
        }
        Ok(())
    }

    fn note_changes(&mut self) {
        for change in self.changes.try_iter() {
            match change {
                Change::Began(partitions) => {
                    self.report.tenures += partitions.len() as u64;
                    self.tenures.extend(partitions.into_iter().map(|partition| (partition, Tenure::default())));
                }
                Change::Ended(partitions) => {
                    self.tenures.retain(|partition, _| !partitions.contains(partition));
                }
            }
        }
    }

    /// Goes back to what the group committed, in each partition that it still has.
    fn go_back(&mut self) -> Result<()> {
        self.consumer.seek_to_committed(&[])?;
        self.tenures.values_mut().for_each(|tenure| *tenure = Tenure::default());
        Ok(())
    }

    /// Leaves everything as it is. Dropped, the consumer would leave its group at once.
    fn die(self) -> Report {
        mem::forget(self.consumer);
        Report { ended: Word::Die, ..self.report }
    }
}

const A_MOMENT: Duration = Duration::from_millis(20);
const COMMIT_EVERY: u64 = 10_000;
