//! The disk cache: folders under the digest of what is in them, an index of what was fetched for which source, and
//! unfinished downloads. Several processes may share one. But for the brief ones ([`Cache::get`], [`Cache::find`],
//! [`Cache::remember`]) its calls are not for async workers.
//!
//! A folder appears by one rename, when every file of it is complete and on the disk. Who reads one holds a shared lock
//! on it; what is put out is nobody's, least recently used first. What a crash leaves behind is an unfinished download,
//! which the next one goes on with.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::digest::Digest;
use crate::source::error::FetchError;
use crate::source::fetch::DiskFigures;

/// Unfinished downloads that nobody went on with for so long are cleaned up.
const STALE: Duration = Duration::from_secs(3 * 24 * 3600);

/// The lock file of a folder; its time is when the folder was last used.
const LOCK: &str = ".lock";

/// A cache in a folder.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    budget: u64,
    /// Bytes of content and of unfinished downloads, when they were last counted or changed.
    used: AtomicU64,
    evictions: AtomicU64,
}

/// Use of a folder of the cache: it is not put out while this lives.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) folder: PathBuf,
    pub(super) digest: Digest,
    _lock: File,
}

/// What takes room: when it was last used, its bytes, and what it is.
type Taken = (SystemTime, u64, Held);

/// What can be put out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    Content(PathBuf),
    /// An unfinished download.
    Partial(PathBuf),
}

/// An unfinished download. One process at a time has it.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) folder: PathBuf,
    _lock: File,
}

fn failed(error: io::Error) -> FetchError {
    FetchError::Io { what: "cache".to_owned(), error: error.into() }
}

impl Cache {
    /// Opens the cache in `root`, or makes it, and cleans up what nobody will go on with.
    pub(super) fn open(root: &Path, budget: u64) -> Result<Self, FetchError> {
        for folder in ["content", "index", "partial"] {
            fs::create_dir_all(root.join(folder)).map_err(failed)?;
        }
        let (used, evictions) = (AtomicU64::new(0), AtomicU64::new(0));
        let cache = Self { root: root.to_owned(), budget, used, evictions };
        cache.clean().map_err(failed)?;
        cache.count().map_err(failed)?;
        Ok(cache)
    }

    /// The cache in numbers, from memory.
    pub(super) fn figures(&self) -> DiskFigures {
        let (used, evictions) = (self.used.load(Ordering::Relaxed), self.evictions.load(Ordering::Relaxed));
        DiskFigures { used, budget: self.budget, evictions }
    }

    /// Counts anew: other processes may share the cache.
    fn count(&self) -> io::Result<()> {
        let used = self.taken(None)?.iter().map(|(_, bytes, _)| bytes).sum();
        self.used.store(used, Ordering::Relaxed);
        Ok(())
    }

    /// The folder of this content, where it is here.
    pub(super) fn get(&self, digest: Digest) -> Option<Lease> {
        let folder = self.content(digest);
        let lock = OpenOptions::new().read(true).write(true).open(folder.join(LOCK)).ok()?;
        lock.lock_shared().ok()?;
        // It may have been put out between opening and locking: then the lock is on a file of no folder.
        let there = fs::metadata(folder.join(LOCK)).ok()?;
        let same = lock.metadata().is_ok_and(|here| (here.dev(), here.ino()) == (there.dev(), there.ino()));
        if !same {
            return None;
        }
        // Only the order of eviction hangs on it.
        let _ = lock.set_modified(SystemTime::now());
        Some(Lease { folder, digest, _lock: lock })
    }

    /// What was fetched under `key`, where it is still here, and the revision that it was.
    pub(super) fn find(&self, key: &str) -> Option<(Lease, Option<String>)> {
        let entry = fs::read_to_string(self.index(key)).ok()?;
        let mut lines = entry.lines();
        let digest = lines.next()?.parse().ok()?;
        let revision = lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
        Some((self.get(digest)?, revision))
    }

