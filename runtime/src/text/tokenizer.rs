//! One model's tokenizer: text -> ids -> text. Must not know where its file came from, nor panic on what is in it.

pub(crate) mod gguf;
mod load;
mod pieces;
mod split;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use load::{MAX_FILE_BYTES, MAX_VOCABULARY};
pub(crate) use pieces::{Decoding, Piece, PieceKind};

use super::detokenizer::Detokenizer;
use super::special::SpecialTokens;
use crate::gguf::Metadata;

/// A tokenizer; cheap to clone.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    pieces: pieces::Pieces,
    decoding: Decoding,
    kind: String,
}

/// Why there is no tokenizer, or no tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// More bytes than any tokenizer has.
    #[error("tokenizer.json: {bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// Bytes of the file.
        bytes: usize,
        /// How many may be.
        limit: usize,
    },
    /// An id that would make a table of absurd size.
    #[error("{file}: token id {id} is out of range, at most {limit} tokens are supported")]
    TooManyTokens {
        /// The file.
        file: &'static str,
        /// The largest id.
        id: u32,
        /// How many may be.
        limit: u32,
    },
    /// The file does not say what a tokenizer is.
    #[error("{file}: {reason}")]
    Malformed {
        /// The file, or the kind of metadata.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A text that this tokenizer cannot turn into ids.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
}

impl Tokenizer {
    /// From the bytes of `tokenizer.json`. `special` tells whether a beginning or end token is added where
    /// `tokenizer_config.json` says so explicitly; else the file's own post-processor decides.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn from_json(bytes: &[u8], special: &SpecialTokens) -> Result<Self, TokenizerError> {
        load::from_json(bytes, special)
    }

    /// From the metadata of a GGUF file, with the special tokens that it names.
    ///
    /// # Errors
    /// The key that is missing or wrong; a kind of tokenizer that is not supported, by name.
    pub fn from_gguf(metadata: &Metadata) -> Result<(Self, SpecialTokens), TokenizerError> {
        gguf::from_gguf(metadata)
    }

    /// The ids of `text`. With `add_special_tokens` the model's beginning (and end) tokens are added as it was trained with;
    /// special tokens that are written out in the text are recognised either way.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encode = || self.0.tokenizer.encode_fast(text, add_special_tokens);
        // Nothing in there is kept half changed: its caches are per thread and hold finished words.
        match catch_unwind(AssertUnwindSafe(encode)) {
            Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
            Ok(Err(error)) => Err(TokenizerError::Encode(error.to_string())),
            Err(_) => Err(TokenizerError::Encode("the tokenizer panicked".into())),
        }
    }

    /// The text of `ids` alone (a sentencepiece decoder drops the space before its first word). Ids that the tokenizer does
    /// not know, which a model's vocabulary may have, are nothing; so are special ones with `skip_special_tokens`.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let mut detokenizer = Detokenizer::whole(self, skip_special_tokens);
        let mut text = String::new();
        for &id in ids {
            detokenizer.push_to(id, &mut text);
        }
        detokenizer.finish_to(&mut text);
        text
    }

    /// The bytes that a token stands for: whole characters or a part of one; nothing for an unknown id.
    #[must_use]
    pub fn piece_bytes(&self, id: u32) -> &[u8] {
        self.0.pieces.get(id).bytes
    }

    /// The same as text; what is not a whole character becomes U+FFFD.
    #[must_use]
    pub fn piece(&self, id: u32) -> String {
        String::from_utf8_lossy(self.piece_bytes(id)).into_owned()
    }

    /// Whether decoding with `skip_special_tokens` leaves it out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.0.pieces.get(id).special
    }

    /// Whether the tokenizer has this id.
    #[must_use]
    pub fn knows(&self, id: u32) -> bool {
        self.0.pieces.get(id).kind != PieceKind::Unknown
    }

    /// The id of a token by its exact content, as `tokenizer.json` writes it.
    #[must_use]
    pub fn id_of(&self, content: &str) -> Option<u32> {
        self.0.tokenizer.token_to_id(content)
    }

    /// The largest id, plus one. A model's vocabulary may be larger.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.0.pieces.len()
    }

    /// What it is, for people: `BPE, byte-level` or the like.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    pub(crate) fn decoding(&self) -> &Decoding {
        &self.0.decoding
    }

    pub(crate) fn raw_piece(&self, id: u32) -> Piece<'_> {
        self.0.pieces.get(id)
    }

    /// The crate's own decoder, for the decoders that [`Decoding`] does not take apart.
    pub(crate) fn decode_slowly(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let decode = || self.0.tokenizer.decode(ids, skip_special_tokens);
        match catch_unwind(AssertUnwindSafe(decode)) {
            Ok(Ok(text)) => text,
            // A decoder that fails on its own tokens: their plain contents are the best there is.
            _ => ids.iter().map(|&id| self.piece(id)).collect(),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({}, {} tokens)", self.kind(), self.vocabulary())
    }
}

#[cfg(test)]
pub(crate) mod tests;
