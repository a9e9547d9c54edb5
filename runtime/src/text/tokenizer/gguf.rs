//! GGUF metadata -> [`Tokenizer`]: byte-level BPE (`gpt2`) and sentencepiece BPE (`llama`). Must give the ids that the
//! Hugging Face form of the model gives; an unknown kind is refused by name.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::load::{finish, guarded, malformed};
use super::pieces::byte_token;
use super::split::{self, Split};
use super::{MAX_VOCABULARY, Tokenizer, TokenizerError};
use crate::gguf::{GgufError, Metadata};
use crate::text::special::SpecialTokens;

const FILE: &str = "GGUF";
const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";

/// What `tokenizer.ggml.token_type` says of a token.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// The tokens of one file.
struct Vocabulary<'a> {
    tokens: &'a [String],
    types: Option<&'a [i64]>,
    ids: HashMap<&'a str, u32>,
}

impl From<GgufError> for TokenizerError {
    fn from(error: GgufError) -> Self {
        malformed(FILE, error)
    }
}

/// The tokenizer of `metadata`, and the special tokens that it names.
pub(super) fn from_gguf(metadata: &Metadata) -> Result<(Tokenizer, SpecialTokens), TokenizerError> {
    let vocabulary = Vocabulary::read(metadata)?;
    let kind = Metadata::require(MODEL, metadata.get_str(MODEL)?)?;
    let (model, settings) = match kind {
        "gpt2" => byte_level(metadata, &vocabulary)?,
        "llama" => sentencepiece(metadata, &vocabulary)?,
        other => {
            let reason = format!(
                "{MODEL}: {other:?} is not supported; expected gpt2 (byte-level BPE) or llama (sentencepiece BPE)"
            );
            return Err(malformed(FILE, reason));
        }
    };
    let special = special(metadata, &vocabulary, &settings)?;
    let tokenizer = guarded(FILE, || {
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer
            .with_normalizer(part::<NormalizerWrapper>(&settings.normalizer)?)
            .map_err(|error| malformed(FILE, error))?;
        tokenizer.with_pre_tokenizer(part::<PreTokenizerWrapper>(&settings.pre_tokenizer)?);
        tokenizer.with_decoder(part::<DecoderWrapper>(&settings.decoder)?);
        let swallows = kind == "llama" && metadata.get_str("general.architecture")? == Some("phi3");
        let (control, defined) = vocabulary.added(swallows);
        tokenizer.add_special_tokens(control).map_err(|error| malformed(FILE, error))?;
        tokenizer.add_tokens(defined).map_err(|error| malformed(FILE, error))?;
        finish(FILE, tokenizer, &special)
    })?;
    Ok((tokenizer, special))
}

/// What goes around the model, as `tokenizer.json` writes it, and defaults where the file is silent.
struct Settings {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    add_bos: bool,
    bos: Option<u32>,
    eos: Option<u32>,
}

