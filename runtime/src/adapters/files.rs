//! Reads the two files of an adapter from its folder into memory, of bounded length. Pickles are never opened. Must not
//! look into what it reads.

use crate::adapters::build::FILES;
use crate::adapters::peft::MAX_CONFIG_BYTES;
use crate::source::error::FetchError;
use crate::source::folder::Folder;

/// An adapter's files in memory.
pub struct AdapterFiles {
    /// `adapter_config.json`.
    pub config: Vec<u8>,
    /// `adapter_model.safetensors`.
    pub weights: Vec<u8>,
}

/// The forms of weights that are pickles.
pub const PICKLES: [&str; 2] = ["adapter_model.bin", "adapter_model.pt"];

/// Reads the adapter in `folder`; its weights may have `max_bytes`.
///
/// # Errors
/// When a file is missing, too long or none, or leads out of the folder's root.
pub fn read(folder: &Folder, max_bytes: u64) -> Result<AdapterFiles, FetchError> {
    let config = folder.read(FILES[0], MAX_CONFIG_BYTES as u64)?;
    let weights = folder.read(FILES[1], max_bytes).map_err(|error| {
        match PICKLES.iter().find(|name| folder.has(name)) {
            Some(pickle) if matches!(error, FetchError::NoFile(_)) => {
                FetchError::Pickle((*pickle).to_owned())
            }
            _ => error,
        }
    })?;
    Ok(AdapterFiles { config, weights })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::trusted(dir.path().to_owned());
        let error = || read(&folder, 100).err().unwrap();
        assert!(error().to_string().contains("adapter_config.json: not found"));
        std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
        assert!(error().to_string().contains("adapter_model.safetensors: not found"));
        std::fs::write(dir.path().join("adapter_model.bin"), "pickle").unwrap();
        assert!(matches!(error(), FetchError::Pickle(_)));
        std::fs::create_dir(dir.path().join("adapter_model.safetensors")).unwrap();
        assert!(matches!(error(), FetchError::NotAFile(_)));
    }

    #[test]
    fn a_file_over_the_limit_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::trusted(dir.path().to_owned());
        std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
        std::fs::write(dir.path().join("adapter_model.safetensors"), [0; 101]).unwrap();
        assert!(matches!(read(&folder, 100), Err(FetchError::TooLarge { bytes: 101, .. })));
        assert_eq!(read(&folder, 101).ok().unwrap().weights.len(), 101);
    }
}
