//! Ids -> text, one at a time: constant work per token, never half a character, and in the end exactly the text that
//! decoding all of them at once gives. Must not send what a later token could still change.

use super::Tokenizer;
use super::tokenizer::{Decoding, Piece, PieceKind};
use super::utf8::LossyUtf8;

/// Bytes of a run of byte tokens that are held back at most. Such a run is text only if all of it is valid UTF-8, which is
/// known at its end; a language that the vocabulary lacks may be nothing but such runs, and has to be sent some time. 64
/// bytes are 16 or more characters.
const HELD_RUN: usize = 64;

/// Tokens after which a decoder that is not taken apart is not waited for any longer.
const HELD_WINDOW: usize = 16;

/// The decoder of one sequence.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Bytes(LossyUtf8),
    Sentence(Sentence),
    Window(Window),
}

impl Detokenizer {
    /// For a text that stands alone, as [`Tokenizer::decode`] and transformers read it: a sentencepiece decoder drops the
    /// space before the first word.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, skip_special_tokens: bool) -> Self {
        let state = match *tokenizer.decoding() {
            Decoding::Bytes => State::Bytes(LossyUtf8::default()),
            Decoding::Sentence { strip, strip_char } => {
                State::Sentence(Sentence { strip, strip_char, held: HELD_RUN, run: Run::default() })
            }
            Decoding::Window => State::Window(Window::default()),
        };
        Self { tokenizer: tokenizer.clone(), skip_special_tokens, state }
    }

    /// As [`Detokenizer::new`] for tokens that are all there: a run of byte tokens is judged as a whole, however long.
    pub(super) fn whole(tokenizer: &Tokenizer, skip_special_tokens: bool) -> Self {
        let mut detokenizer = Self::new(tokenizer, skip_special_tokens);
        if let State::Sentence(sentence) = &mut detokenizer.state {
            sentence.held = usize::MAX;
        }
        detokenizer
    }

    /// For a text that goes on after `prompt`: the space before its first word belongs to it.
    #[must_use]
    pub fn after(tokenizer: &Tokenizer, skip_special_tokens: bool, prompt: &[u32]) -> Self {
        let mut detokenizer = Self::new(tokenizer, skip_special_tokens);
        match &mut detokenizer.state {
            State::Sentence(sentence) if !prompt.is_empty() => sentence.strip = 0,
            State::Window(window) => {
                window.ids = prompt[prompt.len().saturating_sub(HELD_WINDOW)..].to_vec();
                window.read = window.ids.len();
            }
            State::Bytes(_) | State::Sentence(_) => {}
        }
        detokenizer
    }

    /// The text that `id` completes; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> String {
        let mut out = String::new();
        self.push_to(id, &mut out);
        out
    }

    /// As [`Detokenizer::push`], appended to `out`.
    pub fn push_to(&mut self, id: u32, out: &mut String) {
        let piece = self.tokenizer.raw_piece(id);
        if piece.kind == PieceKind::Unknown || (self.skip_special_tokens && piece.special) {
            return;
        }
        match &mut self.state {
            State::Bytes(utf8) => utf8.push(piece.bytes, out),
            State::Sentence(sentence) => sentence.push(piece, out),
            State::Window(window) => window.push(id, &self.tokenizer, self.skip_special_tokens, out),
        }
    }

    /// What is left when no more tokens come.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.finish_to(&mut out);
        out
    }

    /// As [`Detokenizer::finish`], appended to `out`.
    pub fn finish_to(&mut self, out: &mut String) {
        match &mut self.state {
            State::Bytes(utf8) => utf8.finish(out),
            State::Sentence(sentence) => sentence.emit(out, Run::end),
            State::Window(window) => window.finish(&self.tokenizer, self.skip_special_tokens, out),
        }
    }
}

/// Text tokens and runs of byte tokens.
#[derive(Clone, Debug)]
struct Sentence {
    /// How often `strip_char` is still left out: only at the very beginning.
    strip: usize,
    strip_char: char,
    /// Bytes of a run that are held back at most.
    held: usize,
    run: Run,
}

