//! Progress bars on a terminal: downloads, and a model that loads. Silent where standard error is none.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::source::config::{Progress, Tell};

/// Bars below one another. A clone draws on the same lines.
#[derive(Clone, Debug)]
pub struct Bars {
    lines: MultiProgress,
    downloads: Arc<Mutex<HashMap<String, ProgressBar>>>,
}

impl Bars {
    /// Bars on standard error, where that is a terminal.
    #[must_use]
    pub fn new() -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Self { lines: MultiProgress::with_draw_target(target), downloads: Arc::default() }
    }

    /// What a fetcher tells its progress to.
    #[must_use]
    pub fn downloads(&self) -> Arc<Tell> {
        let bars = self.clone();
        Arc::new(move |progress| bars.download(progress))
    }

    /// A bar of `total` bytes, as of a model that loads: move it with [`Bar::at`].
    #[must_use]
    pub fn bar(&self, label: &str, total: u64) -> Bar {
        Bar(self.lines.add(bar(label, Some(total))))
    }

    fn download(&self, progress: &Progress<'_>) {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{} {}", progress.source, progress.file);
        if progress.finished {
            if let Some(bar) = downloads.remove(&key) {
                bar.finish_and_clear();
            }
            return;
        }
        // A download that failed left its bar: the next try moves it on.
        let new = || self.lines.add(bar(&key, progress.total));
        let bar = downloads.entry(key.clone()).or_insert_with(new);
        if let Some(total) = progress.total {
            bar.set_length(total);
        }
        bar.set_position(progress.done);
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

/// One bar. It goes when it is dropped.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// So many bytes of so many are done.
    pub fn at(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn bar(label: &str, total: Option<u64>) -> ProgressBar {
    let template = "{msg:40!} {wide_bar} {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>13} {eta:>4}";
    // The template is a constant: were it wrong, the default style would do.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new).with_style(style);
    bar.set_message(label.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_download_leaves_no_bar_and_a_broken_one_goes_on() {
        let bars = Bars::new();
        let tell = bars.downloads();
        let at = |done, finished| Progress { source: "hf://o/n", file: "x", done, total: Some(10), finished };
        tell(&at(3, false));
        tell(&at(1, false));
        let held = |bars: &Bars| {
            bars.downloads.lock().unwrap().values().map(ProgressBar::position).collect::<Vec<_>>()
        };
        assert_eq!(held(&bars), [1]);
        tell(&at(10, true));
        assert!(held(&bars).is_empty());
    }
}
