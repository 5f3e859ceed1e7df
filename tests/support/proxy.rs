//! A TCP proxy that does harm to what passes: latency, cuts, resets, silence, slices of one byte, little bandwidth. It understands nothing of
//! what it carries.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How many bytes are carried at once where nothing is said.
const CHUNK: usize = 16 << 10;

/// What is done to every connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Harm {
    /// Every piece waits so long on its way.
    pub latency: Duration,
    /// At most so many bytes at once, with a yield between them; 0: as they come.
    pub slice: usize,
    /// At most so many bytes a second and direction; 0: as fast as it goes.
    pub bytes_a_second: u64,
    /// Nothing passes, and nobody is told: connections stay open.
    pub silent: bool,
}

/// A proxy in front of one address.
pub struct Proxy {
    address: SocketAddr,
    harm: Arc<Mutex<Harm>>,
    cuts: watch::Sender<Cut>,
    done: Arc<AtomicU64>,
    listening: JoinHandle<()>,
}

/// How connections end: the number rises with each cut.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    number: u64,
    reset: bool,
}

impl Proxy {
    /// Carries to this address.
    pub async fn to(target: SocketAddr) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let harm = Arc::new(Mutex::new(Harm::default()));
        let (cuts, cut) = watch::channel(Cut::default());
        let done = Arc::new(AtomicU64::new(0));
        let listening = {
            let (harm, done) = (harm.clone(), done.clone());
            tokio::spawn(async move {
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        continue;
                    };
                    let carried = carry(stream, target, harm.clone(), cut.clone(), done.clone());
                    tokio::spawn(carried);
                }
            })
        };
        Ok(Proxy {
            address,
            harm,
            cuts,
            done,
            listening,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is done, to connections that are open, too.
    pub fn set(&self, harm: Harm) {
        *self.harm.lock().unwrap() = harm;
    }

    /// Ends every connection that is open: by a reset, or as if both sides had closed it.
    pub fn cut(&self, reset: bool) {
        self.cuts.send_modify(|cut| {
            cut.number += 1;
            cut.reset = reset;
        });
    }

    /// How many connections were cut in the middle.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut(false);
    }
}

async fn carry(
    mut near: TcpStream,
    target: SocketAddr,
    harm: Arc<Mutex<Harm>>,
    mut cuts: watch::Receiver<Cut>,
    done: Arc<AtomicU64>,
) {
    cuts.borrow_and_update();
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    near.set_nodelay(true).ok();
    far.set_nodelay(true).ok();
    let was_cut = {
        let ((near_from, near_to), (far_from, far_to)) = (near.split(), far.split());
        tokio::select! {
            _ = async { tokio::join!(pass(near_from, far_to, &harm), pass(far_from, near_to, &harm)) } => false,
            _ = cuts.changed() => true,
        }
    };
    if was_cut {
        done.fetch_add(1, Ordering::SeqCst);
        if cuts.borrow().reset {
            near.set_zero_linger().ok();
            far.set_zero_linger().ok();
        }
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    harm: &Mutex<Harm>,
) {
    let mut bytes = vec![0; CHUNK];
    loop {
        let now = *harm.lock().unwrap();
        let most = match now.slice {
            0 => CHUNK,
            slice => slice.min(CHUNK),
        };
        let Ok(read @ 1..) = from.read(&mut bytes[..most]).await else {
            break;
        };
        let now = *harm.lock().unwrap();
        tokio::time::sleep(now.latency).await;
        if now.bytes_a_second > 0 {
            let time = Duration::from_secs_f64(read as f64 / now.bytes_a_second as f64);
            tokio::time::sleep(time).await;
        }
        while harm.lock().unwrap().silent {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            break;
        }
    }
    to.shutdown().await.ok();
}
