//! The settings of a transport.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use tinkers_core::{BaseUrl, Clock, Error, RecoveredErrors, RouteClass};

use crate::client_certificate::ClientCertificate;
use crate::credential::{CloudflareAccess, TrustedHeaders};
use crate::io_runtime::IoRuntime;
use crate::pool::ClassConnectionLimits;
use crate::proxy::ProxyConfig;
use crate::root_certificates::RootFiles;
use crate::target::OriginParts;
use crate::tls::{self, HttpVersions, Tls};
use crate::transport::{HttpTransport, TransportParts};

/// A builder of an [`HttpTransport`], the HTTP client. [`HttpTransportBuilder::build`] validates the settings.
#[must_use]
pub struct HttpTransportBuilder {
    base_url: String,
    cloudflare: Option<CloudflareAccess>,
    defaults: HeaderMap,
    user_agent: Option<String>,
    versions: HttpVersions,
    proxy: ProxyConfig,
    root_files: RootFiles,
    root_certificates: Vec<Vec<u8>>,
    client_certificate: Option<ClientCertificate>,
    class_limits: [ClassConnectionLimits; RouteClass::ALL.len()],
    runtime: Option<IoRuntime>,
    clock: Option<Arc<dyn Clock>>,
    recovered_errors: Arc<RecoveredErrors>,
}

impl HttpTransport {
    /// The default `User-Agent`, such as `tinkers/1.2.3`.
    pub const USER_AGENT: &str = concat!("tinkers/", env!("CARGO_PKG_VERSION"));

    /// Returns a builder of a transport to `base_url`, such as `https://host/prefix`.
    pub fn builder(base_url: impl Into<String>) -> HttpTransportBuilder {
        HttpTransportBuilder::new(base_url.into())
    }
}

impl HttpTransportBuilder {
    fn new(base_url: String) -> Self {
        Self {
            base_url,
            cloudflare: None,
            defaults: HeaderMap::new(),
            user_agent: None,
            versions: HttpVersions::default(),
            proxy: ProxyConfig::none(),
            root_files: RootFiles::default(),
            root_certificates: Vec::new(),
            client_certificate: None,
            class_limits: RouteClass::ALL.map(ClassConnectionLimits::of),
            runtime: None,
            clock: None,
            recovered_errors: Arc::default(),
        }
    }

    /// Sets the service token of Cloudflare Access. The transport sends the token only to the origin of the base URL.
    pub fn cloudflare_access(mut self, access: CloudflareAccess) -> Self {
        self.cloudflare = Some(access);
        self
    }

    /// Sets headers that are sent with every request to the origin of the base URL. These headers replace headers of the request with the
    /// same name. A value that is marked as [sensitive](HeaderValue::set_sensitive) is masked in responses and errors. So are the
    /// sensitive headers of requests, such as a credential.
    pub fn default_headers(mut self, headers: HeaderMap) -> Self {
        self.defaults = headers;
        self
    }

