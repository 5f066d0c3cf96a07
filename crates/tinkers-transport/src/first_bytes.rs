//! Records the first bytes that a peer sends, so that errors can name a foreign protocol.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// The number of bytes that are recorded at the start of a connection. It is enough to recognise each protocol in [`PeerProtocol`].
const CAPACITY: usize = 24;

/// A record of the first bytes that a peer has sent, from which its protocol is recognised. Clones share the record.
#[derive(Debug, Clone, Default)]
pub(crate) struct FirstBytes(Arc<Mutex<Vec<u8>>>);

impl FirstBytes {
    /// Appends bytes to the record until it is full, and ignores further bytes. Returns whether the record is full.
    fn push(&self, bytes: &[u8]) -> bool {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = CAPACITY - recorded.len();
        recorded.extend_from_slice(&bytes[..bytes.len().min(room)]);
        recorded.len() == CAPACITY
    }

    /// Returns the protocol that the recorded bytes belong to.
    pub(crate) fn protocol(&self) -> PeerProtocol {
        PeerProtocol::of(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The protocol of a peer, according to its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerProtocol {
    /// The protocol is unknown, since the peer has sent nothing.
    Nothing,
    /// HTTP/1.0 or HTTP/1.1, with the response status if the status line is complete.
    Http1(Option<u16>),
    Http2,
    Tls,
    Ssh,
    Socks,
    Unknown,
}

impl PeerProtocol {
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
            // The responses of SOCKS 5 and SOCKS 4.
            [5, 0..=2 | 0xff, ..] | [0, 0x5a..=0x5d, ..] => Self::Socks,
            _ => Self::Unknown,
        }
    }

    /// Returns the name of the protocol for error messages, or `None` if the protocol is HTTP/1 or the peer has sent nothing.
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

/// A byte stream that records the first bytes from the peer, and wakes waiting tasks when all received bytes have been read.
#[derive(Debug)]
pub(crate) struct ObservedStream<T> {
    inner: T,
    first_bytes: FirstBytes,
    is_full: bool,
    /// The notification that wakes waiting tasks when the reader of the stream has read all received bytes and waits for more.
    drained: Arc<Notify>,
    has_read: bool,
    /// Whether the stream is in bytewise mode: each read returns at most one byte.
    bytewise: bool,
    /// In bytewise mode (one byte for each read), the bytes that were received and not read yet.
    ahead: VecDeque<u8>,
}

impl<T> ObservedStream<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            first_bytes: FirstBytes::default(),
            is_full: false,
            drained: Arc::default(),
            has_read: false,
            bytewise: false,
            ahead: VecDeque::new(),
        }
    }

    /// Starts bytewise mode: each read returns one byte until [`restart`](Self::restart) is called. A reader that would read too many bytes
    /// and discard them, such as the proxy tunnel, then leaves the bytes for the next reader.
    pub(crate) fn bytewise(mut self) -> Self {
        self.bytewise = true;
        self
    }

    /// Discards the recorded bytes, starts a new record with the next byte, and ends bytewise mode. Used after the response of a proxy: the
    /// bytes after this response come from the server.
    pub(crate) fn restart(&mut self) -> FirstBytes {
        self.bytewise = false;
        self.first_bytes = FirstBytes::default();
        self.is_full = self.first_bytes.push(self.ahead.make_contiguous());
        self.first_bytes.clone()
    }

    pub(crate) fn first_bytes(&self) -> FirstBytes {
        self.first_bytes.clone()
    }

    /// Returns the notification that wakes waiting tasks each time the reader of the stream has read all received bytes.
    pub(crate) fn drained(&self) -> Arc<Notify> {
        Arc::clone(&self.drained)
    }
}

impl<T: AsyncRead + Unpin> ObservedStream<T> {
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_pending() && std::mem::take(&mut self.has_read) {
            self.drained.notify_one();
        }
        ready!(read)?;
        self.has_read = true;
        if !self.is_full {
            self.is_full = self.first_bytes.push(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ObservedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &mut *self;
        if stream.bytewise && stream.ahead.is_empty() {
            let mut piece = [0; 512];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(stream.read(cx, &mut piece))?;
            stream.ahead.extend(piece.filled());
        }
        if !stream.ahead.is_empty() {
            let max_count = if stream.bytewise { 1 } else { buf.remaining() };
            let count = stream.ahead.len().min(max_count);
            for byte in stream.ahead.drain(..count) {
                buf.put_slice(&[byte]);
            }
            return Poll::Ready(Ok(()));
        }
        // The end of the stream.
        if stream.bytewise {
            return Poll::Ready(Ok(()));
        }
        stream.read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ObservedStream<T> {
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
    fn stream_in_bytewise_mode_returns_one_byte_per_read() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut stream = ObservedStream::new(&b"HTTP/1.1 200\r\n\r\nSSH-2.0"[..]).bytewise();
        let first = stream.first_bytes();
        let mut read_exact = |stream: &mut ObservedStream<&[u8]>, count: usize| {
            let mut read = Vec::new();
            while read.len() < count {
                let mut piece = [0; 64];
                let mut piece = ReadBuf::new(&mut piece);
                assert!(
                    Pin::new(&mut *stream)
                        .poll_read(&mut cx, &mut piece)
                        .is_ready()
                );
                assert!(!piece.filled().is_empty(), "the end");
                read.extend_from_slice(piece.filled());
            }
            read
        };
        assert_eq!(read_exact(&mut stream, 16), b"HTTP/1.1 200\r\n\r\n");
        assert_eq!(first.protocol(), PeerProtocol::Http1(Some(200)));
        let first = stream.restart();
        assert_eq!(first.protocol(), PeerProtocol::Ssh);
        assert_eq!(read_exact(&mut stream, 7), b"SSH-2.0");
    }

    #[test]
    fn peer_protocol_is_recognised_by_its_first_bytes() {
        for (bytes, peer_protocol) in [
            (&b""[..], PeerProtocol::Nothing),
            (b"HTTP/1.1 407 Proxy", PeerProtocol::Http1(Some(407))),
            (b"HTTP/1.0 ", PeerProtocol::Http1(None)),
            (b"HTT", PeerProtocol::Http1(None)),
            (b"SSH-2.0-OpenSSH_9.6\r\n", PeerProtocol::Ssh),
            (b"\x15\x03\x01\x00\x02\x02\x46", PeerProtocol::Tls),
            (b"\0\0\x06\x04\0\0\0\0\0\0\x05", PeerProtocol::Http2),
            (b"\x05\xff", PeerProtocol::Socks),
            (b"\0\x5b\0\0\0\0\0\0", PeerProtocol::Socks),
            (b"220 mail.example ESMTP\r\n", PeerProtocol::Unknown),
        ] {
            let first = FirstBytes::default();
            // A network may deliver the bytes one by one.
            for byte in bytes {
                first.push(&[*byte]);
            }
            assert_eq!(first.protocol(), peer_protocol, "{bytes:?}");
        }
    }
}
