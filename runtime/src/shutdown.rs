//! When to stop: SIGTERM, Ctrl-C at a terminal, or the end of standard input. Must not know what is stopped.

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at the first SIGTERM or SIGINT, with its name.
///
/// # Errors
/// When the system gives no signal handler.
pub fn requested() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Resolves when the process is to stop, with the reason: at a signal, or, where asked for, at the end of standard input.
///
/// # Errors
/// As [`requested`] and [`stdin_closed`].
pub fn asked(until_stdin_closes: bool) -> std::io::Result<impl Future<Output = &'static str>> {
    let signal = requested()?;
    let stdin = until_stdin_closes.then(stdin_closed).transpose()?;
    Ok(async move {
        let parent_gone = async {
            match stdin {
                Some(stdin) => stdin.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            name = signal => name,
            name = parent_gone => name,
        }
    })
}

/// Resolves when standard input ends: whoever holds its other end is gone, however it went. What comes in is thrown away.
///
/// # Errors
/// When there is no thread to wait on.
pub fn stdin_closed() -> std::io::Result<impl Future<Output = &'static str>> {
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own: a read that blocks would keep the runtime from ending.
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        until_end(&mut std::io::stdin().lock());
        // Nobody listens any more when it stops for another reason.
        let _ = tell.send(());
    })?;
    Ok(async move {
        // The thread ends with the process only: an error is an end, too.
        let _ = told.await;
        "end of standard input"
    })
}

fn until_end(input: &mut impl std::io::Read) {
    let mut thrown_away = [0; 1024];
    loop {
        match input.read(&mut thrown_away) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_is_no_end_and_neither_is_an_interrupted_read() {
        struct Script(Vec<std::io::Result<usize>>);
        impl std::io::Read for Script {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                self.0.pop().unwrap_or_else(|| panic!("read after the end"))
            }
        }
        let error = |kind: std::io::ErrorKind| Err(std::io::Error::from(kind));
        let mut script = Script(vec![Ok(0), error(std::io::ErrorKind::Interrupted), Ok(7)]);
        until_end(&mut script);
        assert!(script.0.is_empty());
        until_end(&mut Script(vec![error(std::io::ErrorKind::BrokenPipe)]));
    }
}
