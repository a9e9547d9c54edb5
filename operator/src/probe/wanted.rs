//! Which sources are worth reading before replicas hear of them, where their files are, and who may read them. Pure.

use std::path::PathBuf;
use std::sync::Arc;

use lorikeet_crds::Adapter;
use reqwest::Url;

use crate::decide::former::Formers;
use crate::decide::known::accepted_status;
use crate::decide::mounts::{self, Mounts};
use crate::decide::sources::{self, carried};
use crate::decide::validate::key_of;
use crate::fleet::{AdapterKey, Fleet, FleetKey};

/// The two files of an adapter.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What this operator may read.
#[derive(Clone, Debug)]
pub(super) struct Readable {
    /// The Hugging Face hub; absent where its endpoint is no URL.
    pub hub: Option<Url>,
    /// Whether the replicas' paths are this machine's.
    pub paths: bool,
}

/// A source to read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Wanted {
    /// Whose replicas would read it: their namespace has Secrets and claims of its own.
    pub fleet: FleetKey,
    /// As replicas read it.
    pub source: String,
    /// The content asked for. It tells apart what was read before from what is asked for now; it is not checked here.
    pub digest: Option<String>,
    /// The Secret that opens it.
    pub secret: Option<String>,
    /// The claim that it is on.
    pub claim: Option<String>,
}

/// Where an adapter's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On servers.
    Web {
        /// Its configuration.
        config: Url,
        /// Its weights.
        weights: Url,
    },
    /// In a folder of this machine.
    Folder(PathBuf),
}

/// The sources of `fleet` to read: of Adapters that are not accepted as they are now and that no replica has read, but for
/// those that no replica may be given.
#[must_use]
pub(super) fn wanted(fleet: &Fleet) -> Vec<(AdapterKey, Wanted)> {
    let formers = Formers::of(fleet);
    let is_to_read = |adapter: &&Arc<Adapter>| {
        is_new(adapter) && may_be_given(fleet, adapter) && !formers.is_read(adapter)
    };
    fleet.adapters.iter().filter(is_to_read).map(|adapter| (key_of(adapter), one(fleet, adapter))).collect()
}

fn one(fleet: &Fleet, adapter: &Adapter) -> Wanted {
    let source = &adapter.spec.source;
    Wanted {
        fleet: fleet.key.clone(),
        source: carried(&source.source, source.revision.as_deref(), &fleet.claims),
        digest: source.digest.clone(),
        secret: mounts::secret(source).map(str::to_owned),
        claim: mounts::claim(&source.source).map(str::to_owned),
    }
}

/// Whether nobody has judged `adapter` as it is now, or refused it.
fn is_new(adapter: &Adapter) -> bool {
    accepted_status(adapter).is_none() && adapter.metadata.deletion_timestamp.is_none()
}

/// Whether replicas of `fleet` may be given what reading the source of `adapter` takes, as validation says.
fn may_be_given(fleet: &Fleet, adapter: &Adapter) -> bool {
    let source = &adapter.spec.source;
    let from = adapter.metadata.namespace.as_deref().unwrap_or_default();
    sources::check("source", &source.source).is_ok()
        && Mounts::default().take_of(source, from, &fleet.key.namespace).is_ok()
}

impl Wanted {
    /// Where this operator, which may read what is `readable`, reads its files itself; nothing where it does not.
    pub(super) fn place(&self, readable: &Readable) -> Option<Place> {
        self.secret.is_none().then(|| place(&self.source, readable)).flatten()
    }
}

/// Where the files of `source` are; nothing where it is not to be read from here.
fn place(source: &str, readable: &Readable) -> Option<Place> {
    match source.split_once("://") {
        None => readable.paths.then(|| Place::Folder(PathBuf::from(source))),
        Some(("https" | "http", _)) => on_the_web(source),
        Some(("hf", rest)) => on_the_hub(rest, readable.hub.as_ref()?),
        Some(_) => None,
    }
}

fn on_the_web(source: &str) -> Option<Place> {
    let url = Url::parse(source).ok()?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return None;
    }
    let last = url.path_segments()?.next_back().unwrap_or_default().to_owned();
    if last.ends_with(".safetensors") || last.ends_with(".gguf") {
        let mut config = url.clone();
        config.path_segments_mut().ok()?.pop().push(CONFIG);
        return Some(Place::Web { config, weights: url });
    }
    Some(Place::Web { config: below(&url, &[CONFIG])?, weights: below(&url, &[WEIGHTS])? })
}

/// `OWNER/NAME[@REVISION][/FOLDER]`, or the oldest repositories' `NAME`.
fn on_the_hub(rest: &str, hub: &Url) -> Option<Place> {
    let (owner, rest) = rest.split_once('/').map_or((None, rest), |(owner, rest)| (Some(owner), rest));
    let (head, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, revision) = head.split_once('@').unwrap_or((head, "main"));
    let revision = revision.replace("%2F", "/").replace("%2f", "/");
    // A repository's single file is no adapter; replicas say so.
    if name.is_empty() || folder.ends_with(".safetensors") || folder.ends_with(".gguf") {
        return None;
    }
    let mut parts: Vec<&str> = owner.into_iter().chain([name, "resolve", &revision]).collect();
    parts.extend(folder.split('/').filter(|part| !part.is_empty()));
    let folder = below(hub, &parts)?;
    Some(Place::Web { config: below(&folder, &[CONFIG])?, weights: below(&folder, &[WEIGHTS])? })
}

/// `base` with further parts of a path, each escaped as one.
fn below(base: &Url, parts: &[&str]) -> Option<Url> {
    let mut url = base.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(parts);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(source: &str) -> Option<(String, String)> {
        let hub = Url::parse("https://hub.example/mirror/").ok();
        match place(source, &Readable { hub, paths: false })? {
            Place::Web { config, weights } => Some((config.to_string(), weights.to_string())),
            Place::Folder(_) => None,
        }
    }

    #[test]
    fn files_are_where_replicas_look_for_them() {
        for (source, folder) in [
            ("hf://acme/sql", "https://hub.example/mirror/acme/sql/resolve/main"),
            (
                "hf://acme/sql@refs%2Fpr%2F1/a/b",
                "https://hub.example/mirror/acme/sql/resolve/refs%2Fpr%2F1/a/b",
            ),
            ("hf://gpt2@v1", "https://hub.example/mirror/gpt2/resolve/v1"),
            ("https://host/dir/", "https://host/dir"),
            ("https://host/dir", "https://host/dir"),
        ] {
            let expected = (format!("{folder}/{CONFIG}"), format!("{folder}/{WEIGHTS}"));
            assert_eq!(urls(source), Some(expected), "{source}");
        }
        let (config, weights) = urls("https://host/dir/x.safetensors?sig=1").unwrap();
        assert_eq!(config, format!("https://host/dir/{CONFIG}?sig=1"));
        assert_eq!(weights, "https://host/dir/x.safetensors?sig=1");
    }

    #[test]
    fn what_needs_a_secret_or_another_reader_is_not_read() {
        for source in [
            "s3://bucket/key",
            "/models/sql",
            "https://user@host/x",
            "https://host/x#y",
            "hf://acme/sql/adapter_model.safetensors",
        ] {
            assert_eq!(urls(source), None, "{source}");
        }
        let readable = Readable { hub: None, paths: true };
        assert_eq!(place("/models/sql", &readable), Some(Place::Folder("/models/sql".into())));
        assert_eq!(place("hf://acme/sql", &readable), None);
    }
}
