//! Brings the files of a source to this machine: paths as they are, the rest through a content-addressed cache, one
//! download for a source however many ask. Decides nothing about what the files say.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use lorikeet_api::Tier;
use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::source::cache::{Cache, Lease, Partial};
use crate::source::config::FetchConfig;
use crate::source::credentials::{Keys, SecretName};
use crate::source::download::Download;
use crate::source::error::FetchError;
use crate::source::folder::Folder;
use crate::source::http::{Bearer, Body, Caller, Http, Wish};
use crate::source::plan::{Item, Kind, Location, Plan, is_weights};
use crate::source::s3::{Bucket, S3};
use crate::source::web::{hub_identity, key};
use crate::source::{Source, Trust, is_commit};

mod glimpse;
mod mounts;

use self::mounts::Mounts;

pub use self::glimpse::Glimpse;

/// Brings files here. A clone is the same fetcher.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    config: FetchConfig,
    http: Http,
    s3: S3,
    cache: OnceLock<Arc<Cache>>,
    downloads: Semaphore,
    mounts: Mounts,
    flights: Mutex<HashMap<Order, Flight>>,
}

type Flight = Shared<BoxFuture<'static, Result<Fetched, FetchError>>>;

/// What is to be fetched: equal orders are one download.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Order {
    source: Source,
    trust: Trust,
    credentials: Option<SecretName>,
    digest: Option<Digest>,
    kind: Kind,
}

impl Order {
    /// The key under which the cache remembers `what`. What one Secret opened, no other order finds.
    fn key(&self, what: &str) -> String {
        match &self.credentials {
            None => key(what),
            Some(name) => key(&format!("secret {name} {what}")),
        }
    }
}

/// What opens a source.
enum Pass {
    Web(Option<Bearer>),
    Bucket(Bucket),
}

impl Pass {
    fn caller(&self, order: &Order) -> Caller<'_> {
        let bearer = match self {
            Self::Web(bearer) => bearer.as_ref(),
            Self::Bucket(_) => None,
        };
        Caller { trust: order.trust, bearer }
    }
}

/// The disk cache in numbers; nothing before the first remote source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFigures {
    /// Bytes that it held when this process last changed it.
    pub used: u64,
    /// Bytes that it may hold.
    pub budget: u64,
    /// Contents that this process put out for others.
    pub evictions: u64,
}

/// Files that are here. Cached ones stay while this lives.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The folder that they are in.
    pub folder: Folder,
    /// The one file in it that is the whole source, as a GGUF file is.
    pub file: Option<String>,
    /// The revision that the source resolved to.
    pub revision: Option<String>,
    /// What the content was when it came into the cache; `None` for a path, which is read as it is now.
    pub digest: Option<Digest>,
    /// Where they came from: [`Tier::Disk`] when nothing had to be downloaded.
    pub from: Tier,
    lease: Option<Arc<(Lease, Arc<Cache>)>>,
}

impl Fetched {
    /// Where the source is now: the one file, or the folder.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let folder = self.folder.path();
        self.file.as_ref().map_or_else(|| folder.to_owned(), |file| folder.join(file))
    }

    /// Throws the cached copy away: it is not what it was.
    pub fn discard(&self) {
        if let Some(held) = &self.lease {
            held.1.discard(held.0.digest);
        }
    }

    fn local(folder: Folder, file: Option<String>) -> Self {
        Self { folder, file, revision: None, digest: None, from: Tier::Disk, lease: None }
    }
}

impl Fetcher {
    /// A fetcher of this configuration.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: FetchConfig) -> Result<Self, FetchError> {
        let http = Http::new(&config)?;
        let inner = Inner {
            s3: S3::new(&config, http.policy()),
            http,
            cache: OnceLock::new(),
            downloads: Semaphore::new(config.downloads.max(1)),
            mounts: Mounts::new(config.folders),
            flights: Mutex::default(),
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The files of an adapter, whose weights may have `limit` bytes. With a `digest` nothing else is taken. The Secret
    /// `credentials` opens the source in the place of what is configured for all.
    ///
    /// # Errors
    /// When the source is forbidden to who named it, does not answer, or holds something else.
    pub async fn adapter(
        &self,
        source: &Source,
        trust: Trust,
        credentials: Option<&SecretName>,
        digest: Option<Digest>,
        limit: u64,
    ) -> Result<Fetched, FetchError> {
        if let Source::Path(path) = source {
            return Ok(Fetched::local(self.inner.folder(path, trust)?, None));
        }
        let (source, credentials) = (source.clone(), credentials.cloned());
        self.remote(Order { source, trust, credentials, digest, kind: Kind::Adapter(limit) }).await
    }

    /// The files of the base model, which the command line names.
    ///
    /// # Errors
    /// As [`Self::adapter`].
    pub async fn model(
        &self,
        source: &Source,
        credentials: Option<&SecretName>,
        digest: Option<Digest>,
    ) -> Result<Fetched, FetchError> {
        if let Source::Path(path) = source {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            return Ok(match (name.filter(|_| path.is_file()), path.parent()) {
                (Some(name), Some(parent)) => Fetched::local(Folder::trusted(parent.to_owned()), Some(name)),
                _ => Fetched::local(Folder::trusted(path.clone()), None),
            });
        }
        let kind = Kind::Model(self.inner.config.model_file_bytes);
        let (source, credentials) = (source.clone(), credentials.cloned());
        self.remote(Order { source, trust: Trust::CommandLine, credentials, digest, kind }).await
    }

    /// What the disk cache holds.
    #[must_use]
    pub fn disk(&self) -> DiskFigures {
        self.inner.cache.get().map_or_else(DiskFigures::default, |cache| cache.figures())
    }

    /// Joins the download of the same order, or begins it. It goes on when its callers have gone.
    async fn remote(&self, order: Order) -> Result<Fetched, FetchError> {
        let flight = {
            let mut flights = self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.entry(order.clone()).or_insert_with(|| self.fly(order)).clone()
        };
        flight.await
    }

    fn fly(&self, order: Order) -> Flight {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move {
            let fetched = inner.fetch(&order).await;
            inner.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&order);
            fetched
        });
        let abandoned = |error: tokio::task::JoinError| FetchError::io("cache", std::io::Error::other(error));
        task.map(move |ended| ended.map_err(abandoned).and_then(|fetched| fetched)).boxed().shared()
    }
}

