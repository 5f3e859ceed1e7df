//! The floor under accept latency: what is left when everything that makes an engine is taken away. The same posts, sent at the same rate to
//! a listener that only appends each body to a file, syncs it for all that wait, and answers.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

/// A body that is to be safe, and whom to tell.
type Append = (Vec<u8>, oneshot::Sender<()>);

/// Listens on `runtime` for requests of exactly so many bytes. It ends with the runtime.
pub fn listen(runtime: &tokio::runtime::Runtime, folder: &Path, length: usize) -> SocketAddr {
    let file = std::fs::File::create(folder.join("appended")).expect("a file");
    let (append, appends) = mpsc::channel();
    std::thread::spawn(move || append_all(file, &appends));
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, length, append.clone()));
            }
        });
        address
    })
}

/// One write and one sync for all that has come meanwhile.
fn append_all(mut file: std::fs::File, appends: &mpsc::Receiver<Append>) {
    while let Ok(first) = appends.recv() {
        let group: Vec<Append> = std::iter::once(first).chain(appends.try_iter()).collect();
        let bytes: Vec<u8> = group.iter().flat_map(|(body, _)| body).copied().collect();
        file.write_all(&bytes).expect("written");
        file.sync_data().expect("synced");
        for (_, done) in group {
            let _gone = done.send(());
        }
    }
}

async fn answer(mut stream: tokio::net::TcpStream, length: usize, append: mpsc::Sender<Append>) {
    stream.set_nodelay(true).expect("set");
    loop {
        let mut request = vec![0; length];
        if stream.read_exact(&mut request).await.is_err() {
            return;
        }
        let (done, safe) = oneshot::channel();
        append.send((request, done)).expect("the writer lives");
        safe.await.expect("appended");
        let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("answered");
    }
}
