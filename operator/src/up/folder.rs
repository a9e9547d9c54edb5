//! The folder of the manifests: which files are in it and below, and what tells that one changed. Reads no file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What tells that a file changed: when it was written, and its length.
pub type Stamp = (Option<SystemTime>, u64);

/// Every manifest file.
pub type Stamps = BTreeMap<PathBuf, Stamp>;

/// A folder that cannot be read: nobody knows what is in it, or that anything is gone.
#[derive(Debug, thiserror::Error)]
#[error("{folder}: {source}; until it can be read, everything stays as it is")]
pub struct Unreadable {
    folder: PathBuf,
    source: io::Error,
}

/// The manifests below `folder`: `.yaml`, `.yml` and `.json`, but nothing whose name begins with a dot, and not `except`.
/// Links are followed; a folder that several lead to is read once.
///
/// # Errors
/// `folder` is not there, or a folder below it cannot be read.
pub fn stamps(folder: &Path, except: &Path) -> Result<Stamps, Unreadable> {
    let mut walk = Walk { except, entered: BTreeSet::new(), found: Stamps::new() };
    walk.enter(folder)?;
    Ok(walk.found)
}

struct Walk<'a> {
    except: &'a Path,
    /// Device and inode of each folder.
    entered: BTreeSet<(u64, u64)>,
    found: Stamps,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path) -> Result<(), Unreadable> {
        let unreadable = |source| Unreadable { folder: folder.to_owned(), source };
        let own = std::fs::metadata(folder).map_err(unreadable)?;
        if !self.entered.insert((own.dev(), own.ino())) {
            return Ok(());
        }
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if !entry.file_name().to_string_lossy().starts_with('.') && entry.path() != self.except {
                paths.push(entry.path());
            }
        }
        paths.sort();
        for path in paths {
            let metadata = match std::fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if is_nowhere(error.kind(), path.is_symlink()) => continue,
                Err(error) => return Err(unreadable(error)),
            };
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if metadata.is_dir() {
                self.enter(&path).or_else(|error| if path.exists() { Err(error) } else { Ok(()) })?;
            } else if metadata.is_file() && matches!(ending, "yaml" | "yml" | "json") {
                self.found.insert(path, (metadata.modified().ok(), metadata.len()));
            }
        }
        Ok(())
    }
}

/// Whether there is nothing: it was removed meanwhile, or is a link that leads nowhere. What is there and may not be looked at
/// is not gone.
fn is_nowhere(error: io::ErrorKind, is_link: bool) -> bool {
    error == io::ErrorKind::NotFound || is_link && error != io::ErrorKind::PermissionDenied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_looked_at_is_not_gone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), "kind: A").unwrap();
        for (link, to) in [("gone.yaml", "nothing"), ("loop.yaml", "loop.yaml"), ("below.yaml", "a.yaml/b")] {
            std::os::unix::fs::symlink(to, folder.path().join(link)).unwrap();
        }
        let found = stamps(folder.path(), Path::new("/nowhere")).unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [folder.path().join("a.yaml")]);
        for is_link in [false, true] {
            assert!(!is_nowhere(io::ErrorKind::PermissionDenied, is_link));
        }
        assert!(!is_nowhere(io::ErrorKind::StaleNetworkFileHandle, false));
    }

    #[test]
    fn the_folder_of_the_state_is_no_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("a.yaml"), "kind: A").unwrap();
        assert!(stamps(folder.path(), &state).unwrap().is_empty());
    }

    #[test]
    fn links_are_followed_and_those_that_lead_in_circles_end() {
        use std::os::unix::fs::symlink;
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("a.yaml"), "kind: A").unwrap();
        std::fs::write(outside.path().join("b.yaml"), "kind: B").unwrap();
        symlink(outside.path(), folder.path().join("elsewhere")).unwrap();
        symlink(outside.path().join("b.yaml"), folder.path().join("c.yaml")).unwrap();
        symlink("/nowhere/at/all", folder.path().join("d.yaml")).unwrap();
        for name in ["one", "two", "three"] {
            symlink(folder.path(), folder.path().join(name)).unwrap();
        }
        let found = stamps(folder.path(), Path::new("/nowhere")).unwrap();
        let names = found.keys().map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["a.yaml", "c.yaml", "elsewhere/b.yaml"]);
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_no_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let error = stamps(&gone, Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("gone: No such file") && error.contains("everything stays"), "{error}");
    }
}
