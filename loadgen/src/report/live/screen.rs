//! The screen of a running run.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline, Wrap};

use crate::measure::{Progress, Sample};
use crate::report::metrics::{Unit, grouped};

/// Rows of the part with numbers, its border included.
const NUMBERS_HEIGHT: u16 = 10;
/// Rows of verdict and failures.
const TROUBLE_HEIGHT: u16 = 6;

/// Seconds in one bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Scale {
    /// As many as make the whole run fit.
    #[default]
    Whole,
    /// So many.
    Seconds(usize),
}

impl Scale {
    const STEPS: [usize; 5] = [1, 2, 5, 10, 60];

    /// What a key makes of it: `+` more seconds, `-` fewer, `a` the whole run.
    pub(super) fn changed(self, key: char) -> Self {
        let at = |seconds| Self::STEPS.iter().position(|step| *step == seconds);
        let last = Self::STEPS.len() - 1;
        match (self, key) {
            (Self::Whole, '-') => Self::Seconds(Self::STEPS[0]),
            (Self::Whole, '+') => Self::Seconds(Self::STEPS[last]),
            (Self::Seconds(now), '+') => {
                Self::Seconds(Self::STEPS[at(now).map_or(0, |n| (n + 1).min(last))])
            }
            (Self::Seconds(now), '-') => {
                Self::Seconds(Self::STEPS[at(now).map_or(0, |n| n.saturating_sub(1))])
            }
            _ => Self::Whole,
        }
    }

    fn seconds(self, samples: usize, width: usize) -> usize {
        match self {
            Self::Whole => samples.div_ceil(width.max(1)).max(1),
            Self::Seconds(seconds) => seconds,
        }
    }
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, progress: &Progress, scale: Scale) {
    let [head, phase, numbers, charts, trouble, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(NUMBERS_HEIGHT),
        Constraint::Min(4),
        Constraint::Length(TROUBLE_HEIGHT),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, progress);
    draw_phase(frame, phase, progress);
    draw_numbers(frame, numbers, progress);
    draw_charts(frame, charts, progress, scale);
    draw_trouble(frame, trouble, progress);
    let help = "q or Ctrl-C: end the run and report   + - : seconds a bar   a : the whole run";
    frame.render_widget(Paragraph::new(help).style(faint()), keys);
}

fn faint() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, progress: &Progress) {
    let scenario = &progress.scenario;
    let line = Line::from(vec![
        Span::styled(scenario.name.clone(), bold()),
        Span::raw(format!("  seed {}  {}", scenario.seed, scenario.about)),
    ]);
    frame.render_widget(Paragraph::new(line), area);
}

fn draw_phase(frame: &mut Frame<'_>, area: Rect, progress: &Progress) {
    let name = progress.phase_names.get(progress.phase);
    let phase = name.map_or_else(
        || "starting".to_owned(),
        |name| {
            let (number, all) = (progress.phase + 1, progress.phase_names.len());
            format!("phase {number} of {all}: {name}")
        },
    );
    let label = format!(
        "{phase}  {:.0} of {:.0} s    run {:.0} of at most {:.0} s",
        progress.phase_seconds, progress.phase_seconds_max, progress.seconds, progress.seconds_max,
    );
    let done = match progress.phase_seconds_max > 0.0 {
        true => (progress.phase_seconds / progress.phase_seconds_max).clamp(0.0, 1.0),
        false => 0.0,
    };
    let gauge = Gauge::default()
        .ratio(done)
        .label(label)
        .gauge_style(Style::new().fg(Color::Blue));
    frame.render_widget(gauge, area);
}

