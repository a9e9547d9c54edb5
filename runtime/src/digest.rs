//! A content digest, and nothing else: what was read, never what it was called.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of some content. Written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text that is not `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("digest: expected sha256:<64 lower-case hex digits>, got {0:?}")]
pub struct InvalidDigest(String);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of several named files, in the order given: each name's and content's length goes in before it, so
    /// that no two lists of files share a digest by moving bytes from one to the next.
    #[must_use]
    pub fn of_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut stream = Self::stream();
        for (name, content) in files {
            stream.file(name, content.len() as u64);
            stream.bytes(content);
        }
        stream.finish()
    }

    /// The same, piece by piece, for files that are not in memory.
    #[must_use]
    pub(crate) fn stream() -> DigestStream {
        DigestStream(Sha256::new())
    }

    /// From a finished hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits alone, as a file name.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A [`Digest::of_files`] that is being made.
pub(crate) struct DigestStream(Sha256);

impl DigestStream {
    /// The next file begins: `length` bytes of it follow.
    pub(crate) fn file(&mut self, name: &str, length: u64) {
        self.0.update((name.len() as u64).to_le_bytes());
        self.0.update(name.as_bytes());
        self.0.update(length.to_le_bytes());
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest.
    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDigest(text.chars().take(80).collect());
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64).ok_or_else(invalid)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let nibble = |digit: u8| match digit {
                b'0'..=b'9' => Ok(digit - b'0'),
                b'a'..=b'f' => Ok(digit - b'a' + 10),
                _ => Err(invalid()),
            };
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_what_it_writes() {
        let digest = Digest::of(b"lorikeet");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn a_digest_of_another_form_is_refused_with_what_came() {
        for text in ["", "sha256:", "md5:00", &format!("sha256:{}", "G".repeat(64)), &"0".repeat(64)] {
            assert!(text.parse::<Digest>().unwrap_err().to_string().contains("sha256:<64"));
        }
    }

    #[test]
    fn bytes_moved_between_files_change_the_digest() {
        let one = Digest::of_files([("a", b"xy".as_slice()), ("b", b"z".as_slice())]);
        let two = Digest::of_files([("a", b"x".as_slice()), ("b", b"yz".as_slice())]);
        assert_ne!(one, two);
    }
}
