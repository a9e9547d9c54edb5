//! A number of bytes as people write it.

use std::fmt;
use std::str::FromStr;

/// Bytes: `8GiB`, `512Mi`, `1.5GB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A text that is no number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number of bytes such as 8GiB, 512Mi or 1.5GB, got {0:?}")]
pub struct InvalidSize(String);

const UNITS: [(&str, u64); 14] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = InvalidSize;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range before"
    )]
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSize(text.to_owned());
        let found = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
        let (number, factor) = found.unwrap_or((text, 1));
        let number: f64 = number.trim().parse().map_err(|_| invalid())?;
        let bytes = number * factor as f64;
        if (0.0..1e18).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(invalid()) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = *UNITS[..4].iter().find(|(_, factor)| self.0 >= *factor).unwrap_or(&("B", 1));
        let whole = self.0 as f64 / factor as f64;
        if whole.fract() == 0.0 { write!(out, "{whole}{unit}") } else { write!(out, "{whole:.1}{unit}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("8GiB", 8 << 30),
            ("512Mi", 512 << 20),
            ("1.5GB", 1_500_000_000),
            ("4096", 4096),
            ("0", 0),
            ("7 MiB", 7 << 20),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_came() {
        for text in ["", "GiB", "-1", "8gib", "NaN", "inf", "1e300", "8 apples"] {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains("8GiB") && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit() {
        assert_eq!(Size(8 << 30).to_string(), "8GiB");
        assert_eq!(Size(1536).to_string(), "1.5KiB");
        assert_eq!(Size(12).to_string(), "12B");
    }
}
