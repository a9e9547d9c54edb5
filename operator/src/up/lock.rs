//! One process for a state folder: a file that is locked while the process lives, with its id. The system lets go of the
//! lock however the process ends, so that nothing is left to clean up.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Whoever has taken the lock has written its id after so long.
const WRITTEN: Duration = Duration::from_secs(1);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

/// The name of the file.
pub const FILE: &str = "lock";

/// The lock; gone with its value.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the folder is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{folder} is in use by process {holder}; stop it first, or give another --state")]
    Held {
        /// The state folder.
        folder: PathBuf,
        /// The other process.
        holder: String,
    },
    /// It cannot be written.
    #[error("{path}: {source}")]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Locks `folder` for this process.
///
/// # Errors
/// [`LockError::Held`] with the id of the process that has it.
pub fn lock(folder: &Path) -> Result<Lock, LockError> {
    let path = folder.join(FILE);
    let failed = |source| LockError::File { path: path.clone(), source };
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = options.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = holder(&mut file).map_err(failed)?;
            return Err(LockError::Held { folder: folder.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(Lock { _file: file })
}

/// The id in the file: of the process that has the lock, which may have it for a moment only and not have written it.
fn holder(file: &mut File) -> std::io::Result<String> {
    let deadline = Instant::now() + WRITTEN;
    loop {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        let id = text.trim();
        // That of a process that is no more is of an earlier one.
        let is_alive = !id.is_empty() && Path::new("/proc").join(id).exists();
        if is_alive || Instant::now() > deadline {
            return Ok(id.to_owned());
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_with_the_first_ones_id_until_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let refused = lock(folder.path()).unwrap_err();
        assert!(
            matches!(&refused, LockError::Held { holder, .. } if *holder == std::process::id().to_string())
        );
        drop(first);
        assert!(lock(folder.path()).is_ok());
    }
}
