//! What the log costs over the system calls it makes: ours and a bare loop, in turn, in one run.
//!
//! `cargo bench --bench log [-- [--quick] [--dir DIR] [ROW]...]`. A machine's speed moves by half within an hour, so
//! only ratios of runs side by side are reported; absolute figures name the machine and the date they are from.
//! Everything is read back and compared before a figure counts.

mod bare;
mod machine;
mod ours;
mod runner;

use std::io;
use std::path::PathBuf;

use runner::Row;

fn main() -> io::Result<()> {
    let options = Options::from_args()?;
    let rows = rows(&options);
    let chosen = rows
        .into_iter()
        .filter(|row| options.rows.is_empty() || options.rows.iter().any(|name| row.name.contains(name.as_str())));
    println!("{}", machine::describe(&options.dir)?);
    println!("{}", runner::heading());
    for mut row in chosen {
        println!("{}", runner::race(&mut row, &options.dir, options.pairs)?);
    }
    Ok(())
}

/// The rows of the table. `ours` runs what a user would write; `bare` is the least that does the same.
fn rows(options: &Options) -> Vec<Row> {
    let scale = if options.quick { 1 } else { 20 };
    let append = |name, goal, values, len, count| {
        let (shape, count) = (bare::Shape { values, len }, count * scale);
        let (ours, bare) = (ours::Append::boxed(shape, count), bare::Append::boxed(shape, count));
        Row { name, goal, ours, bare }
    };
    let (one, many) = (bare::Shape { values: 1, len: 100 }, bare::Shape { values: 145, len: 100 });
    vec![
        append("append/100B", 0.75, 1, 100, 50_000),
        append("append/1KiB", 0.75, 1, 1_024, 15_000),
        append("append_all/100x100B", 0.75, 100, 100, 2_000),
        Row {
            name: "synced/100B",
            goal: 0.95,
            ours: ours::Append::synced(one, 250 * scale),
            bare: bare::Synced::boxed(one, 250 * scale),
        },
        // One segment of nearly its full length: the bare walk knows of one file.
        Row {
            name: "scan/100B",
            goal: 0.8,
            ours: ours::Scan::boxed(many, 3_000 * scale),
            bare: bare::Walk::boxed(many, 3_000 * scale, ours::make_file),
        },
    ]
}

struct Options {
    quick: bool,
    pairs: usize,
    dir: PathBuf,
    rows: Vec<String>,
}

impl Options {
    fn from_args() -> io::Result<Self> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench");
        let mut options = Self { quick: false, pairs: 9, dir, rows: Vec::new() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => (options.quick, options.pairs) = (true, 5),
                "--dir" => {
                    options.dir = args.next().map(PathBuf::from).ok_or_else(|| invalid("--dir needs a directory"))?
                }
                "--bench" => {} // cargo says so to every benchmark
                other if other.starts_with("--") => return Err(invalid(&format!("there is no option {other}"))),
                name => options.rows.push(name.to_owned()),
            }
        }
        Ok(options)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
