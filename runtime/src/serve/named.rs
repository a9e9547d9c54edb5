//! The adapters of the command line: found and checked before the model is loaded, named when it is.

use std::path::{Path, PathBuf};

use crate::adapters::store::AdapterStore;
use crate::config::AdapterConfig;
use crate::source::Source;

/// A flag that leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum NamedError {
    /// The folder of adapters cannot be read.
    #[error("--adapters {folder}: {source}")]
    Folder { folder: PathBuf, source: std::io::Error },
    /// An adapter's folder is not there.
    #[error("--adapter {name}={given}: no such folder")]
    Absent { name: String, given: String },
}

/// Name and source of each, by name.
///
/// # Errors
/// [`NamedError`]. What is wrong inside of a folder is told when it is loaded, and does not stop the rest.
pub(super) fn find(adapters: &AdapterConfig) -> Result<Vec<(String, String)>, NamedError> {
    let mut found = adapters.named.clone();
    for (name, given) in &found {
        // What is no source is reported with the rest.
        if let Ok(Source::Path(path)) = Source::parse(given, None)
            && !path.is_dir()
        {
            return Err(NamedError::Absent { name: name.clone(), given: given.clone() });
        }
    }
    if let Some(folder) = &adapters.directory {
        let unreadable = |source| NamedError::Folder { folder: folder.clone(), source };
        found.extend(below(folder).map_err(unreadable)?);
    }
    found.sort();
    Ok(found)
}

fn below(folder: &Path) -> std::io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        match (name, path.to_str()) {
            (Some(name), Some(text)) if path.is_dir() && !name.starts_with('.') => {
                found.push((name, text.to_owned()));
            }
            (None, _) | (_, None) => tracing::warn!(?path, "adapter not served: its name is not text"),
            _ => {}
        }
    }
    Ok(found)
}

/// Names them. One that cannot be named is reported and does not stop the rest; one that cannot be loaded is reported by
/// the store.
pub(super) fn register(found: Vec<(String, String)>, store: &AdapterStore) {
    for (name, source) in found {
        if let Err(error) = store.register(&name, &source) {
            tracing::warn!(name, code = error.code.as_str(), "adapter not served: {}", error.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(named: &[(&str, &str)], directory: Option<&Path>) -> AdapterConfig {
        AdapterConfig {
            named: named.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned())).collect(),
            directory: directory.map(Path::to_owned),
            registry: None,
            max_rank: 8,
            max_bytes: 1,
            max_count: 1,
            host_bytes: 1,
            pinned_wait: std::time::Duration::ZERO,
            demand_calm: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn a_flag_that_leads_nowhere_is_known_before_anything_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let said = |config: AdapterConfig| find(&config).unwrap_err().to_string();
        assert_eq!(said(config(&[("x", "/nope")], None)), "--adapter x=/nope: no such folder");
        let nowhere = said(config(&[], Some(Path::new("/nope"))));
        assert!(nowhere.starts_with("--adapters /nope: No such file"), "{nowhere}");
        for name in ["b", "a", ".hidden"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found = find(&config(&[("c", "hf://x/y")], Some(folder.path()))).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
