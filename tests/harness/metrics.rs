//! Prometheus text, read back.

use std::collections::BTreeMap;
use std::fmt;

/// A scrape: series by `name{labels}` as they were written.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text form.
    ///
    /// # Panics
    /// When a line is none of it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
        };
        Self(lines.map(sample).collect())
    }

    /// The sum of every series of `name`; `None` when there is none.
    #[must_use]
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.sum_where(name, "")
    }

    /// As [`Self::sum`], of the series whose labels contain `label` (`tier="resident"`).
    #[must_use]
    pub fn sum_where(&self, name: &str, label: &str) -> Option<f64> {
        let is_of = |series: &str| series.split('{').next() == Some(name) && series.contains(label);
        let mut values = self.0.iter().filter(|(series, _)| is_of(series)).map(|(_, value)| value).peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// The series whose name begins with `prefix`.
    pub fn beginning<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0
            .iter()
            .filter(move |(series, _)| series.starts_with(prefix))
            .map(|(series, value)| (series.as_str(), *value))
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.iter().filter(|(series, _)| !series.contains("_bucket"));
        shown.try_for_each(|(series, value)| writeln!(out, "{series} {value}"))
    }
}
