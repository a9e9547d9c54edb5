//! Takes comments and literals out of Rust, so that the other files look at code alone.

/// `text` with comments, and what is inside strings and characters, blanked. Line numbers stay.
pub(crate) fn only(text: &str) -> String {
    let mut rest = text;
    let mut code = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        let identifier_before = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let taken = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' if !identifier_before => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let (blank, kept) = if taken == 0 { ("", first.len_utf8()) } else { (&rest[..taken], 0) };
        if taken > 0 {
            code.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            code.push(first);
        }
        rest = &rest[taken + kept..];
    }
    code
}

/// The length of the block comment that `text` begins with; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string literal that `text` begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the `r"…"`, `r#"…"#`, `b"…"` or `br#"…"#` that `text` begins with; 0 when it begins with none.
fn raw_string(text: &str) -> usize {
    let after_b = text.strip_prefix('b').unwrap_or(text);
    let Some(after_r) = after_b.strip_prefix('r') else {
        return if after_b.starts_with('"') { 1 + string(after_b) } else { 0 };
    };
    let opened = after_r.trim_start_matches('#');
    let hashes = after_r.len() - opened.len();
    if !opened.starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - opened.len() + 1;
    text[start..].find(&end).map_or(text.len(), |at| start + at + end.len())
}

/// The length of the character literal that `text` begins with; 0 when it is a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            text[2..].char_indices().skip(1).find(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 3)
        }
        Some(_) => chars.next().filter(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

#[test]
fn comments_and_literals_are_blanked_and_lines_stay() {
    let text = "let a = \"unsafe // \\\" \"; // unsafe\nfn f<'a>(x: &'a str) { let c = '\\''; /* unsafe\n*/ br#\"unsafe\"# }";
    let code = only(text);
    assert!(!code.contains("unsafe"), "{code}");
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(code.contains("fn f<'a>(x: &'a str)"), "{code}");
}