impl Sentence {
    fn push(&mut self, piece: Piece<'_>, out: &mut String) {
        if piece.kind == PieceKind::Byte {
            let held = self.held;
            return self
                .emit(out, |run, text| piece.bytes.iter().for_each(|&byte| run.push(byte, held, text)));
        }
        self.emit(out, |run, text| {
            run.end(text);
            text.push_str(str::from_utf8(piece.bytes).unwrap_or_default());
        });
    }

    /// Appends what `write` writes, less what is stripped.
    fn emit(&mut self, out: &mut String, write: impl FnOnce(&mut Run, &mut String)) {
        if self.strip == 0 {
            return write(&mut self.run, out);
        }
        let mut text = String::new();
        write(&mut self.run, &mut text);
        let mut rest = text.as_str();
        while self.strip > 0 && !rest.is_empty() {
            let Some(after) = rest.strip_prefix(self.strip_char) else {
                self.strip = 0;
                break;
            };
            rest = after;
            self.strip -= 1;
        }
        out.push_str(rest);
    }
}

/// A run of byte tokens: one text if all of it is valid, else a replacement character for each.
#[derive(Clone, Debug)]
enum Run {
    /// Valid so far, but for a character that may be incomplete.
    Held(Vec<u8>),
    /// Not valid, whatever follows.
    Broken,
    /// Too long to wait for: sent character by character.
    Long(LossyUtf8),
}

impl Default for Run {
    fn default() -> Self {
        Self::Held(Vec::new())
    }
}

impl Run {
    fn push(&mut self, byte: u8, held: usize, out: &mut String) {
        match self {
            Self::Broken => out.push(char::REPLACEMENT_CHARACTER),
            Self::Long(utf8) => utf8.push(&[byte], out),
            Self::Held(bytes) => {
                bytes.push(byte);
                if str::from_utf8(bytes).is_err_and(|error| error.error_len().is_some()) {
                    out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, bytes.len()));
                    *self = Self::Broken;
                } else if bytes.len() >= held {
                    let mut utf8 = LossyUtf8::default();
                    utf8.push(bytes, out);
                    *self = Self::Long(utf8);
                }
            }
        }
    }

    fn end(&mut self, out: &mut String) {
        match std::mem::take(self) {
            Self::Held(bytes) => match str::from_utf8(&bytes) {
                Ok(text) => out.push_str(text),
                Err(_) => out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, bytes.len())),
            },
            Self::Broken => {}
            Self::Long(mut utf8) => utf8.finish(out),
        }
    }
}

/// The last tokens, decoded again with each new one: for decoders whose text depends on neighbours in ways of their own.
#[derive(Clone, Debug, Default)]
struct Window {
    ids: Vec<u32>,
    /// How many of `ids` are context: their text is out already.
    read: usize,
}

impl Window {
    fn push(&mut self, id: u32, tokenizer: &Tokenizer, skip: bool, out: &mut String) {
        self.ids.push(id);
        let new = self.new_text(tokenizer, skip);
        if new.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.read < HELD_WINDOW {
            return;
        }
        out.push_str(&new);
        // What was new is the next one's context.
        self.ids.drain(..self.read);
        self.read = self.ids.len();
    }

    fn finish(&mut self, tokenizer: &Tokenizer, skip: bool, out: &mut String) {
        out.push_str(&self.new_text(tokenizer, skip));
        self.ids.clear();
        self.read = 0;
    }

    fn new_text(&self, tokenizer: &Tokenizer, skip: bool) -> String {
        let before = tokenizer.decode_slowly(&self.ids[..self.read], skip);
        let all = tokenizer.decode_slowly(&self.ids, skip);
        match all.strip_prefix(&before) {
            Some(new) => new.to_owned(),
            // A decoder that changes what it said before: from where it differs.
            None => {
                let same = before.chars().zip(all.chars()).take_while(|(a, b)| a == b);
                all[same.map(|(a, _)| a.len_utf8()).sum()..].to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests;
