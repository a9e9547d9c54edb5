//! Sources in a bucket: of the S3 service that the configuration names, with its credentials, or of the one that a Secret
//! names, with the Secret's.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, RetryConfig,
};
use reqwest::{Client, ClientBuilder, Url};

use crate::source::address::HostPolicy;
use crate::source::config::{FetchConfig, Patience, S3Config, Secret};
use crate::source::credentials::Keys;
use crate::source::error::FetchError;
use crate::source::http::{Body, Guard, Wish, client};
use crate::source::plan::{ADAPTER, Item, Kind, Location, PICKLES, Plan, is_file_name, is_weights};
use crate::source::{S3Source, Trust};

/// Keys that are listed of a folder.
const LISTED: usize = 10_000;

/// The service that the configuration names, and those that Secrets name.
pub(super) struct S3 {
    config: S3Config,
    patience: Patience,
    policy: Arc<HostPolicy>,
    /// Those of the configured service, opened with its credentials.
    buckets: Mutex<HashMap<String, Arc<AmazonS3>>>,
}

/// A bucket, open.
#[derive(Clone)]
pub(super) struct Bucket {
    name: String,
    store: Arc<AmazonS3>,
}

impl S3 {
    pub(super) fn new(config: &FetchConfig, policy: Arc<HostPolicy>) -> Self {
        Self { config: config.s3.clone(), patience: config.patience, policy, buckets: Mutex::default() }
    }

    /// The bucket `name`, opened with the credentials of the configuration.
    pub(super) fn bucket(&self, name: &str) -> Result<Bucket, FetchError> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = buckets.get(name) {
            return Ok(Bucket { name: name.to_owned(), store: Arc::clone(store) });
        }
        let bucket = self.build(name, &self.config, client(&self.patience))?;
        // Buckets are named by callers: the map stays small whatever they name.
        if buckets.len() >= 64 {
            buckets.clear();
        }
        buckets.insert(name.to_owned(), Arc::clone(&bucket.store));
        Ok(bucket)
    }

    /// The bucket `name`, opened with the credentials of a Secret. They are not kept: the next fetch has those of its day.
    /// A service that the Secret alone names may be where the policy lets a caller of the admin face go.
    pub(super) fn bucket_of(&self, name: &str, keys: &Keys<'_>, trust: Trust) -> Result<Bucket, FetchError> {
        let config = keys.s3(&self.config)?;
        let named = config.endpoint.as_deref().filter(|_| config.endpoint != self.config.endpoint);
        let Some(endpoint) = named else { return self.build(name, &config, client(&self.patience)) };
        let url: Url = endpoint
            .parse()
            .ok()
            .filter(|url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| FetchError::Credentials("endpoint: expected an http or https URL".to_owned()))?;
        if trust == Trust::CommandLine {
            return self.build(name, &config, client(&self.patience));
        }
        self.policy.check(&url)?;
        let client = client(&self.patience).no_proxy();
        let client = match self.policy.names(&url) {
            true => client,
            false => client.dns_resolver(Guard(Arc::clone(&self.policy))),
        };
        self.build(name, &config, client)
    }

    fn build(&self, name: &str, config: &S3Config, client: ClientBuilder) -> Result<Bucket, FetchError> {
        let forbidden = |error: &dyn std::fmt::Display| FetchError::Forbidden(format!("s3: {error}"));
        let client = client.read_timeout(self.patience.read).build().map_err(|error| forbidden(&error))?;
        let max_retries = usize::from(self.patience.tries > 1);
        let retry = RetryConfig { max_retries, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(name)
            .with_region(config.region.as_deref().unwrap_or("us-east-1"))
            .with_http_connector(Connector(client))
            .with_retry(retry);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        builder = match (&config.access_key_id, &config.secret_access_key) {
            (Some(id), Some(secret)) => {
                builder.with_access_key_id(id).with_secret_access_key(secret.reveal())
            }
            // Never ask a metadata service for credentials that nobody configured.
            _ => builder.with_skip_signature(true),
        };
        if let Some(token) = config.session_token.as_ref().map(Secret::reveal) {
            builder = builder.with_token(token);
        }
        let store = Arc::new(builder.build().map_err(|error| forbidden(&error))?);
        Ok(Bucket { name: name.to_owned(), store })
    }
}

/// The client that a bucket is asked with, as it was made: it follows no redirect, and goes where it may.
#[derive(Debug)]
struct Connector(Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Terse(self.0.clone())))
    }
}

/// Takes nothing of what a service says to an error, which has no bound: the status says it.
#[derive(Debug)]
struct Terse(Client);

impl HttpService for Terse {
    fn call<'service, 'call>(
        &'service self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'call>>
    where
        'service: 'call,
        Self: 'call,
    {
        Box::pin(async move {
            let answer = HttpService::call(&self.0, request).await?;
            let is_good = answer.status().is_success();
            Ok(answer.map(|body| if is_good { body } else { HttpResponseBody::from(Bytes::new()) }))
        })
    }
}

impl Bucket {
    /// What to fetch of a place in a bucket.
    pub(super) async fn plan(&self, source: &S3Source, kind: Kind) -> Result<Plan, FetchError> {
        let bucket = &self.store;
        let last = source.key.rsplit('/').next().unwrap_or(&source.key);
        let failed = |error| fault(&source.bucket, last, error);
        let found: Vec<ObjectMeta> = if is_weights(last) {
            let mut found = vec![bucket.head(&Path::from(source.key.as_str())).await.map_err(failed)?];
            if let Kind::Adapter(_) = kind {
                let folder = source.key.rsplit_once('/').map_or("", |(folder, _)| folder);
                let config = Path::from(format!("{folder}/{}", ADAPTER[0]));
                found.push(
                    bucket.head(&config).await.map_err(|error| fault(&source.bucket, ADAPTER[0], error))?,
                );
            }
            found
        } else {
            let prefix = Path::from(source.key.as_str());
            let listed =
                bucket.list(Some(&prefix)).take(LISTED).try_collect::<Vec<_>>().await.map_err(failed)?;
            let own = |object: &ObjectMeta| {
                let mut parts = object.location.prefix_match(&prefix)?;
                parts.next()?;
                parts.next().is_none().then_some(())
            };
            let listed: Vec<ObjectMeta> = listed.into_iter().filter(|object| own(object).is_some()).collect();
            let names: Vec<&str> = listed.iter().filter_map(|object| object.location.filename()).collect();
            let chosen: Vec<String> = kind.choose(&names)?.into_iter().map(str::to_owned).collect();
            let is_chosen = |object: &ObjectMeta| {
                object.location.filename().is_some_and(|name| chosen.iter().any(|chosen| chosen == name))
            };
            listed.into_iter().filter(is_chosen).collect()
        };
        plan_of(source, &found, kind)
    }

