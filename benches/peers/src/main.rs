//! Measures the log beside the crates a user would pick instead, and beside the bare loops, and writes the report.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- --report DIR
//! ```

mod peers;
mod plot;
mod report;
mod rows;
#[path = "../../log/suite/mod.rs"]
mod suite;

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap::Parser;

use report::Header;
use suite::{Size, child, machine, ours, outcome, race};

#[derive(Debug, Parser)]
struct Options {
    /// Only the rows whose names contain one of these. Those beside other crates begin with `peers/`.
    rows: Vec<String>,
    /// A little of everything: for seeing that it works, not for figures.
    #[arg(long)]
    quick: bool,
    /// Where the files go: whose file system is measured.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench"))]
    dir: PathBuf,
    /// Where to write the report: a table, a plot, and all figures as JSON.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(done) = child::do_job() {
        return Ok(done?);
    }
    let options = Options::parse();
    fs::create_dir_all(&options.dir)?;
    let dir = options.dir.canonicalize()?;
    peers::set_root(&dir);
    let size = Size { is_quick: options.quick };
    let header = Header { machine: machine::describe(&dir)?, staging: ours::staging(&dir)?, is_quick: options.quick };
    println!("{}", header.line());
    let mut rows = rows::rows(size)?;
    rows.extend(suite::rows(size)?);
    let (mut outcomes, mut failed) = (Vec::new(), Vec::new());
    for row in rows {
        if options.rows.is_empty() || options.rows.iter().any(|name| row.name.contains(name.as_str())) {
            let name = row.name;
            // One that cannot be measured does not take with it what was.
            match race::race(row, &dir, size.laps()) {
                Ok(of_row) => outcomes.extend(of_row),
                Err(error) => failed.push(format!("{name}: {error}")),
            }
        }
    }
    println!("{}\n{}", outcome::table(&outcomes), outcome::summary(&outcomes));
    for outcome in outcomes.iter().filter(|outcome| !outcome.notes.is_empty()) {
        println!("{}: {}", outcome.name, outcome.notes);
    }
    if let Some(dir) = &options.report {
        report::write(dir, &header, &outcomes)?;
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}
