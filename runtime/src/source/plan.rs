//! Which files of a source are fetched. Pure: names in, names out.

use reqwest::Url;

use crate::source::error::FetchError;

/// What the files are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Two files; the weights of at most so many bytes.
    Adapter(u64),
    /// A base model: a Hugging Face folder or a GGUF file; files of at most so many bytes.
    Model(u64),
}

/// A file to fetch.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Its name here. Never a path.
    pub(super) name: String,
    pub(super) at: Location,
    /// The longest that is taken.
    pub(super) limit: u64,
    /// Its length, where the listing says so.
    pub(super) size: Option<u64>,
    /// Its strong entity tag, where one is known.
    pub(super) tag: Option<String>,
    /// The source is whole without it.
    pub(super) optional: bool,
}

/// Where a file is.
#[derive(Clone, Debug)]
pub(super) enum Location {
    Url(Url),
    Key(String),
}

/// What to fetch of a source.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Names this very content: an equal one need not be fetched again. `None` when nothing does.
    pub(super) identity: Option<String>,
    /// What the source's revision resolved to.
    pub(super) revision: Option<String>,
    pub(super) items: Vec<Item>,
}

/// The longest text file that is taken.
pub(super) const TEXT_BYTES: u64 = 64 << 20;

/// The longest `adapter_config.json`.
const CONFIG_BYTES: u64 = lorikeet_api::MAX_CONFIG_BYTES as u64;

/// The files of an adapter.
pub(super) const ADAPTER: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// What an adapter's weights are called where they are not opened.
pub(super) const PICKLES: [&str; 2] = ["adapter_model.bin", "adapter_model.pt"];

/// The text files of a model that are read, where they are there.
pub(super) const MODEL_TEXTS: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
];

impl Kind {
    /// The longest that is taken of a file.
    pub(super) fn limit(self, name: &str) -> u64 {
        match self {
            Self::Adapter(_) if name == ADAPTER[0] => CONFIG_BYTES,
            Self::Adapter(limit) => limit,
            Self::Model(limit) if is_weights(name) => limit,
            Self::Model(limit) => limit.min(TEXT_BYTES),
        }
    }

    /// Of a listing of a folder's own files, those to fetch.
    pub(super) fn choose<'a>(self, listing: &[&'a str]) -> Result<Vec<&'a str>, FetchError> {
        let own: Vec<&str> = listing.iter().copied().filter(|name| is_file_name(name)).collect();
        match self {
            Self::Adapter(_) => choose_adapter(&own),
            Self::Model(_) => choose_model(&own),
        }
    }
}

fn choose_adapter<'a>(listing: &[&'a str]) -> Result<Vec<&'a str>, FetchError> {
    let find = |name: &str| listing.iter().copied().find(|file| *file == name);
    let missing = |name: &str| FetchError::NotFound(name.to_owned());
    let config = find(ADAPTER[0]).ok_or_else(|| missing(ADAPTER[0]))?;
    let pickle = PICKLES.into_iter().find_map(find);
    let weights = match (find(ADAPTER[1]), pickle) {
        (Some(weights), _) => weights,
        (None, Some(pickle)) => return Err(FetchError::Pickle(pickle.to_owned())),
        (None, None) => return Err(missing(ADAPTER[1])),
    };
    Ok(vec![config, weights])
}

fn choose_model<'a>(listing: &[&'a str]) -> Result<Vec<&'a str>, FetchError> {
    let ggufs: Vec<&str> = listing.iter().copied().filter(|name| name.ends_with(".gguf")).collect();
    let usual = |name: &&str| *name == "model.safetensors" || name.starts_with("model-");
    let tensors = || listing.iter().copied().filter(|name| name.ends_with(".safetensors"));
    let mut chosen: Vec<&str> = tensors().filter(usual).collect();
    if chosen.is_empty() {
        // Some repositories hold the same weights twice, under another name: those are taken only when alone.
        chosen = tensors().filter(|name| !name.starts_with("adapter_")).collect();
    }
    if chosen.is_empty() {
        return match ggufs.as_slice() {
            [] => Err(FetchError::NotFound("model.safetensors".to_owned())),
            [one] => Ok(vec![one]),
            many => Err(FetchError::Protocol(format!("several models, name one of: {}", many.join(", ")))),
        };
    }
    let texts = listing.iter().copied().filter(|name| MODEL_TEXTS.contains(name));
    chosen.extend(texts);
    if !chosen.contains(&"config.json") {
        return Err(FetchError::NotFound("config.json".to_owned()));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// One file holds the whole source.
pub(super) fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// A name that can be a file's here: no path, nothing hidden, nothing odd.
pub(super) fn is_file_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.bytes().all(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Kind = Kind::Model(1 << 40);

    #[test]
    fn of_a_models_repository_what_is_read_is_fetched() {
        let listing = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "modeling_custom.py",
            "tokenizer.json",
            "../evil.safetensors",
        ];
        let chosen = MODEL.choose(&listing).unwrap();
        assert_eq!(
            chosen,
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "tokenizer.json"
            ]
        );
    }

    #[test]
    fn a_repository_of_one_gguf_needs_no_name_and_one_of_several_does() {
        assert_eq!(MODEL.choose(&["README.md", "a.gguf"]).unwrap(), ["a.gguf"]);
        let error = MODEL.choose(&["a.gguf", "b.gguf"]).unwrap_err().to_string();
        assert!(error.contains("a.gguf, b.gguf"), "{error}");
        assert!(matches!(MODEL.choose(&["x.bin"]), Err(FetchError::NotFound(_))));
    }

    #[test]
    fn of_an_adapters_repository_two_files_are_fetched_and_a_pickle_never() {
        let adapter = Kind::Adapter(100);
        assert_eq!(adapter.choose(&[ADAPTER[1], "x.py", ADAPTER[0], "tokenizer.json"]).unwrap(), ADAPTER);
        let pickle = adapter.choose(&[ADAPTER[0], "adapter_model.bin"]);
        assert!(matches!(pickle, Err(FetchError::Pickle(_))));
        assert!(
            matches!(adapter.choose(&[ADAPTER[1]]), Err(FetchError::NotFound(name)) if name == ADAPTER[0])
        );
        assert_eq!((adapter.limit(ADAPTER[0]), adapter.limit(ADAPTER[1])), (CONFIG_BYTES, 100));
    }
}
