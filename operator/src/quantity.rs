//! Quantities as Kubernetes writes them: `500m`, `2`, `8Gi`, `1e9`. Pure; says what a text is, not whether it may be so.

/// By how much a suffix multiplies.
const UNITS: [(&str, f64); 16] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("", 1.0),
];

/// What a quantity is: digits, at most one point, and a unit or an exponent. None is below zero here.
#[must_use]
pub fn parse(text: &str) -> Option<f64> {
    let digits = text.trim_start_matches('+');
    let end = digits.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(digits.len());
    let (mantissa, unit) = digits.split_at(end);
    let is_plain = text.len() - digits.len() <= 1 && mantissa.bytes().any(|byte| byte.is_ascii_digit());
    let mantissa: f64 = mantissa.parse().ok().filter(|_| is_plain)?;
    let by = UNITS.iter().find(|(suffix, _)| *suffix == unit).map(|(_, by)| *by);
    let exponent = || unit.strip_prefix(['e', 'E'])?.parse::<i32>().ok().map(|power| 10f64.powi(power));
    by.or_else(exponent).map(|by| mantissa * by)
}

/// A quantity of bytes: those of a part are left out. Nothing where it is none, or over any memory.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    // 2^63: far over any memory, and exactly a float.
    parse(text).filter(|bytes| (0.0..9_223_372_036_854_775_808.0).contains(bytes)).map(|bytes| bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_as_kubernetes_takes_them() {
        for (text, expected) in [
            ("2", 2.0),
            ("+1.5", 1.5),
            ("500m", 0.5),
            ("8Gi", 8.0 * 1_073_741_824.0),
            ("1e3", 1e3),
            ("2E", 2e18),
            ("2Ei", 2.0 * 1_152_921_504_606_846_976.0),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for text in ["", "much", "-1", "1 Gi", "8GiB", ".", "++1", "1.2.3", "NaN", "inf", "e3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_are_whole_and_of_a_size_that_can_be() {
        for (text, expected) in [
            ("8Gi", 8 << 30),
            ("1.5G", 1_500_000_000),
            ("1e9", 1_000_000_000),
            ("12", 12),
            ("0", 0),
            ("1Ei", 1 << 60),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["1e40", "8Ei", "lots"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
