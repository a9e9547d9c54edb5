//! Credentials of sources: a folder with a sub-folder for each Secret, whose files are the Secret's keys. They are read
//! anew for each fetch, so that a rotated Secret needs no restart; nothing of them is kept, logged or shown in an error.
//! Reads files; must not know who is asked with what it finds.

use std::fmt;
use std::fs::DirEntry;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::source::config::{S3Config, Secret};
use crate::source::error::FetchError;

/// The longest value that is read.
const LONGEST: u64 = 64 << 10;
/// Keys of Secrets that open other things than sources: certificates, and accounts of the cluster.
const NOT_OF_A_SOURCE: [&str; 2] = ["ca.crt", "tls.key"];

const TOKEN: Key = ["token", "HF_TOKEN"];
const ACCESS_KEY_ID: Key = ["access-key-id", "AWS_ACCESS_KEY_ID"];
const SECRET_ACCESS_KEY: Key = ["secret-access-key", "AWS_SECRET_ACCESS_KEY"];
const SESSION_TOKEN: Key = ["session-token", "AWS_SESSION_TOKEN"];
const REGION: Key = ["region", "AWS_REGION"];
const ENDPOINT: Key = ["endpoint", "AWS_ENDPOINT_URL"];

/// The two ways of writing a key.
type Key = [&'static str; 2];

/// The name of a Secret. Whoever wrote it, it is one segment of a path and leads nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretName(Arc<str>);

/// A text that is no name of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "credentials: expected the name of a Secret: lower-case letters, digits, - and ., first and last a letter or digit, got {0:?}"
)]
pub struct InvalidSecretName(String);

