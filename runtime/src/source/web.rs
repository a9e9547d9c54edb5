//! Sources that are read over HTTP: folders of files by their usual names, single files, and the hub's repositories.

use reqwest::Url;
use reqwest::header::CONTENT_LENGTH;
use serde::Deserialize;

use crate::digest::Digest;
use crate::source::error::FetchError;
use crate::source::http::{Caller, Http, Wish, strong_tag};
use crate::source::plan::{
    ADAPTER, Item, Kind, Location, MODEL_TEXTS, PICKLES, Plan, TEXT_BYTES, is_file_name, is_weights,
};
use crate::source::{HubSource, Trust, is_commit};

/// The shards that an index may name.
const SHARDS: usize = 1024;

/// What the hub says of a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// What a model's index says.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl Http {
    /// What to fetch of a repository of the hub. A commit is what it is: its content has a name before anybody is asked.
    pub(super) async fn plan_hub(
        &self,
        source: &HubSource,
        caller: Caller<'_>,
        kind: Kind,
    ) -> Result<Plan, FetchError> {
        let hub = self.hub()?;
        let caller = Caller { trust: Trust::Admin, ..caller };
        let revision = source.revision.as_deref().unwrap_or("main");
        let mut url = under(hub, &["api", "models"])?;
        extend(&mut url, source.repository.split('/'))?;
        extend(&mut url, ["revision", revision].into_iter())?;
        let text = self.text(&url, &source.repository, caller, TEXT_BYTES).await?;
        let found: Revision = serde_json::from_slice(&text)
            .map_err(|error| FetchError::Protocol(format!("the hub's description of a revision: {error}")))?;
        if !is_commit(&found.sha) {
            return Err(FetchError::Protocol("the hub's revision is no commit".to_owned()));
        }
        let (folder, own) = match source.path.as_deref() {
            Some(path) if is_weights(path) => {
                let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
                (folder, Some(file))
            }
            Some(path) => (path, None),
            None => ("", None),
        };
        let inside = |sibling: &'_ Sibling| -> Option<String> {
            let name = sibling.rfilename.as_str();
            let name = if folder.is_empty() { name } else { name.strip_prefix(folder)?.strip_prefix('/')? };
            is_file_name(name).then(|| name.to_owned())
        };
        let listing: Vec<String> = found.siblings.iter().filter_map(inside).collect();
        let listing: Vec<&str> = listing.iter().map(String::as_str).collect();
        let names = match own {
            Some(file) if listing.contains(&file) => vec![file],
            Some(file) => return Err(FetchError::NotFound(file.to_owned())),
            None => kind.choose(&listing)?,
        };
        let mut items = Vec::new();
        for name in names {
            items.push(item(name, resolved(hub, &source.repository, &found.sha, folder, name)?, kind));
        }
        let identity = hub_identity(source, &found.sha, kind);
        Ok(Plan { identity: Some(identity), revision: Some(found.sha), items })
    }

    /// Where the files of an adapter are in a repository, if they are there: nobody is asked for a list, however long.
    pub(super) fn name_hub(&self, source: &HubSource, kind: Kind) -> Result<Plan, FetchError> {
        let (hub, folder) = (self.hub()?, source.path.as_deref().unwrap_or_default());
        if is_weights(folder) {
            return Err(FetchError::NoFile(ADAPTER[0].to_owned()));
        }
        let revision = source.revision.as_deref().unwrap_or("main");
        let at = |name| Ok(item(name, resolved(hub, &source.repository, revision, folder, name)?, kind));
        let items: Result<Vec<Item>, FetchError> = ADAPTER.into_iter().chain(PICKLES).map(at).collect();
        Ok(Plan { identity: None, revision: None, items: items? })
    }

    /// What to fetch of a URL.
    pub(super) async fn plan_url(
        &self,
        url: &Url,
        caller: Caller<'_>,
        kind: Kind,
    ) -> Result<Plan, FetchError> {
        let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
        let mut candidates = Vec::new();
        match kind {
            Kind::Adapter(_) if is_weights(last) => {
                candidates.push(item(ADAPTER[0], sibling(url, ADAPTER[0])?, kind));
                candidates.push(item(ADAPTER[1], url.clone(), kind));
            }
            Kind::Adapter(_) => {
                for name in ADAPTER {
                    candidates.push(item(name, child(url, name)?, kind));
                }
            }
            Kind::Model(_) if is_weights(last) => candidates.push(item(last, url.clone(), kind)),
            Kind::Model(_) => {
                for name in self.model_files(url, caller).await? {
                    candidates.push(item(&name, child(url, &name)?, kind));
                }
            }
        }
        let mut items = Vec::new();
        let mut identity = Some(format!("url {url}"));
        for mut item in candidates {
            match self.look(&mut item, caller).await {
                Err(FetchError::NotFound(_)) if item.optional => continue,
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            identity = identity.zip(item.tag.as_ref()).map(|(all, tag)| format!("{all} {} {tag}", item.name));
            items.push(item);
        }
        Ok(Plan { identity, revision: None, items })
    }

    /// The names of a model's files in a folder that cannot be listed.
    async fn model_files(&self, url: &Url, caller: Caller<'_>) -> Result<Vec<String>, FetchError> {
        let mut names: Vec<String> = MODEL_TEXTS.iter().map(ToString::to_string).collect();
        let index = "model.safetensors.index.json";
        match self.text(&child(url, index)?, index, caller, TEXT_BYTES).await {
            Ok(text) => {
                let index: Index = serde_json::from_slice(&text)
                    .map_err(|error| FetchError::Protocol(format!("{index}: {error}")))?;
                let mut shards: Vec<String> = index.weight_map.into_values().collect();
                shards.sort();
                shards.dedup();
                if shards.len() > SHARDS || !shards.iter().all(|name| is_file_name(name) && is_weights(name))
                {
                    return Err(FetchError::Protocol(
                        "model.safetensors.index.json names odd files".to_owned(),
                    ));
                }
                names.extend(shards);
            }
            Err(FetchError::NotFound(_)) => names.push("model.safetensors".to_owned()),
            Err(error) => return Err(error),
        }
        Ok(names)
    }

    /// Length and tag of a file, where the server tells them ahead. Some servers answer GET alone: that is no error yet.
    async fn look(&self, item: &mut Item, caller: Caller<'_>) -> Result<(), FetchError> {
        let Location::Url(url) = &item.at else { return Ok(()) };
        match self.get(url, &item.name, caller, Wish { head: true, ..Wish::default() }).await {
            Ok(answer) => {
                let length =
                    answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
                item.size = length;
                item.tag = strong_tag(answer.headers());
                Ok(())
            }
            Err(FetchError::Protocol(_) | FetchError::Unauthorized(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The name of a commit's content.
pub(super) fn hub_identity(source: &HubSource, commit: &str, kind: Kind) -> String {
    let kind = if matches!(kind, Kind::Adapter(_)) { "adapter" } else { "model" };
    format!("hub {} {commit} {} {kind}", source.repository, source.path.as_deref().unwrap_or_default())
}

/// A key under which the cache remembers something by its name.
pub(super) fn key(name: &str) -> String {
    Digest::of(name.as_bytes()).hex()
}

fn item(name: &str, url: Url, kind: Kind) -> Item {
    let optional = matches!(kind, Kind::Model(_)) && MODEL_TEXTS[1..].contains(&name);
    let limit = kind.limit(name);
    Item { name: name.to_owned(), at: Location::Url(url), limit, size: None, tag: None, optional }
}

/// Where a repository's file is at a revision.
fn resolved(
    hub: &Url,
    repository: &str,
    revision: &str,
    folder: &str,
    name: &str,
) -> Result<Url, FetchError> {
    let mut url = under(hub, &[])?;
    extend(&mut url, repository.split('/'))?;
    extend(&mut url, ["resolve", revision].into_iter())?;
    extend(&mut url, folder.split('/').filter(|part| !part.is_empty()))?;
    extend(&mut url, std::iter::once(name))?;
    Ok(url)
}

fn under(base: &Url, parts: &[&str]) -> Result<Url, FetchError> {
    let mut url = base.clone();
    url.path_segments_mut().map_err(|()| no_base(base))?.pop_if_empty();
    extend(&mut url, parts.iter().copied())?;
    Ok(url)
}

/// Appends parts of a path, each escaped as one.
fn extend<'a>(url: &mut Url, parts: impl Iterator<Item = &'a str>) -> Result<(), FetchError> {
    let error = no_base(url);
    url.path_segments_mut().map_err(|()| error)?.extend(parts);
    Ok(())
}

fn child(folder: &Url, name: &str) -> Result<Url, FetchError> {
    under(folder, &[name])
}

fn sibling(file: &Url, name: &str) -> Result<Url, FetchError> {
    let mut url = file.clone();
    url.path_segments_mut().map_err(|()| no_base(file))?.pop().push(name);
    Ok(url)
}

fn no_base(url: &Url) -> FetchError {
    FetchError::Forbidden(format!("{}: a URL without a path", url.scheme()))
}
