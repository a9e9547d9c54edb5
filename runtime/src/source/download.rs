//! One file, from wherever it is to the disk: resumed where it broke, bounded in bytes and in patience.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::source::config::{Patience, Progress, Tell};
use crate::source::error::FetchError;
use crate::source::http::Body;
use crate::source::plan::Item;

/// Every download may take so long, however little it is.
const GRACE: Duration = Duration::from_secs(60);

/// A file on its way.
pub(super) struct Download<'a> {
    pub(super) item: &'a Item,
    /// Where finished files and unfinished ones are.
    pub(super) folder: &'a Path,
    pub(super) patience: &'a Patience,
    /// Told of the bytes that are here, of all, and whether that is all.
    pub(super) tell: &'a Tell,
    /// The source, for people.
    pub(super) source: &'a str,
}

impl Download<'_> {
    /// Brings the file, opened with `open` as often as it takes. A finished one is left as it is.
    pub(super) async fn run<F>(&self, open: impl Fn(Option<(u64, String)>) -> F) -> Result<(), FetchError>
    where
        F: Future<Output = Result<Body, FetchError>>,
    {
        if tokio::fs::try_exists(self.folder.join(&self.item.name)).await.unwrap_or(false) {
            return Ok(());
        }
        let started = Instant::now();
        let (mut fruitless, mut best) = (0, 0);
        loop {
            let so_far = self.so_far().await;
            let from = so_far.clone().filter(|(length, _)| *length > 0);
            let error = match self.attempt(open(from), started).await {
                Ok(()) => break,
                Err(error) => error,
            };
            let here = self.length().await;
            fruitless = if here > best { 0 } else { fruitless + 1 };
            best = best.max(here);
            if !error.is_worth_a_retry() || fruitless + 1 >= self.patience.tries {
                return Err(error);
            }
            tracing::debug!(file = self.item.name, here, "download broke: {error}");
            tokio::time::sleep(self.patience.pause * (1 << fruitless.min(8))).await;
        }
        self.finish().await.map_err(|error| FetchError::io("cache", error))
    }

    /// Takes what comes, as far as it comes.
    async fn attempt(
        &self,
        opening: impl Future<Output = Result<Body, FetchError>>,
        started: Instant,
    ) -> Result<(), FetchError> {
        let mut body = opening.await?;
        let limit = self.item.limit;
        let too_large = |bytes| FetchError::TooLarge { what: self.item.name.clone(), bytes, limit };
        if let Some(total) = body.total.filter(|total| *total > limit) {
            return Err(too_large(total));
        }
        // The plan named the content by this tag: another one is another content.
        if self.item.tag.as_ref().zip(body.tag.as_ref()).is_some_and(|(planned, got)| planned != got) {
            return Err(FetchError::Protocol(format!("{}: it changed while it was fetched", self.item.name)));
        }
        let failed = |error| FetchError::io("cache", error);
        let mut file = self.part(body.start, body.tag.as_deref()).await.map_err(failed)?;
        let mut here = body.start;
        let mut told = Instant::now();
        self.say(here, body.total, false);
        let outcome = loop {
            match timeout(self.patience.read, body.pieces.next()).await {
                Err(_) => break Err(self.unavailable(&format!("no byte for {:?}", self.patience.read))),
                Ok(Some(Err(error))) => break Err(error),
                Ok(None) => break Ok(()),
                Ok(Some(Ok(piece))) => {
                    here += piece.len() as u64;
                    if here > limit {
                        break Err(too_large(here));
                    }
                    file.write_all(&piece).await.map_err(failed)?;
                }
            }
            if told.elapsed() > Duration::from_millis(100) {
                told = Instant::now();
                self.say(here, body.total, false);
            }
            let due = GRACE + Duration::from_secs((here - body.start) / self.patience.slowest.max(1));
            if started.elapsed() > due {
                break Err(FetchError::Protocol(format!("{}: it comes too slowly", self.item.name)));
            }
        };
        // What has come is kept for the next attempt, however this one ended.
        file.flush().await.map_err(failed)?;
        outcome?;
        match body.total {
            Some(total) if total != here => Err(self.unavailable(&format!("{here} bytes came of {total}"))),
            _ => file.sync_all().await.map_err(failed),
        }
    }

    fn unavailable(&self, why: &str) -> FetchError {
        FetchError::Unavailable(format!("{}: {why}", self.item.name))
    }

    fn say(&self, done: u64, total: Option<u64>, finished: bool) {
        (self.tell)(&Progress { source: self.source, file: &self.item.name, done, total, finished });
    }

    fn part_path(&self) -> PathBuf {
        self.folder.join(format!(".{}.part", self.item.name))
    }

    fn tag_path(&self) -> PathBuf {
        self.folder.join(format!(".{}.tag", self.item.name))
    }

    async fn length(&self) -> u64 {
        tokio::fs::metadata(self.part_path()).await.map_or(0, |metadata| metadata.len())
    }

    /// What an earlier attempt brought: its length, and the tag of the file that it is of. Without a tag it cannot be
    /// gone on with.
    async fn so_far(&self) -> Option<(u64, String)> {
        let tag = tokio::fs::read_to_string(self.tag_path()).await.ok().filter(|tag| tag.starts_with('"'))?;
        Some((self.length().await, tag))
    }

    /// The unfinished file, open at `start`.
    async fn part(&self, start: u64, tag: Option<&str>) -> std::io::Result<File> {
        let file = OpenOptions::new().create(true).append(true).open(self.part_path()).await?;
        if file.metadata().await?.len() != start {
            file.set_len(start).await?;
        }
        if start == 0 {
            tokio::fs::write(self.tag_path(), tag.unwrap_or_default()).await?;
        }
        Ok(file)
    }

    async fn finish(&self) -> std::io::Result<()> {
        let length = self.length().await;
        tokio::fs::rename(self.part_path(), self.folder.join(&self.item.name)).await?;
        // Its work is done; a tag that stays would do no harm.
        let _ = tokio::fs::remove_file(self.tag_path()).await;
        self.say(length, Some(length), true);
        Ok(())
    }
}
