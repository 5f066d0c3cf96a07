//! Downloads from signed addresses.

use http::{Method, Uri};
use tinkers_core::{Error, ErrorKind, HttpRequest, Result, RouteClass, Sent, Transport};
use tinkers_transport::{HttpTransport, RootFiles};
use tinkers_wire::SignedUrl;

use super::ServiceClientBuilder;

const OPERATION: &str = "ServiceClientBuilder::download_signed_file";

impl ServiceClientBuilder {
    /// Downloads the file at a signed address, such as that of a trace, into memory.
    ///
    /// The request uses the proxies and root certificates of the builder, but carries neither its credential nor its headers, since the
    /// address usually belongs to another host. It is not retried: the address of a failed download may have expired.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use tinkers::ServiceClient;
    ///
    /// let rest = tinkers::rest::from_env()?;
    /// let url = rest.export_session_trace("my-session").await?;
    /// let trace = ServiceClient::builder().download_signed_file(&url, 1 << 30).await?;
    /// std::fs::write("my-session.pftrace", trace)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `InvalidInput` with the field `url`, `Rejected` or `Server` for another status than success, such as for an address that has expired,
    /// `Protocol` if the file is larger than `max_bytes`, and `Connection` or `Timeout`. No error contains the path and the query of the
    /// address.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the download.
    pub async fn download_signed_file(self, url: &SignedUrl, max_bytes: usize) -> Result<Vec<u8>> {
        // The error of the parser may quote the address.
        let invalid =
            || Error::invalid("url", "an absolute http or https URL").with_operation(OPERATION);
        let uri: Uri = url.expose().parse().map_err(|_| invalid())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(invalid());
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let transport = self.plain_transport(format!("{scheme}://{authority}"))?;
        let mut request = HttpRequest::new(Method::GET, path, RouteClass::Poll);
        request.max_response_bytes = max_bytes;
        let response = transport.send(request).await;
        let response = response.map_err(|error| Error::from(error).with_operation(OPERATION))?;
        if response.status.is_success() {
            return Ok(response.body.into());
        }
        // The body may quote the signature.
        let status = response.status.as_u16();
        let message = format!(
            "cannot download from {}: status {status}; signed addresses expire, so request a new one",
            authority.host()
        );
        let kind = match response.status.is_server_error() {
            true => ErrorKind::Server,
            false => ErrorKind::Rejected,
        };
        Err(Error::new(kind, Sent::Answered, message).with_operation(OPERATION))
    }

    /// Builds a transport to another host than the server, without a credential and headers.
    fn plain_transport(&self, base_url: String) -> Result<HttpTransport> {
        let variables = (self.environment)();
        let mut builder = HttpTransport::builder(base_url)
            .runtime(self.io_runtime()?)
            .proxy(self.proxy.as_ref().unwrap_or(&variables.proxies).clone())
            .root_files(match self.has_system_roots {
                true => variables.roots.clone(),
                false => RootFiles::none(),
            })
            .user_agent(self.user_agent()?);
        for pem in &self.root_certificates {
            builder = builder.root_certificate_pem(pem.clone());
        }
        builder.build()
    }
}
