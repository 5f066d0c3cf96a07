//! The trusted root certificates: those of the system, or of files that environment variables name.

use std::env;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls_native_certs::{CertificateResult, load_certs_from_paths};

/// The source of trusted root certificates: the certificate store of the system (the default), files and directories instead of the store,
/// or no source at all.
///
/// The certificates are read on the first use of TLS.
#[derive(Debug, Clone, Default)]
pub struct RootFiles {
    is_none: bool,
    /// The PEM files and the directories of PEM files to read. If there are none, the certificate store of the system is used.
    sources: Vec<Source>,
    /// The names of the environment variables that list the files, for error messages.
    variables: String,
}

#[derive(Debug, Clone)]
struct Source {
    variable: &'static str,
    path: PathBuf,
    is_directory: bool,
}

/// The root certificates that were read, and a message for each source that could not be read.
pub(crate) struct LoadedRoots {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// One message for each source that could not be read, with the path and the environment variable.
    pub(crate) problems: Vec<String>,
}

const FILE: &str = "SSL_CERT_FILE";
const DIRECTORIES: &str = "SSL_CERT_DIR";

impl RootFiles {
    /// Uses the file in the environment variable `SSL_CERT_FILE`, and the directories in `SSL_CERT_DIR` (a list in the form of the
    /// platform). `variable` returns the value of an environment variable; an empty value counts as unset.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut sources = Vec::new();
        if let Some(path) = set(FILE) {
            sources.push(Source {
                variable: FILE,
                path: path.into(),
                is_directory: false,
            });
        }
        for path in env::split_paths(&set(DIRECTORIES).unwrap_or_default()) {
            if !path.as_os_str().is_empty() {
                sources.push(Source {
                    variable: DIRECTORIES,
                    path,
                    is_directory: true,
                });
            }
        }
        let mut names: Vec<&str> = sources.iter().map(|source| source.variable).collect();
        names.dedup();
        let variables = names.join(" and ");
        Self {
            is_none: false,
            sources,
            variables,
        }
    }

    /// Creates a source without certificates: only the root certificates that are added to the transport builder are trusted.
    pub fn none() -> Self {
        Self {
            is_none: true,
            ..Self::default()
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        self.is_none
    }

    /// Returns the environment variables that name the certificate files, or `None` if the certificate store of the system is used.
    pub(crate) fn variables(&self) -> Option<&str> {
        (!self.sources.is_empty()).then_some(&*self.variables)
    }

    /// Reads the root certificates from the configured source.
    pub(crate) fn load(&self) -> LoadedRoots {
        if self.is_none {
            return LoadedRoots {
                certificates: Vec::new(),
                problems: Vec::new(),
            };
        }
        if self.sources.is_empty() {
            let found = system();
            let problems = found
                .errors
                .iter()
                .map(|error| format!("cannot read a root certificate of the system: {error}"));
            return LoadedRoots {
                problems: problems.collect(),
                certificates: found.certs,
            };
        }
        let mut loaded = LoadedRoots {
            certificates: Vec::new(),
            problems: Vec::new(),
        };
        for source in &self.sources {
            let Source { variable, path, .. } = source;
            let found = if source.is_directory {
                load_certs_from_paths(None, Some(path))
            } else {
                load_certs_from_paths(Some(path), None)
            };
            let origin = format!("{variable} names {}", path.display());
            for error in &found.errors {
                let problem = format!("{origin}, which cannot be read: {error}");
                loaded.problems.push(problem);
            }
            if found.certs.is_empty() && found.errors.is_empty() {
                loaded
                    .problems
                    .push(format!("{origin}, which holds no certificate in PEM form"));
            }
            loaded.certificates.extend(found.certs);
        }
        loaded
    }

    /// Returns the error message for a TLS connection if there is no trusted root certificate. `problems` says which sources could not be
    /// read.
    pub(crate) fn missing_message(&self, problems: &[String]) -> String {
        let mut message = "no trusted root certificate".to_owned();
        match self.variables() {
            None => message.push_str(
                " on this system; install ca-certificates, set SSL_CERT_FILE, or add a root certificate",
            ),
            Some(variables) => {
                // Writing to a string cannot fail.
                let _ = write!(message, ": {}", problems.join("; "));
                let _ = write!(message, "; correct or unset {variables}");
            }
        }
        message
    }
}

/// Reads the root certificates from the certificate store of the system, independent of environment variables.
#[cfg(all(unix, not(target_os = "macos")))]
fn system() -> CertificateResult {
    // `load_native_certs` reads the variables itself, including empty ones.
    let likely = openssl_probe::probe();
    let mut directories = likely.cert_dir.iter();
    let first = directories.next().map(PathBuf::as_path);
    let mut found = load_certs_from_paths(likely.cert_file.as_deref(), first);
    for directory in directories {
        let more = load_certs_from_paths(None, Some(directory));
        found.certs.extend(more.certs);
        found.errors.extend(more.errors);
    }
    found
        .certs
        .sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
    found.certs.dedup();
    found
}

/// Reads the root certificates from the certificate store of the system.
#[cfg(not(all(unix, not(target_os = "macos"))))]
fn system() -> CertificateResult {
    rustls_native_certs::load_native_certs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_variables(file: &str, directories: &str) -> RootFiles {
        RootFiles::from_variables(|name| match name {
            FILE => Some(file.into()),
            DIRECTORIES => Some(directories.into()),
            _ => None,
        })
    }

    #[test]
    fn empty_certificate_variables_leave_the_system_certificates_in_use() {
        let roots = from_variables("", "");
        assert_eq!(roots.variables(), None);
        assert!(roots.missing_message(&[]).contains("ca-certificates"));
    }

    #[test]
    fn error_names_an_unusable_certificate_file_and_the_variable() {
        let empty = std::env::temp_dir().join(format!("tinkers-empty-{}.pem", std::process::id()));
        std::fs::write(&empty, "no certificate\n").expect("a file");
        let empty_path = empty.to_str().expect("text").to_owned();
        for (roots, variable, path) in [
            (
                from_variables("/nonexistent/ca.pem", ""),
                FILE,
                "/nonexistent/ca.pem",
            ),
            (
                from_variables("", "/nonexistent/a:/nonexistent/b"),
                DIRECTORIES,
                "/nonexistent/b",
            ),
            (from_variables(&empty_path, ""), FILE, &*empty_path),
            // A directory in place of a file.
            (from_variables("/", ""), FILE, "/"),
        ] {
            let loaded = roots.load();
            assert!(loaded.certificates.is_empty());
            let message = roots.missing_message(&loaded.problems);
            assert!(message.contains(variable), "{message}");
            assert!(message.contains(path), "{message}");
            assert_eq!(roots.variables(), Some(variable));
        }
        std::fs::remove_file(empty).expect("the file exists");
    }
}
