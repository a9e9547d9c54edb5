//! One request to one replica, and to another when that one ends before anything of an answer has come: an answer is made
//! anew each time, so asking twice does no harm. Must not know what is asked.

use std::net::SocketAddr;

use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::Backends;
use super::answer::{Answer, Fault};
use super::replay::{Recorded, Replay};

/// Replicas that are asked the same: what ends two of them would end a third.
const ATTEMPTS: usize = 2;

/// Headers that are of one connection alone.
const OF_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// Has `request` answered.
pub(super) async fn relay(request: Request<Incoming>, mut backends: Backends) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let body = Recorded::new(body);
    let mut asked: Vec<SocketAddr> = Vec::new();
    while asked.len() < ATTEMPTS && (asked.is_empty() || body.is_kept()) {
        let Some((address, replica, held)) = backends.reach(&asked).await else { break };
        asked.push(address);
        match ask(replica, &head, body.replay()).await {
            Ok((response, connection)) => {
                let (mut parts, body) = response.into_parts();
                strip(&mut parts.headers);
                let is_stream = parts
                    .headers
                    .get(header::CONTENT_TYPE)
                    .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
                let done = is_stream.then(|| head.uri.path().starts_with("/v1/"));
                return Response::from_parts(parts, Answer::relayed(body, (connection, held), done));
            }
            Err(error) => tracing::debug!(%address, %error, "a replica did not answer"),
        }
    }
    refused(if asked.is_empty() { Fault::NoReplica } else { Fault::Ended })
}

type Connection = AbortOnDropHandle<hyper::Result<()>>;

/// Asks over a connection of its own: none is kept that a replica could close just when it is used.
async fn ask(
    replica: TcpStream,
    head: &Parts,
    body: Replay,
) -> hyper::Result<(Response<Incoming>, Connection)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(replica)).await?;
    // Given up with the answer's body: the replica sees that nobody reads on.
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    strip(request.headers_mut());
    Ok((sender.send_request(request).await?, connection))
}

fn strip(headers: &mut HeaderMap) {
    OF_CONNECTION.iter().for_each(|name| drop(headers.remove(name)));
    headers.remove("keep-alive");
}

fn refused(fault: Fault) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(Bytes::from(fault.body().to_string())));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Nobody knows when a replica will be ready; a request waits here for one, so that the next may come at once.
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
