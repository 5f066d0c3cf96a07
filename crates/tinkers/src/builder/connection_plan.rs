//! The connections of a client, from its settings and the environment.

use std::sync::Arc;

use http::HeaderMap;
use tinkers_auth::{Auth, Resolved, Sources};
use tinkers_core::{RecoveredErrors, Result, Transport};
use tinkers_session::BaseUrl;
use tinkers_transport::{CloudflareAccess, HttpTransport, IoRuntime, RootFiles};

use super::{HOSTED_SERVICE, ServiceClientBuilder, jitter};
use crate::environment::{self, Environment};

/// The validated settings of the connections of a client.
pub(super) struct ConnectionPlan {
    base_url: String,
    pub(super) address: BaseUrl,
    sources: Sources,
    resolved: Resolved,
    default_headers: HeaderMap,
    user_agent: String,
    cloudflare: Option<CloudflareAccess>,
    pub(super) recovered_errors: Arc<RecoveredErrors>,
}

impl ConnectionPlan {
    pub(super) fn new(builder: &ServiceClientBuilder, variables: &Environment) -> Result<Self> {
        let (base_url, address) = address(builder.base_url.as_deref(), variables)?;
        let sources = variables.sources(builder.credential.clone());
        let resolved = sources.resolve(&address, false)?;
        let cloudflare = match variables.cloudflare() {
            // Cloudflare Access is not needed for this machine, so an incomplete token is no error there.
            Err(_) if address.origin().is_loopback() => None,
            access => access?,
        };
        Ok(Self {
            base_url,
            address,
            sources,
            resolved,
            default_headers: builder.default_headers.parse()?,
            user_agent: builder.user_agent()?,
            cloudflare,
            recovered_errors: Arc::default(),
        })
    }

    /// Creates the authentication of the client. Its token exchanges have connections of their own.
    pub(super) fn auth(
        &self,
        builder: &ServiceClientBuilder,
        variables: &Environment,
        runtime: &IoRuntime,
    ) -> Result<Arc<Auth>> {
        let exchange = self.transport(builder, variables, runtime.clone())?;
        Auth::new(
            self.sources.clone(),
            self.resolved.clone(),
            self.address.clone(),
            exchange,
            runtime.clock(),
            jitter(),
            Arc::clone(&self.recovered_errors),
        )
    }

    /// Builds a transport without a credential.
    pub(super) fn transport(
        &self,
        settings: &ServiceClientBuilder,
        variables: &Environment,
        runtime: IoRuntime,
    ) -> Result<Arc<dyn Transport>> {
        let mut builder = HttpTransport::builder(&*self.base_url)
            .runtime(runtime)
            .recovered_errors(Arc::clone(&self.recovered_errors))
            .http_versions(settings.http_versions)
            .proxy(
                settings
                    .proxy
                    .as_ref()
                    .unwrap_or(&variables.proxies)
                    .clone(),
            )
            .root_files(match settings.has_system_roots {
                true => variables.roots.clone(),
                false => RootFiles::none(),
            })
            .default_headers(self.default_headers.clone())
            .user_agent(&*self.user_agent);
        for (class, limits) in &settings.connection_limits {
            builder = builder.class_limits(*class, *limits);
        }
        if let Some(certificate) = &settings.client_certificate {
            builder = builder.client_certificate(certificate.clone());
        }
        if let Some(access) = &self.cloudflare {
            builder = builder.cloudflare_access(access.clone());
        }
        for pem in &settings.root_certificates {
            builder = builder.root_certificate_pem(pem.clone());
        }
        Ok(Arc::new(builder.build()?))
    }
}

/// Returns the base URL of the server, as text and in normalized form: the given one, that of the environment, or the hosted service.
///
/// # Errors
/// `InvalidInput` with the field `base_url`.
pub(crate) fn address(given: Option<&str>, variables: &Environment) -> Result<(String, BaseUrl)> {
    let (base_url, variable) = match (given, variables.base_url()) {
        (Some(given), _) => (given, None),
        (None, Some(found)) => (found, Some(environment::BASE_URL)),
        (None, None) => (HOSTED_SERVICE, None),
    };
    let address = BaseUrl::parse(base_url).map_err(|error| match variable {
        Some(variable) => error.with_context(variable),
        None => error,
    })?;
    Ok((base_url.to_owned(), address))
}