    /// Remembers that `key` is this content.
    pub(super) fn remember(
        &self,
        key: &str,
        digest: Digest,
        revision: Option<&str>,
    ) -> Result<(), FetchError> {
        let mut file = tempfile::NamedTempFile::new_in(self.root.join("partial")).map_err(failed)?;
        write!(file, "{digest}\n{}\n", revision.unwrap_or_default()).map_err(failed)?;
        file.persist(self.index(key)).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// The unfinished download under `key`, begun or to be begun (`anew`: what was begun is thrown away, nothing says that
    /// it is of the same content). Waits while another process has it.
    pub(super) fn partial(&self, key: &str, anew: bool) -> Result<Partial, FetchError> {
        let path = self.root.join("partial");
        let open = || OpenOptions::new().create(true).append(true).open(path.join(format!("{key}.lock")));
        let lock = open().map_err(failed)?;
        lock.lock().map_err(failed)?;
        let folder = path.join(key);
        if anew && folder.exists() {
            fs::remove_dir_all(&folder).map_err(failed)?;
        }
        fs::create_dir_all(&folder).map_err(failed)?;
        Ok(Partial { folder, _lock: lock })
    }

    /// Makes room for the `bytes` of the download under `key`, as far as they are not there yet, by putting out what was
    /// not used for longest: content, and downloads that nobody goes on with.
    pub(super) fn make_room(&self, bytes: u64, key: &str) -> Result<(), FetchError> {
        let too_large = || FetchError::TooLarge { what: "cache".to_owned(), bytes, limit: self.budget };
        if bytes > self.budget {
            return Err(too_large());
        }
        let mut all = self.taken(Some(key)).map_err(failed)?;
        all.sort();
        let mut used: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, held) in all {
            if used + bytes <= self.budget {
                return Ok(());
            }
            let is_out = match &held {
                Held::Content(folder) => self.put_out(folder),
                Held::Partial(folder) => give_up(folder),
            };
            if is_out.map_err(failed)? {
                used -= size;
                let is_content = matches!(held, Held::Content(_));
                self.evictions.fetch_add(u64::from(is_content), Ordering::Relaxed);
            }
        }
        if used + bytes <= self.budget { Ok(()) } else { Err(too_large()) }
    }

