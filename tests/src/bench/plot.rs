//! Plots, as SVG.

use std::{ops::Range, path::Path};

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

/// Of one panel, in pixels.
const SIZE: (u32, u32) = (460, 340);
/// Of the title.
const HEAD: u32 = 36;
/// Of a line of the legend.
const LEGEND: u32 = 18;
/// Lines of so many points at most have their points marked.
const MARKED: usize = 10;
/// Told apart by everybody (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(0, 0, 0),
];

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from 0 on.
    Linear,
    /// By powers of ten.
    Log,
}

/// A line with its name.
pub struct Line {
    /// For the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
    /// Where there was nothing to measure, to the right: crosses at the top edge.
    pub missing: Vec<f64>,
}

/// One diagram of a plot.
pub struct Panel {
    /// Above it.
    pub title: String,
    /// What is to the right.
    pub x: (&'static str, Scale),
    /// What is upwards.
    pub y: (&'static str, Scale),
    /// What is in it.
    pub lines: Vec<Line>,
}

/// How much, in percent, of sorted values is at most so large: a step for each value, or for each of some of many.
pub fn cdf(sorted: &[f64]) -> Vec<(f64, f64)> {
    const MOST: usize = 400;
    let count = sorted.len();
    let steps = count.min(MOST);
    let mut points = vec![];
    let mut part = 0.0;
    for step in 1..=steps {
        let number = (count * step).div_ceil(steps);
        let value = sorted[number - 1];
        points.push((value, part));
        part = number as f64 / count as f64 * 100.0;
        points.push((value, part));
    }
    points
}

/// Draws panels, side by side, so many in a row. All have lines of the same names, and the same range to the right.
pub fn draw(path: &Path, title: &str, columns: usize, panels: &[Panel]) -> Result<()> {
    let rows = panels.len().div_ceil(columns) as u32;
    let width = SIZE.0 * columns as u32;
    let names: Vec<&str> =
        panels.first().map_or(&[][..], |panel| &panel.lines).iter().map(|line| &*line.name).collect();
    let legend = legend(&names, width);
    let head = HEAD + legend.last().map_or(0, |last| last.1 as u32 + LEGEND);
    let backend = SVGBackend::new(path, (width, SIZE.1 * rows + head));
    let drawn = draw_on(&backend.into_drawing_area(), (title, head), (rows as usize, columns), &names, &legend, panels);
    drawn.map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

type Area<'b> = DrawingArea<SVGBackend<'b>, Shift>;
type Drawn<'b> = std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'b> as DrawingBackend>::ErrorType>>;

/// Where each name of the legend begins, below the title.
fn legend(names: &[&str], width: u32) -> Vec<(i32, i32)> {
    const LEFT: i32 = 16;
    let mut at = (LEFT, 0);
    let mut places = vec![];
    for name in names {
        // There is no font to ask.
        let length = 40 + 6 * name.len() as i32;
        if at.0 + length > width as i32 {
            at = (LEFT, at.1 + LEGEND as i32);
        }
        places.push(at);
        at.0 += length;
    }
    places
}

fn draw_on<'b>(
    root: &Area<'b>,
    (title, head): (&str, u32),
    layout: (usize, usize),
    names: &[&str],
    legend: &[(i32, i32)],
    panels: &[Panel],
) -> Drawn<'b> {
    root.fill(&WHITE)?;
    let (top, area) = root.split_vertically(head);
    top.titled(title, ("sans-serif", 20))?;
    for ((name, (x, y)), colour) in names.iter().zip(legend).zip(colours()) {
        let y = y + (HEAD + LEGEND / 2) as i32;
        top.draw(&PathElement::new([(*x, y), (x + 18, y)], colour.stroke_width(2)))?;
        top.draw(&Text::new(*name, (x + 24, y - 6), ("sans-serif", 12)))?;
    }
    let lines = panels.iter().flat_map(|panel| &panel.lines);
    let across = lines.flat_map(|line| line.points.iter().map(|point| point.0).chain(line.missing.iter().copied()));
    for (panel, area) in panels.iter().zip(area.split_evenly(layout)) {
        panel.draw(&area, panel.x.1.range(across.clone()))?;
    }
    root.present()
}

fn colours() -> impl Iterator<Item = &'static RGBColor> {
    COLOURS.iter().cycle()
}

