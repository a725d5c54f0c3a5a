//! The report: a table and a plot of all rows, and the same figures as JSON.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use comfy_table::{Table, presets};
use serde_json::json;

use crate::plot;
use crate::suite::outcome::{self, Outcome, figure};

/// Where and how it was measured.
pub(crate) struct Header {
    pub(crate) machine: String,
    pub(crate) staging: String,
    pub(crate) is_quick: bool,
}

impl Header {
    pub(crate) fn line(&self) -> String {
        let quick = if self.is_quick { "; quick: small sizes, no figures" } else { "" };
        format!("{}; {}{quick}", self.machine, self.staging)
    }
}

/// Writes `report.md`, `report.svg` and `report.json` into `dir`.
pub(crate) fn write(dir: &Path, header: &Header, outcomes: &[Outcome]) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("report.md"), markdown(header, outcomes)?)?;
    plot::draw(&dir.join("report.svg"), &header.line(), outcomes)?;
    let rows: Vec<_> = outcomes.iter().map(Outcome::json).collect();
    let report = json!({
        "machine": header.machine,
        "staging": header.staging,
        "quick": header.is_quick,
        "rows": rows,
    });
    fs::write(dir.join("report.json"), format!("{report:#}\n"))?;
    Ok(())
}

fn markdown(header: &Header, outcomes: &[Outcome]) -> Result<String, Box<dyn Error>> {
    let mut text = String::from("# How fast\n\n");
    writeln!(text, "{}.\n\n{}\n", header.line(), outcome::summary(outcomes))?;
    writeln!(text, "{}\n\n![How far each goal is passed or missed](report.svg)\n", outcome::table(outcomes))?;
    writeln!(text, "## All of them\n\n{}\n\n## Notes\n", everybody(outcomes))?;
    for outcome in outcomes.iter().filter(|outcome| !outcome.notes.is_empty()) {
        writeln!(text, "- {}: {}", outcome.name, outcome.notes)?;
    }
    NOTES.iter().try_for_each(|note| writeln!(text, "- {note}"))?;
    Ok(text)
}

/// The figures of all contenders, where there are more than two.
fn everybody(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["row", "unit", "who", "figure", "chiplog to it"]);
    for outcome in outcomes.iter().filter(|outcome| outcome.others.len() > 1) {
        for other in &outcome.others {
            let ratio = format!("{:.2}", other.ratio);
            table.add_row([&outcome.name, outcome.unit, other.name, &figure(other.value), &ratio]);
        }
    }
    table
}

const NOTES: [&str; 6] = [
    "commitlog's and simple_wal's flush syncs nothing: they have no place in synced rows.",
    "okaywal syncs each entry: it has no place in rows without a sync. It reads by recovering, into memory first.",
    "walrus-rust and simple_wal find no single record: they have no place in random reads.",
    "redb without a sync keeps what it commits in the process: a kill loses it. All others keep it.",
    "raft-engine: writers of one log have a group each.",
    "walrus-rust, fjall, SQLite and redb have one writer at a time: they are not asked with 32 threads.",
];
