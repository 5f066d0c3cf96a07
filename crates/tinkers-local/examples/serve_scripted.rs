//! Starts a server on a free port, makes one request to it, and ends.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;

use tinkers_local::{BlockingServer, LocalServer, ScriptedEngine, TokioSpawn};
use tinkers_transport::TokioClock;

fn main() -> Result<(), Box<dyn Error>> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = BlockingServer::start(address, NonZeroUsize::MIN, |runtime| {
        let time = Arc::new(TokioClock::new(runtime.clone()));
        let spawn = Arc::new(TokioSpawn::new(runtime.clone()));
        LocalServer::builder(Arc::new(ScriptedEngine::default()), time, spawn).build()
    })?;
    let mut stream = TcpStream::connect(server.local_addr())?;
    stream.write_all(
        b"GET /api/v1/get_server_capabilities HTTP/1.1\r\nhost: local\r\nconnection: close\r\n\r\n",
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.contains("tinkers/scripted"), "{answer}");
    writeln!(std::io::stdout(), "{} answered:\n{answer}", server.url())?;
    server.shutdown();
    Ok(())
}
