//! What a replica prints: a file of bounded size, what came before it beside it, and its last words. Must not know why a
//! replica ends.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// How far back last words are looked for.
const TAIL: u64 = 64 << 10;

/// The log of one replica.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The newest; what was before it is beside it.
    pub path: PathBuf,
    /// Bytes of it, and as many of what was before.
    pub limit: u64,
}

impl Log {
    /// The replica's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A new file for another start.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // The first start has no log before it.
        let _ = std::fs::rename(&self.path, self.before());
        // Appended to, so that it goes on at its new end once it is cut.
        File::options().create(true).append(true).open(&self.path)
    }

    /// Moves what is there aside where it has become too long. The process has the file open and goes on in it: what it
    /// prints between the copy and the cut is lost.
    ///
    /// # Errors
    /// It cannot be copied or cut.
    pub async fn bound(&self) -> io::Result<()> {
        if tokio::fs::metadata(&self.path).await?.len() <= self.limit {
            return Ok(());
        }
        // A disk without room for the copy is a reason more to cut.
        let copied = tokio::fs::copy(&self.path, self.before()).await;
        tokio::fs::OpenOptions::new().write(true).open(&self.path).await?.set_len(0).await?;
        copied.map(drop)
    }

    /// The last line that tells of a fault.
    pub async fn last_words(&self) -> Option<String> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || tail(&path)).await;
        last_words(&String::from_utf8_lossy(&read.ok()?.ok()?))
    }

    fn before(&self) -> PathBuf {
        self.path.with_extension("log.before")
    }
}

/// The end of a file, from the first whole line.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(TAIL).read_to_end(&mut end)?;
    if start > 0 {
        let line = end.iter().position(|byte| *byte == b'\n').map_or(end.len(), |at| at + 1);
        end.drain(..line);
    }
    Ok(end)
}

/// The last line of a log that tells of a fault: a warning or an error, or what is no log line, as a program says it that
/// does not start.
fn last_words(log: &str) -> Option<String> {
    let of_line = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(fields)) => {
            let is_fault = matches!(fields.get("level")?.as_str()?, "WARN" | "ERROR");
            fields.get("message")?.as_str().filter(|_| is_fault).map(str::to_owned)
        }
        _ => Some(line.trim_start_matches("lorikeet: ").to_owned()),
    };
    let mut lines = log.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    Some(lines.find_map(of_line)?.chars().take(500).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(level: &str, message: &str) -> String {
        format!("{{\"level\":\"{level}\",\"message\":\"{message}\"}}\n")
    }

    #[test]
    fn the_last_words_are_those_of_a_fault() {
        let busy = line("INFO", "serving") + &line("INFO", "answered");
        assert_eq!(last_words(&busy), None);
        assert_eq!(last_words(""), None);
        let warned = line("ERROR", "no memory") + &busy;
        assert_eq!(last_words(&warned).as_deref(), Some("no memory"));
        let refused = line("WARN", "slow") + "lorikeet: --model: /x: no such file or folder\n" + &busy;
        assert_eq!(last_words(&refused).as_deref(), Some("--model: /x: no such file or folder"));
    }

    #[tokio::test]
    async fn a_log_is_cut_at_its_limit_and_goes_on_in_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log { path: folder.path().join("logs/x.log"), limit: 1000 };
        let mut file = log.create().unwrap();
        let text = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        file.write_all(&[b'a'; 1000]).unwrap();
        log.bound().await.unwrap();
        assert_eq!(text(log.path.clone()).len(), 1000, "as much as there may be");
        file.write_all(b"b").unwrap();
        log.bound().await.unwrap();
        assert_eq!((text(log.path.clone()), text(log.before()).len()), (String::new(), 1001));
        file.write_all(b"c").unwrap();
        assert_eq!(text(log.path.clone()), "c");
        log.create().unwrap();
        assert_eq!((text(log.path.clone()), text(log.before())), (String::new(), "c".to_owned()));
    }

    #[tokio::test]
    async fn of_a_long_log_the_end_alone_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log { path: folder.path().join("x.log"), limit: u64::MAX };
        let mut file = log.create().unwrap();
        assert_eq!(log.last_words().await, None);
        file.write_all(line("ERROR", "long ago").as_bytes()).unwrap();
        file.write_all(line("INFO", "answered").repeat(usize::try_from(TAIL).unwrap() / 30).as_bytes())
            .unwrap();
        assert_eq!(tail(&log.path).unwrap().first(), Some(&b'{'));
        assert_eq!(log.last_words().await, None);
        file.write_all(line("ERROR", "no memory").as_bytes()).unwrap();
        assert_eq!(log.last_words().await.as_deref(), Some("no memory"));
    }
}
