//! What each token stands for, worked out once: bytes by id, and how the pieces make text. Must say the same as the
//! decoder of the `tokenizers` crate, token for token; the tests hold it to that.

use std::collections::HashMap;

use serde_json::Value;

/// How pieces become text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoding {
    /// Every token is some bytes; the text is all of them, read as UTF-8.
    Bytes,
    /// Tokens are text, but for byte tokens: a run of those is one text if it is valid UTF-8, else a replacement character
    /// for each. At the beginning of all, up to `strip` times `strip_char` is left out.
    Sentence { strip: usize, strip_char: char },
    /// Anything else: the crate's decoder over a window of tokens.
    Window,
}

/// One token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) special: bool,
    pub(crate) kind: PieceKind,
}

/// What kind of token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// Not in the tokenizer.
    Unknown,
    /// Text, or the bytes of byte-level BPE.
    Text,
    /// One byte of a sentencepiece byte fallback, `<0x0A>`.
    Byte,
}

/// All tokens, side by side in one buffer: a vocabulary has 32 thousand to 256 thousand of them.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// `ends[id]`: where the piece ends; it starts where the one before ends.
    ends: Vec<u32>,
    kinds: Vec<(PieceKind, bool)>,
}

impl Pieces {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, id: u32) -> Piece<'_> {
        let at = id as usize;
        let Some(&(kind, special)) = self.kinds.get(at) else {
            return Piece { bytes: &[], special: false, kind: PieceKind::Unknown };
        };
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        Piece { bytes: &self.bytes[start..self.ends[at] as usize], special, kind }
    }
}

/// The decoding of `tokenizer` and the pieces of ids `0..vocabulary`.
pub(super) fn take_apart(tokenizer: &tokenizers::Tokenizer, vocabulary: u32) -> (Decoding, Pieces) {
    let plan = Plan::of(&serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default());
    let alphabet = byte_level_alphabet();
    let added = tokenizer.get_added_vocabulary();
    let mut pieces = Pieces { bytes: Vec::new(), ends: Vec::new(), kinds: Vec::new() };
    for id in 0..vocabulary {
        let kind = match tokenizer.id_to_token(id) {
            None => (PieceKind::Unknown, false),
            Some(token) => (plan.piece(&token, &alphabet, &mut pieces.bytes), added.is_special_token(&token)),
        };
        pieces.kinds.push(kind);
        pieces.ends.push(u32::try_from(pieces.bytes.len()).unwrap_or(u32::MAX));
    }
    (plan.decoding, pieces)
}

/// The decoder's steps, as far as they are known ones in a known order.
struct Plan {
    decoding: Decoding,
    /// Within each token: this becomes that.
    replace: Vec<(String, String)>,
    byte_fallback: bool,
}

impl Plan {
    fn of(decoder: &Value) -> Self {
        let window =
            Self {
                decoding: Decoding::Window, replace: vec![("▁".into(), " ".into())], byte_fallback: true
            };
        match decoder["type"].as_str() {
            Some("ByteLevel") => {
                Self { decoding: Decoding::Bytes, replace: Vec::new(), byte_fallback: false }
            }
            Some("Sequence") => {
                let steps = decoder["decoders"].as_array().map(Vec::as_slice).unwrap_or_default();
                Self::sentence(steps).unwrap_or(window)
            }
            Some("Replace" | "ByteFallback" | "Fuse") => {
                Self::sentence(std::slice::from_ref(decoder)).unwrap_or(window)
            }
            _ => window,
        }
    }

    /// `Replace*, ByteFallback?, (Fuse, Strip?)?`: each step once and in this order, or it means something else.
    fn sentence(steps: &[Value]) -> Option<Self> {
        let mut plan = Self {
            decoding: Decoding::Sentence { strip: 0, strip_char: ' ' },
            replace: Vec::new(),
            byte_fallback: false,
        };
        let mut reached = 0;
        for step in steps {
            let stage = match step["type"].as_str()? {
                "Replace" => {
                    let pattern = step["pattern"]["String"].as_str().filter(|pattern| !pattern.is_empty())?;
                    plan.replace.push((pattern.to_owned(), step["content"].as_str()?.to_owned()));
                    0
                }
                "ByteFallback" => {
                    plan.byte_fallback = true;
                    1
                }
                "Fuse" => 2,
                "Strip" if reached == 2 && step["stop"] == 0 => {
                    let strip = usize::try_from(step["start"].as_u64()?).ok()?;
                    plan.decoding =
                        Decoding::Sentence { strip, strip_char: step["content"].as_str()?.chars().next()? };
                    3
                }
                _ => return None,
            };
            if stage < reached || (stage == reached && stage > 0) {
                return None;
            }
            reached = stage;
        }
        Some(plan)
    }

    /// Appends the bytes of `token`.
    fn piece(&self, token: &str, alphabet: &HashMap<char, u8>, out: &mut Vec<u8>) -> PieceKind {
        if self.decoding == Decoding::Bytes {
            let start = out.len();
            for character in token.chars() {
                let Some(&byte) = alphabet.get(&character) else {
                    // An added token with characters of its own stands for itself.
                    out.truncate(start);
                    out.extend_from_slice(token.as_bytes());
                    break;
                };
                out.push(byte);
            }
            return PieceKind::Text;
        }
        let mut text = token.to_owned();
        for (pattern, content) in &self.replace {
            text = text.replace(pattern, content);
        }
        if let Some(byte) = self.byte_fallback.then(|| byte_token(&text)).flatten() {
            out.push(byte);
            return PieceKind::Byte;
        }
        out.extend_from_slice(text.as_bytes());
        PieceKind::Text
    }
}

/// `<0x0A>` -> 10.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// GPT-2's alphabet: each byte as a printable character; itself where it is one, else U+0100 and up in order.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100;
    (0..=u8::MAX)
        .map(|byte| {
            if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
                return (char::from(byte), byte);
            }
            let character = char::from_u32(next).unwrap_or_default();
            next += 1;
            (character, byte)
        })
        .collect()
}
