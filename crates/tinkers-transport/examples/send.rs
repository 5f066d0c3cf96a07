//! Sends requests to a small server, and prints the responses and the number of connections.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tinkers_core::{HttpRequest, RouteClass, Spawn, Transport};
use tinkers_transport::{HttpTransport, IoRuntime};
use tokio::net::TcpListener;

fn main() -> Result<(), Box<dyn Error>> {
    // The runtime of the SDK. The program needs none of its own.
    let runtime = IoRuntime::shared()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let url = format!("http://{}/prefix", listener.local_addr()?);
    let _server = runtime.spawn(Box::pin(serve(listener)));

    let transport = HttpTransport::builder(url).build()?;
    println!("base URL: {}", transport.base_url());
    for n in 1..=3 {
        let mut request = HttpRequest::new(Method::POST, "/api/v1/echo", RouteClass::Rest);
        request.body = Bytes::from(format!("hello {n}"));
        let response = runtime.block_on(transport.send(request))?;
        println!(
            "{}: {}",
            response.status,
            String::from_utf8_lossy(&response.body)
        );
    }
    println!("{:?}", transport.stats(RouteClass::Rest));
    Ok(())
}

/// Responds to each request with the method and path of the request, and with a statement of whether the request contains an API key.
async fn serve(listener: TcpListener) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let key = request.headers().contains_key("x-api-key");
        let text = format!("{} {}, with a key: {key}", request.method(), request.uri());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    });
    while let Ok((stream, _)) = listener.accept().await {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection broke");
            }
        });
    }
}
