//! What the log costs over the system calls it makes: ours and a bare loop, in turn, in one run.
//!
//! `cargo bench --bench log [-- [--quick] [--dir DIR] [--json FILE] [ROW]...]`. A machine's speed moves by half within an
//! hour, so ratios of runs side by side are what counts; figures name the machine and the date they are from.
//! Everything is read back and compared before a figure counts. With `--features zstd` a broker's directory can be
//! unpacked, and has a row, too.

mod suite;

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

use suite::{Size, child, machine, ours, outcome, race};

#[derive(Debug, Parser)]
struct Options {
    /// Only the rows whose names contain one of these.
    rows: Vec<String>,
    /// A little of everything: for seeing that it works, not for figures.
    #[arg(long)]
    quick: bool,
    /// Where the files go: whose file system is measured.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/bench"))]
    dir: PathBuf,
    /// Where to write the figures, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Said by cargo to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> io::Result<()> {
    if let Some(done) = child::do_job() {
        return done;
    }
    let options = Options::parse();
    let size = Size { is_quick: options.quick };
    let machine = machine::describe(&options.dir)?;
    let staging = ours::staging(&options.dir)?;
    println!("{machine}; {staging}{}", if options.quick { "; quick: small sizes, no figures" } else { "" });
    let mut outcomes = Vec::new();
    for row in suite::rows(size)? {
        if options.rows.is_empty() || options.rows.iter().any(|name| row.name.contains(name.as_str())) {
            outcomes.extend(race::race(row, &options.dir, size.laps())?);
        }
    }
    println!("{}", outcome::table(&outcomes));
    for outcome in outcomes.iter().filter(|outcome| !outcome.notes.is_empty()) {
        println!("{}: {}", outcome.name, outcome.notes);
    }
    println!("{}", outcome::summary(&outcomes));
    if let Some(path) = &options.json {
        let rows: Vec<_> = outcomes.iter().map(outcome::Outcome::json).collect();
        let report = json!({ "machine": machine, "staging": staging, "quick": options.quick, "rows": rows });
        fs::write(path, format!("{report:#}\n"))?;
    }
    println!("count rows {} {}", outcomes.len(), outcomes.len());
    Ok(())
}
