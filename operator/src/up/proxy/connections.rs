//! How many connections clients may have at a time, over all ports together.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one more is told, whatever it would have asked.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 110\r\n\r\n{\"error\":{\"message\":\"Too many connections.\",\
\"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";

/// The connections that there may be; every clone counts the same ones.
#[derive(Clone)]
pub struct Connections {
    permits: Arc<Semaphore>,
    all: u32,
}

impl Connections {
    /// At most `limit` at a time.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit as usize)), all: limit }
    }

    /// Room for `client`, for as long as the value lives; where there is none it is told so.
    pub(super) fn admit(&self, client: &TcpStream) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        if permit.is_none() {
            // The buffer of a fresh socket takes it whole; where it does not, the close says enough.
            let _ = client.try_write(FULL);
        }
        permit
    }

    /// Returns when every connection has ended.
    pub async fn ended(&self) {
        // It is never closed.
        let _ = self.permits.acquire_many(self.all).await;
    }
}