    /// Adds a [default header](Self::default_headers), which is sent with every request to the origin of the base URL.
    pub fn default_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.defaults.insert(name, value);
        self
    }

    /// Sets the `User-Agent`; `tinkers/<version>` by default.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// Sets the HTTP versions; by default, HTTP/2 or HTTP/1.1 is negotiated in the TLS handshake.
    pub fn http_versions(mut self, versions: HttpVersions) -> Self {
        self.versions = versions;
        self
    }

    /// Sets the HTTP proxies through which requests are sent. Without this call, no proxy is used.
    pub fn proxy(mut self, proxy: ProxyConfig) -> Self {
        self.proxy = proxy;
        self
    }

    /// Sets the source of trusted root certificates; the certificate store of the system by default. The certificates are read on the first
    /// use of TLS.
    pub fn root_files(mut self, files: RootFiles) -> Self {
        self.root_files = files;
        self
    }

    /// Sets the certificate with which the client authenticates itself. Only the origin of the base URL gets this certificate.
    pub fn client_certificate(mut self, certificate: ClientCertificate) -> Self {
        self.client_certificate = Some(certificate);
        self
    }

    /// Trusts the certificates in a PEM text, in addition to those of [`root_files`](Self::root_files).
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(pem.into());
        self
    }

    /// Sets the connection limits of a route class, such as the maximum number of connections for sampling requests. Each class has its own
    /// connections.
    pub fn class_limits(mut self, class: RouteClass, limits: ClassConnectionLimits) -> Self {
        self.class_limits[class.index()] = limits;
        self
    }

    /// Sets the runtime that does the I/O of the connections; [`IoRuntime::shared`] by default.
    pub fn runtime(mut self, runtime: IoRuntime) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Sets the clock for timeouts; the clock of the runtime by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets the counters in which the transport counts recovered errors: errors that do not fail a request, for example because the request
    /// is sent again on another connection.
    pub fn recovered_errors(mut self, recovered_errors: Arc<RecoveredErrors>) -> Self {
        self.recovered_errors = recovered_errors;
        self
    }

    /// Builds the transport. No connection is opened.
    ///
    /// # Errors
    /// `InvalidInput` with the name of the invalid field: `base_url`, `cloudflare_client_id`,
    /// `cloudflare_client_secret`, `user_agent`, `root_certificate`, `client_certificate`, `proxy`, a connection limit such as
    /// `connection_limits.sample.streams`, or the environment variable of an unusable proxy that the base URL needs. An `https` URL is
    /// invalid without a TLS provider. `Io` if the shared runtime cannot be started.
    pub fn build(self) -> Result<HttpTransport, Error> {
        let base = BaseUrl::parse(&self.base_url)?;
        tls::check_provider(base.origin(), tls::provider().as_deref())?;
        self.proxy.check(base.origin())?;
        let trusted_headers = TrustedHeaders::new(&self.defaults, self.cloudflare.as_ref())?;
        let user_agent = self
            .user_agent
            .as_deref()
            .unwrap_or(HttpTransport::USER_AGENT);
        let user_agent = HeaderValue::from_str(user_agent)
            .map_err(|_| Error::invalid("user_agent", "visible ASCII characters"))?;
        let mut root_certificates: Vec<CertificateDer<'static>> = Vec::new();
        for pem in &self.root_certificates {
            root_certificates.extend(tls::certificates(pem)?);
        }
        let tls = Tls::new(
            self.root_files,
            root_certificates,
            self.client_certificate.as_ref(),
            Arc::clone(&self.recovered_errors),
        )?;
        for (class, limits) in RouteClass::ALL.iter().zip(&self.class_limits) {
            for (field, value) in [
                ("max_connections", limits.max_connections),
                ("streams", limits.streams),
            ] {
                if value == 0 {
                    let field = format!("connection_limits.{}.{field}", class.name());
                    return Err(Error::invalid(field, "at least 1, got 0"));
                }
            }
        }
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => IoRuntime::shared()?,
        };
        let clock = self.clock.unwrap_or_else(|| runtime.clock());
        let origin_parts = OriginParts::new(base.origin().clone())
            .ok_or_else(|| Error::invalid("base_url", "a host that is valid in a header"))?;
        Ok(HttpTransport::from_parts(TransportParts {
            base,
            origin_parts,
            trusted_headers,
            user_agent,
            tls,
            proxy: self.proxy,
            versions: self.versions,
            class_limits: self.class_limits,
            runtime,
            clock,
            recovered_errors: self.recovered_errors,
        }))
    }
}

impl fmt::Debug for HttpTransportBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the base URL, which may contain a password before it is validated.
        f.debug_struct("HttpTransportBuilder")
            .field("http_versions", &self.versions)
            .field("proxy", &self.proxy)
            .field("client_certificate", &self.client_certificate)
            .finish_non_exhaustive()
    }
}