/// The last second in three columns.
fn draw_numbers(frame: &mut Frame<'_>, area: Rect, progress: &Progress) {
    let columns: [Rect; 3] = Layout::horizontal([Constraint::Fill(1); 3]).areas(area);
    let empty = Sample::default();
    let last = progress.samples.last().unwrap_or(&empty);
    let count = |n: u64| grouped(n as f64);
    let ms = |value: Option<f64>| optional(value.map(|ms| Unit::Milliseconds.show(ms)));
    let mib = |bytes: u64| grouped(bytes as f64 / 1_048_576.0);
    let parts: [(&str, Vec<(&str, String)>); 3] = [
        (
            "messages, last second",
            vec![
                ("due", count(last.target)),
                ("sent", count(last.sent)),
                ("acked", count(last.acked)),
                ("delivered", count(last.delivered)),
                ("shed", count(last.shed)),
                ("under way", count(progress.under_way)),
                ("verified", count(progress.totals.delivered)),
            ],
        ),
        (
            "latency since due",
            vec![
                ("delivery p50", ms(last.deliver_p50_ms)),
                ("delivery p99", ms(last.deliver_p99_ms)),
                ("ack p50", ms(last.ack_p50_ms)),
                ("ack p99", ms(last.ack_p99_ms)),
                ("lag p99", ms(last.lag_p99_ms)),
                ("connections", count(progress.connections)),
                ("planned", count(progress.scenario.connections)),
            ],
        ),
        (
            "machine",
            vec![
                (
                    "gateway cores",
                    optional(last.gateway_cores.map(|cores| format!("{cores:.2}"))),
                ),
                ("gateway MiB", optional(last.gateway_rss_bytes.map(mib))),
                ("generator cores", format!("{:.2}", last.generator_cores)),
                ("generator MiB", mib(last.generator_rss_bytes)),
                ("drops, own", count(last.generator_drops)),
                ("drops, gateway", optional(last.gateway_drops.map(count))),
                ("drops, scenario", count(last.network_drops)),
                (
                    "log-ins / lost",
                    format!("{} / {}", count(last.logins), count(last.connections_lost)),
                ),
            ],
        ),
    ];
    for ((title, rows), area) in parts.into_iter().zip(columns) {
        let width = usize::from(area.width.saturating_sub(2));
        let lines: Vec<Line<'_>> = rows
            .into_iter()
            .map(|(name, value)| {
                let gap = width.saturating_sub(name.len() + 2);
                Line::from(vec![
                    Span::styled(format!(" {name}"), faint()),
                    Span::raw(format!("{value:>gap$}")),
                ])
            })
            .collect();
        frame.render_widget(
            Paragraph::new(lines).block(Block::bordered().title(title)),
            area,
        );
    }
}

