//! What the fetcher may use and reach. Values only: they are read from flags and environment elsewhere.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::source::address::HostPolicy;

/// Where files may come from and where they are kept.
#[derive(Clone)]
pub struct FetchConfig {
    /// Paths named over the admin face must lie below one of these.
    pub source_roots: Vec<PathBuf>,
    /// What `https://` sources named over the admin face may reach beyond public addresses. The hub's and S3's
    /// configured endpoints are always allowed.
    pub hosts: HostPolicy,
    /// The content-addressed cache, made when the first remote source is fetched. Empty: only paths can be read.
    pub cache_dir: PathBuf,
    /// Bytes that it may hold.
    pub cache_bytes: u64,
    /// The folder of Secrets that sources are named with.
    pub credentials: Option<PathBuf>,
    /// The hub's endpoint, and its token where no Secret is named.
    pub hub: HubConfig,
    /// Where `s3://` leads, with which credentials where no Secret is named.
    pub s3: S3Config,
    /// How long to wait for whom.
    pub patience: Patience,
    /// Downloads at a time.
    pub downloads: usize,
    /// Folders of this machine that are looked into at a time, those included that hang.
    pub folders: usize,
    /// The longest file of a model.
    pub model_file_bytes: u64,
    /// Told of every download, often.
    pub progress: Option<Arc<Tell>>,
}

/// A hub.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// As `https://huggingface.co`.
    pub endpoint: String,
    /// Sent to this endpoint alone, never to where it redirects.
    pub token: Option<Secret>,
}

/// An S3 service. Without a key requests are not signed: public buckets.
#[derive(Clone, Debug, Default)]
pub struct S3Config {
    /// Another service than Amazon's.
    pub endpoint: Option<String>,
    /// `us-east-1` when absent.
    pub region: Option<String>,
    /// The key.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<Secret>,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For an answer, and for each further piece of it.
    pub read: Duration,
    /// A download slower than this many bytes a second, over its whole length, is given up.
    pub slowest: u64,
    /// Tries of one file that bring nothing before it is given up.
    pub tries: u32,
    /// The pause before the second try; it doubles.
    pub pause: Duration,
}

/// What hears of downloads.
pub type Tell = dyn Fn(&Progress<'_>) + Send + Sync;

/// A download under way.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The source, as shown to people.
    pub source: &'a str,
    /// The file.
    pub file: &'a str,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes that there are, where the server says so.
    pub total: Option<u64>,
    /// Nothing more will come.
    pub finished: bool,
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

impl fmt::Debug for FetchConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("FetchConfig")
            .field("source_roots", &self.source_roots)
            .field("hosts", &self.hosts)
            .field("cache_dir", &self.cache_dir)
            .field("cache_bytes", &self.cache_bytes)
            .field("credentials", &self.credentials)
            .field("hub", &self.hub)
            .field("s3", &self.s3)
            .finish_non_exhaustive()
    }
}

impl Default for HubConfig {
    fn default() -> Self {
        Self { endpoint: "https://huggingface.co".to_owned(), token: None }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            slowest: 16 << 10,
            tries: 4,
            pause: Duration::from_millis(250),
        }
    }
}

impl Patience {
    /// One try, in which nothing is waited for longer than `time`.
    #[must_use]
    pub fn once(time: Duration) -> Self {
        let usual = Self::default();
        Self { connect: usual.connect.min(time), read: time, tries: 1, ..usual }
    }
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            source_roots: Vec::new(),
            hosts: HostPolicy::default(),
            cache_dir: PathBuf::new(),
            cache_bytes: 50 << 30,
            credentials: None,
            hub: HubConfig::default(),
            s3: S3Config::default(),
            patience: Patience::default(),
            downloads: 4,
            folders: 8,
            model_file_bytes: 1 << 40,
            progress: None,
        }
    }
}
