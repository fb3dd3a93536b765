//! A report as one page.

use super::compare::Comparison;
use super::model::Report;

/// One run.
pub(crate) fn report(report: &Report) -> String {
    super::text::render(report)
}

/// Two sides.
pub(crate) fn comparison(comparison: &Comparison, _base: &[Report], _new: &[Report]) -> String {
    comparison.text()
}
