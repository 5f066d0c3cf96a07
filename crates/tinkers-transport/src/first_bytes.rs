//! Keeps the first bytes that a peer sends, so that an error can name a peer that speaks another protocol.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// As many as every protocol below can be told by.
const KEPT: usize = 24;

/// The first bytes that a peer sent. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct FirstBytes(Arc<Mutex<Vec<u8>>>);

impl FirstBytes {
    /// Appends what still fits; whether no more does.
    fn push(&self, bytes: &[u8]) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        kept.len() == KEPT
    }

    /// What the peer speaks, as far as its first bytes tell.
    pub(crate) fn protocol(&self) -> Spoken {
        Spoken::of(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// It has sent nothing.
    Nothing,
    /// HTTP/1.0 or HTTP/1.1; the status of the answer, where there is one.
    Http1(Option<u16>),
    Http2,
    Tls,
    Ssh,
    Socks,
    Unknown,
}

impl Spoken {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self::Nothing,
            _ if bytes.len() < 7 && b"HTTP/1.".starts_with(bytes) => Self::Http1(None),
            [b'H', b'T', b'T', b'P', b'/', b'1', rest @ ..] => {
                let status = rest.get(3..6).and_then(|digits| {
                    let digits = std::str::from_utf8(digits).ok()?;
                    digits.parse().ok()
                });
                Self::Http1(status)
            }
            [b'S', b'S', b'H', b'-', ..] => Self::Ssh,
            // An alert or a handshake record.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            // SETTINGS or GOAWAY on stream 0.
            [_, _, _, 4 | 7, _, 0, 0, 0, 0, ..] => Self::Http2,
            // The answers of SOCKS 5 and of SOCKS 4.
            [5, 0..=2 | 0xff, ..] | [0, 0x5a..=0x5d, ..] => Self::Socks,
            _ => Self::Unknown,
        }
    }

    /// Its name, where it is something else than HTTP/1.
    pub(crate) const fn foreign_name(self) -> Option<&'static str> {
        match self {
            Self::Http2 => Some("HTTP/2"),
            Self::Tls => Some("TLS"),
            Self::Ssh => Some("SSH"),
            Self::Socks => Some("SOCKS"),
            Self::Unknown => Some("another protocol"),
            Self::Nothing | Self::Http1(_) => None,
        }
    }
}

/// A stream whose first bytes are kept, and that tells when all that has arrived was read.
#[derive(Debug)]
pub(crate) struct Observed<T> {
    inner: T,
    first: FirstBytes,
    is_full: bool,
    /// Notified when the reader has asked for more than there is, after it got something.
    drained: Arc<Notify>,
    has_read: bool,
    /// Whether the reader gets one byte at a time.
    bytewise: bool,
    /// What was read while it did, and not given yet.
    ahead: VecDeque<u8>,
}

impl<T> Observed<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            first: FirstBytes::default(),
            is_full: false,
            drained: Arc::default(),
            has_read: false,
            bytewise: false,
            ahead: VecDeque::new(),
        }
    }

    /// Gives one byte at a time until the [restart](Self::restart), to a reader that drops what it reads beyond its need.
    pub(crate) fn bytewise(mut self) -> Self {
        self.bytewise = true;
        self
    }

    /// The bytes that come first from here on, such as those behind a proxy's answer.
    pub(crate) fn restart(&mut self) -> FirstBytes {
        self.bytewise = false;
        self.first = FirstBytes::default();
        self.is_full = self.first.push(self.ahead.make_contiguous());
        self.first.clone()
    }

    pub(crate) fn first(&self) -> FirstBytes {
        self.first.clone()
    }

    pub(crate) fn drained(&self) -> Arc<Notify> {
        Arc::clone(&self.drained)
    }
}

impl<T: AsyncRead + Unpin> Observed<T> {
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_pending() && std::mem::take(&mut self.has_read) {
            self.drained.notify_one();
        }
        ready!(read)?;
        self.has_read = true;
        if !self.is_full {
            self.is_full = self.first.push(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.bytewise && me.ahead.is_empty() {
            let mut piece = [0; 512];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(me.read(cx, &mut piece))?;
            me.ahead.extend(piece.filled());
        }
        if !me.ahead.is_empty() {
            let most = if me.bytewise { 1 } else { buf.remaining() };
            let count = me.ahead.len().min(most);
            for byte in me.ahead.drain(..count) {
                buf.put_slice(&[byte]);
            }
            return Poll::Ready(Ok(()));
        }
        // The end of the stream, where nothing was read ahead.
        if me.bytewise {
            return Poll::Ready(Ok(()));
        }
        me.read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bytewise_reader_leaves_the_rest_to_the_next() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut stream = Observed::new(&b"HTTP/1.1 200\r\n\r\nSSH-2.0"[..]).bytewise();
        let first = stream.first();
        let mut take = |stream: &mut Observed<&[u8]>, count: usize| {
            let mut taken = Vec::new();
            while taken.len() < count {
                let mut piece = [0; 64];
                let mut piece = ReadBuf::new(&mut piece);
                assert!(
                    Pin::new(&mut *stream)
                        .poll_read(&mut cx, &mut piece)
                        .is_ready()
                );
                assert!(!piece.filled().is_empty(), "the end");
                taken.extend_from_slice(piece.filled());
            }
            taken
        };
        assert_eq!(take(&mut stream, 16), b"HTTP/1.1 200\r\n\r\n");
        assert_eq!(first.protocol(), Spoken::Http1(Some(200)));
        let first = stream.restart();
        assert_eq!(first.protocol(), Spoken::Ssh);
        assert_eq!(take(&mut stream, 7), b"SSH-2.0");
    }

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (bytes, spoken) in [
            (&b""[..], Spoken::Nothing),
            (b"HTTP/1.1 407 Proxy", Spoken::Http1(Some(407))),
            (b"HTTP/1.0 ", Spoken::Http1(None)),
            (b"HTT", Spoken::Http1(None)),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Spoken::Ssh),
            (b"\x15\x03\x01\x00\x02\x02\x46", Spoken::Tls),
            (b"\0\0\x06\x04\0\0\0\0\0\0\x05", Spoken::Http2),
            (b"\x05\xff", Spoken::Socks),
            (b"\0\x5b\0\0\0\0\0\0", Spoken::Socks),
            (b"220 mail.example ESMTP\r\n", Spoken::Unknown),
        ] {
            let first = FirstBytes::default();
            // Piece by piece, as a network may deliver them.
            for byte in bytes {
                first.push(&[*byte]);
            }
            assert_eq!(first.protocol(), spoken, "{bytes:?}");
        }
    }
}
