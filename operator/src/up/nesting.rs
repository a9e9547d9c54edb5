//! How deeply a YAML text nests its brackets, told before anybody parses it: a parser takes quadratic time over them. Pure.
//! Must not refuse what is YAML for another reason: brackets in quotes, comments and texts are none.

/// The line of `text`, from 1, in which its brackets are nested more than `limit` deep.
#[must_use]
pub fn deeper_than(limit: usize, text: &str) -> Option<usize> {
    let mut scan = Scan::default();
    text.lines().position(|line| scan.line(line.as_bytes()) > limit).map(|index| index + 1)
}

/// What is open at the end of a line.
#[derive(Default)]
struct Scan {
    brackets: usize,
    quote: Option<u8>,
    text: Option<Text>,
    /// A value may begin here.
    fresh: bool,
    /// The line ends within an unquoted value that is not in brackets.
    plain: bool,
    /// The column of the line's key, or of its item.
    column: usize,
}

/// A text after `|` or `>`: the lines below it that are indented as its first one is.
struct Text {
    above: usize,
    indent: Option<usize>,
}

impl Scan {
    /// How deep brackets are nested in the line at the most.
    fn line(&mut self, line: &[u8]) -> usize {
        let indent = line.iter().take_while(|byte| **byte == b' ').count();
        if indent == line.len() || self.is_text(indent) {
            return self.brackets;
        }
        if self.brackets == 0 && self.quote.is_none() {
            if self.plain && indent > self.column {
                return 0;
            }
            (self.fresh, self.plain, self.column) = (true, false, indent);
        }
        let (mut at, mut deepest) = (0, self.brackets);
        while let Some(&byte) = line.get(at) {
            let followed = line.get(at + 1).copied();
            at += match self.quote {
                Some(quote) => self.quoted(quote, byte, followed),
                None if byte == b'#' && (at == 0 || line[at - 1].is_ascii_whitespace()) => break,
                None if self.fresh && matches!(byte, b'|' | b'>') && self.brackets == 0 => {
                    let explicit = line[at..].iter().any(u8::is_ascii_digit);
                    self.text = Some(Text { above: indent, indent: explicit.then_some(indent + 1) });
                    break;
                }
                None if self.fresh && matches!(byte, b'!' | b'&') => word(&line[at..]),
                None => {
                    self.unquoted(byte, followed, at);
                    1
                }
            };
            deepest = deepest.max(self.brackets);
        }
        deepest
    }

    /// Whether a line that is so far indented belongs to the text above it.
    fn is_text(&mut self, indent: usize) -> bool {
        let Some(text) = &mut self.text else { return false };
        let first = *text.indent.get_or_insert(indent.max(text.above + 1));
        if indent < first {
            self.text = None;
        }
        self.text.is_some()
    }

    /// A byte in quotes. How many are done with.
    fn quoted(&mut self, quote: u8, byte: u8, followed: Option<u8>) -> usize {
        let is_escape = if quote == b'"' { byte == b'\\' } else { byte == b'\'' && followed == Some(b'\'') };
        if is_escape {
            return 2;
        }
        if byte == quote {
            (self.quote, self.fresh) = (None, false);
        }
        1
    }

    fn unquoted(&mut self, byte: u8, followed: Option<u8>, at: usize) {
        let is_last = followed.is_none_or(|next| next.is_ascii_whitespace());
        let inside = self.brackets > 0;
        match byte {
            b' ' | b'\t' | b'\r' => {}
            b'[' | b'{' if self.fresh || inside => {
                (self.brackets, self.fresh) = (self.brackets + 1, true);
            }
            b']' | b'}' if inside => (self.brackets, self.fresh) = (self.brackets - 1, false),
            b',' if inside => self.fresh = true,
            b':' if is_last || inside => (self.fresh, self.plain) = (true, false),
            b'-' | b'?' if self.fresh && is_last => self.column = at + 2,
            b'"' | b'\'' if self.fresh => self.quote = Some(byte),
            _ => (self.fresh, self.plain) = (false, !inside),
        }
    }
}

/// The length of the tag or anchor that `line` begins with.
fn word(line: &[u8]) -> usize {
    line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 128;

    #[test]
    fn brackets_within_brackets_are_counted_over_lines() {
        for (text, line) in [
            ("[".repeat(200_000), 1),
            (format!("kind: A\nspec: {}", "[".repeat(129)), 2),
            (format!("kind: A\nspec:\n- a: b\n  c: {}", "{x: ".repeat(129)), 4),
            (format!("a: [\n{}", "[x,\n".repeat(128)), 129),
            (format!("a: {}", "!tag &name [ ".repeat(129)), 1),
            (format!("a: {}", "[\"]\", ']', ".repeat(129)), 1),
            (format!("a: |\n  text\nb: {}", "[".repeat(129)), 3),
            (format!("{}\n\"a\": {}", "\"b\": c d", "{\"a\":".repeat(129)), 2),
        ] {
            assert_eq!(deeper_than(LIMIT, &text), Some(line), "{}", &text[..text.len().min(60)]);
        }
        let open_and_close = format!("a: {}{}", "[".repeat(128), "]".repeat(128));
        assert_eq!(deeper_than(LIMIT, &open_and_close), None);
    }

    #[test]
    fn what_is_no_bracket_is_not_counted() {
        let many = "[".repeat(200);
        for text in [
            format!("a: |\n  echo '\\e{many}'\n\n  {many}\nb: c"),
            format!("a: >-\n {many}\nb: c"),
            format!("- a: |2 # how\n    {many}\n- b"),
            format!("- |\n  {many}\n- b"),
            format!("a: b{many}"),
            format!("a: b\n  {many}\n\n  {many}"),
            format!("- b {many}"),
            format!("a: '{many} it''s {many}'\nb: \"\\\"{many}\n  {many}\""),
            format!("# {many}\na: b # {many}"),
            format!("a: [b, 'x{many}', \"{many}\", # {many}\n  c]"),
            format!("a: &b !c '{many}'"),
            format!("https://{many}: a"),
            "- {a: [b, c], d: {e: [f]}}\n".repeat(1000),
            "- it's [here]\n- don't {care}\n".repeat(1000),
        ] {
            assert_eq!(deeper_than(LIMIT, &text), None, "{}", &text[..text.len().min(60)]);
            serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap();
        }
    }
}
