//! Server-sent events, taken apart as their bytes arrive, wherever the network cuts them.

/// Collects bytes and gives whole events.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    /// Bytes of a line that has not ended.
    line: Vec<u8>,
    /// The data lines of an event that has not ended.
    data: Option<String>,
    /// The last byte was a carriage return: a line feed after it ends no second line.
    after_return: bool,
}

impl SseParser {
    /// Takes `bytes` and returns the data of every event that they complete. Comments, names and ids are dropped.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        for &byte in bytes {
            let second_half_of_an_end = self.after_return && byte == b'\n';
            self.after_return = byte == b'\r';
            match byte {
                _ if second_half_of_an_end => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                other => self.line.push(other),
            }
        }
        events
    }

    /// The event that an empty line completes.
    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        let value = line.strip_prefix(b"data:")?;
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value)).into_owned();
        match &mut self.data {
            Some(data) => {
                data.push('\n');
                data.push_str(&value);
            }
            None => self.data = Some(value),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str =
        ": hello\n\ndata: {\"a\": 1}\n\nevent: x\ndata: two\r\ndata: lines é\r\nid: 9\r\n\r\ndata:[DONE]\n\n";

    #[test]
    fn an_event_is_the_same_wherever_its_bytes_are_cut() {
        let whole = SseParser::default().push(STREAM.as_bytes());
        assert_eq!(whole, ["{\"a\": 1}", "two\nlines é", "[DONE]"]);
        for size in 1..STREAM.len() {
            let mut parser = SseParser::default();
            let pieces: Vec<_> =
                STREAM.as_bytes().chunks(size).flat_map(|piece| parser.push(piece)).collect();
            assert_eq!(pieces, whole, "cut every {size} bytes");
        }
    }

    #[test]
    fn an_event_that_has_not_ended_is_not_given() {
        let mut parser = SseParser::default();
        assert!(parser.push(b"data: half\n").is_empty());
        assert_eq!(parser.push(b"\n"), ["half"]);
    }
}
