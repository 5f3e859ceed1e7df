//! A plain HTTP/1.1 connection for the stand-ins: keep-alive, loopback, one request at a time. The engine's own clients are in `net`; sharing them would hide their mistakes.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// One connection to one address, opened when needed and again after it broke.
pub struct Client {
    address: SocketAddr,
    timeout: Duration,
    open: Option<Open>,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// A client that gives up a request after `timeout`.
    pub fn new(address: SocketAddr, timeout: Duration) -> Client {
        Client {
            address,
            timeout,
            open: None,
        }
    }

    /// Sends the request once and reads the whole answer; any trouble closes the connection.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), String> {
        let result = match tokio::time::timeout(self.timeout, self.send_once(request)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        };
        if result.is_err() {
            self.open = None;
        }
        result
    }

    /// Asks for `path`.
    pub async fn get(&mut self, path: &str) -> Result<(StatusCode, Bytes), String> {
        let request = Request::get(path)
            .header("host", self.address.to_string())
            .body(Full::default());
        self.send(request.map_err(|error| error.to_string())?).await
    }

    async fn send_once(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), String> {
        if self
            .open
            .as_ref()
            .is_none_or(|open| open.sender.is_closed())
        {
            self.open = Some(connect(self.address).await?);
        }
        let open = self.open.as_mut().ok_or("the connection is closed")?;
        open.sender
            .ready()
            .await
            .map_err(|error| error.to_string())?;
        let answer = open
            .sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        Ok((status, body))
    }
}

async fn connect(address: SocketAddr) -> Result<Open, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // The sender sees whatever ends the connection.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Open { sender, driver })
}
