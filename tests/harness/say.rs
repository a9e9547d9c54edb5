//! A line for whoever runs the suites: figures that a passing test would otherwise keep to itself.

use std::io::Write;

/// Writes `text` as a line to standard error. The test harness does not hold it back, as it does what `println!` writes.
pub fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "{text}");
}
