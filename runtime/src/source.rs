//! Where the files of a model or an adapter are, as a person or a program writes it. Parsing only: nothing is opened
//! here, no name is resolved, and what a source may reach is decided elsewhere.
//!
//! | form | meaning |
//! |---|---|
//! | `DIR`, `FILE`, `file:///DIR` | a path of this machine |
//! | `https://HOST/DIR/`, `https://HOST/x.safetensors` | a folder of files by their usual names, or one file |
//! | `hf://OWNER/NAME[@REVISION][/FILE]` | a repository of the Hugging Face hub |
//! | `s3://BUCKET/PREFIX` | a folder, or one file, of a bucket |

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;

pub mod address;
pub mod asked;
mod cache;
pub mod config;
pub mod credentials;
mod download;
pub mod error;
pub mod fetch;
pub mod folder;
mod http;
mod plan;
mod s3;
#[cfg(test)]
pub(crate) mod server;
mod web;

/// The longest text that is taken for a source.
const MAX_LENGTH: usize = 2048;

/// A parsed source. Its `Display` is safe for logs and reports: it never shows a query, which may hold a signature.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A folder or a file of this machine, as written: relative and `..` are for the policy to judge.
    Path(PathBuf),
    /// A folder's or a file's URL, `http` or `https`, without user, password or fragment.
    Http(Url),
    /// A repository of the hub.
    Hub(HubSource),
    /// A folder or a file of a bucket.
    S3(S3Source),
}

/// Who named a source, and so what it may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The command line of this process: any path, any host.
    CommandLine,
    /// A caller of the admin face: paths below a source root, hosts that the policy allows.
    Admin,
}

/// A repository of the hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubSource {
    /// `owner/name`, or `name` alone as the oldest repositories have it.
    pub repository: String,
    /// A branch, a tag, `refs/…` or a commit; the default branch when absent.
    pub revision: Option<String>,
    /// One file of it, or a folder inside it; the repository's root when absent.
    pub path: Option<String>,
}

/// A place in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Source {
    /// The bucket's name.
    pub bucket: String,
    /// The key, or the keys' common start without its last `/`.
    pub key: String,
}

/// Why a text is no source. Shows what came, shortened, never a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum InvalidSource {
    #[error("source: expected a path, https://, hf:// or s3://, got nothing")]
    Empty,
    #[error("source: {length} bytes, at most {MAX_LENGTH} are read")]
    TooLong { length: usize },
    #[error("source: control characters, spaces around it and backslashes are refused")]
    OddCharacters,
    #[error("source: the scheme {0:?} is not one of file, http, https, hf, s3")]
    Scheme(String),
    #[error("source: not a URL: {0}")]
    Url(String),
    #[error("source: a user or password in the URL is refused: credentials are configured, not written")]
    Credentials,
    #[error("source: a fragment (#…) has no meaning here")]
    Fragment,
    #[error("source: `.`, `..` and encoded separators in the path are refused")]
    Traversal,
    #[error("source: expected hf://OWNER/NAME[@REVISION][/FILE], got {0:?}")]
    Hub(String),
    #[error("source: expected s3://BUCKET/PREFIX, got {0:?}")]
    S3(String),
    #[error("revision: expected letters, digits and . _ - /, got {0:?}")]
    Revision(String),
    #[error("revision: only a source of the hub (hf://) has revisions")]
    NoRevisions,
}

impl Source {
    /// Parses `text`, and `revision` where it is given apart (it wins over one in the text).
    ///
    /// # Errors
    /// [`InvalidSource`] when the text is no source.
    pub fn parse(text: &str, revision: Option<&str>) -> Result<Self, InvalidSource> {
        check_text(text)?;
        let source = match text.split_once("://") {
            None => Self::Path(PathBuf::from(text)),
            Some(("file", path)) => parse_file(path)?,
            Some(("http" | "https", _)) => Self::Http(parse_url(text)?),
            Some(("hf", rest)) => Self::Hub(parse_hub(rest)?),
            Some(("s3", rest)) => Self::S3(parse_s3(rest)?),
            Some((scheme, _)) => return Err(InvalidSource::Scheme(shorten(scheme))),
        };
        match revision {
            None => Ok(source),
            Some(revision) => source.at_revision(revision),
        }
    }

    fn at_revision(self, revision: &str) -> Result<Self, InvalidSource> {
        let revision = check_revision(revision)?;
        match self {
            Self::Hub(hub) => Ok(Self::Hub(HubSource { revision: Some(revision), ..hub })),
            _ => Err(InvalidSource::NoRevisions),
        }
    }

    /// The content under it can change without the source changing: anything but a commit of the hub.
    #[must_use]
    pub fn is_mutable(&self) -> bool {
        match self {
            Self::Hub(hub) => !hub.revision.as_deref().is_some_and(is_commit),
            _ => true,
        }
    }

