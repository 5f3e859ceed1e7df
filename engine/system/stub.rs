//! A small system for unit tests, on loopback: answers each request as a function says, or misbehaves, and remembers what came.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: String,
}

/// What happens to a request.
pub(crate) enum Reply {
    /// These bytes, then the connection stays open.
    Bytes(Vec<u8>),
    /// These bytes, then the connection is cut.
    Cut(Vec<u8>),
    /// Nothing, ever.
    Hang,
    /// These bytes after a while.
    Late(Duration, Vec<u8>),
}

pub(crate) struct Stub {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    listening: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A whole answer.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes()
}

impl Stub {
    pub(crate) async fn start(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Stub {
        let plain = |stream: tokio::net::TcpStream| async move { Some(stream) };
        Stub::start_with("http", plain, reply).await
    }

    /// A stub behind something that is done with a connection first, such as TLS.
    pub(crate) async fn start_with<S, F>(
        scheme: &str,
        wrap: impl Fn(tokio::net::TcpStream) -> F + Send + Sync + 'static,
        reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Stub
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (all, reply) = (seen.clone(), Arc::new(reply));
        let listening = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let wrapped = wrap(stream);
                let (all, reply) = (all.clone(), reply.clone());
                tokio::spawn(async move {
                    if let Some(stream) = wrapped.await {
                        serve(stream, &all, &*reply).await;
                    }
                });
            }
        });
        Stub {
            url: format!("{scheme}://localhost:{port}"),
            seen,
            listening,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// A system with this stub as its base URL, and these lines more.
    pub(crate) fn system(&self, http: &str, more: &str) -> String {
        format!("system: erp\nhttp:\n  base_url: {}\n{http}{more}", self.url)
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    all: &Mutex<Vec<Seen>>,
    reply: &(impl Fn(&Seen) -> Reply + ?Sized),
) {
    while let Some(seen) = read(&mut stream).await {
        all.lock().unwrap().push(seen.clone());
        let sent = match reply(&seen) {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await,
            Reply::Late(wait, bytes) => {
                tokio::time::sleep(wait).await;
                stream.write_all(&bytes).await
            }
            Reply::Cut(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                stream.flush().await.unwrap();
                return;
            }
            Reply::Hang => std::future::pending().await,
        };
        if sent.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse::<usize>()
                .ok()
        })
        .unwrap_or(0);
    let mut body = bytes.split_off(end);
    while body.len() < length {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => body.extend_from_slice(&chunk[..count]),
        }
    }
    Some(Seen {
        head,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
