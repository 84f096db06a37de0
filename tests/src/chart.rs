//! A picture of what a comparison measured: how many times the first program's figure
//! each figure of the others is, on a logarithmic scale.
//!
//! The same results give the same bytes. The background is part of the picture, so that
//! it can be read on dark pages too, and the fonts are the reader's.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::results::{Results, Row};

/// Pixels of the picture, and of what is around the scale.
const WIDTH: u32 = 880;
const LABELS: u32 = 340;
const RIGHT: u32 = 90;
/// More, where a program's name is beside its bar.
const RIGHT_OF_SEVERAL: u32 = 240;
const TOP: u32 = 64;
const BOTTOM: u32 = 14;
const LINE: u32 = 22;

/// Characters that fit beside the scale.
const LABEL_LEN: usize = 52;

const TEXT: RGBColor = RGBColor(31, 35, 40);
const FAINT: RGBColor = RGBColor(101, 109, 118);
const GRID: RGBColor = RGBColor(216, 222, 228);
const MORE: RGBColor = RGBColor(45, 130, 90);
const LESS: RGBColor = RGBColor(200, 100, 30);

/// Ratios that the scale shows at most: others end at its edge.
const LOWEST: f64 = 0.01;
const HIGHEST: f64 = 100_000.0;

/// The scale reaches as far as this in any case.
const NARROWEST: (f64, f64) = (0.5, 2.0);

/// A line of the picture.
enum Line<'a> {
    Title(&'a str),
    /// A row, or another program's figure in it.
    Figure {
        name: String,
        /// `None` where no other program has a figure.
        ratio: Option<f64>,
        /// Whose it is, where there are several.
        program: Option<&'a str>,
    },
}

/// Draws results as SVG.
///
/// # Errors
///
/// If there is no program.
pub fn draw(results: &Results) -> Result<String> {
    let [first, others @ ..] = &*results.programs else {
        return Err(anyhow!("a picture compares programs"));
    };
    let lines = lines(results);
    let ratios = || {
        lines.iter().filter_map(|line| match line {
            Line::Figure { ratio, .. } => *ratio,
            Line::Title(_) => None,
        })
    };
    let (low, high) = (
        ratios().fold(NARROWEST.0, f64::min).max(LOWEST),
        ratios().fold(NARROWEST.1, f64::max).min(HIGHEST),
    );
    let count = u32::try_from(lines.len())?;
    let height = TOP + count.max(1) * LINE + BOTTOM;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let heading = match others {
            [other] => format!("{other}, compared with {first}"),
            _ => format!("Others, compared with {first}"),
        };
        root.draw(&Text::new(heading, (16, 18), style(18, TEXT, HPos::Left)))
            .map_err(failed)?;
        let explained =
            format!("how many times as much it takes; to the right of 1×, {first} takes less");
        root.draw(&Text::new(
            explained,
            (16, 38),
            style(14, FAINT, HPos::Left),
        ))
        .map_err(failed)?;

        let mut chart = ChartBuilder::on(&root)
            .margin_top(TOP)
            .margin_bottom(BOTTOM)
            .margin_left(LABELS)
            .margin_right(match others {
                [_, _, ..] => RIGHT_OF_SEVERAL,
                _ => RIGHT,
            })
            .build_cartesian_2d((low..high).log_scale(), f64::from(count.max(1))..0.0)
            .map_err(failed)?;
        for mark in marks(low, high) {
            let color = if mark == 1.0 { FAINT } else { GRID };
            let line = PathElement::new([(mark, 0.0), (mark, f64::from(count))], color);
            let name = Text::new(times(mark), (0, -8), style(12, FAINT, HPos::Center));
            let name = EmptyElement::at((mark, 0.0)) + name;
            chart.draw_series([line]).map_err(failed)?;
            chart.draw_series([name]).map_err(failed)?;
        }
        for (number, line) in (0..count).zip(&lines) {
            let middle = f64::from(number) + 0.5;
            let mut write = |at, offset, text: String, style| {
                let text = EmptyElement::at((at, middle)) + Text::new(text, offset, style);
                chart.draw_series([text]).map(drop).map_err(failed)
            };
            let (name, end, value, color) = match line {
                Line::Title(title) => {
                    let mut bold = style(14, TEXT, HPos::Left);
                    bold.font = bold.font.style(FontStyle::Bold);
                    let left = 16 - i32::try_from(LABELS)?;
                    write(low, (left, 2), (*title).to_owned(), bold)?;
                    continue;
                }
                Line::Figure {
                    name,
                    ratio,
                    program,
                } => match ratio {
                    Some(ratio) => {
                        let color = if *ratio < 1.0 { LESS } else { MORE };
                        let value = format!("{} {}", times(*ratio), program.unwrap_or_default());
                        (
                            name,
                            ratio.clamp(low, high),
                            value.trim_end().to_owned(),
                            color,
                        )
                    }
                    None => (name, 1.0, "no figure".to_owned(), FAINT),
                },
            };
            write(low, (-10, 0), short(name), style(14, TEXT, HPos::Right))?;
            write(end.max(1.0), (6, 0), value, style(14, TEXT, HPos::Left))?;
            let bar = [(end.min(1.0), middle - 0.3), (end.max(1.0), middle + 0.3)];
            let bar = Rectangle::new(bar, color.filled());
            chart.draw_series([bar]).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

/// How text looks that is written on one side of a point.
fn style(size: i32, color: RGBColor, side: HPos) -> TextStyle<'static> {
    let mut style = TextStyle::from(("sans-serif", size)).pos(Pos::new(side, VPos::Center));
    style.color = color.to_backend_color();
    style
}

fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

/// What there is to show: no figures that are zero for the first program.
fn lines(results: &Results) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for group in &results.groups {
        let shown: Vec<_> = group
            .rows
            .iter()
            .flat_map(|row| figures(row, &results.programs))
            .collect();
        if !shown.is_empty() {
            lines.push(Line::Title(&group.title));
            lines.extend(shown);
        }
    }
    lines
}

