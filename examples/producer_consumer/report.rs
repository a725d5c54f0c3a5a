//! What is told: bars while it works, tables in the end.

use chiplog::{Group, Log, Topic};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::Result;
use crate::members::{Report, Word};

/// How far it is. Not shown if nobody looks: if standard error is no terminal.
pub(crate) struct Bars {
    all: MultiProgress,
    stored: ProgressBar,
    checked: ProgressBar,
}

impl Bars {
    pub(crate) fn new(lines: u64) -> Result<Self> {
        let style = ProgressStyle::with_template("{prefix:>8} {bar:40} {human_pos}/{human_len} lines  {msg}")?;
        let all = MultiProgress::new();
        let bar = |name| all.add(ProgressBar::new(lines).with_style(style.clone()).with_prefix(name));
        Ok(Self { stored: bar("stored"), checked: bar("checked"), all })
    }

    pub(crate) fn show(&self, stored: u64, checked: u64) {
        self.stored.set_position(stored);
        self.checked.set_position(checked);
    }

    /// Says what happens to the members.
    pub(crate) fn tell(&self, message: String) {
        self.checked.set_message(message);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // What cannot be drawn is missed by nobody.
        let _ = self.all.clear();
    }
}

/// The partitions, as the log's own statistics describe them.
pub(crate) fn partitions(log: &Log, topic: &Topic, group: &Group) -> Result<Table> {
    let mut table = table(["partition", "offsets", "segments", "MiB", "appended", "committed"]);
    let stats = log.stats()?;
    for partition in stats.topics.iter().filter(|one| one.name == topic.name()).flat_map(|one| &one.partitions) {
        let committed = group.committed(topic.name(), partition.partition)?;
        table.add_row([
            partition.partition.to_string(),
            format!("{}..{}", partition.start, grouped(partition.end.0)),
            partition.segments.to_string(),
            format!("{:.1}", mebibytes(partition.bytes)),
            grouped(partition.appended_records),
            committed.map_or("none".into(), |committed| grouped(committed.offset.0)),
        ]);
    }
    Ok(align(table))
}

/// The members, in the order in which they came.
pub(crate) fn members(reports: &[Report]) -> Table {
    let mut table = table(["member", "partitions", "lines delivered", "delivered again", "in the end"]);
    let row = |of: &dyn Fn(&Report) -> u64| grouped(reports.iter().map(of).sum());
    for Report { number, tenures, lines, again, ended } in reports {
        let ended = ended.past().into();
        table.add_row([number.to_string(), grouped(*tenures), grouped(*lines), grouped(*again), ended]);
    }
    let count = |word| reports.iter().filter(|report| report.ended == word).count();
    let ended = format!("{} left, {} were killed", count(Word::Leave), count(Word::Die));
    table.add_row([
        format!("{} came", reports.len()),
        row(&|report| report.tenures),
        row(&|report| report.lines),
        row(&|report| report.again),
        ended,
    ]);
    align(table)
}

fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

fn align(mut table: Table) -> Table {
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A number with commas.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
