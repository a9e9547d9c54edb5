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
    let deadline = Instant::now() + WRITTEN;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                if let Some(holder) = holder(&mut file, deadline).map_err(failed)? {
                    return Err(LockError::Held { folder: folder.to_owned(), holder });
                }
                std::thread::sleep(LOOK);
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(Lock { _file: file })
}

/// Whether a process has locked `folder`. It is shared for a moment to see that; [`lock`] waits for that moment.
///
/// # Errors
/// The lock file is there and cannot be read.
pub fn is_held(folder: &Path) -> std::io::Result<bool> {
    let file = match File::open(folder.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The id in the file: of the process that has the lock. Nothing before `deadline` where that has not written it: it may
/// have the lock for a moment only.
fn holder(file: &mut File, deadline: Instant) -> std::io::Result<Option<String>> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    let id = text.trim();
    // That of a process that is no more is of an earlier one.
    let is_alive = !id.is_empty() && Path::new("/proc").join(id).exists();
    Ok((is_alive || Instant::now() > deadline).then(|| id.to_owned()))
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

    #[test]
    fn who_only_asks_whether_it_is_held_keeps_nobody_from_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_held(folder.path()).unwrap(), "there was no process yet");
        let first = lock(folder.path()).unwrap();
        assert!(is_held(folder.path()).unwrap());
        drop(first);
        assert!(!is_held(folder.path()).unwrap());
        // Of a process that is no more: no id is so great.
        std::fs::write(folder.path().join(FILE), "4194305\n").unwrap();
        let asking = File::open(folder.path().join(FILE)).unwrap();
        asking.try_lock_shared().unwrap();
        let asked = std::thread::spawn(move || {
            std::thread::sleep(WRITTEN / 4);
            drop(asking);
        });
        assert!(lock(folder.path()).is_ok());
        asked.join().unwrap();
    }
}
