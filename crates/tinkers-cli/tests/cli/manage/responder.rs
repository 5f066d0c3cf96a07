//! A loopback HTTP server with fixed responses. It requires an API key, and records the requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The API key that the responder accepts.
pub(crate) const KEY: &str = "tml-hush-good";
/// An API key without permissions.
pub(crate) const DENIED: &str = "tml-hush-denied";

/// A response to the requests of a method and path.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    request: String,
    status: u16,
    headers: &'static str,
    body: String,
}

impl Answer {
    /// Creates a successful response, with JSON. `request` is the method and the path below `/api/v1`, such as `GET /checkpoints`, without a
    /// query for all queries.
    pub(crate) fn ok(request: &str, body: impl ToString) -> Self {
        Self::new(request, 200, body)
    }

    pub(crate) fn new(request: &str, status: u16, body: impl ToString) -> Self {
        Self {
            request: request.to_owned(),
            status,
            headers: "",
            body: body.to_string(),
        }
    }

    /// Creates a request without a response. Its connection stays open.
    pub(crate) fn never(request: &str) -> Self {
        Self::new(request, 0, "")
    }

    /// Adds header lines, each with a line break at the end.
    pub(crate) fn with_headers(mut self, headers: &'static str) -> Self {
        self.headers = headers;
        self
    }
}

/// The recorded requests.
#[derive(Default)]
struct Requests {
    all: Mutex<Vec<String>>,
    added: Condvar,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, request: &str) {
        self.lock().push(request.to_owned());
        self.added.notify_all();
    }
}

/// A running server. Its threads block until the process ends.
pub(crate) struct Responder {
    pub(crate) url: String,
    requests: Arc<Requests>,
}

impl Responder {
    /// Starts a server that sends these responses, and 404 to other requests.
    pub(crate) fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Requests::default());
        let recorded = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answers, recorded) = (answers.clone(), Arc::clone(&recorded));
                std::thread::spawn(move || serve(&stream, &answers, &recorded));
            }
        });
        Self { url, requests }
    }

    /// Returns the requests so far, but for those of the configuration: method, path with query, and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }

    /// Waits until there are `count` requests. Panics if they do not arrive within a minute, which only a program that hangs exceeds.
    pub(crate) fn wait_for(&self, count: usize) {
        const LIMIT: Duration = Duration::from_secs(60);
        let requests = self.requests.lock();
        let waiting = |all: &mut Vec<String>| all.len() < count;
        let waited = self
            .requests
            .added
            .wait_timeout_while(requests, LIMIT, waiting);
        let (requests, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(
            !timeout.timed_out(),
            "only these requests arrived: {requests:?}"
        );
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, answers: &[Answer], recorded: &Requests) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let header = |name: &str| {
            head.iter().skip(1).find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found
                    .eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let length = header("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let mut parts = head.first()?.split(' ');
        let (method, target) = (parts.next()?, parts.next()?);
        let target = target.strip_prefix("/api/v1").unwrap_or(target);
        let path = target.split('?').next().unwrap_or_default();
        let (status, headers, response) = if path == "/client/config" {
            let config = r#"{"pjwt_auth_enabled": false}"#.to_owned();
            (200, "", config)
        } else {
            let text = format!("{method} {target} {}", String::from_utf8_lossy(&body));
            recorded.add(text.trim_end());
            let request = format!("{method} {target}");
            answer(&request, header("x-api-key"), answers)
        };
        if status == 0 {
            // Waits until the program closes the connection.
            return reader.read_to_end(&mut Vec::new()).map(drop).ok();
        }
        let length = response.len();
        let response = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{response}"
        );
        let mut stream = stream;
        stream.write_all(response.as_bytes()).ok()?;
    }
}

fn answer(request: &str, key: Option<String>, answers: &[Answer]) -> (u16, &'static str, String) {
    let refused = |status, reason: &str| (status, "", format!(r#"{{"detail": "{reason}"}}"#));
    // Signed addresses need no key.
    let is_signed = request.contains(" /signed/");
    match key.as_deref() {
        Some(KEY) if !is_signed => {}
        None if is_signed => {}
        Some(_) if is_signed => return refused(400, "a signed address was requested with a key"),
        Some(DENIED) => return refused(403, "this API key has no permission for this request"),
        _ => return refused(401, "the API key is missing or unknown"),
    }
    let path = request.split('?').next().unwrap_or_default();
    let is_for = |answer: &&Answer| answer.request == request || answer.request == path;
    let found = answers.iter().find(is_for);
    match found {
        Some(answer) => (answer.status, answer.headers, answer.body.clone()),
        None => refused(404, "Not Found"),
    }
}
