//! One picture of all goals: how far each is passed or missed.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::suite::outcome::Outcome;
use crate::suite::race::{Bound, Goal};

/// Draws a bar for each line that has a goal: right of the middle it is reached.
pub(crate) fn draw(path: &Path, title: &str, outcomes: &[Outcome]) -> Result<(), Box<dyn Error>> {
    let bars: Vec<(&str, f64)> =
        outcomes.iter().filter_map(|outcome| Some((outcome.name.as_str(), score(outcome)?))).collect();
    let height = 90 + LINE_HEIGHT * bars.len() as u32;
    let area = SVGBackend::new(path, (1_100, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 15))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(320)
        .build_cartesian_2d((LEAST..MOST).log_scale().base(2.0), 0..bars.len())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .disable_y_axis()
        .x_desc("times the goal: more is better, 1 is reached")
        .x_label_formatter(&|x| format!("{x:.2}"))
        .draw()?;
    for (at, (name, score)) in bars.iter().rev().enumerate() {
        let end = score.clamp(LEAST, MOST);
        let color = if *score >= 1.0 { REACHED } else { MISSED };
        let (left, right) = (end.min(1.0), end.max(1.0));
        chart.draw_series([Rectangle::new([(left, at), (right, at + 1)], color.filled())])?;
        let text = format!("{name}  {score:.2}");
        let (_, y) = chart.backend_coord(&(LEAST, at));
        area.draw(&Text::new(text, (12, y - LINE_HEIGHT as i32 + 3), ("sans-serif", 12)))?;
    }
    area.present()?;
    Ok(())
}

/// How many times the goal it is; the other way round where less is better.
fn score(outcome: &Outcome) -> Option<f64> {
    let (value, bound) = match outcome.goal {
        Goal::Ratio(bound) => (outcome.ratio()?, bound),
        Goal::Value(bound) => (outcome.ours, bound),
        Goal::None => return None,
    };
    Some(match bound {
        Bound::AtLeast(least) => value / least,
        Bound::AtMost(most) => most / value,
    })
}

const LINE_HEIGHT: u32 = 18;
const LEAST: f64 = 1.0 / 32.0;
const MOST: f64 = 32.0;
const REACHED: RGBColor = RGBColor(0x2E, 0x7D, 0x32);
const MISSED: RGBColor = RGBColor(0xC6, 0x28, 0x28);