    /// It is a path of this machine.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        matches!(self, Self::Path(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(out, "{}", path.display()),
            Self::Http(url) => {
                let mut shown = url.clone();
                shown.set_query(None);
                write!(out, "{shown}")
            }
            Self::Hub(hub) => {
                write!(out, "hf://{}", hub.repository)?;
                hub.revision
                    .iter()
                    .try_for_each(|revision| write!(out, "@{}", revision.replace('/', "%2F")))?;
                hub.path.iter().try_for_each(|path| write!(out, "/{path}"))
            }
            Self::S3(place) => write!(out, "s3://{}/{}", place.bucket, place.key),
        }
    }
}

/// Forty hex digits: a commit, which never comes to mean anything else.
#[must_use]
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn check_text(text: &str) -> Result<(), InvalidSource> {
    if text.is_empty() {
        return Err(InvalidSource::Empty);
    }
    if text.len() > MAX_LENGTH {
        return Err(InvalidSource::TooLong { length: text.len() });
    }
    // A backslash is a separator to one URL parser and a letter to the next: no source needs it.
    let odd = |letter: char| letter.is_control() || letter == '\\';
    if text.contains(odd) || text.trim() != text {
        return Err(InvalidSource::OddCharacters);
    }
    Ok(())
}

/// Refuses what a later decoding could turn into another path.
fn check_path(path: &str) -> Result<(), InvalidSource> {
    let lower = path.to_ascii_lowercase();
    let encoded = ["%2e", "%2f", "%5c", "%00"].iter().any(|escape| lower.contains(escape));
    if encoded || path.split('/').any(|part| part == "." || part == "..") {
        return Err(InvalidSource::Traversal);
    }
    Ok(())
}

fn parse_file(path: &str) -> Result<Source, InvalidSource> {
    check_path(path)?;
    if !path.starts_with('/') || path.contains('%') {
        return Err(InvalidSource::Url("expected file:///PATH without escapes".to_owned()));
    }
    Ok(Source::Path(PathBuf::from(path)))
}

fn parse_url(text: &str) -> Result<Url, InvalidSource> {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let written = rest.split(['?', '#']).next().unwrap_or(rest);
    check_path(written)?;
    let url = Url::parse(text).map_err(|error| InvalidSource::Url(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || written.contains('@') {
        return Err(InvalidSource::Credentials);
    }
    if url.fragment().is_some() {
        return Err(InvalidSource::Fragment);
    }
    Ok(url)
}

fn parse_hub(rest: &str) -> Result<HubSource, InvalidSource> {
    let invalid = || InvalidSource::Hub(shorten(rest));
    let (owner, tail) = rest.split_once('/').unwrap_or(("", rest));
    let (head, path) = match tail.split_once('/') {
        Some((head, path)) if !path.is_empty() => (head, Some(path)),
        Some((head, _)) => (head, None),
        None => (tail, None),
    };
    let (name, revision) = match head.split_once('@') {
        Some((name, revision)) => (name, Some(revision.replace("%2F", "/").replace("%2f", "/"))),
        None => (head, None),
    };
    let word = |word: &str| {
        !word.is_empty()
            && word.len() <= 96
            && !word.starts_with(['.', '-'])
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if !word(name) || !(owner.is_empty() || word(owner)) || rest.starts_with('/') {
        return Err(invalid());
    }
    let path = path.map(|path| path.trim_end_matches('/'));
    path.map_or(Ok(()), check_path)?;
    let odd = |path: &str| {
        path.is_empty() || path.starts_with('/') || path.contains("//") || path.contains(['?', '#', '%'])
    };
    if path.is_some_and(odd) {
        return Err(invalid());
    }
    Ok(HubSource {
        repository: if owner.is_empty() { name.to_owned() } else { format!("{owner}/{name}") },
        revision: revision.map(|revision| check_revision(&revision)).transpose()?,
        path: path.map(str::to_owned),
    })
}

fn check_revision(revision: &str) -> Result<String, InvalidSource> {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let parts = |part: &str| !part.is_empty() && part != "." && !part.contains("..");
    let good = revision.len() <= 200 && revision.bytes().all(letters) && revision.split('/').all(parts);
    if good { Ok(revision.to_owned()) } else { Err(InvalidSource::Revision(shorten(revision))) }
}

fn parse_s3(rest: &str) -> Result<S3Source, InvalidSource> {
    let invalid = || InvalidSource::S3(shorten(rest));
    let (bucket, key) = rest.split_once('/').ok_or_else(invalid)?;
    check_path(key)?;
    let key = key.trim_end_matches('/');
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    let bucket_is_good = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(letters)
        && !bucket.starts_with(['.', '-'])
        && !bucket.contains("..");
    if !bucket_is_good
        || key.is_empty()
        || key.starts_with('/')
        || key.contains("//")
        || key.contains(['?', '#'])
    {
        return Err(invalid());
    }
    Ok(S3Source { bucket: bucket.to_owned(), key: key.to_owned() })
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
