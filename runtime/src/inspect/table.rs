//! Rows of a label and a value, aligned; numbers as people read them. Must not know what it shows.

/// Rows under a title.
pub(super) struct Table {
    title: String,
    rows: Vec<(&'static str, String)>,
}

impl Table {
    pub(super) fn new(title: String) -> Self {
        Self { title, rows: Vec::new() }
    }

    pub(super) fn row(mut self, label: &'static str, value: impl ToString) -> Self {
        self.rows.push((label, value.to_string()));
        self
    }

    /// A row, where there is something to say.
    pub(super) fn maybe(self, label: &'static str, value: Option<String>) -> Self {
        match value {
            Some(value) if !value.is_empty() => self.row(label, value),
            _ => self,
        }
    }

    pub(super) fn render(&self) -> String {
        let width = self.rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let mut out = format!("{}\n", self.title);
        for (label, value) in &self.rows {
            let mut lines = value.lines();
            out.push_str(&format!("  {label:width$}  {}\n", lines.next().unwrap_or_default()));
            for line in lines {
                out.push_str(&format!("  {:width$}  {line}\n", ""));
            }
        }
        out
    }
}

/// `1.5 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    scaled(bytes, 1024.0, &UNITS)
}

/// `134.5 M`.
pub(super) fn count(count: u64) -> String {
    const UNITS: [&str; 4] = ["", "k", "M", "G"];
    scaled(count, 1000.0, &UNITS)
}

fn scaled(number: u64, step: f64, units: &[&str]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut scaled = number as f64;
    let mut unit = 0;
    while scaled >= step && unit + 1 < units.len() {
        scaled /= step;
        unit += 1;
    }
    let text = if unit == 0 { number.to_string() } else { format!("{scaled:.1}") };
    format!("{text} {}", units[unit]).trim_end().to_owned()
}

/// `16,384`.
pub(super) fn whole(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(98_362_432)],
            ["0 B", "1023 B", "1.5 KiB", "93.8 MiB"]
        );
        assert_eq!([count(999), count(134_515_008)], ["999", "134.5 M"]);
        assert_eq!([whole(7), whole(49_152), whole(1_000_000)], ["7", "49,152", "1,000,000"]);
    }

    #[test]
    fn values_are_aligned_and_lines_too() {
        let table = Table::new("model x".into()).row("a", 1).row("longer", "two\nlines").maybe("none", None);
        assert_eq!(table.render(), "model x\n  a       1\n  longer  two\n          lines\n");
    }
}
