//! The report for people.

use std::fmt::Write;

use crate::report::{Measured, Report};
use crate::statistics::Summary;

const COLUMNS: [&str; 15] = [
    "adapter",
    "requests",
    "failed",
    "req/s",
    "prompt tok/s",
    "tok/s",
    "TTFT mean",
    "p50",
    "p90",
    "p99",
    "ITL p50",
    "p90",
    "p99",
    "total p50",
    "p99",
];

/// The table of `report`: the total first, then adapters unless `total_only`. Times are milliseconds.
pub(crate) fn render(report: &Report, total_only: bool) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned), row("all", &report.total)];
    if !total_only {
        rows.extend(report.adapters.iter().map(|(name, measured)| row(name, measured)));
    }
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ =
                if column == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
    }
    let _ = write!(text, "\n{:.1} s measured; times in ms", report.seconds);
    for (kind, count) in &report.total.errors {
        let _ = write!(text, "\n{count} failed: {kind}");
    }
    text
}

fn row(name: &str, measured: &Measured) -> [String; 15] {
    let time = |summary: Option<Summary>, of: fn(&Summary) -> f64| {
        summary.map_or("-".to_owned(), |s| format!("{:.1}", of(&s)))
    };
    let (first, gap, total) = (measured.time_to_first_token_ms, measured.inter_token_ms, measured.total_ms);
    [
        name.to_owned(),
        measured.requests.to_string(),
        measured.errors.values().sum::<usize>().to_string(),
        format!("{:.2}", measured.requests_per_second),
        format!("{:.1}", measured.prompt_tokens_per_second),
        format!("{:.1}", measured.output_tokens_per_second),
        time(first, |s| s.mean),
        time(first, |s| s.p50),
        time(first, |s| s.p90),
        time(first, |s| s.p99),
        time(gap, |s| s.p50),
        time(gap, |s| s.p90),
        time(gap, |s| s.p99),
        time(total, |s| s.p50),
        time(total, |s| s.p99),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_failures_are_named() {
        let mut total = Measured { requests: 1234, ..Measured::default() };
        total.errors.insert("status 429".to_owned(), 3);
        let adapters = [("a_long_adapter_name".to_owned(), Measured::default())].into();
        let report =
            Report { url: String::new(), users: Some(1), rate: None, seed: 1, seconds: 2.0, total, adapters };
        let text = render(&report, false);
        let lengths: Vec<usize> = text.lines().take(3).map(|line| line.chars().count()).collect();
        assert!(lengths.iter().all(|&length| length == lengths[0]), "{text}");
        assert!(text.ends_with("3 failed: status 429"), "{text}");
        assert!(!render(&report, true).contains("a_long"));
    }
}
