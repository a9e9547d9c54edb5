//! Who may call: API keys from a file, hashed, compared in constant time, read anew when the file changes.
//! Must not know a route; http.rs says which routes ask.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::error::Problem;

/// The caller that a key stands for. Without keys everybody is the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Keeps its prefix cache apart from other callers'.
    pub salt: u64,
}

/// The keys that open a face. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Keys(Option<Arc<KeyFile>>);

#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    read: RwLock<Read>,
}

#[derive(Debug)]
struct Read {
    keys: Arc<[Key]>,
    /// Of the file when it was last looked into, for good or not.
    stamp: Option<Stamp>,
}

#[derive(Debug)]
struct Key {
    hash: [u8; 32],
    salt: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    bytes: u64,
}

/// How often the file's time is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds no key: a face that nobody can open is a mistake.
    #[error("{0}: expected one key a line, found none")]
    Empty(PathBuf),
}

impl Keys {
    /// Everybody may.
    #[must_use]
    pub const fn open() -> Self {
        Self(None)
    }

    /// Whoever has one of the keys in `path` may: one a line, `#` starts a comment line.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn from_file(path: &Path) -> Result<Self, KeyFileError> {
        let read = read(path)?;
        Ok(Self(Some(Arc::new(KeyFile { path: path.to_owned(), read: RwLock::new(read) }))))
    }

    /// Whether a key is asked for.
    #[must_use]
    pub const fn required(&self) -> bool {
        self.0.is_some()
    }

    /// The caller that the headers speak for: exactly one `Authorization: Bearer <key>`.
    ///
    /// # Errors
    /// [`Problem::Unauthorized`], the same whatever is wrong.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let Some(file) = &self.0 else { return Ok(Caller::default()) };
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return Err(Problem::Unauthorized) };
        let key = value.to_str().ok().and_then(bearer).ok_or(Problem::Unauthorized)?;
        let keys = Arc::clone(&file.read.read().unwrap_or_else(PoisonError::into_inner).keys);
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        // Every key is compared, so that the time does not tell which one, or that one, was near.
        let mut found = Choice::from(0);
        let mut salt = 0u64;
        for known in keys.iter() {
            let same = known.hash.ct_eq(&hash);
            salt.conditional_assign(&known.salt, same);
            found |= same;
        }
        if bool::from(found) { Ok(Caller { salt }) } else { Err(Problem::Unauthorized) }
    }

    /// Looks at the file for ever and takes over what changed. A file that turns bad is reported and the old keys stay.
    pub async fn watch(self) {
        let Some(file) = self.0 else { return };
        let mut timer = tokio::time::interval(LOOK);
        loop {
            timer.tick().await;
            file.refresh();
        }
    }
}

impl KeyFile {
    fn refresh(&self) {
        let known = self.read.read().unwrap_or_else(PoisonError::into_inner).stamp;
        let now = stamp(&self.path);
        if now.is_none() || now == known {
            return;
        }
        let new = read(&self.path);
        let mut held = self.read.write().unwrap_or_else(PoisonError::into_inner);
        match new {
            Ok(new) => {
                tracing::info!(keys = new.keys.len(), "API keys read anew");
                *held = new;
            }
            Err(error) => {
                tracing::warn!(%error, "API keys not taken over; the old ones stay");
                // Said once: the file is looked into again when it changes again.
                held.stamp = now;
            }
        }
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

fn read(path: &Path) -> Result<Read, KeyFileError> {
    // The time first: a change in between is then seen at the next look.
    let stamp = stamp(path);
    let text = std::fs::read_to_string(path)
        .map_err(|source| KeyFileError::Unreadable { path: path.to_owned(), source })?;
    let key = |key: &str| {
        let hash = Sha256::digest(key.as_bytes()).into();
        Key { hash, salt: salt_of(&hash) }
    };
    let keys: Arc<[Key]> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(key)
        .collect();
    if keys.is_empty() { Err(KeyFileError::Empty(path.to_owned())) } else { Ok(Read { keys, stamp }) }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: metadata.modified().ok()?, bytes: metadata.len() })
}

/// A number that says nothing about the key: cut from a hash of its hash. Never 0, which is nobody's.
fn salt_of(hash: &[u8; 32]) -> u64 {
    let mut salted = Sha256::new();
    salted.update(b"lorikeet prefix-cache salt");
    salted.update(hash);
    let digest: [u8; 32] = salted.finalize().into();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)) | 1
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn keys(text: &str) -> (Keys, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        (Keys::from_file(file.path()).unwrap(), file)
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn only_one_exact_bearer_key_opens() {
        let (keys, _file) = keys("# people\nalpha-key\n\n  beta-key  \n");
        let alpha = keys.caller(&headers(&["Bearer alpha-key"])).unwrap();
        let beta = keys.caller(&headers(&["bearer beta-key"])).unwrap();
        assert_ne!(alpha.salt, beta.salt);
        for bad in [
            &[][..],
            &["Bearer wrong"],
            &["Bearer "],
            &["Bearer Alpha-Key"],
            &["Basic alpha-key"],
            &["alpha-key"],
            &["Bearer alpha-key "],
            &["Bearer # people"],
            &["Bearer alpha-key", "Bearer alpha-key"],
            &["Bearer \u{e4}"],
        ] {
            assert_eq!(keys.caller(&headers(bad)), Err(Problem::Unauthorized), "{bad:?}");
        }
    }

    #[test]
    fn a_changed_file_is_taken_over_and_a_broken_one_is_not() {
        let (keys, file) = keys("one\n");
        std::fs::write(file.path(), "second\n").unwrap();
        let inner = keys.0.clone().unwrap();
        inner.refresh();
        assert!(keys.caller(&headers(&["Bearer second"])).is_ok());
        assert!(keys.caller(&headers(&["Bearer one"])).is_err());
        std::fs::write(file.path(), "").unwrap();
        inner.refresh();
        assert!(keys.caller(&headers(&["Bearer second"])).is_ok());
        // What is wrong is said once, not at every look.
        assert_eq!(inner.read.read().unwrap().stamp, stamp(file.path()));
        std::fs::write(file.path(), "third\n").unwrap();
        inner.refresh();
        assert!(keys.caller(&headers(&["Bearer third"])).is_ok());
    }

    #[test]
    fn a_file_without_a_key_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Keys::from_file(file.path()), Err(KeyFileError::Empty(_))));
    }
}
