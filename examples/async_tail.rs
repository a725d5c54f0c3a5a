//! A service that follows a topic as a stream of records, on any runtime: the same function on tokio and on another
//! executor. The second goes on where the first one stopped, and both share the log with threads.
//!
//!     cargo run --example async_tail --features futures

use std::thread;
use std::time::Duration;

use chiplog::{Ack, AutoOffsetReset, GroupConfig, Log, Record};
use futures_lite::{StreamExt, future};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Adds up payments in cents until there were so many of them.
async fn add_up(log: Log, count: usize) -> Result<u64> {
    let payments = log.consumer("billing").topics(["payments"]).auto_offset_reset(AutoOffsetReset::Earliest);
    // One at a time, so that what is committed in the end is what was added up.
    let mut payments = payments.max_poll_records(1).join()?;
    let (mut seen, mut sum) = (0, 0);
    while seen < count {
        // Waits without a thread: the task is woken by the append that brings the next record. Of a log that is closed the
        // stream says so by an error, and ends behind that: who stops at the first error sees no end.
        let polled = payments.next().await.ok_or("polled again after the last error")??;
        for (_, record) in &polled {
            let cents: [u8; 8] = record.value.ok_or("a payment of nothing")?.try_into()?;
            sum += u64::from_be_bytes(cents);
            seen += 1;
        }
    }
    // Waits for no disk, as a task should not: after a power cut the last ones may come again. Dropped, it leaves its group.
    payments.commit_with(Ack::Written)?;
    Ok(sum)
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at_once = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
    let log = Log::builder(dir.path()).groups(at_once).open()?;

    // Payments of 1, 2, 3 ... cents come in by and by, from a thread.
    let payments = log.topic("payments")?;
    let pays = thread::spawn(move || -> chiplog::Result<()> {
        for cents in 1..=200_u64 {
            payments.append(Record::new(&cents.to_be_bytes()))?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });

    // On tokio, as one task beside others.
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let first = tokio.block_on(async { tokio::spawn(add_up(log.clone(), 100)).await })??;
    println!("on tokio: {first} cents");

    // On an executor that knows nothing of tokio.
    let executor = async_executor::Executor::new();
    let second = future::block_on(executor.run(executor.spawn(add_up(log.clone(), 100))))?;
    println!("on async-executor: {second} cents");

    pays.join().map_err(|_| "the thread panicked")??;
    // Each payment was added up once: the first hundred there, the second here.
    assert_eq!((first, second), ((1..=100).sum(), (101..=200).sum()));
    Ok(log.close()?)
}