impl Inner {
    async fn fetch(self: &Arc<Self>, order: &Order) -> Result<Fetched, FetchError> {
        let cache = self.cache().await?;
        if let Some(lease) = order.digest.and_then(|digest| cache.get(digest)) {
            return Ok(self.cached(&cache, lease, None, Tier::Disk));
        }
        if let Source::Hub(hub) = &order.source
            && let Some(commit) = hub.revision.as_deref().filter(|revision| is_commit(revision))
            && let Some((lease, revision)) = cache.find(&order.key(&hub_identity(hub, commit, order.kind)))
        {
            return self.pinned(order, self.cached(&cache, lease, revision, Tier::Disk));
        }
        let whole = order.key(&format!("{:?} {:?}", order.source, order.trust));
        let pass = self.pass(order)?;
        let plan = match self.plan(order, &pass).await {
            // What the source was when it last answered is better than nothing, where nothing says otherwise.
            Err(error @ FetchError::Unavailable(_)) => {
                let (lease, revision) = cache.find(&whole).ok_or(error.clone())?;
                tracing::warn!(source = %order.source, "{error}; what was fetched before is used");
                return self.pinned(order, self.cached(&cache, lease, revision, Tier::Disk));
            }
            plan => plan?,
        };
        let named = plan.identity.as_deref().map(|identity| order.key(identity));
        if let Some((lease, revision)) = named.as_ref().and_then(|named| cache.find(named)) {
            return self.pinned(order, self.cached(&cache, lease, revision, Tier::Disk));
        }
        let permit =
            self.downloads.acquire().await.map_err(|error| FetchError::Protocol(error.to_string()))?;
        let name = named.clone().unwrap_or_else(|| whole.clone());
        let lease = self.bring(order, &pass, &plan, &cache, name).await?;
        drop(permit);
        for key in named.iter().chain([&whole]) {
            cache.remember(key, lease.digest, plan.revision.as_deref())?;
        }
        Ok(self.cached(&cache, lease, plan.revision, Tier::Remote))
    }

    /// The folder at a path, as far as whoever named it may go.
    fn folder(&self, path: &Path, trust: Trust) -> Result<Folder, FetchError> {
        match trust {
            Trust::CommandLine => Ok(Folder::trusted(path.to_owned())),
            Trust::Admin => Folder::below(path, &self.config.source_roots),
        }
    }

    /// What opens the order's source, as it is now: what its Secret holds, or what is configured for the hub and for
    /// buckets.
    fn pass(&self, order: &Order) -> Result<Pass, FetchError> {
        let folder = self.config.credentials.as_deref();
        let keys = order.credentials.as_ref().map(|name| Keys::open(folder, name)).transpose()?;
        if let Source::S3(place) = &order.source {
            return Ok(Pass::Bucket(match &keys {
                Some(keys) => self.s3.bucket_of(&place.bucket, keys, order.trust)?,
                None => self.s3.bucket(&place.bucket)?,
            }));
        }
        let token = match &keys {
            Some(keys) => Some(keys.token()?),
            None => self.config.hub.token.clone(),
        };
        let at = match &order.source {
            Source::Http(url) if keys.is_some() => Some(url),
            _ => self.http.hub().ok(),
        };
        Ok(Pass::Web(token.zip(at.cloned()).map(|(token, at)| Bearer { at, token })))
    }

    async fn plan(&self, order: &Order, pass: &Pass) -> Result<Plan, FetchError> {
        match (&order.source, pass) {
            (Source::Http(url), _) => self.http.plan_url(url, pass.caller(order), order.kind).await,
            (Source::Hub(hub), _) => self.http.plan_hub(hub, pass.caller(order), order.kind).await,
            (Source::S3(place), Pass::Bucket(bucket)) => bucket.plan(place, order.kind).await,
            (Source::S3(_), Pass::Web(_)) => {
                Err(FetchError::Protocol("a bucket that is not open".to_owned()))
            }
            (Source::Path(_), _) => Err(FetchError::Protocol("a path is not fetched".to_owned())),
        }
    }