    /// Where the files of an adapter are in a bucket, if they are there: nobody is asked for a list, however long.
    pub(super) fn name(source: &S3Source, kind: Kind) -> Plan {
        let key = source.key.as_str();
        let (folder, own) = match key.rsplit_once('/').unwrap_or(("", key)) {
            (folder, last) if is_weights(last) => (folder, Some(key)),
            _ => (key, None),
        };
        let at = |name: &str| Item {
            name: name.to_owned(),
            at: Location::Key(match own.filter(|_| name == ADAPTER[1]) {
                Some(own) => own.to_owned(),
                None => format!("{folder}/{name}"),
            }),
            limit: kind.limit(name),
            size: None,
            tag: None,
            optional: false,
        };
        let pickles = PICKLES.into_iter().filter(|_| own.is_none());
        Plan { identity: None, revision: None, items: ADAPTER.into_iter().chain(pickles).map(at).collect() }
    }

    /// A file's bytes, from where the wish says if it is still the same file.
    pub(super) async fn open(&self, item: &Item, wish: Wish<'_>) -> Result<Body, FetchError> {
        let Location::Key(key) = &item.at else {
            return Err(FetchError::Protocol("a file of another kind of source".to_owned()));
        };
        let bucket = &self.store;
        let mut options = GetOptions::new();
        if let Some((from, tag)) = wish.from {
            options.range = Some(GetRange::Offset(from));
            options.if_match = Some(tag.to_owned());
        }
        if let Some(count) = wish.first {
            options.range = Some(GetRange::Bounded(0..count));
        }
        let path = Path::from(key.as_str());
        let answer = match bucket.get_opts(&path, options).await {
            Err(object_store::Error::Precondition { .. }) => bucket.get_opts(&path, GetOptions::new()).await,
            // The whole is not taken for the part that was asked for: of a service that knows no parts it is asked for.
            Err(object_store::Error::Generic { .. }) if wish.first.is_some() => {
                bucket.get_opts(&path, GetOptions::new()).await
            }
            other => other,
        };
        let answer = answer.map_err(|error| fault(&self.name, &item.name, error))?;
        let (start, total, tag) = (answer.range.start, answer.meta.size, answer.meta.e_tag.clone());
        let (bucket_name, name) = (self.name.clone(), item.name.clone());
        let pieces = answer.into_stream().map_err(move |error| fault(&bucket_name, &name, error));
        Ok(Body { start, total: Some(total), tag, pieces: pieces.boxed() })
    }
}

fn plan_of(source: &S3Source, found: &[ObjectMeta], kind: Kind) -> Result<Plan, FetchError> {
    let mut identity = Some(format!("s3 {} {}", source.bucket, source.key));
    let mut items = Vec::new();
    for object in found {
        let own = object.location.filename().unwrap_or_default();
        let name = match kind {
            Kind::Adapter(_) if is_weights(own) => ADAPTER[1],
            _ => own,
        };
        if !is_file_name(name) {
            return Err(FetchError::Protocol(format!("{name:?} cannot be a file's name here")));
        }
        identity = identity.zip(object.e_tag.as_ref()).map(|(all, tag)| format!("{all} {name} {tag}"));
        items.push(Item {
            name: name.to_owned(),
            at: Location::Key(object.location.to_string()),
            limit: kind.limit(name),
            size: Some(object.size),
            tag: object.e_tag.clone(),
            optional: false,
        });
    }
    Ok(Plan { identity, revision: None, items })
}

/// The service's words can hold the whole request: only their kind is passed on.
fn fault(bucket: &str, file: &str, error: object_store::Error) -> FetchError {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => FetchError::NotFound(file.to_owned()),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            FetchError::Unauthorized(format!("s3://{bucket}"))
        }
        E::Generic { source, .. } => match innermost(&*source) {
            // Some calls keep the status in words alone.
            text if text.contains("403 Forbidden") || text.contains("401 Unauthorized") => {
                FetchError::Unauthorized(format!("s3://{bucket}"))
            }
            text if text.contains("404 Not Found") => FetchError::NotFound(file.to_owned()),
            text => FetchError::Unavailable(format!("s3://{bucket}: {text}")),
        },
        other => FetchError::Protocol(format!("s3://{bucket}: {file}: {}", kind_of(&other))),
    }
}

fn kind_of(error: &object_store::Error) -> &'static str {
    use object_store::Error as E;
    match error {
        E::InvalidPath { .. } => "the key is not usable",
        E::Precondition { .. } | E::NotModified { .. } => "it changed while it was read",
        _ => "the request failed",
    }
}

fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> String {
    let mut cause: &'a (dyn std::error::Error + 'static) = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string().lines().next().unwrap_or_default().chars().take(120).collect()
}
