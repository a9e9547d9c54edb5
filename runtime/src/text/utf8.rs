//! Bytes -> characters, piece by piece. Must not emit half a character, nor hold back a whole one.

/// What `String::from_utf8_lossy` makes of a stream of bytes, as early as it is certain.
#[derive(Clone, Debug, Default)]
pub(super) struct LossyUtf8 {
    /// The beginning of a character: at most three bytes.
    pending: Vec<u8>,
}

impl LossyUtf8 {
    /// Appends to `out` what `bytes` complete.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut String) {
        if self.pending.is_empty() && bytes.is_ascii() {
            // The common case: no copy into `pending`.
            out.extend(bytes.iter().map(|&byte| char::from(byte)));
            return;
        }
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        loop {
            match str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(str::from_utf8(valid).unwrap_or_default());
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        let kept = rest.len();
        self.pending.drain(..self.pending.len() - kept);
    }

    /// Appends what is left: one replacement character for the beginning of a character that never ended.
    pub(super) fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_an_emoji_is_held_back_until_the_other_half_comes() {
        let mut utf8 = LossyUtf8::default();
        let mut out = String::new();
        utf8.push(&[b'a', 0xF0, 0x9F], &mut out);
        assert_eq!(out, "a");
        utf8.push(&[0x99, 0x82, b'b'], &mut out);
        assert_eq!(out, "a🙂b");
    }

    proptest! {
        #[test]
        fn any_cut_of_any_bytes_gives_what_the_whole_gives(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80..0xC0u8, 0xE0..0xF8u8, 0x20..0x7Fu8], 0..64),
            cuts in prop::collection::vec(1..5usize, 1..64),
        ) {
            let mut utf8 = LossyUtf8::default();
            let mut out = String::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                utf8.push(piece, &mut out);
                rest = after;
            }
            utf8.push(rest, &mut out);
            utf8.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}