fn part<T: DeserializeOwned>(value: &Value) -> Result<Option<T>, TokenizerError> {
    serde_json::from_value(value.clone()).map_err(|error| malformed(FILE, error))
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self, TokenizerError> {
        let tokens = Metadata::require(TOKENS, metadata.get_strings(TOKENS)?)?;
        if tokens.len() > MAX_VOCABULARY as usize {
            let id = u32::try_from(tokens.len() - 1).unwrap_or(u32::MAX);
            return Err(TokenizerError::TooManyTokens { file: FILE, id, limit: MAX_VOCABULARY });
        }
        let types = metadata.get_integers("tokenizer.ggml.token_type")?;
        if let Some(types) = types.filter(|types| types.len() != tokens.len()) {
            let reason =
                format!("tokenizer.ggml.token_type: expected {} entries, got {}", tokens.len(), types.len());
            return Err(malformed(FILE, reason));
        }
        let mut vocabulary = Self { tokens, types, ids: HashMap::with_capacity(tokens.len()) };
        for (id, token) in (0..).zip(tokens) {
            // What fills the vocabulary up to the model's width is no token.
            let filler = vocabulary.kind(id) == UNUSED && *token == format!("[PAD{id}]");
            if token.is_empty() || filler {
                continue;
            }
            if let Some(before) = vocabulary.ids.insert(token.as_str(), id) {
                return Err(malformed(
                    FILE,
                    format!("{TOKENS}: {token:?} is there twice, as {before} and as {id}"),
                ));
            }
        }
        Ok(vocabulary)
    }

    fn kind(&self, id: u32) -> i64 {
        self.types.map_or(1, |types| types[id as usize])
    }

    fn owned(&self) -> Vocab {
        self.ids.iter().map(|(token, id)| ((*token).to_owned(), *id)).collect()
    }

    /// The tokens that are recognised in a text before anything else: control tokens, and the user's own.
    /// `swallows`: a control token takes the white space after it (Phi-3's do, and the format cannot say so).
    fn added(&self, swallows: bool) -> (Vec<AddedToken>, Vec<AddedToken>) {
        let of = |wanted: i64| {
            let all = (0..).zip(self.tokens).filter(move |&(id, _)| self.kind(id) == wanted);
            let known = all.filter(|(id, token)| self.ids.get(token.as_str()) == Some(id));
            known.map(|(_, token)| token.clone())
        };
        let control = of(CONTROL).map(|token| {
            let rstrip = swallows && !matches!(token.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
            AddedToken::from(token, true).normalized(false).rstrip(rstrip)
        });
        let defined = of(USER_DEFINED).map(|token| AddedToken::from(token, false).normalized(false));
        (
            control.chain(of(UNKNOWN).map(|token| AddedToken::from(token, true).normalized(false))).collect(),
            defined.collect(),
        )
    }
}

fn byte_level(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<(BPE, Settings), TokenizerError> {
    let name = metadata.get_str("tokenizer.ggml.pre")?.unwrap_or("default");
    let split = Split::named(name).ok_or_else(|| {
        malformed(FILE, format!("tokenizer.ggml.pre: {name:?} is not known; these are: {}", split::KNOWN))
    })?;
    const MERGES: &str = "tokenizer.ggml.merges";
    let mut merges = Vec::new();
    for merge in Metadata::require(MERGES, metadata.get_strings(MERGES)?)? {
        // The first space that does not stand for itself: a token may begin with one.
        let cut = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
        let Some((left, right)) = cut.map(|at| (&merge[..at], &merge[at + 1..])) else {
            return Err(malformed(
                FILE,
                format!("{MERGES}: expected two tokens and a space between, got {merge:?}"),
            ));
        };
        let known = |token: &str| vocabulary.ids.contains_key(token);
        if known(left) && known(right) && known(&format!("{left}{right}")) {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.owned(), merges)
        .ignore_merges(split.ignore_merges)
        .build()
        .map_err(|error| malformed(FILE, error))?;
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let Split { pre_tokenizer, normalizer, add_bos, .. } = split;
    Ok((model, Settings { normalizer, pre_tokenizer, decoder, add_bos, bos: None, eos: None }))
}

fn sentencepiece(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'_>,
) -> Result<(BPE, Settings), TokenizerError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = Metadata::require(SCORES, metadata.get_floats(SCORES)?)?;
    if scores.len() != vocabulary.tokens.len() || scores.iter().any(|score| score.is_nan()) {
        let reason = format!("{SCORES}: expected {} numbers, got {}", vocabulary.tokens.len(), scores.len());
        return Err(malformed(FILE, reason));
    }
    let unknown = metadata.get_u32("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let unknown = vocabulary.tokens.get(unknown as usize).ok_or_else(|| {
        malformed(
            FILE,
            format!("tokenizer.ggml.unknown_token_id: {unknown} is not below {}", vocabulary.tokens.len()),
        )
    })?;
    let fallback = vocabulary.tokens.iter().filter(|token| byte_token(token).is_some()).count() == 256;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.owned(), merges(vocabulary, scores))
        .unk_token(unknown.clone())
        .fuse_unk(true)
        .byte_fallback(fallback)
        .build()
        .map_err(|error| malformed(FILE, error))?;
    let prefix = metadata.get_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let settings = Settings {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        add_bos: true,
        bos: Some(1),
        eos: Some(2),
    };
    Ok((model, settings))
}

/// Sentencepiece merges whichever two neighbours make the token of the highest score; as a list of merges, that is every way
/// to cut every token in two, by score.
fn merges(vocabulary: &Vocabulary<'_>, scores: &[f32]) -> Vec<(String, String)> {
    let mut merges = Vec::new();
    for (&token, &id) in &vocabulary.ids {
        if matches!(vocabulary.kind(id), CONTROL | UNKNOWN | UNUSED | BYTE) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (vocabulary.ids.get(left), vocabulary.ids.get(right)) {
                merges.push((scores[id as usize], left, right, l, r));
            }
        }
    }
    // Ties as transformers breaks them: the longer left part first, then the longer right one; then by ids, to be certain.
    merges.sort_unstable_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| b.1.chars().count().cmp(&a.1.chars().count()))
            .then_with(|| b.2.chars().count().cmp(&a.2.chars().count()))
            .then_with(|| (a.3, a.4).cmp(&(b.3, b.4)))
    });
    merges.into_iter().map(|(_, left, right, ..)| (left.to_owned(), right.to_owned())).collect()
}

fn special(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'_>,
    settings: &Settings,
) -> Result<SpecialTokens, TokenizerError> {
    let mut special = SpecialTokens::default();
    for (name, key, silent) in [
        ("bos_token", "tokenizer.ggml.bos_token_id", settings.bos),
        ("eos_token", "tokenizer.ggml.eos_token_id", settings.eos),
        ("unk_token", "tokenizer.ggml.unknown_token_id", None),
        ("pad_token", "tokenizer.ggml.padding_token_id", None),
    ] {
        let Some(id) = metadata.get_u32(key)?.or(silent) else { continue };
        let content = vocabulary.tokens.get(id as usize).ok_or_else(|| {
            malformed(FILE, format!("{key}: {id} is not below the vocabulary of {}", vocabulary.tokens.len()))
        })?;
        special.named.push((name.to_owned(), content.clone()));
    }
    special.bos = special.get("bos_token").map(str::to_owned);
    special.eos = special.get("eos_token").map(str::to_owned);
    special.add_bos = Some(metadata.get_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(settings.add_bos));
    special.add_eos = Some(metadata.get_bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false));
    Ok(special)
}

#[cfg(test)]
pub(crate) mod tests;
