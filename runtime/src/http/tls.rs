//! TLS for the admin face: a certificate and a key from PEM files, read once, checked before a port is bound.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

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

/// TLS 1.2 and 1.3 with this certificate chain and key.
///
/// # Errors
/// [`TlsError`].
pub fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
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
}