    /// Downloads every file of the plan and turns them into content.
    async fn bring(
        &self,
        order: &Order,
        pass: &Pass,
        plan: &Plan,
        cache: &Arc<Cache>,
        key: String,
    ) -> Result<Lease, FetchError> {
        let bytes: u64 = plan.items.iter().filter_map(|item| item.size).sum();
        if let Some(item) = plan.items.iter().find(|item| item.size.is_some_and(|size| size > item.limit)) {
            let (what, bytes) = (item.name.clone(), item.size.unwrap_or_default());
            return Err(FetchError::TooLarge { what, bytes, limit: item.limit });
        }
        let anew = plan.identity.is_none();
        let partial = self.beside(cache, move |cache| {
            cache.make_room(bytes, &key)?;
            cache.partial(&key, anew)
        });
        let partial = Arc::new(partial.await?);
        let mut names = Vec::new();
        for item in &plan.items {
            match self.download(order, pass, item, &partial).await {
                Err(FetchError::NotFound(_)) if item.optional => {}
                done => done.map(|()| names.push(item.name.clone()))?,
            }
        }
        let (digest, partial) = (order.digest, Arc::clone(&partial));
        self.beside(cache, move |cache| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            cache.commit(&partial, &names, digest)
        })
        .await
    }

    async fn download(
        &self,
        order: &Order,
        pass: &Pass,
        item: &Item,
        partial: &Partial,
    ) -> Result<(), FetchError> {
        let nobody = |_: &crate::source::config::Progress<'_>| {};
        let shown = order.source.to_string();
        let download = Download {
            item,
            folder: &partial.folder,
            patience: &self.config.patience,
            tell: self.config.progress.as_deref().unwrap_or(&nobody),
            source: &shown,
        };
        download
            .run(|from| async move {
                let from = from.as_ref().map(|(length, tag)| (*length, tag.as_str()));
                self.open(order, pass, item, Wish { from, ..Wish::default() }).await
            })
            .await
    }

    /// A file of the plan, its bytes to come.
    async fn open(
        &self,
        order: &Order,
        pass: &Pass,
        item: &Item,
        wish: Wish<'_>,
    ) -> Result<Body, FetchError> {
        match (&item.at, pass) {
            (Location::Url(url), _) => self.http.open(url, &item.name, pass.caller(order), wish).await,
            (Location::Key(_), Pass::Bucket(bucket)) => bucket.open(item, wish).await,
            (Location::Key(_), Pass::Web(_)) => {
                Err(FetchError::Protocol("a key without a bucket".to_owned()))
            }
        }
    }

    async fn cache(&self) -> Result<Arc<Cache>, FetchError> {
        if let Some(cache) = self.cache.get() {
            return Ok(Arc::clone(cache));
        }
        let (dir, bytes) = (self.config.cache_dir.clone(), self.config.cache_bytes);
        if dir.as_os_str().is_empty() {
            return Err(FetchError::Forbidden(
                "remote sources need a cache folder, and none is configured".to_owned(),
            ));
        }
        let opened = tokio::task::spawn_blocking(move || Cache::open(&dir, bytes)).await;
        let opened = opened.map_err(|error| FetchError::io("cache", std::io::Error::other(error)))??;
        Ok(Arc::clone(self.cache.get_or_init(|| Arc::new(opened))))
    }

    /// Works on the cache beside the async workers.
    async fn beside<T: Send + 'static>(
        &self,
        cache: &Arc<Cache>,
        work: impl FnOnce(&Cache) -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let cache = Arc::clone(cache);
        let done = tokio::task::spawn_blocking(move || work(&cache)).await;
        done.map_err(|error| FetchError::io("cache", std::io::Error::other(error)))?
    }

    fn cached(&self, cache: &Arc<Cache>, lease: Lease, revision: Option<String>, from: Tier) -> Fetched {
        let names = std::fs::read_dir(&lease.folder).into_iter().flatten().flatten();
        let names: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        let file = match names.as_slice() {
            [one] if is_weights(one) => Some(one.clone()),
            _ => None,
        };
        Fetched {
            folder: Folder::trusted(lease.folder.clone()),
            file,
            revision,
            digest: Some(lease.digest),
            from,
            lease: Some(Arc::new((lease, Arc::clone(cache)))),
        }
    }

    /// What came from the cache under another name than its digest is still held against the pin.
    fn pinned(&self, order: &Order, fetched: Fetched) -> Result<Fetched, FetchError> {
        match (order.digest, fetched.digest) {
            (Some(expected), Some(got)) if expected != got => {
                Err(FetchError::DigestMismatch { expected, got })
            }
            _ => Ok(fetched),
        }
    }
}

#[cfg(test)]
mod tests;
