//! Files of this machine, opened so that what was checked is what is read: regular files only, without hanging on a
//! FIFO, and below a root where a root is asked for. Symbolic links are followed; where they lead is what counts.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::source::error::FetchError;

/// A folder to read files of.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// What is opened must lie below one of these, all links resolved; `None` trusts the path.
    roots: Option<Vec<PathBuf>>,
}

impl Folder {
    /// A folder whose path is trusted.
    #[must_use]
    pub const fn trusted(path: PathBuf) -> Self {
        Self { path, roots: None }
    }

    /// The folder at `path`, which must lie below one of `roots` (a relative one: below the first that has it).
    ///
    /// # Errors
    /// When it lies elsewhere, holds `..`, or no root is configured.
    pub fn below(path: &Path, roots: &[PathBuf]) -> Result<Self, FetchError> {
        let outside = || FetchError::Forbidden("the path is not below a --source-root".to_owned());
        if roots.is_empty() {
            return Err(FetchError::Forbidden(
                "paths are refused here: no --source-root is configured".to_owned(),
            ));
        }
        if path.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
            return Err(outside());
        }
        let roots: Vec<PathBuf> = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
        // A path that does not exist is answered as one outside: what exists elsewhere is nobody's business.
        let resolved: Vec<PathBuf> =
            roots.iter().filter_map(|root| root.join(path).canonicalize().ok()).collect();
        if resolved.is_empty() {
            return Err(missing(path, &roots).unwrap_or_else(outside));
        }
        let inside = |path: &PathBuf| roots.iter().any(|root| path.starts_with(root));
        let path = resolved.into_iter().find(inside).ok_or_else(outside)?;
        Ok(Self { path, roots: Some(roots) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds a file of this name, of whatever kind. Nothing is opened.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.path.join(name).symlink_metadata().is_ok()
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it is not there, not a regular file, or not below a root.
    pub fn open(&self, name: &str) -> Result<File, FetchError> {
        // A FIFO opens at once without a writer, a device without a look at it; the check on what was opened follows.
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(self.path.join(name))
            .map_err(|error| self.cannot_open(name, error))?;
        let metadata = file.metadata().map_err(|error| FetchError::io(name, error))?;
        if !metadata.is_file() {
            return Err(FetchError::NotAFile(name.to_owned()));
        }
        if let Some(roots) = &self.roots {
            let opened =
                opened_at(&file, &self.path.join(name)).map_err(|error| FetchError::io(name, error))?;
            if !roots.iter().any(|root| opened.starts_with(root)) {
                return Err(FetchError::Forbidden(format!("{name} leads out of the --source-root")));
            }
        }
        Ok(file)
    }

    /// A file that is not there is another fault than a folder that is not there.
    fn cannot_open(&self, name: &str, error: std::io::Error) -> FetchError {
        match FetchError::io(name, error) {
            FetchError::NotFound(_) if !self.path.is_dir() => FetchError::NoFolder(last_part(&self.path)),
            FetchError::NotFound(name) => FetchError::NoFile(name),
            other => other,
        }
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::open`], and when it is longer.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        let file = self.open(name)?;
        let bytes = file.metadata().map_err(|error| FetchError::io(name, error))?.size();
        let too_large = |bytes| FetchError::TooLarge { what: name.to_owned(), bytes, limit };
        if bytes > limit {
            return Err(too_large(bytes));
        }
        let mut content = Vec::new();
        content.try_reserve_exact(bytes as usize).map_err(|_| too_large(bytes))?;
        // It may grow while it is read: one byte more than allowed is enough to know.
        file.take(limit.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(|error| FetchError::io(name, error))?;
        if content.len() as u64 > limit {
            return Err(too_large(content.len() as u64));
        }
        Ok(content)
    }
}

/// A path below a root that is simply not there.
fn missing(path: &Path, roots: &[PathBuf]) -> Option<FetchError> {
    let inside = path.is_relative() || roots.iter().any(|root| path.starts_with(root));
    inside.then(|| FetchError::NoFolder(last_part(path)))
}

fn last_part(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Where an open file is, by the kernel's own word where it gives one.
fn opened_at(file: &File, path: &Path) -> std::io::Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    match std::fs::read_link(link) {
        Ok(opened) => Ok(opened),
        Err(_) => {
            // Without /proc: the path must still lead to the very file that was opened.
            let resolved = path.canonicalize()?;
            let (there, here) = (resolved.metadata()?, file.metadata()?);
            let same = there.dev() == here.dev() && there.ino() == here.ino();
            if same { Ok(resolved) } else { Err(std::io::Error::other("it changed while it was opened")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(root.join("a/x"), "inside").unwrap();
        std::fs::write(outside.join("x"), "outside").unwrap();
        (dir, root, outside)
    }

    #[test]
    fn a_folder_below_a_root_is_read_whether_written_in_full_or_in_part() {
        let (_dir, root, _) = sandbox();
        for path in [root.join("a"), PathBuf::from("a")] {
            let folder = Folder::below(&path, std::slice::from_ref(&root)).unwrap();
            assert_eq!(folder.read("x", 6).unwrap(), b"inside");
        }
    }

    #[test]
    fn a_path_outside_of_every_root_is_refused_whether_it_exists_or_not() {
        let (_dir, root, outside) = sandbox();
        let absent = outside.join("absent");
        for path in [outside.as_path(), Path::new("../outside"), Path::new("a/../../outside"), &absent] {
            let error = Folder::below(path, std::slice::from_ref(&root)).unwrap_err();
            assert!(matches!(error, FetchError::Forbidden(_)), "{path:?}: {error}");
        }
        assert!(matches!(Folder::below(Path::new("/"), &[]), Err(FetchError::Forbidden(_))));
        assert!(matches!(Folder::below(Path::new("absent"), &[root]), Err(FetchError::NoFolder(_))));
    }

    #[test]
    fn a_link_is_followed_inside_and_refused_where_it_leads_out() {
        let (_dir, root, outside) = sandbox();
        let roots = [root.clone()];
        std::os::unix::fs::symlink(&outside, root.join("folder_out")).unwrap();
        std::os::unix::fs::symlink(outside.join("x"), root.join("a/file_out")).unwrap();
        std::os::unix::fs::symlink("x", root.join("a/file_in")).unwrap();
        std::os::unix::fs::symlink("a", root.join("folder_in")).unwrap();
        assert!(matches!(Folder::below(Path::new("folder_out"), &roots), Err(FetchError::Forbidden(_))));
        let folder = Folder::below(Path::new("folder_in"), &roots).unwrap();
        assert_eq!(folder.read("file_in", 100).unwrap(), b"inside");
        assert!(matches!(folder.read("file_out", 100), Err(FetchError::Forbidden(_))));
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_hanging() {
        let (_dir, root, _) = sandbox();
        let fifo = root.join("a/fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        std::os::unix::fs::symlink("/dev/zero", root.join("a/zero")).unwrap();
        std::fs::create_dir(root.join("a/dir")).unwrap();
        let folder = Folder::trusted(root.join("a"));
        for name in ["fifo", "zero", "dir"] {
            assert!(matches!(folder.read(name, 100), Err(FetchError::NotAFile(_))), "{name}");
        }
        assert!(matches!(folder.read("absent", 100), Err(FetchError::NoFile(_))));
        let gone = Folder::trusted(root.join("gone"));
        assert_eq!(gone.read("x", 100).unwrap_err().to_string(), "gone: no such folder");
    }

    #[test]
    fn a_file_over_the_limit_is_refused_before_it_is_read() {
        let (_dir, root, _) = sandbox();
        let sparse = std::fs::File::create(root.join("a/sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let folder = Folder::trusted(root.join("a"));
        assert!(
            matches!(folder.read("sparse", 1 << 20), Err(FetchError::TooLarge { bytes, .. }) if bytes == 1 << 40)
        );
        assert!(matches!(folder.read("x", 5), Err(FetchError::TooLarge { .. })));
    }
}