impl FromStr for SecretName {
    type Err = InvalidSecretName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_label = |label: &str| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(alphanumeric)
                && bytes.last().is_some_and(alphanumeric)
                && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        };
        match text.len() <= 253 && text.split('.').all(is_label) {
            true => Ok(Self(text.into())),
            false => Err(InvalidSecretName(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// One Secret, as it is now.
pub(super) struct Keys<'a> {
    name: &'a SecretName,
    folder: PathBuf,
}

impl<'a> Keys<'a> {
    /// The Secret `name` below `folder`.
    pub(super) fn open(folder: Option<&Path>, name: &'a SecretName) -> Result<Self, FetchError> {
        let fault = |what: String| Err(FetchError::Credentials(what));
        let Some(folder) = folder else {
            return fault(format!("Secret {name} is named, but --credentials names no folder of Secrets"));
        };
        let folder = folder.join(&*name.0);
        // An absent Secret is mounted as a folder without keys, or as none.
        let is_key = |entry: std::io::Result<DirEntry>| {
            entry.is_ok_and(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        };
        let is_there = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.any(is_key));
        if !is_there {
            return fault(format!("no Secret {name}, or it has no keys; make it beside the replicas"));
        }
        if let Some(key) = NOT_OF_A_SOURCE.into_iter().find(|key| folder.join(key).exists()) {
            return fault(format!(
                "Secret {name} has the key {key}: it opens more than a source; name one with the source's credentials alone"
            ));
        }
        Ok(Self { name, folder })
    }

    /// A bearer token.
    pub(super) fn token(&self) -> Result<Secret, FetchError> {
        self.needed(TOKEN).map(Secret::new)
    }

    /// What opens a bucket; where the Secret does not say where it is, it is where `usual` says.
    pub(super) fn s3(&self, usual: &S3Config) -> Result<S3Config, FetchError> {
        Ok(S3Config {
            endpoint: self.optional(ENDPOINT)?.or_else(|| usual.endpoint.clone()),
            region: self.optional(REGION)?.or_else(|| usual.region.clone()),
            access_key_id: Some(self.needed(ACCESS_KEY_ID)?),
            secret_access_key: Some(Secret::new(self.needed(SECRET_ACCESS_KEY)?)),
            session_token: self.optional(SESSION_TOKEN)?.map(Secret::new),
        })
    }

    fn needed(&self, key: Key) -> Result<String, FetchError> {
        let [own, other] = key;
        self.optional(key)?.ok_or_else(|| {
            FetchError::Credentials(format!("Secret {} has no key {own} (nor {other})", self.name))
        })
    }

    fn optional(&self, key: Key) -> Result<Option<String>, FetchError> {
        key.into_iter().find_map(|key| self.read(key).transpose()).transpose()
    }

    fn read(&self, key: &'static str) -> Result<Option<String>, FetchError> {
        let fault = |what: &str| FetchError::Credentials(format!("Secret {}: {key}: {what}", self.name));
        let mut file = match std::fs::File::open(self.folder.join(key)) {
            Ok(file) => file.take(LONGEST + 1),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(&error.kind().to_string())),
        };
        let mut text = String::new();
        let length = file.read_to_string(&mut text).map_err(|error| fault(&error.kind().to_string()))?;
        let value = text.trim();
        let is_plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
        if length as u64 > LONGEST || !is_plain {
            return Err(fault("expected one word of printable ASCII"));
        }
        Ok(Some(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SecretName {
        text.parse().unwrap()
    }

    fn secrets(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        for good in ["hf-token", "s3.team-a", "0"] {
            assert_eq!(good.parse::<SecretName>().unwrap().to_string(), good);
        }
        let long = "a".repeat(254);
        for bad in ["", ".", "..", "../x", "a/b", "/etc", "a..b", ".a", "-a", "a-", "A", "a\0", "a b", &long]
        {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn either_spelling_is_read_as_it_is_now() {
        let dir = secrets(&[
            ("hf/HF_TOKEN", "one\n"),
            ("s3/access-key-id", "id"),
            ("s3/AWS_SECRET_ACCESS_KEY", "secret"),
            ("s3/endpoint", "https://minio"),
        ]);
        let token = |dir: &tempfile::TempDir| Keys::open(Some(dir.path()), &name("hf")).unwrap().token();
        assert_eq!(token(&dir).unwrap(), Secret::new("one"));
        std::fs::write(dir.path().join("hf/HF_TOKEN"), "two").unwrap();
        assert_eq!(token(&dir).unwrap(), Secret::new("two"));
        let usual = S3Config {
            region: Some("eu-west-1".to_owned()),
            endpoint: Some("https://usual".to_owned()),
            session_token: Some(Secret::new("the process's own")),
            ..S3Config::default()
        };
        let s3 = Keys::open(Some(dir.path()), &name("s3")).unwrap().s3(&usual).unwrap();
        assert_eq!(
            (s3.access_key_id.as_deref(), s3.secret_access_key),
            (Some("id"), Some(Secret::new("secret")))
        );
        assert_eq!(
            (s3.endpoint.as_deref(), s3.region.as_deref()),
            (Some("https://minio"), Some("eu-west-1"))
        );
        assert_eq!(s3.session_token, None, "nothing of another's credentials is mixed in");
    }

    #[test]
    fn what_is_missing_is_named_by_secret_and_key_and_asked_for_again() {
        let dir = secrets(&[("hf/other", "x"), ("odd/token", "two words"), ("s3/access-key-id", "id")]);
        std::fs::create_dir_all(dir.path().join("empty/..data")).unwrap();
        let error = |secret: &str| {
            let secret = name(secret);
            let keys = Keys::open(Some(dir.path()), &secret);
            let found = keys.and_then(|keys| match secret.to_string().as_str() {
                "s3" => keys.s3(&S3Config::default()).map(drop),
                _ => keys.token().map(drop),
            });
            let error = found.unwrap_err();
            assert_eq!(error.code(), lorikeet_api::ErrorCode::SourceUnauthorized);
            error.to_string()
        };
        assert!(error("absent").contains("no Secret absent"));
        assert!(error("empty").contains("no Secret empty"));
        assert!(error("hf").contains("Secret hf has no key token (nor HF_TOKEN)"));
        assert!(error("s3").contains("Secret s3 has no key secret-access-key"));
        let odd = error("odd");
        assert!(odd.contains("Secret odd: token:") && !odd.contains("two words"), "{odd}");
        let nowhere = Keys::open(None, &name("hf")).err().unwrap().to_string();
        assert!(nowhere.contains("--credentials"), "{nowhere}");
    }

    #[test]
    fn a_secret_that_opens_more_than_a_source_is_not_sent_to_one() {
        for key in NOT_OF_A_SOURCE {
            let dir = secrets(&[("x/token", "t"), (&format!("x/{key}"), "y")]);
            let error = Keys::open(Some(dir.path()), &name("x")).err().unwrap().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
