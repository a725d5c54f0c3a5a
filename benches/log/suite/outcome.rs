//! What a race came to, and how it is shown: as a table, and as JSON.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::race::{Bound, Goal, Line};

/// One line of the table.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// The median of our laps.
    pub(crate) ours: f64,
    /// The best of them first.
    pub(crate) others: Vec<Other>,
    pub(crate) goal: Goal,
    pub(crate) notes: String,
}

/// Somebody else's figure for the same line.
pub(crate) struct Other {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    /// Medians of ours to theirs, lap by lap; and the least and the most.
    pub(crate) ratio: f64,
    spread: (f64, f64),
}

impl Other {
    pub(crate) fn new(name: &'static str, ours: &[f64], laps: Vec<f64>) -> Self {
        let mut ratios: Vec<f64> = ours.iter().zip(&laps).map(|(ours, other)| ours / other).collect();
        let ratio = median(&mut ratios);
        let spread = (ratios.first().copied().unwrap_or(f64::NAN), ratios.last().copied().unwrap_or(f64::NAN));
        Self { name, value: median(&mut { laps }), ratio, spread }
    }
}

impl Outcome {
    pub(crate) fn new(name: String, line: Line, mut ours: Vec<f64>, mut others: Vec<Other>, notes: String) -> Self {
        if matches!(line.goal, Goal::Value(_)) {
            others.clear();
        }
        others.sort_by(|one, other| match line.goal {
            Goal::Ratio(Bound::AtMost(_)) => one.value.total_cmp(&other.value),
            _ => other.value.total_cmp(&one.value),
        });
        Self { name, unit: line.unit, ours: median(&mut ours), others, goal: line.goal, notes }
    }

    pub(crate) fn ratio(&self) -> Option<f64> {
        self.others.first().map(|best| best.ratio)
    }

    /// `None` if there is no goal.
    pub(crate) fn is_reached(&self) -> Option<bool> {
        match self.goal {
            Goal::Ratio(bound) => Some(self.ratio().is_some_and(|ratio| bound.holds(ratio))),
            Goal::Value(bound) => Some(bound.holds(self.ours)),
            Goal::None => None,
        }
    }

    pub(crate) fn verdict(&self) -> &'static str {
        match self.is_reached() {
            Some(true) => "reached",
            Some(false) => "not reached",
            None => "",
        }
    }

    pub(crate) fn goal_text(&self) -> String {
        match self.goal {
            Goal::Ratio(Bound::AtLeast(least)) => format!("ratio >= {least}"),
            Goal::Ratio(Bound::AtMost(most)) => format!("ratio <= {most}"),
            Goal::Value(Bound::AtLeast(least)) => format!(">= {}", figure(least)),
            Goal::Value(Bound::AtMost(most)) => format!("<= {}", figure(most)),
            Goal::None => String::new(),
        }
    }

    /// One row of a table: see [`HEADING`].
    pub(crate) fn cells(&self) -> [String; 9] {
        let best = self.others.first();
        [
            self.name.clone(),
            self.unit.to_owned(),
            figure(self.ours),
            best.map_or_else(String::new, |best| best.name.to_owned()),
            best.map_or_else(String::new, |best| figure(best.value)),
            best.map_or_else(String::new, |best| format!("{:.2}", best.ratio)),
            best.map_or_else(String::new, |best| format!("{:.2}..{:.2}", best.spread.0, best.spread.1)),
            self.goal_text(),
            self.verdict().to_owned(),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        let others = self.others.iter();
        json!({
            "row": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "others": others.map(|other| json!({
                "name": other.name,
                "value": other.value,
                "ratio": other.ratio,
            })).collect::<Vec<_>>(),
            "goal": self.goal_text(),
            "reached": self.is_reached(),
            "notes": self.notes,
        })
    }
}

pub(crate) const HEADING: [&str; 9] =
    ["row", "unit", "chiplog", "beside", "its figure", "ratio", "of laps", "goal", "verdict"];

pub(crate) fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(HEADING);
    table.add_rows(outcomes.iter().map(Outcome::cells));
    for column in [2, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// How many of the goals were reached.
pub(crate) fn summary(outcomes: &[Outcome]) -> String {
    let verdicts = || outcomes.iter().filter_map(Outcome::is_reached);
    let reached = verdicts().filter(|reached| *reached).count();
    format!("{reached} of {} goals reached", verdicts().count())
}

/// Three digits or more, and thousands apart.
pub(crate) fn figure(value: f64) -> String {
    if value.abs() < 100.0 {
        let text = format!("{value:.2}");
        return text.strip_suffix(".00").map_or_else(|| text.clone(), str::to_owned);
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Sorts, too.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
