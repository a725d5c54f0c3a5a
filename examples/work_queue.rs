//! A work queue: several workers share the mails of one partition, some mails fail, one can never be sent. What nobody could do
//! is among the dead letters, with the reason.
//!
//!     cargo run --example work_queue

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use chiplog::{Log, Offset, Queue, Record, Task};

const MAILS: u32 = 500;
const WORKERS: u32 = 4;

/// How a mail goes out.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Yes,
    /// The other side is busy.
    Later,
    /// There is no such address.
    Never,
}

fn send(task: &Task) -> Sent {
    let number = task.offset().0;
    match task.record().key {
        Some(b"nobody") => Sent::Never,
        _ if number.is_multiple_of(100) => Sent::Later, // however often
        _ if number.is_multiple_of(7) && task.deliveries() == 1 => Sent::Later,
        _ => Sent::Yes,
    }
}

/// Takes mails until there is none for a while.
fn work(mut queue: Queue, sent: &Mutex<BTreeMap<u64, u16>>) -> chiplog::Result<()> {
    loop {
        // One sync for all that are accepted together.
        let tasks = queue.take_many(20, Duration::from_millis(200))?;
        if tasks.is_empty() && queue.backlog() == 0 {
            return Ok(());
        }
        let mut done = Vec::new();
        for task in tasks {
            match send(&task) {
                Sent::Yes => done.push(task),
                Sent::Later => task.release()?,
                Sent::Never => task.reject()?,
            }
        }
        let numbers: Vec<_> = done.iter().map(|task| (task.offset().0, task.deliveries())).collect();
        queue.accept_all(done)?;
        // Nobody else has it from here on, also after a power cut.
        for (number, deliveries) in numbers {
            let before = sent.lock().map_err(|_| chiplog::Error::Closed)?.insert(number, deliveries);
            assert_eq!(before, None, "mail {number} is done once");
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = Log::open(dir.path())?;
    for number in 0..MAILS {
        let to = if number == 77 { "nobody" } else { "ada" };
        log.append(Record::new(&format!("mail {number}")).key(to).to("mails"))?;
    }

    let sent = Mutex::new(BTreeMap::new());
    let open = || log.queue("senders", "mails").max_deliveries(3).dead_letters("mails.dead").open();
    std::thread::scope(|scope| -> chiplog::Result<()> {
        let spawn = |_| {
            Ok(scope.spawn({
                let queue = open()?;
                let sent = &sent;
                move || work(queue, sent)
            }))
        };
        let workers = (0..WORKERS).map(spawn).collect::<chiplog::Result<Vec<_>>>()?;
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Err(chiplog::Error::Closed)))
    })?;

    let letters = log.topic("mails.dead")?.partition(0)?.read(Offset::ZERO)?;
    for letter in &letters {
        let why =
            letter.headers().find(|header| header.key == "__dlq.errors.message").and_then(|header| header.value);
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        println!("dead letter: {}, {}", text(letter.value), text(why));
    }
    let sent = sent.into_inner()?;
    let again = sent.values().filter(|deliveries| **deliveries > 1).count();
    println!("{} of {MAILS} mails were sent, {again} at the second attempt", sent.len());
    assert_eq!((sent.len(), letters.iter().count()), (494, 6), "every hundredth, and the one to nobody");
    Ok(log.close()?)
}
