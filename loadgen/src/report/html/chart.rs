//! A line chart as SVG: axes, phases as bands, lines, a legend, and words for those who do not see it.

use std::fmt::Write as _;

use super::escape;
use super::scale::Scale;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 30.0;

/// Points of a line that are drawn; more would not be seen, and an hour's page stays small.
pub(super) const POINTS_MAX: usize = 1_200;

/// One line of a chart.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: String,
    /// Class of the style sheet: `c1` to `c5`, with `dash` for what was meant rather than measured.
    pub(super) class: &'static str,
    /// Positions and values; a gap where nothing was measured.
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A part of the horizontal axis with a name.
#[derive(Debug, Clone)]
pub(super) struct Band {
    pub(super) name: String,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// What to draw.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    /// Unique on the page; a word.
    pub(super) id: String,
    pub(super) title: String,
    /// What is to be seen, for those who do not see it.
    pub(super) description: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) bands: Vec<Band>,
    pub(super) lines: Vec<Line>,
}

/// One axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) scale: Scale,
    /// Positions and their texts.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// With the scale's own ticks, shown by `show`.
    pub(super) fn of(scale: Scale, show: impl Fn(f64) -> String) -> Self {
        let ticks = scale.ticks();
        Self {
            scale,
            ticks: ticks.into_iter().map(|tick| (tick, show(tick))).collect(),
        }
    }
}

/// Writing to a String cannot fail.
macro_rules! svg {
    ($out:expr, $($text:tt)*) => {{ let _ = write!($out, $($text)*); }};
}

impl Chart {
    /// As an SVG element.
    pub(super) fn svg(&self) -> String {
        let mut out = String::new();
        let (id, title) = (&self.id, escape(&self.title));
        svg!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{}</desc>\
             <text class=\"name\" x=\"{LEFT}\" y=\"15\">{title}</text>",
            escape(&self.description)
        );
        self.draw_bands(&mut out);
        self.draw_axes(&mut out);
        for line in &self.lines {
            svg!(
                out,
                "<path class=\"line {}\" d=\"{}\"/>",
                line.class,
                self.path(line)
            );
        }
        self.draw_legend(&mut out);
        out.push_str("</svg>\n");
        out
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.scale.at(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.scale.at(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn draw_bands(&self, out: &mut String) {
        // A letter of the small text is about this wide.
        const LETTER: f64 = 6.2;
        let height = HEIGHT - TOP - BOTTOM;
        for (at, band) in self.bands.iter().enumerate() {
            let (from, to) = (self.x(band.from), self.x(band.to));
            let class = if at % 2 == 0 { "band" } else { "band odd" };
            svg!(
                out,
                "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{height}\"/>",
                (to - from).max(0.0)
            );
            if band.name.chars().count() as f64 * LETTER < to - from - 8.0 {
                svg!(
                    out,
                    "<text class=\"small\" x=\"{:.1}\" y=\"{}\">{}</text>",
                    from + 4.0,
                    TOP + 12.0,
                    escape(&band.name)
                );
            }
        }
    }

    fn draw_axes(&self, out: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, text) in &self.y.ticks {
            let y = self.y(*value);
            svg!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
                 <text class=\"small end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                escape(text)
            );
        }
        for (value, text) in &self.x.ticks {
            let x = self.x(*value);
            svg!(
                out,
                "<path class=\"grid\" d=\"M{x:.1} {bottom}v4\"/>\
                 <text class=\"small mid\" x=\"{x:.1}\" y=\"{}\">{}</text>",
                bottom + 17.0,
                escape(text)
            );
        }
        svg!(out, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>");
    }

    /// Lifts the pen where nothing was measured. A point alone is drawn as a dot, by a line of no length with round ends.
    fn path(&self, line: &Line) -> String {
        let every = line.points.len().div_ceil(POINTS_MAX).max(1);
        let mut path = String::new();
        let mut drawing = false;
        for few in line.points.chunks(every) {
            // The highest of those that fall together: a peak must not vanish.
            let highest = few
                .iter()
                .filter_map(|(x, y)| Some((*x, (*y).filter(|y| y.is_finite())?)))
                .max_by(|a, b| a.1.total_cmp(&b.1));
            let Some((x, y)) = highest else {
                drawing = false;
                continue;
            };
            let (x, y) = (self.x(x), self.y(y));
            match drawing {
                true => svg!(path, "L{x:.1} {y:.1}"),
                false => svg!(path, "M{x:.1} {y:.1}h0"),
            }
            drawing = true;
        }
        path
    }

    /// At the right of the title, from the right.
    fn draw_legend(&self, out: &mut String) {
        const LETTER: f64 = 6.6;
        let mut x = WIDTH - RIGHT;
        for line in self.lines.iter().rev() {
            x -= line.name.chars().count() as f64 * LETTER;
            svg!(
                out,
                "<text class=\"legend\" x=\"{x:.1}\" y=\"15\">{}</text>\
                 <path class=\"line {}\" d=\"M{:.1} 11h16\"/>",
                escape(&line.name),
                line.class,
                x - 22.0
            );
            x -= 38.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, Option<f64>)>) -> Chart {
        let axis = || Axis::of(Scale::linear(10.0), |tick| tick.to_string());
        Chart {
            id: "a".to_owned(),
            title: "A <title>".to_owned(),
            description: "d".to_owned(),
            x: axis(),
            y: axis(),
            bands: vec![Band {
                name: "ramp".to_owned(),
                from: 0.0,
                to: 10.0,
            }],
            lines: vec![Line {
                name: "line".to_owned(),
                class: "c1",
                points,
            }],
        }
    }

    #[test]
    fn a_gap_lifts_the_pen() {
        let chart = chart(vec![(0.0, Some(0.0)), (5.0, None), (10.0, Some(10.0))]);
        assert_eq!(chart.path(&chart.lines[0]), "M74.0 220.0h0M932.0 40.0h0");
    }

    #[test]
    fn a_peak_survives_thinning() {
        let count = POINTS_MAX * 10;
        let points = (0..count)
            .map(|n| {
                (
                    10.0 * n as f64 / count as f64,
                    Some(if n == 5_003 { 10.0 } else { 1.0 }),
                )
            })
            .collect();
        let chart = chart(points);
        let path = chart.path(&chart.lines[0]);
        assert!(path.contains(" 40.0"), "the top");
        assert!(path.matches(['M', 'L']).count() <= POINTS_MAX);
    }

    #[test]
    fn words_are_escaped_and_bands_named() {
        let svg = chart(vec![(1.0, Some(1.0))]).svg();
        assert!(svg.contains("A &lt;title&gt;") && !svg.contains("A <title>"));
        assert!(svg.contains(">ramp</text>"));
    }
}
