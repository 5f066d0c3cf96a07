//! An HTTP/2 server that writes its own frames, for behaviour that server libraries do not allow.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM_AND_HEADERS: u8 = 0x5;
const ACK: u8 = 1;

/// Encodes an HTTP/2 frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Encodes an HTTP/2 `SETTINGS` frame that sets `SETTINGS_MAX_CONCURRENT_STREAMS` to `count`.
fn max_streams(count: u32) -> Vec<u8> {
    let value = count.to_be_bytes();
    frame(SETTINGS, 0, 0, &[&[0, 3], &value[..]].concat())
}

/// Encodes the HTTP/2 frame of a response with status 200 and no body, which ends `stream`.
pub(crate) fn ok(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM_AND_HEADERS, stream, &[0x88])
}

/// An HTTP/2 test server for one connection. It runs on the current runtime. The server acknowledges settings, ignores pings, and sends the
/// frames that the test passes to [`Peer::write`].
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    write: mpsc::UnboundedSender<Vec<u8>>,
    streams: Arc<Mutex<Vec<u32>>>,
}

impl Peer {
    /// Starts an HTTP/2 test server that allows `streams` concurrent streams.
    pub(crate) async fn start(streams: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (write, mut to_write) = mpsc::unbounded_channel();
        let peer = Self {
            address,
            write: write.clone(),
            streams: Arc::default(),
        };
        let opened = Arc::clone(&peer.streams);
        peer.write(max_streams(streams));
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let (read, mut writer) = stream.into_split();
            tokio::spawn(serve(read, write, opened));
            while let Some(bytes) = to_write.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        peer
    }

    /// Sends `bytes` to the client on the connection.
    pub(crate) fn write(&self, bytes: Vec<u8>) {
        let _ = self.write.send(bytes);
    }

    /// Returns the ids of the streams that the client has opened.
    pub(crate) fn streams(&self) -> Vec<u32> {
        self.streams.lock().expect("no panic").clone()
    }
}

async fn serve(
    mut read: OwnedReadHalf,
    write: mpsc::UnboundedSender<Vec<u8>>,
    streams: Arc<Mutex<Vec<u32>>>,
) {
    let mut preface = [0; 24];
    if read.read_exact(&mut preface).await.is_err() {
        return;
    }
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if read.read_exact(&mut payload).await.is_err() {
            return;
        }
        match (head[3], head[4]) {
            (SETTINGS, flags) if flags & ACK == 0 => {
                let _ = write.send(frame(SETTINGS, ACK, 0, &[]));
            }
            (HEADERS, _) => {
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                streams.lock().expect("no panic").push(stream);
            }
            _ => {}
        }
    }
}