fn figures<'a>(row: &Row, programs: &'a [String]) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    // Of a rate, more is better.
    if row.unit.ends_with("/s") {
        return lines;
    }
    let mut name = row.name();
    for (number, program) in programs.iter().enumerate() {
        if let Some(ratio) = row.ratio(number).filter(|ratio| *ratio > 0.0) {
            lines.push(Line::Figure {
                name: std::mem::take(&mut name),
                ratio: Some(ratio),
                program: (programs.len() > 2).then_some(program),
            });
        }
    }
    let others = row.values.get(1..).unwrap_or_default();
    if !others.is_empty() && others.iter().all(Result::is_err) {
        lines.push(Line::Figure {
            name,
            ratio: None,
            program: None,
        });
    }
    lines
}

/// The ratios that have a name on the scale.
fn marks(low: f64, high: f64) -> Vec<f64> {
    let wide = high / low > 200.0;
    let steps: &[i32] = if wide { &[1] } else { &[1, 2, 5] };
    let powers = (-2..=5).map(|power| 10f64.powi(power));
    let marks = powers.flat_map(|power| steps.iter().map(move |step| power * f64::from(*step)));
    marks.filter(|mark| (low..=high).contains(mark)).collect()
}

/// A ratio in words: with two decimals while these say something.
pub(crate) fn times(ratio: f64) -> String {
    if ratio >= 9.995 {
        format!("{ratio:.0}×")
    } else {
        let text = format!("{ratio:.2}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}×")
    }
}

/// A text, or as much of it as there is room for.
fn short(text: &str) -> String {
    if text.chars().count() <= LABEL_LEN {
        return text.to_owned();
    }
    let cut = text.chars().take(LABEL_LEN - 1);
    cut.chain(['…']).collect()
}
