//! Validation of API keys before they are sent.

use tinkers_core::{Error, ErrorKind, Result, Sent};

/// Checks the form of an API key. API keys of the hosted service start with `tml-`. Other servers may accept any API key, and most need no
/// API key.
pub(crate) fn check(key: Option<&str>, hosted: bool) -> Result<()> {
    match key {
        Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => Err(Error::invalid(
            "api_key",
            "visible ASCII characters, without spaces or line breaks",
        )),
        Some(key) if key.starts_with("eyJ") && hosted => {
            let message = "tokens are not supported; use an API key (tml-...)";
            Err(Error::new(ErrorKind::Unsupported, Sent::NotSent, message).with_field("api_key"))
        }
        Some(key) if hosted && !key.starts_with("tml-") => {
            // Without the value, which may be another secret.
            Err(Error::invalid(
                "api_key",
                "a key of the hosted service, which starts with tml-",
            ))
        }
        None if hosted => {
            let message = "no API key: set TINKER_API_KEY or `api_key`, or use the base URL of a server without keys";
            Err(Error::new(ErrorKind::Authentication, Sent::NotSent, message).with_field("api_key"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_key_with_invalid_characters_is_rejected_and_not_shown() {
        for key in ["tml-se cret", "tml-se\ncret", "tml-s\u{e9}cret"] {
            let error = check(Some(key), false).unwrap_err();
            assert_eq!(error.field(), Some("api_key"));
            assert!(!error.to_string().contains("cret"), "{error}");
        }
    }

    #[test]
    fn only_the_hosted_service_requires_api_keys_of_its_form() {
        assert!(check(Some("tml-x"), true).is_ok());
        assert!(check(Some("anything"), false).is_ok());
        assert!(check(None, false).is_ok());
        let wrong = check(Some("sk-12345"), true).unwrap_err();
        assert_eq!(wrong.field(), Some("api_key"));
        assert!(!format!("{wrong} {wrong:?}").contains("sk-12345"));
        assert_eq!(
            check(None, true).unwrap_err().kind(),
            ErrorKind::Authentication
        );
    }
}
