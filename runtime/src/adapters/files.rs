//! Reads the two files of an adapter from its folder into memory: regular files, of bounded length. Pickles are never
//! opened. Must not look into what it reads.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use lorikeet_api::ErrorCode;

use crate::adapters::build::FILES;
use crate::adapters::peft::MAX_CONFIG_BYTES;

/// `O_NONBLOCK` of Linux: opening a pipe must not wait for a writer.
const NONBLOCK: i32 = 0o4000;

/// An adapter's files in memory.
pub struct AdapterFiles {
    /// `adapter_config.json`.
    pub config: Vec<u8>,
    /// `adapter_model.safetensors`.
    pub weights: Vec<u8>,
}

/// Why an adapter's files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is no such file.
    #[error("{name}: not found in the adapter's folder")]
    NotFound {
        /// The file.
        name: &'static str,
    },
    /// The weights are there as a pickle alone.
    #[error(
        "adapter_model.bin: a pickle can run code and is never opened; save the adapter as adapter_model.safetensors"
    )]
    Pickle,
    /// It is a folder, a pipe or a device.
    #[error("{name}: expected a regular file")]
    NotAFile {
        /// The file.
        name: &'static str,
    },
    /// It is too long.
    #[error("{name}: {bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// The file.
        name: &'static str,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The disk failed.
    #[error("{name}: {error}")]
    Io {
        /// The file.
        name: &'static str,
        /// Why.
        error: io::Error,
    },
}

impl FilesError {
    /// The error for programs.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } => ErrorCode::SourceUnavailable,
            Self::Pickle => ErrorCode::UnsupportedFeature,
            Self::NotAFile { .. } => ErrorCode::SourceForbidden,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Io { .. } => ErrorCode::SourceUnavailable,
        }
    }
}

/// Reads the adapter in `folder`; its weights may have `max_bytes`.
///
/// # Errors
/// Any [`FilesError`].
pub fn read(folder: &Path, max_bytes: u64) -> Result<AdapterFiles, FilesError> {
    let config = read_file(folder, FILES[0], MAX_CONFIG_BYTES as u64)?;
    let weights = read_file(folder, FILES[1], max_bytes).map_err(|error| match error {
        FilesError::NotFound { .. } if folder.join("adapter_model.bin").exists() => FilesError::Pickle,
        other => other,
    })?;
    Ok(AdapterFiles { config, weights })
}

fn read_file(folder: &Path, name: &'static str, limit: u64) -> Result<Vec<u8>, FilesError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => FilesError::NotFound { name },
        _ => FilesError::Io { name, error },
    };
    let file =
        OpenOptions::new().read(true).custom_flags(NONBLOCK).open(folder.join(name)).map_err(failed)?;
    // Of what was opened, not of the path: the path may be another file by now.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FilesError::NotAFile { name });
    }
    if metadata.len() > limit {
        return Err(FilesError::TooLarge { name, bytes: metadata.len(), limit });
    }
    let mut content = Vec::with_capacity(metadata.len() as usize);
    file.take(limit + 1).read_to_end(&mut content).map_err(failed)?;
    match content.len() as u64 {
        bytes if bytes > limit => Err(FilesError::TooLarge { name, bytes, limit }),
        _ => Ok(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = || read(folder.path(), 100).err().unwrap();
        assert!(error().to_string().contains("adapter_config.json: not found"));
        std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
        assert!(error().to_string().contains("adapter_model.safetensors: not found"));
        std::fs::write(folder.path().join("adapter_model.bin"), "pickle").unwrap();
        assert!(matches!(error(), FilesError::Pickle));
        std::fs::create_dir(folder.path().join("adapter_model.safetensors")).unwrap();
        assert!(matches!(error(), FilesError::NotAFile { .. }));
    }

    #[test]
    fn a_file_over_the_limit_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
        std::fs::write(folder.path().join("adapter_model.safetensors"), [0; 101]).unwrap();
        assert!(matches!(read(folder.path(), 100), Err(FilesError::TooLarge { bytes: 101, .. })));
        assert_eq!(read(folder.path(), 101).ok().unwrap().weights.len(), 101);
    }
}
