//! Settings of a transport, checked before anything is opened.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use tinkers_core::{BaseUrl, Clock, Error, RecoveredErrors, RouteClass};

use crate::credential::{CloudflareAccess, Credential, OwnHeaders};
use crate::pool::ClassConnectionLimits;
use crate::proxy::ProxyConfig;
use crate::roots::RootFiles;
use crate::runtime::IoRuntime;
use crate::target::Place;
use crate::tls::{self, Protocol, Tls};
use crate::transport::{HttpTransport, Parts};

/// Settings of an [`HttpTransport`]. Mistakes are reported by [`HttpTransportBuilder::build`], by the field's name.
#[must_use]
pub struct HttpTransportBuilder {
    base_url: String,
    credential: Option<Credential>,
    cloudflare: Option<CloudflareAccess>,
    defaults: HeaderMap,
    user_agent: Option<String>,
    protocol: Protocol,
    proxy: ProxyConfig,
    root_files: RootFiles,
    roots: Vec<Vec<u8>>,
    lanes: [ClassConnectionLimits; RouteClass::ALL.len()],
    runtime: Option<IoRuntime>,
    time: Option<Arc<dyn Clock>>,
    recovered_errors: Arc<RecoveredErrors>,
}

/// What a server sees of this program unless it is told otherwise.
const USER_AGENT: &str = concat!("tinkers/", env!("CARGO_PKG_VERSION"));

impl HttpTransportBuilder {
    pub(crate) fn new(base_url: String) -> Self {
        Self {
            base_url,
            credential: None,
            cloudflare: None,
            defaults: HeaderMap::new(),
            user_agent: None,
            protocol: Protocol::default(),
            proxy: ProxyConfig::none(),
            root_files: RootFiles::default(),
            roots: Vec::new(),
            lanes: RouteClass::ALL.map(ClassConnectionLimits::of),
            runtime: None,
            time: None,
            recovered_errors: Arc::default(),
        }
    }

    /// The key or token, sent to the base URL's origin alone.
    pub fn credential(mut self, credential: Credential) -> Self {
        self.credential = Some(credential);
        self
    }

    /// The service token for Cloudflare Access, sent to the base URL's origin alone.
    pub fn cloudflare_access(mut self, access: CloudflareAccess) -> Self {
        self.cloudflare = Some(access);
        self
    }

    /// Headers for every request to the base URL's origin, over those of the request itself. One that is marked as
    /// [sensitive](HeaderValue::set_sensitive) is treated as the key is: it is taken out of what a server echoes.
    pub fn default_headers(mut self, headers: HeaderMap) -> Self {
        self.defaults = headers;
        self
    }

    /// One more of the [default headers](Self::default_headers).
    pub fn default_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.defaults.insert(name, value);
        self
    }

    /// The `User-Agent`; `tinkers/<version>` unless set.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// The versions of HTTP.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// The proxies; none unless set.
    pub fn proxy(mut self, proxy: ProxyConfig) -> Self {
        self.proxy = proxy;
        self
    }

    /// Where the trusted root certificates are read from, on the first use of TLS; the system's store unless set.
    pub fn root_files(mut self, files: RootFiles) -> Self {
        self.root_files = files;
        self
    }

    /// Trusts the certificates of this PEM text as well as the system's.
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// The limits of one class's connections.
    pub fn lane(mut self, class: RouteClass, limits: ClassConnectionLimits) -> Self {
        self.lanes[class.index()] = limits;
        self
    }

    /// Where connections live; [`IoRuntime::shared`] unless set.
    pub fn runtime(mut self, runtime: IoRuntime) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The clock of the time limits; the runtime's own unless set.
    pub fn time(mut self, time: Arc<dyn Clock>) -> Self {
        self.time = Some(time);
        self
    }

    /// Counts the errors that no request is told of; for nobody to see unless set.
    pub fn recovered_errors(mut self, recovered_errors: Arc<RecoveredErrors>) -> Self {
        self.recovered_errors = recovered_errors;
        self
    }

    /// Checks the settings. Nothing is sent and no connection is opened.
    ///
    /// Fails with `InvalidInput` that names the field: `base_url`, `api_key`, `cloudflare_client_id`,
    /// `cloudflare_client_secret`, `user_agent`, `root_certificate`, `max_connections`, `streams`, or the variable of a proxy that
    /// the base URL needs and that cannot be used.
    pub fn build(self) -> Result<HttpTransport, Error> {
        let base = BaseUrl::parse(&self.base_url)?;
        self.proxy.check(base.origin())?;
        let own = OwnHeaders::new(
            self.defaults,
            self.cloudflare.as_ref(),
            self.credential.as_ref(),
        )?;
        let user_agent = self.user_agent.as_deref().unwrap_or(USER_AGENT);
        let user_agent = HeaderValue::from_str(user_agent)
            .map_err(|_| Error::invalid("user_agent", "visible ASCII characters"))?;
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for pem in &self.roots {
            roots.extend(tls::certificates(pem)?);
        }
        let tls = Tls::new(self.root_files, roots, Arc::clone(&self.recovered_errors))?;
        for limits in &self.lanes {
            for (field, value) in [
                ("max_connections", limits.max_connections),
                ("streams", limits.streams),
            ] {
                if value == 0 {
                    return Err(Error::invalid(field, "at least 1, got 0"));
                }
            }
        }
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => IoRuntime::shared()?,
        };
        let time = self.time.unwrap_or_else(|| runtime.time());
        let place = Place::new(base.origin().clone())
            .ok_or_else(|| Error::invalid("base_url", "a host that fits into a header"))?;
        Ok(HttpTransport::from_parts(Parts {
            base,
            place,
            own,
            user_agent,
            tls,
            proxy: self.proxy,
            protocol: self.protocol,
            lanes: self.lanes,
            runtime,
            time,
            recovered_errors: self.recovered_errors,
        }))
    }
}

impl fmt::Debug for HttpTransportBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the base URL: before `build` it may hold anything.
        f.debug_struct("HttpTransportBuilder")
            .field("credential", &self.credential)
            .field("protocol", &self.protocol)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}
