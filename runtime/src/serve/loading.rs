//! The admin face while the model is being loaded: it says so, where whoever asks would wait in vain otherwise. Must not
//! know what is loaded.

use std::io;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{AdminFace, Config};
use crate::http::error::{ApiError, Problem};
use crate::http::server::{self, Face};

/// Its last connections may take so long.
const LAST: Duration = Duration::from_secs(1);

/// A face that says one thing.
pub(super) struct Loading {
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl Loading {
    /// Answers on a listener beside the one that the face will have.
    ///
    /// # Errors
    /// The system gives no second handle on it.
    pub(super) fn begin(
        listener: TcpListener,
        admin: &AdminFace,
        config: &Config,
    ) -> io::Result<(Self, TcpListener)> {
        let listener = listener.into_std()?;
        let beside = TcpListener::from_std(listener.try_clone()?)?;
        let router =
            Router::new().fallback(async || ApiError::from(Problem::NotReady("The model is being loaded.")));
        let (tls, limits) = (admin.tls.clone(), config.admin_limits());
        let face = Face { listener: beside, router, tls, limits, linger: Duration::ZERO };
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(server::serve(face, stopped));
        Ok((Self { stop, served }, TcpListener::from_std(listener)?))
    }

    /// Takes no further connection, and is gone.
    pub(super) async fn end(mut self) {
        self.stop.send_replace(true);
        // A handshake that does not end is let go with the task.
        if tokio::time::timeout(LAST, &mut self.served).await.is_err() {
            self.served.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::args::{Cli, Command};

    #[tokio::test]
    async fn it_says_that_the_model_is_being_loaded_and_gives_the_listener_back() {
        let typed =
            ["lorikeet", "serve", "--model", "/x", "--admin-listen", "127.0.0.1:0", "--admin-insecure"];
        let Command::Serve(args) = Cli::try_parse_from(typed).unwrap().command else {
            panic!("serve was typed")
        };
        let config = Config::check(*args).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (loading, listener) = Loading::begin(listener, config.admin.as_ref().unwrap(), &config).unwrap();
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /admin/v1/adapters HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut said = vec![0; 12];
        socket.read_exact(&mut said).await.unwrap();
        loading.end().await;
        let mut rest = String::new();
        socket.read_to_string(&mut rest).await.unwrap();
        assert_eq!(said, b"HTTP/1.1 503");
        let body = rest.split("\r\n\r\n").nth(1).unwrap();
        let error: lorikeet_api::AdminError = serde_json::from_str(body).unwrap();
        assert_eq!(error.error.code, lorikeet_api::ErrorCode::NotReady);
        assert!(rest.contains("retry-after: 1") && rest.contains("The model is being loaded."), "{rest}");
        let _later = tokio::net::TcpStream::connect(address).await.unwrap();
        assert!(listener.accept().await.is_ok());
    }
}
