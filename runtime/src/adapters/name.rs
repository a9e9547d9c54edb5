//! What a model or an adapter may be called: a name goes into URLs, logs, metric labels and lists with commas. Pure.

/// Bytes of the longest.
pub const LONGEST: usize = 253;

/// What is expected of a name, for refusals.
pub const EXPECTED: &str = "1 to 253 printable ASCII characters without spaces, commas, quotes and brackets, and no part that is empty, . or ..";

/// Whether `name` is one.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_graphic() && !b",\"'\\<>`{}|^".contains(&byte);
    let part = |part: &str| !matches!(part, "" | "." | "..");
    name.len() <= LONGEST && name.bytes().all(letter) && name.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_urls_labels_and_lists_can_hold() {
        for name in ["sql", "org/sql-v2@main", "a.b_c:d+e=f", "100%", &"x".repeat(LONGEST)] {
            assert!(is_valid(name), "{name}");
        }
        for name in [
            "",
            "a b",
            "a,b",
            "a\"b",
            "ä",
            "a\nb",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a/./b",
            "<a>",
            &"x".repeat(LONGEST + 1),
        ] {
            assert!(!is_valid(name), "{name}");
        }
    }
}
