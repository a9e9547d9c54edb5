//! The registry: files beside the replica that name its adapters, so that it serves them before anybody has pushed a
//! desired set. Read once, at the start. What is wrong is reported; the rest is served.

use std::path::{Path, PathBuf};

use lorikeet_api::DesiredAdapter;
use serde::Deserialize;
use serde_json::Value;

use crate::adapters::store::AdapterStore;

/// A file of the registry: a desired set, whose version does not count here. Adapters are read one by one.
#[derive(Deserialize)]
struct Shard {
    #[serde(default)]
    adapters: Vec<Value>,
}

/// Why something is not served, and where it stands.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}: expected {{\"adapters\": […]}}: {source}")]
    Shard { path: PathBuf, source: serde_json::Error },
    #[error("{path}: adapters[{index}]: {source}")]
    Adapter { path: PathBuf, index: usize, source: serde_json::Error },
}

/// Gives `store` what the files of `folder` name.
pub(super) fn preset(folder: &Path, store: &AdapterStore) {
    let (adapters, faults) = read(folder);
    for fault in faults {
        tracing::warn!("registry: {fault}");
    }
    for adapter in adapters {
        if let Err(error) = store.preset(&adapter) {
            tracing::warn!(
                name = adapter.name,
                code = error.code.as_str(),
                "adapter not served: {}",
                error.message
            );
        }
    }
}

/// What the `.json` files of `folder` name, in the order of the files' names, and what is wrong with the rest.
fn read(folder: &Path) -> (Vec<DesiredAdapter>, Vec<Fault>) {
    let (mut adapters, mut faults) = (Vec::new(), Vec::new());
    let unreadable = |path: &Path, source| Fault::Unreadable { path: path.to_owned(), source };
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(source) => return (adapters, vec![unreadable(folder, source)]),
    };
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    for path in paths {
        let shard = match std::fs::read(&path).map(|text| serde_json::from_slice::<Shard>(&text)) {
            Ok(Ok(shard)) => shard,
            Ok(Err(source)) => {
                faults.push(Fault::Shard { path, source });
                continue;
            }
            Err(source) => {
                faults.push(unreadable(&path, source));
                continue;
            }
        };
        for (index, adapter) in shard.adapters.into_iter().enumerate() {
            match serde_json::from_value(adapter) {
                Ok(adapter) => adapters.push(adapter),
                Err(source) => faults.push(Fault::Adapter { path: path.clone(), index, source }),
            }
        }
    }
    (adapters, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_read_and_what_is_wrong_keeps_nothing_else_from_being_served() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "1.json",
            r#"{"version": {"epoch": 0, "sequence": 0}, "adapters": [
                {"name": "b", "source": "/b"}, {"name": "c"}, {"name": "d", "source": "/d", "odd": 1}]}"#,
        );
        write("0.json", r#"{"adapters": [{"name": "a", "source": "/a", "pinned": true}]}"#);
        write("2.json", "{");
        write("note.txt", "{");
        std::fs::create_dir(folder.path().join("3.json")).unwrap();
        let (adapters, faults) = read(folder.path());
        let names: Vec<&str> = adapters.iter().map(|adapter| adapter.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(adapters[0].pinned);
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults[0].contains("1.json: adapters[1]: missing field `source`"), "{faults:?}");
        assert!(faults[1].contains("1.json: adapters[2]: unknown field `odd`"), "{faults:?}");
        assert!(faults[2].contains("2.json: expected {\"adapters\": […]}"), "{faults:?}");
        assert!(faults[3].contains("3.json"), "{faults:?}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_reported() {
        let (adapters, faults) = read(Path::new("/nowhere"));
        assert!(adapters.is_empty());
        assert!(faults[0].to_string().starts_with("/nowhere: No such file"), "{faults:?}");
    }
}
