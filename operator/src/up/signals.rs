//! What asks for an end: Ctrl-C, `kill`, and a terminal that is closed.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that are heard.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Nothing where whoever started this process has it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on they are heard.
    ///
    /// # Errors
    /// The system does not let them be heard.
    pub fn new() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        // Where nobody can say, it stays as it is.
        let is_heard = is_ignored(&status, SignalKind::hangup()) == Some(false);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: is_heard.then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    /// Waits until an end is asked for.
    pub async fn end(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }

    /// Waits until it is asked for again, at once. A closed terminal does not ask for that, though it may be told by the
    /// shell and by the system, each once.
    pub async fn end_at_once(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Whether a process of that `/proc/PID/status` ignores `signal`.
fn is_ignored(status: &str, signal: SignalKind) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_told_from_what_is_not() {
        let under_nohup = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(is_ignored(under_nohup, SignalKind::hangup()), Some(true));
        assert_eq!(is_ignored(under_nohup, SignalKind::terminate()), Some(false));
        assert_eq!(is_ignored("", SignalKind::hangup()), None);
    }
}
