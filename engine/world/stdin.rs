//! Standard input, in pieces. It is read by one thread for the whole life of the process: a read that waits for a terminal can not be
//! called back, so nobody waits for that thread to end.

use std::io::Read;
use std::sync::OnceLock;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};

use crate::failure::{Class, Failure};

/// What standard input gives, in order: whoever holds the lock gets the next piece. It is closed after the end.
pub type Pieces = Mutex<mpsc::Receiver<Result<Bytes, Failure>>>;

/// How many bytes a piece has at most.
const PIECE: usize = 64 << 10;
/// How many pieces wait to be taken.
const WAITING: usize = 4;

/// The pieces of standard input. The first call begins to read.
pub fn pieces() -> &'static Pieces {
    static PIECES: OnceLock<Pieces> = OnceLock::new();
    PIECES.get_or_init(|| {
        let (sender, receiver) = mpsc::channel(WAITING);
        std::thread::spawn(move || forward(std::io::stdin(), &sender));
        Mutex::new(receiver)
    })
}

/// Sends all that a reader gives, until its end, a failure, or until nobody listens.
fn forward(mut reader: impl Read, sender: &mpsc::Sender<Result<Bytes, Failure>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => Ok(Bytes::copy_from_slice(&buffer[..length])),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Err(Failure::new(
                Class::Unavailable,
                format!("standard input cannot be read: {error}"),
            )),
        };
        let failed = piece.is_err();
        if sender.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_end() {
        let text = vec![b'x'; PIECE + 1];
        let (sender, mut receiver) = mpsc::channel(WAITING);
        forward(&*text, &sender);
        drop(sender);
        let sizes = std::iter::from_fn(|| receiver.blocking_recv())
            .map(|piece| piece.unwrap().len())
            .collect::<Vec<_>>();
        assert_eq!(sizes, [PIECE, 1]);
    }
}
