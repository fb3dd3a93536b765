//! A report, or a comparison, as one page: inline SVG, no script, nothing from elsewhere, readable in light and dark.

mod chart;
mod curve;
mod page;
mod scale;
mod timeline;

use super::compare::Comparison;
use super::model::Report;
use crate::loss_curve::Curve;

/// One run.
pub(crate) fn report(report: &Report) -> String {
    page::report(report)
}

/// Two sides, their curves over each other. The charts over time show the first run of each side.
pub(crate) fn comparison(comparison: &Comparison, base: &[Report], new: &[Report]) -> String {
    page::comparison(comparison, base, new)
}

/// A scenario at several rates of loss.
pub(crate) fn loss_curve(curve: &Curve) -> String {
    page::loss_curve(curve)
}

/// Text inside an element or an attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// Every tag is closed, in order; only these may stay open.
    fn assert_well_formed(page: &str) {
        const VOID: [&str; 3] = ["meta", "!doctype", "br"];
        let mut open: Vec<&str> = Vec::new();
        let style = page.find("<style>").unwrap()..page.find("</style>").unwrap();
        for (at, _) in page.match_indices('<') {
            if style.contains(&at) && at != style.start {
                continue;
            }
            let rest = &page[at + 1..];
            let tag = &rest[..rest.find('>').expect("an end of a tag")];
            let name = tag.split([' ', '\n', '/']).next().unwrap_or_default();
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(
                    open.pop(),
                    Some(closed),
                    "at {}",
                    &page[at..(at + 40).min(page.len())]
                );
            } else if !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn a_page_is_whole_and_needs_nothing_else() {
        let mut run = sample::report();
        run.finish(&["p99_deliver<1us".parse().unwrap()]);
        let comparison =
            Comparison::of(&[run.clone()], &[sample::scaled(2)], None, &[], Vec::new());
        let both = super::comparison(&comparison, &[run.clone()], &[sample::scaled(2)]);
        let loss = loss_curve(&crate::loss_curve::tests::curve());
        for (page, charts) in [(report(&run), 4), (both, 4), (loss, 1)] {
            assert_well_formed(&page);
            for foreign in ["http", "src=", "href=", "@import", "url(", "<script"] {
                assert!(!page.contains(foreign), "{foreign}");
            }
            assert!(
                !page.contains("NaN") && !page.contains("inf "),
                "a coordinate is no number"
            );
            assert_eq!(
                page.matches("<svg").count(),
                page.matches("<title id=").count()
            );
            assert_eq!(
                page.matches("<svg").count(),
                page.matches("<desc id=").count()
            );
            assert!(page.matches("<svg").count() >= charts);
            assert!(page.contains("prefers-color-scheme"));
        }
    }

    #[test]
    fn a_page_says_what_the_text_says() {
        let mut run = sample::report();
        run.finish(&["p99_deliver<1us".parse().unwrap()]);
        let page = report(&run);
        for (name, value) in &run.metrics {
            let unit = crate::report::metrics::definition(name).unwrap().unit;
            assert!(page.contains(name.as_str()), "{name}");
            assert!(page.contains(&escape(&unit.show(*value))), "{name}");
        }
        assert!(page.contains("GATE MISSED"));
        assert!(page.contains("timed out &lt;after 30 s&gt; &amp; &quot;gone&quot;"));
        for (what, value) in run.environment.rows() {
            assert!(
                page.contains(&escape(&what)) && page.contains(&escape(&value)),
                "{what}"
            );
        }
    }

    #[test]
    fn an_empty_run_has_a_page_too() {
        let mut run = sample::report();
        run.phases.clear();
        run.series.clear();
        run.finish(&[]);
        let page = report(&run);
        assert_well_formed(&page);
        assert!(!page.contains("NaN"));
    }
}
