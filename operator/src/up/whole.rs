//! Files that are written whole or not at all: a reader, and the next start, never see half of one. Errors name the file.

use std::io;
use std::path::Path;

/// Makes `content` that of the file at `path`, whose folder is made as well.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let written = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(&new, content))
        .and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| at(path, &error))
}

/// As [`write`], where it differs from what is there.
///
/// # Errors
/// It cannot be written.
pub fn write_changed(path: &Path, content: &str) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|before| before == content.as_bytes()) {
        return Ok(());
    }
    write(path, content)
}

/// `error`, which `path` met.
#[must_use]
pub fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_old_one_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.yaml");
        write(&path, "old").unwrap();
        std::fs::create_dir(folder.path().join("a/b.yaml.new")).unwrap();
        let error = write_changed(&path, "new").unwrap_err().to_string();
        assert!(error.contains("/a/b.yaml: "), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        write_changed(&path, "old").unwrap();
        std::fs::remove_dir(folder.path().join("a/b.yaml.new")).unwrap();
        write_changed(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }
}
