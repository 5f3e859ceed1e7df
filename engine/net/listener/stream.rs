//! A connection's bytes under deadlines: idle, slow head, stalled answer. It does not know HTTP beyond the one answer to a slow head.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::Limits;

/// A stream that fails when its peer is too slow. While a request is being answered only writing has a deadline here.
pub(super) struct Watched {
    stream: TcpStream,
    /// Whether the peer reads what is written here as it is; not so below TLS.
    plain: bool,
    /// Goes up when a request begins and when its answer is made: odd while one is under way.
    turns: Arc<AtomicUsize>,
    turns_seen: usize,
    /// The first byte of a head has come.
    in_head: bool,
    /// Since when the peer has been idle, or sending its head.
    since: Instant,
    /// Since when the peer has taken nothing.
    stalled: Option<Instant>,
    /// Rings at or before the next deadline; then the deadline is worked out anew. So a request costs no timer.
    alarm: Pin<Box<Sleep>>,
    head_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
}

const TOO_SLOW: &str = concat!(
    "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/problem+json\r\ncontent-length: 115\r\n\r\n",
    r#"{"type":"about:blank","title":"Request Timeout","status":408,"detail":"the request's headers did not come in time"}"#
);

impl Watched {
    pub(super) fn new(stream: TcpStream, limits: &Limits, plain: bool) -> Watched {
        let now = Instant::now();
        Watched {
            stream,
            plain,
            turns: Arc::new(AtomicUsize::new(0)),
            turns_seen: 0,
            in_head: true,
            since: now,
            stalled: None,
            alarm: Box::pin(tokio::time::sleep_until(now + limits.head_timeout)),
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
        }
    }

    /// Counted up by the one who answers, when a request begins and when its answer is made.
    pub(super) fn turns(&self) -> Arc<AtomicUsize> {
        self.turns.clone()
    }

    /// Whether this deadline has passed; if not, the task is woken when it does.
    fn overdue(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        loop {
            if Instant::now() >= deadline {
                return true;
            }
            if self.alarm.is_elapsed() || self.alarm.deadline() > deadline {
                self.alarm.as_mut().reset(deadline);
            }
            if self.alarm.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }

    fn waits_to_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let turns = self.turns.load(Ordering::Relaxed);
        if !turns.is_multiple_of(2) {
            return Poll::Pending;
        }
        if turns != self.turns_seen {
            self.turns_seen = turns;
            self.in_head = false;
            self.since = Instant::now();
        }
        let allowed = if self.in_head {
            self.head_timeout
        } else {
            self.idle_timeout
        };
        if !self.overdue(self.since + allowed, cx) {
            return Poll::Pending;
        }
        if self.in_head
            && self.plain
            && let Err(error) = self.stream.try_write(TOO_SLOW.as_bytes())
        {
            tracing::debug!(%error, "a slow peer is gone");
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn after_write<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let since = *self.stalled.get_or_insert_with(Instant::now);
        if self.overdue(since + self.write_timeout, cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                let turns = this.turns.load(Ordering::Relaxed);
                if turns.is_multiple_of(2) && (turns != this.turns_seen || !this.in_head) {
                    this.turns_seen = turns;
                    this.in_head = true;
                    this.since = Instant::now();
                }
                Poll::Ready(read)
            }
            Poll::Pending => this.waits_to_read(cx),
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.after_write(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.after_write(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
