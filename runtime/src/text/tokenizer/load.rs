//! `tokenizer.json` -> [`Tokenizer`]: bounded, and with the crate's panics caught (a malformed file makes it panic).
//! Must not keep a setting that is about training (truncation, padding).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokenizers::models::ModelWrapper;
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};

use super::pieces::{self, Decoding};
use super::{Inner, Tokenizer, TokenizerError};
use crate::text::special::SpecialTokens;

/// The largest `tokenizer.json` that is read; the largest known one has 35 MB.
pub const MAX_FILE_BYTES: usize = 128 << 20;
/// The most tokens; the largest known vocabulary has 262 thousand.
pub const MAX_VOCABULARY: u32 = 1 << 20;

const FILE: &str = "tokenizer.json";

pub(super) fn from_json(bytes: &[u8], special: &SpecialTokens) -> Result<Tokenizer, TokenizerError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(TokenizerError::TooLarge { bytes: bytes.len(), limit: MAX_FILE_BYTES });
    }
    guarded(FILE, || {
        let tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| malformed(FILE, error))?;
        finish(FILE, tokenizer, special)
    })
}

/// Runs `load`; a panic in it is a malformed file.
pub(super) fn guarded<T>(
    file: &'static str,
    load: impl FnOnce() -> Result<T, TokenizerError>,
) -> Result<T, TokenizerError> {
    catch_unwind(AssertUnwindSafe(load))
        .unwrap_or_else(|_| Err(malformed(file, "not a tokenizer (the tokenizer library panicked on it)")))
}

pub(super) fn malformed(file: &'static str, reason: impl ToString) -> TokenizerError {
    TokenizerError::Malformed { file, reason: reason.to_string() }
}

/// The last steps, whatever it was built from.
pub(super) fn finish(
    file: &'static str,
    mut tokenizer: tokenizers::Tokenizer,
    special: &SpecialTokens,
) -> Result<Tokenizer, TokenizerError> {
    tokenizer.with_truncation(None).map_err(|error| malformed(file, error))?.with_padding(None);
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model() {
        // Training noise: the same text must always give the same ids.
        if bpe.dropout.is_some() {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            tokenizer.with_model(bpe);
        }
    }
    let largest = tokenizer.get_vocab(true).into_values().max();
    let vocabulary = largest.map_or(0, |id| id.saturating_add(1));
    if vocabulary > MAX_VOCABULARY {
        return Err(TokenizerError::TooManyTokens { file, id: vocabulary - 1, limit: MAX_VOCABULARY });
    }
    add_begin_and_end(file, &mut tokenizer, special)?;
    let (decoding, pieces) = pieces::take_apart(&tokenizer, vocabulary);
    let kind = kind(&tokenizer, &decoding);
    Ok(Tokenizer(Arc::new(Inner { tokenizer, pieces, decoding, kind })))
}

/// Where `tokenizer_config.json` says whether a beginning or end token is added, it is; transformers rebuilds the
/// post-processor likewise.
fn add_begin_and_end(
    file: &'static str,
    tokenizer: &mut tokenizers::Tokenizer,
    special: &SpecialTokens,
) -> Result<(), TokenizerError> {
    if special.add_bos.is_none() && special.add_eos.is_none() {
        return Ok(());
    }
    let id_of = |content: &Option<String>| {
        content.as_ref().and_then(|content| Some((content.clone(), tokenizer.token_to_id(content)?)))
    };
    let (bos, eos) = (id_of(&special.bos), id_of(&special.eos));
    let empty = tokenizer.encode_fast("", true).map_err(|error| malformed(file, error))?;
    let now = empty.get_ids();
    let (adds_bos, adds_eos) = match (&bos, &eos) {
        // One token for both: alone it stands at the beginning.
        (Some(bos), Some(eos)) if bos.1 == eos.1 => {
            (now.first() == Some(&bos.1), now.len() > 1 && now.last() == Some(&eos.1))
        }
        _ => (
            bos.as_ref().is_some_and(|bos| now.first() == Some(&bos.1)),
            eos.as_ref().is_some_and(|eos| now.last() == Some(&eos.1)),
        ),
    };
    let add_bos = special.add_bos.unwrap_or(adds_bos) && bos.is_some();
    let add_eos = special.add_eos.unwrap_or(adds_eos) && eos.is_some();
    if (add_bos, add_eos) == (adds_bos, adds_eos) {
        return Ok(());
    }
    let mut single = String::new();
    let mut tokens = Vec::new();
    if let Some(bos) = bos.filter(|_| add_bos) {
        single.push_str("begin:0 ");
        tokens.push(("begin", bos));
    }
    single.push_str("$A:0");
    if let Some(eos) = eos.filter(|_| add_eos) {
        single.push_str(" end:0");
        tokens.push(("end", eos));
    }
    let tokens: Vec<SpecialToken> = tokens
        .into_iter()
        .filter_map(|(name, (content, id))| SpecialToken::new(name.into(), vec![id], vec![content]).ok())
        .collect();
    let template = TemplateProcessing::builder()
        .try_single(single)
        .map_err(|error| malformed(file, error))?
        .special_tokens(tokens)
        .build()
        .map_err(|error| malformed(file, error))?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}

fn kind(tokenizer: &tokenizers::Tokenizer, decoding: &Decoding) -> String {
    let model = match tokenizer.get_model() {
        ModelWrapper::BPE(_) => "BPE",
        ModelWrapper::WordPiece(_) => "WordPiece",
        ModelWrapper::WordLevel(_) => "WordLevel",
        ModelWrapper::Unigram(_) => "Unigram",
    };
    match decoding {
        Decoding::Bytes => format!("{model}, byte-level"),
        Decoding::Sentence { .. } => format!("{model}, sentencepiece"),
        Decoding::Window => model.to_owned(),
    }
}
