//! Whether a key can be one, before it is sent anywhere.

use tinkers_core::{Error, ErrorKind, Result, Sent};

/// Checks the key for a server. The hosted service gives out keys that open with `tml-`; other servers take what they like,
/// and most take none.
pub(crate) fn check(key: Option<&str>, hosted: bool) -> Result<()> {
    match key {
        Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => Err(Error::invalid(
            "api_key",
            "visible ASCII characters, without spaces or line breaks",
        )),
        Some(key) if key.starts_with("eyJ") && hosted => {
            let message = "this version takes API keys (tml-...) and no tokens; give it an API key";
            Err(Error::new(ErrorKind::Unsupported, Sent::NotSent, message).with_field("api_key"))
        }
        Some(key) if hosted && !key.starts_with("tml-") => {
            // Not a word of the key itself: what was given may be another secret.
            Err(Error::invalid(
                "api_key",
                "a key of the hosted service, which opens with tml-",
            ))
        }
        None if hosted => {
            let message = "no API key: set TINKER_API_KEY, give one to the builder, or set a base URL of a server without keys";
            Err(Error::new(ErrorKind::Authentication, Sent::NotSent, message).with_field("api_key"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_white_space_inside_is_refused_without_repeating_it() {
        for key in ["tml-se cret", "tml-se\ncret", "tml-s\u{e9}cret"] {
            let error = check(Some(key), false).unwrap_err();
            assert_eq!(error.field(), Some("api_key"));
            assert!(!error.to_string().contains("cret"), "{error}");
        }
    }

    #[test]
    fn the_hosted_service_takes_its_own_keys_and_others_take_any() {
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
