//! A picture of a run: TTFT and ITL over the run's time, and their distributions, as an SVG made by hand.

use std::fmt::Write as _;

use super::client::Told;
use crate::statistics::percentile;

/// A panel's place and size.
struct Panel {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// A point in time (seconds) with a value (milliseconds).
type Point = (f64, f64);

/// The SVG of a run.
pub(crate) fn svg(title: &str, all: &[Told]) -> String {
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
    let ttft: Vec<Point> = all
        .iter()
        .filter_map(|told| {
            Some((told.sent.as_secs_f64(), ms(told.tokens.first()?.saturating_sub(told.sent))))
        })
        .collect();
    let itl: Vec<Point> = all
        .iter()
        .flat_map(|told| told.tokens.windows(2))
        .map(|pair| (pair[1].as_secs_f64(), ms(pair[1].saturating_sub(pair[0]))))
        .collect();
    let mut out = String::new();
    // Writing to a string can't fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"60\" y=\"24\" font-size=\"15\">{}</text>",
        escaped(title)
    );
    for (row, (name, points, colour)) in
        [("time to first token, ms", ttft, "#1f5fa8"), ("between two tokens, ms", itl, "#b5501b")]
            .into_iter()
            .enumerate()
    {
        let y = 60.0 + row as f64 * 250.0;
        over_time(&mut out, &Panel { x: 60.0, y, width: 480.0, height: 180.0 }, name, &points, colour);
        distribution(&mut out, &Panel { x: 600.0, y, width: 235.0, height: 180.0 }, name, &points, colour);
    }
    out.push_str("</svg>\n");
    out
}

const WIDTH: u32 = 900;
const HEIGHT: u32 = 560;
/// More points than pixels say nothing more.
const MAX_POINTS: usize = 4000;

fn over_time(out: &mut String, panel: &Panel, name: &str, points: &[Point], colour: &str) {
    let end = points.iter().map(|point| point.0).fold(1.0, f64::max);
    // One straggler must not flatten the rest; it is drawn at the upper edge.
    let values: Vec<f64> = points.iter().map(|point| point.1).collect();
    let top = nice(percentile(&values, 0.995));
    frame(out, panel, &format!("{name}, over the run (s)"), (0.0, nice(end)), (0.0, top));
    let every = points.len().div_ceil(MAX_POINTS).max(1);
    for &(time, value) in points.iter().step_by(every) {
        let x = panel.x + panel.width * time / nice(end);
        let y = panel.y + panel.height * (1.0 - (value / top).min(1.0));
        let _ = write!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.4\" fill=\"{colour}\" fill-opacity=\"0.4\"/>"
        );
    }
}

/// The share of samples below each value.
fn distribution(out: &mut String, panel: &Panel, name: &str, points: &[Point], colour: &str) {
    let values: Vec<f64> = points.iter().map(|point| point.1).collect();
    let top = nice(percentile(&values, 0.995));
    frame(out, panel, &format!("share below x ({name})"), (0.0, top), (0.0, 1.0));
    let mut path = String::new();
    for step in 0..=100 {
        let share = f64::from(step) / 100.0;
        let value = if values.is_empty() { 0.0 } else { percentile(&values, share) };
        let x = panel.x + panel.width * (value / top).min(1.0);
        let y = panel.y + panel.height * (1.0 - share);
        let _ = write!(path, "{}{x:.1},{y:.1} ", if step == 0 { 'M' } else { 'L' });
    }
    let _ = write!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
    for (share, name) in [(0.5, "p50"), (0.9, "p90"), (0.99, "p99")] {
        let value = if values.is_empty() { 0.0 } else { percentile(&values, share) };
        let x = panel.x + panel.width + 4.0;
        let y = panel.y + panel.height * (1.0 - share) + 4.0;
        let _ = write!(out, "<text x=\"{x}\" y=\"{y:.1}\" font-size=\"9\">{name} {value:.1}</text>");
    }
}

/// Axes with five marks each.
fn frame(out: &mut String, panel: &Panel, name: &str, across: (f64, f64), up: (f64, f64)) {
    let Panel { x, y, width, height } = *panel;
    let _ = write!(
        out,
        "<text x=\"{x}\" y=\"{:.1}\">{}</text><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" \
         fill=\"none\" stroke=\"#888\"/>",
        y - 8.0,
        escaped(name)
    );
    for mark in 0..=4 {
        let share = f64::from(mark) / 4.0;
        let (at_x, at_y) = (x + width * share, y + height * (1.0 - share));
        let _ = write!(
            out,
            "<line x1=\"{at_x:.1}\" y1=\"{y}\" x2=\"{at_x:.1}\" y2=\"{:.1}\" stroke=\"#eee\"/>\
             <line x1=\"{x}\" y1=\"{at_y:.1}\" x2=\"{:.1}\" y2=\"{at_y:.1}\" stroke=\"#eee\"/>\
             <text x=\"{at_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y + height,
            x + width,
            y + height + 16.0,
            number(across.0 + (across.1 - across.0) * share),
            x - 6.0,
            at_y + 4.0,
            number(up.0 + (up.1 - up.0) * share)
        );
    }
}

/// The next of 1, 2, 4, 10, ... that is not below: marks at quarters are then short numbers.
fn nice(value: f64) -> f64 {
    let value = if value.is_finite() && value > 0.0 { value } else { 1.0 };
    let unit = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 10.0].into_iter().map(|factor| factor * unit).find(|&nice| nice >= value).unwrap_or(value)
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::client::Ending;
    use super::*;

    #[test]
    fn a_picture_is_made_of_nothing_and_of_something() {
        assert!(svg("a < b", &[]).contains("a &lt; b"));
        let tokens = (1..50).map(|ms| Duration::from_millis(ms * 10)).collect();
        let told =
            Told { sent: Duration::ZERO, tenant: String::new(), text: false, end: Ending::Done, tokens };
        let picture = svg("run", &[told]);
        assert_eq!(picture.matches("<circle").count(), 49);
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
        assert_eq!((nice(0.3), nice(11.0), nice(0.0)), (0.4, 20.0, 1.0));
    }
}
