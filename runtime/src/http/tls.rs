//! TLS for the admin face: a certificate and a key from PEM files, checked before a port is bound, and read anew when
//! they change: whoever rotates them need not restart the replica.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// How often the files' times are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not PEM, or has not what is needed.
    #[error("{path}: expected {expected} in PEM, got {why}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong.
        why: String,
    },
    /// They do not belong together, or are of a kind that is not supported.
    #[error("{path}: {source}")]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// A certificate and its key, as their files are now. A clone is the same one.
#[derive(Clone)]
pub struct Certificate {
    shared: Arc<Shared>,
}

struct Shared {
    cert: PathBuf,
    key: PathBuf,
    /// As the files were when they were read first.
    first: Stamp,
    now: RwLock<TlsAcceptor>,
}

/// When two files were written, and how long they are.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Certificate {
    /// The pair in these files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        // The times first: a change in between is then seen at the first look.
        let first = stamp(cert, key);
        let now = RwLock::new(acceptor(cert, key)?);
        Ok(Self { shared: Arc::new(Shared { cert: cert.to_owned(), key: key.to_owned(), first, now }) })
    }

    /// What accepts the next connection.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.shared.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the files for ever and takes over what changed since they were read. A pair that turns bad is reported and
    /// the old one stays.
    pub async fn watch(self) {
        let mut seen = self.shared.first;
        let mut timer = tokio::time::interval(LOOK);
        loop {
            timer.tick().await;
            seen = self.refresh(seen);
        }
    }

    /// Takes the files over where they are not as they were `seen`. Of a pair that is written one file after the other
    /// the first look may be too early: the second file's time brings another.
    fn refresh(&self, seen: Stamp) -> Stamp {
        let stamp = stamp(&self.shared.cert, &self.shared.key);
        if stamp != seen {
            match acceptor(&self.shared.cert, &self.shared.key) {
                Ok(new) => {
                    *self.shared.now.write().unwrap_or_else(PoisonError::into_inner) = new;
                    tracing::info!(certificate = ?self.shared.cert, "certificate read anew");
                }
                Err(error) => tracing::warn!(%error, "certificate not taken over"),
            }
        }
        stamp
    }
}

fn stamp(cert: &Path, key: &Path) -> Stamp {
    [cert, key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

/// TLS 1.2 and 1.3 with this certificate chain and key.
fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let pem = |path: &Path, expected: &'static str, why: String| TlsError::Pem {
        path: path.to_owned(),
        expected,
        why,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| pem(cert, "a certificate chain", error.to_string()))?;
    if chain.is_empty() {
        return Err(pem(cert, "a certificate chain", "no certificate".into()));
    }
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, "a private key", error.to_string()))?;
    let pair = |source| TlsError::Pair { path: cert.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_does_not_belong_together_and_a_file_without_pem_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let one = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let two = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = write("cert.pem", &one.cert.pem());
        let key = write("key.pem", &one.signing_key.serialize_pem());
        assert!(acceptor(&cert, &key).is_ok());
        let other = write("other.pem", &two.signing_key.serialize_pem());
        assert!(matches!(acceptor(&cert, &other), Err(TlsError::Pair { .. })));
        let text = write("text.pem", "hello");
        assert!(acceptor(&text, &key).err().unwrap().to_string().contains("a certificate chain"));
        assert!(acceptor(&cert, &text).err().unwrap().to_string().contains("a private key"));
        assert!(acceptor(Path::new("/nowhere"), &key).is_err());
    }

    #[test]
    fn a_changed_pair_is_taken_over_and_half_of_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [cert, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, two) = (pair(), pair());
        std::fs::write(&cert, one.cert.pem()).unwrap();
        std::fs::write(&key, one.signing_key.serialize_pem()).unwrap();
        let certificate = Certificate::read(&cert, &key).unwrap();
        let config = |certificate: &Certificate| Arc::as_ptr(certificate.acceptor().config());
        let (first, seen) = (config(&certificate), certificate.shared.first);
        assert_eq!(certificate.refresh(seen), seen);
        assert_eq!(config(&certificate), first, "nothing changed");
        std::fs::write(&cert, two.cert.pem() + "\n").unwrap();
        let seen = certificate.refresh(seen);
        assert_eq!(config(&certificate), first, "the key is still the old one");
        std::fs::write(&key, two.signing_key.serialize_pem() + "\n").unwrap();
        certificate.refresh(seen);
        assert_ne!(config(&certificate), first);
    }

    #[tokio::test]
    async fn what_changed_before_it_is_watched_is_taken_over_too() {
        let folder = tempfile::tempdir().unwrap();
        let [cert, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        let write = |end: &str| {
            let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            std::fs::write(&cert, pair.cert.pem() + end).unwrap();
            std::fs::write(&key, pair.signing_key.serialize_pem() + end).unwrap();
        };
        write("");
        let certificate = Certificate::read(&cert, &key).unwrap();
        let config = || Arc::as_ptr(certificate.acceptor().config());
        let first = config();
        // A model is being loaded meanwhile.
        write("\n");
        let _ = tokio::time::timeout(Duration::ZERO, certificate.clone().watch()).await;
        assert_ne!(config(), first);
    }
}