impl Panel {
    fn points(&self) -> impl Iterator<Item = &(f64, f64)> + Clone {
        self.lines.iter().flat_map(|line| &line.points)
    }

    fn draw<'b>(&self, area: &Area<'b>, across: Range<f64>) -> Drawn<'b> {
        let (x, y) = (self.x.1, self.y.1);
        let up = y.range(self.points().map(|point| point.1));
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(across.clone(), up.clone())?;
        chart
            .configure_mesh()
            .x_desc(self.x.0)
            .y_desc(self.y.0)
            .x_labels(x.labels(&across))
            .y_labels(y.labels(&up))
            .x_label_formatter(&|value| x.label(*value))
            .y_label_formatter(&|value| y.label(*value))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (line, colour) in self.lines.iter().zip(colours()) {
            let points: Vec<_> = line.points.iter().map(|point| (x.place(point.0), y.place(point.1))).collect();
            if points.len() <= MARKED {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
            }
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
            let crosses = line.missing.iter().map(|at| Cross::new((x.place(*at), up.end), 5, colour.stroke_width(2)));
            chart.draw_series(crosses)?;
        }
        Ok(())
    }
}

impl Scale {
    /// What can be told from nothing.
    const LEAST: f64 = 1e-3;

    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(Self::LEAST).log10(),
        }
    }

    /// What these values need.
    fn range(self, values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
        let places = values.map(|value| self.place(value));
        let [least, most] = [places.clone().fold(f64::MAX, f64::min), places.fold(f64::MIN, f64::max)];
        match self {
            _ if least > most => 0.0..1.0,
            Self::Linear => least.min(0.0)..(most * 1.05).max(0.1),
            Self::Log => least.floor()..most.ceil().max(least.floor() + 1.0),
        }
    }

    /// How many labels there are.
    fn labels(self, range: &Range<f64>) -> usize {
        match self {
            Self::Linear => 6,
            Self::Log => (range.end - range.start) as usize + 1,
        }
    }

    fn label(self, place: f64) -> String {
        let value = if self == Self::Log { 10_f64.powf(place) } else { place };
        match value.abs() {
            1e6.. => format!("{}M", value / 1e6),
            1e3.. => format!("{}k", value / 1e3),
            // No more digits than it has.
            _ => format!("{}", (value * 1e3).round() / 1e3),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::folder::Folder;

    #[test]
    fn a_distribution_rises_by_a_step_for_each_value() {
        assert_eq!(cdf(&[1.0, 3.0]), [(1.0, 0.0), (1.0, 50.0), (3.0, 50.0), (3.0, 100.0)]);
        let many: Vec<_> = (0..10_000).map(f64::from).collect();
        let points = cdf(&many);
        assert_eq!((points.len(), points.last()), (800, Some(&(9999.0, 100.0))));
        assert_eq!(cdf(&[]), []);
    }

    #[test]
    fn a_plot_has_titles_names_and_powers_of_ten() {
        let folder = Folder::new("plot").unwrap();
        let path = folder.path().join("plot.svg");
        let panel = |title: &str, points| Panel {
            title: title.to_owned(),
            x: ("frames a second", Scale::Log),
            y: ("CPU, %", Scale::Linear),
            lines: vec![Line { name: "carpd".to_owned(), points, missing: vec![] }],
        };
        let mut panels = [panel("some", vec![(1.0, 0.0), (100_000.0, 12.0)]), panel("none", vec![])];
        let drawn = |panels: &[Panel]| {
            draw(&path, "What it costs", 2, panels).unwrap();
            fs::read_to_string(&path).unwrap()
        };
        let svg = drawn(&panels);
        for text in ["What it costs", "some", "none", "carpd", "frames a second", "CPU, %", "100k"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        // What is missing is to be seen, also if there is nothing else.
        panels[1].lines[0].missing.push(1000.0);
        let strokes = |svg: &str| svg.matches("<line").count() + svg.matches("<polyline").count();
        assert_eq!(strokes(&drawn(&panels)), strokes(&svg) + 2);
    }
}