    /// Turns a finished download into content. `names` are its files.
    pub(super) fn commit(
        &self,
        partial: &Partial,
        names: &[&str],
        expected: Option<Digest>,
    ) -> Result<Lease, FetchError> {
        let digest = digest_of(&partial.folder, names).map_err(failed)?;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            // Going on with it would come to the same.
            fs::remove_dir_all(&partial.folder).map_err(failed)?;
            return Err(FetchError::DigestMismatch { expected, got: digest });
        }
        if let Some(lease) = self.get(digest) {
            fs::remove_dir_all(&partial.folder).map_err(failed)?;
            return Ok(lease);
        }
        // Now its size is known, whatever the server said ahead.
        let key = partial.folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.make_room(size_of_folder(&partial.folder), key)?;
        let staged = self.stage(partial, names).map_err(failed)?;
        let folder = self.content(digest);
        let moved = fs::rename(staged.path(), &folder)
            .and_then(|()| File::open(self.root.join("content"))?.sync_all());
        match (moved, self.get(digest)) {
            (_, Some(lease)) => {
                // What another process moved there first is the same content; the staged one goes with its guard.
                let _ = fs::remove_dir_all(&partial.folder);
                self.count().map_err(failed)?;
                Ok(lease)
            }
            (Err(error), None) => Err(failed(error)),
            (Ok(()), None) => Err(failed(io::Error::other("content vanished as it came"))),
        }
    }

    /// Throws content away, though it may be in use: it is not what it was.
    pub(super) fn discard(&self, digest: Digest) {
        // What is gone already is what was wanted.
        let _ = fs::remove_dir_all(self.content(digest));
    }

    fn content(&self, digest: Digest) -> PathBuf {
        self.root.join("content").join(digest.hex())
    }

    fn index(&self, key: &str) -> PathBuf {
        self.root.join("index").join(key)
    }

    /// A folder with the finished files alone, complete on the disk.
    fn stage(&self, partial: &Partial, names: &[&str]) -> io::Result<tempfile::TempDir> {
        let staged = tempfile::Builder::new().prefix("staged-").tempdir_in(self.root.join("partial"))?;
        for name in names {
            fs::rename(partial.folder.join(name), staged.path().join(name))?;
        }
        File::create(staged.path().join(LOCK))?.sync_all()?;
        File::open(staged.path())?.sync_all()?;
        Ok(staged)
    }

    /// Everything that takes room but the download under `except`.
    fn taken(&self, except: Option<&str>) -> io::Result<Vec<Taken>> {
        let mut all = Vec::new();
        let mut take = |lock: PathBuf, held: Held| {
            let used = fs::metadata(lock).and_then(|lock| lock.modified());
            let (Held::Content(folder) | Held::Partial(folder)) = &held;
            all.push((used.unwrap_or(SystemTime::UNIX_EPOCH), size_of_folder(folder), held));
        };
        for entry in fs::read_dir(self.root.join("content"))? {
            let folder = entry?.path();
            take(folder.join(LOCK), Held::Content(folder));
        }
        for entry in fs::read_dir(self.root.join("partial"))? {
            let folder = entry?.path();
            let is_own = except.is_some_and(|key| folder.ends_with(key));
            if folder.is_dir() && !is_own {
                // The lock file's own time is that of the first try; the folder's is that of its newest file.
                take(folder.clone(), Held::Partial(folder));
            }
        }
        Ok(all)
    }

    /// Whether it was nobody's and is gone.
    fn put_out(&self, folder: &Path) -> io::Result<bool> {
        let lock = OpenOptions::new().create(true).append(true).open(folder.join(LOCK))?;
        if lock.try_lock().is_err() {
            return Ok(false);
        }
        // Out of sight by one rename first: nobody finds half a folder.
        let out = tempfile::Builder::new().prefix("out-").tempdir_in(self.root.join("partial"))?;
        fs::rename(folder, out.path().join("content"))?;
        drop(out);
        Ok(true)
    }

    fn clean(&self) -> io::Result<()> {
        let old = |path: &Path| {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE))
        };
        // What was fetched under a name and is here no more: another process may be about to bring it back.
        for entry in fs::read_dir(self.root.join("index"))? {
            let path = entry?.path();
            let digest = fs::read_to_string(&path).unwrap_or_default();
            let digest = digest.lines().next().and_then(|line| line.parse::<Digest>().ok());
            let here = digest.is_some_and(|digest| self.content(digest).exists());
            if !here && old(&path) {
                let _ = fs::remove_file(&path);
            }
        }
        for entry in fs::read_dir(self.root.join("partial"))? {
            let path = entry?.path();
            if !old(&path) {
                continue;
            }
            // Another process may clean up as well, or use it: what cannot be removed stays for the next start.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
        Ok(())
    }
}

/// Whether the download was nobody's and is gone. What has no lock of its own is about to be content, or on its way out.
fn give_up(folder: &Path) -> io::Result<bool> {
    let lock = folder.with_extension("lock");
    let lock = match OpenOptions::new().append(true).open(lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    fs::remove_dir_all(folder)?;
    Ok(true)
}

fn size_of_folder(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// As [`Digest::of_files`] over the files in the order of their names, without having them in memory.
pub(super) fn digest_of(folder: &Path, names: &[&str]) -> io::Result<Digest> {
    let mut names = names.to_vec();
    names.sort_unstable();
    let mut stream = Digest::stream();
    let mut buffer = vec![0; 1 << 20];
    for name in names {
        let mut file = File::open(folder.join(name))?;
        stream.file(name, file.metadata()?.len());
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            stream.bytes(&buffer[..count]);
        }
    }
    Ok(stream.finish())
}

#[cfg(test)]
mod tests;