fn optional(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn draw_charts(frame: &mut Frame<'_>, area: Rect, progress: &Progress, scale: Scale) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    let width = usize::from(left.width.saturating_sub(2));
    let seconds = scale.seconds(progress.samples.len(), width);
    let title = |what: &str, most: String| format!("{what}, top {most}, bar {seconds} s");
    let rates = bars(&progress.samples, seconds, width, |second| {
        second.delivered as f64
    });
    let most = rates.iter().copied().max().unwrap_or(0);
    draw_bars(
        frame,
        left,
        title("delivered/s", grouped(most as f64)),
        &rates,
        Color::Blue,
    );
    let late = bars(&progress.samples, seconds, width, |second| {
        second.deliver_p99_ms.unwrap_or(0.0) * 1_000.0
    });
    let most = late.iter().copied().max().unwrap_or(0);
    let shown = Unit::Milliseconds.show(most as f64 / 1_000.0);
    draw_bars(
        frame,
        right,
        title("delivery p99", shown),
        &late,
        Color::Yellow,
    );
}

fn draw_bars(frame: &mut Frame<'_>, area: Rect, title: String, bars: &[u64], color: Color) {
    let chart = Sparkline::default()
        .data(bars)
        .style(Style::new().fg(color))
        .block(Block::bordered().title(title));
    frame.render_widget(chart, area);
}

/// The latest bars that fit; each is the highest of its seconds, for a peak must not vanish.
fn bars(samples: &[Sample], seconds: usize, width: usize, of: impl Fn(&Sample) -> f64) -> Vec<u64> {
    let mut bars: Vec<u64> = samples
        .chunks(seconds)
        .map(|few| few.iter().map(&of).fold(0.0, f64::max) as u64)
        .collect();
    bars.drain(..bars.len().saturating_sub(width));
    bars
}

/// Faults and failures; an error must not hide behind a screen.
fn draw_trouble(frame: &mut Frame<'_>, area: Rect, progress: &Progress) {
    let faults: Vec<String> = progress
        .verdicts
        .each()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{} {kind}", grouped(count as f64)))
        .collect();
    let mut lines = vec![match faults.is_empty() {
        true => Line::styled(
            "no fault so far; what is lost is known at the end",
            Style::new().fg(Color::Green),
        ),
        false => Line::styled(
            format!("FAULTS: {}", faults.join(", ")),
            bold().fg(Color::Red),
        ),
    }];
    // The most frequent first: with little room the others are cut off.
    let mut failures: Vec<_> = progress.failures.iter().collect();
    failures.sort_by_key(|(_, failure)| std::cmp::Reverse(failure.count));
    for (kind, failure) in failures {
        let count = grouped(failure.count as f64);
        lines.push(Line::raw(format!("{count} x {kind}: {}", failure.example)));
    }
    let block = Block::bordered().title("verdict and failures");
    frame.render_widget(
        Paragraph::new(lines).wrap(Wrap { trim: true }).block(block),
        area,
    );
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::report::sample;

    fn shown(width: u16, height: u16, progress: &Progress, scale: Scale) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, progress, scale)).unwrap();
        terminal.backend().to_string()
    }

    fn assert_shown(name: &str, screen: String) {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, screen);
        });
    }

    #[test]
    fn a_run_under_way() {
        let progress = sample::progress();
        assert_shown(
            "live_under_way",
            shown(110, 28, &progress, Scale::default()),
        );
    }

    #[test]
    fn a_run_with_faults_on_a_small_terminal() {
        let mut progress = sample::progress();
        progress.verdicts.lost = 3;
        progress.verdicts.duplicated = 1_200;
        assert_shown("live_faults", shown(80, 24, &progress, Scale::Seconds(2)));
    }

    #[test]
    fn large_numbers_fit_a_small_terminal() {
        let mut progress = sample::progress();
        progress.connections = 100_000;
        progress.totals.delivered = 123_456_789;
        let last = progress.samples.last_mut().unwrap();
        last.sent = 1_234_567;
        last.lag_p99_ms = Some(12_345.6);
        last.gateway_rss_bytes = Some(20_000 << 20);
        let screen = shown(80, 24, &progress, Scale::default());
        for row in [
            "│ connections    100,000 │",
            "│ verified    123,456,789 │",
            "│ sent          1,234,567 │",
            "│ lag p99      12,346 ms │",
            "│ gateway MiB      20,000 │",
        ] {
            assert!(screen.contains(row), "{row}\n{screen}");
        }
    }

    #[test]
    fn the_first_moment() {
        assert_shown(
            "live_first_moment",
            shown(80, 24, &Progress::default(), Scale::default()),
        );
    }

    #[test]
    fn any_size_is_drawn() {
        for (width, height) in [(1, 1), (20, 5), (300, 100)] {
            let screen = shown(width, height, &sample::progress(), Scale::default());
            assert_eq!(screen.lines().count(), usize::from(height));
        }
    }

    #[test]
    fn the_scale_follows_its_keys() {
        let scale = Scale::default();
        assert_eq!(scale.changed('-'), Scale::Seconds(1));
        assert_eq!(scale.changed('-').changed('+'), Scale::Seconds(2));
        assert_eq!(scale.changed('-').changed('-'), Scale::Seconds(1));
        assert_eq!(scale.changed('+').changed('+'), Scale::Seconds(60));
        assert_eq!(scale.changed('-').changed('a'), Scale::Whole);
    }

    #[test]
    fn a_peak_stays_in_its_bar() {
        let mut samples = vec![Sample::default(); 10];
        samples[6].delivered = 9;
        let of = |second: &Sample| second.delivered as f64;
        assert_eq!(bars(&samples, 5, 10, of), [0, 9]);
        assert_eq!(bars(&samples, 1, 4, of), [9, 0, 0, 0]);
    }
}
