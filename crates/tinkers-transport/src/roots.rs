//! Where the trusted root certificates come from: the system's store, or files that variables of the environment name.

use std::env;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls_native_certs::{CertificateResult, load_certs_from_paths};

/// Files and directories of trusted root certificates in PEM form, in place of the system's store. The default names none, and
/// leaves the system's store in use.
///
/// They are read on the first use of TLS.
#[derive(Debug, Clone, Default)]
pub struct RootFiles {
    sources: Vec<Source>,
    /// The variables that name them, for messages.
    variables: String,
}

#[derive(Debug, Clone)]
struct Source {
    variable: &'static str,
    path: PathBuf,
    is_directory: bool,
}

/// What was read.
pub(crate) struct Read {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// What could not be read, each with its path and the variable that names it.
    pub(crate) problems: Vec<String>,
}

const FILE: &str = "SSL_CERT_FILE";
const DIRECTORIES: &str = "SSL_CERT_DIR";

impl RootFiles {
    /// The file of `SSL_CERT_FILE` and the directories of `SSL_CERT_DIR`, which is a list in the platform's form. `variable` gives
    /// the value of each name; an empty one counts as unset.
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
        Self { sources, variables }
    }

    /// The variables that name the files; `None` where the system's store is used.
    pub(crate) fn variables(&self) -> Option<&str> {
        (!self.sources.is_empty()).then_some(&*self.variables)
    }

    pub(crate) fn read(&self) -> Read {
        if self.sources.is_empty() {
            let found = system();
            let problems = found.errors.iter().map(|error| {
                format!("a certificate of the system's store cannot be read: {error}")
            });
            return Read {
                problems: problems.collect(),
                certificates: found.certs,
            };
        }
        let mut read = Read {
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
            let place = format!("{variable} names {}", path.display());
            for error in &found.errors {
                let problem = format!("{place}, which cannot be read: {error}");
                read.problems.push(problem);
            }
            if found.certs.is_empty() && found.errors.is_empty() {
                read.problems
                    .push(format!("{place}, which holds no certificate in PEM form"));
            }
            read.certificates.extend(found.certs);
        }
        read
    }

    /// What to say where there is no certificate at all.
    pub(crate) fn nothing(&self, problems: &[String]) -> String {
        let mut message = "no trusted root certificate".to_owned();
        match self.variables() {
            None => message.push_str(
                " on this system; install ca-certificates, set SSL_CERT_FILE, or add a root certificate",
            ),
            Some(variables) => {
                // Writing to a text cannot fail.
                let _ = write!(message, ": {}", problems.join("; "));
                let _ = write!(message, "; correct or unset {variables}");
            }
        }
        message
    }
}

/// The system's store, whatever the environment says.
#[cfg(all(unix, not(target_os = "macos")))]
fn system() -> CertificateResult {
    // `load_native_certs` would read the variables by itself, also those that are set and empty.
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

/// The system's store.
#[cfg(not(all(unix, not(target_os = "macos"))))]
fn system() -> CertificateResult {
    rustls_native_certs::load_native_certs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(file: &str, directories: &str) -> RootFiles {
        RootFiles::from_variables(|name| match name {
            FILE => Some(file.into()),
            DIRECTORIES => Some(directories.into()),
            _ => None,
        })
    }

    #[test]
    fn empty_variables_leave_the_system_store_in_use() {
        let roots = named("", "");
        assert_eq!(roots.variables(), None);
        assert!(roots.nothing(&[]).contains("ca-certificates"));
    }

    #[test]
    fn a_missing_or_empty_file_is_named_with_its_variable() {
        let empty = std::env::temp_dir().join(format!("tinkers-empty-{}.pem", std::process::id()));
        std::fs::write(&empty, "no certificate\n").expect("a file");
        let empty_path = empty.to_str().expect("text").to_owned();
        for (roots, variable, path) in [
            (
                named("/nonexistent/ca.pem", ""),
                FILE,
                "/nonexistent/ca.pem",
            ),
            (
                named("", "/nonexistent/a:/nonexistent/b"),
                DIRECTORIES,
                "/nonexistent/b",
            ),
            (named(&empty_path, ""), FILE, &*empty_path),
            // A directory in place of a file.
            (named("/", ""), FILE, "/"),
        ] {
            let read = roots.read();
            assert!(read.certificates.is_empty());
            let message = roots.nothing(&read.problems);
            assert!(message.contains(variable), "{message}");
            assert!(message.contains(path), "{message}");
            assert_eq!(roots.variables(), Some(variable));
        }
        std::fs::remove_file(empty).expect("it was there");
    }
}
