//! The claims of a JWT, read without a check of its signature.

use std::time::{Duration, SystemTime};
use tinkers_core::{Error, ErrorKind, Sent};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// The prefix of every JWT: the base64 form of `{"`.
const PREFIX: &str = "eyJ";

/// The claims of a JWT. The signature is not checked: only the server can do so. Therefore use the claims only to decide when a token
/// expires, and to show who the user is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    expires_at: Option<Duration>,
    issued_at: Option<Duration>,
    issuer: Option<String>,
    subject: Option<String>,
    organization: Option<String>,
    email: Option<String>,
}

/// The user whose credential a client sends, from the claims of a JWT.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The URN of the user: the claim `sub`.
    pub user_urn: String,
    /// The URN of the organization of the user: `tml:organization:`, followed by the claim `org_id`.
    pub org_urn: String,
    /// The e-mail address of the user, if the token contains one.
    pub email: Option<String>,
}

/// Returns the error for a request of the user of a credential that contains none.
pub fn no_user() -> Error {
    let message = "the credential is an API key, which contains no user, and the server does not exchange it for a token";
    Error::new(ErrorKind::Unsupported, Sent::NotSent, message)
}

impl Claims {
    /// Returns whether `credential` is a JWT and not an API key, judged by its first characters.
    pub fn is_token(credential: &str) -> bool {
        credential.starts_with(PREFIX)
    }

    /// Reads the claims of a JWT. Returns `None` if `token` is not a JWT.
    pub fn of(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('='));
        let payload = Zeroizing::new(payload.ok()?);
        let claims: Map<String, Value> = serde_json::from_slice(&payload).ok()?;
        let seconds = |name: &str| {
            let seconds = claims.get(name)?.as_f64()?;
            Duration::try_from_secs_f64(seconds.max(0.0)).ok()
        };
        let text = |name: &str| {
            let text = claims.get(name)?.as_str()?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        Some(Self {
            expires_at: seconds("exp"),
            issued_at: seconds("iat"),
            issuer: text("iss"),
            subject: text("sub"),
            organization: text("org_id"),
            email: text("email"),
        })
    }

    /// Returns the date at which the token expires, the claim `exp`.
    pub fn expires_at(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(self.expires_at?)
    }

    /// Returns the time between the claims `iat` and `exp`. Returns `None` if one is missing, or if the time is zero.
    pub fn lifetime(&self) -> Option<Duration> {
        let lifetime = self.expires_at?.checked_sub(self.issued_at?)?;
        (!lifetime.is_zero()).then_some(lifetime)
    }

    /// Returns the time until the token expires, zero if it has expired. Returns `None` if the token has no claim `exp`.
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        let left = self.expires_at()?.duration_since(now);
        Some(left.unwrap_or_default())
    }

    /// Returns the user of the token. Returns `None` if the claim `sub` or `org_id` is missing.
    pub fn identity(&self) -> Option<Identity> {
        Some(Identity {
            user_urn: self.subject.clone()?,
            org_urn: format!("tml:organization:{}", self.organization.as_ref()?),
            email: self.email.clone(),
        })
    }

    /// Returns whether the token itself is a login of a user. Its issuer then starts with `passport-`.
    pub fn is_login(&self) -> bool {
        let issuer = self.issuer.as_deref();
        issuer.is_some_and(|issuer| issuer.starts_with("passport-"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a JWT with these claims and an invalid signature.
    pub(crate) fn token(claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = serde_json::json!({ "alg": "HS256", "typ": "JWT" });
        format!("{}.{}.c2lnbmF0dXJl", part(&header), part(claims))
    }

    #[test]
    fn claims_of_a_token_are_read_without_its_signature() {
        let text = token(&serde_json::json!({
            "exp": 1_700_003_600.5, "iat": 1_700_000_000, "iss": "passport-1",
            "sub": "tml:user:7", "org_id": "9", "email": "",
        }));
        assert!(Claims::is_token(&text));
        let claims = Claims::of(&text).expect("a JWT");
        assert_eq!(claims.lifetime(), Some(Duration::from_millis(3_600_500)));
        let expiry = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_003_600_500);
        assert_eq!(claims.expires_at(), Some(expiry));
        assert_eq!(
            claims.left(expiry - Duration::from_secs(9)),
            Some(Duration::from_secs(9))
        );
        assert_eq!(
            claims.left(expiry + Duration::from_secs(9)),
            Some(Duration::ZERO)
        );
        assert!(claims.is_login());
        let identity = claims.identity().expect("a user");
        assert_eq!(identity.user_urn, "tml:user:7");
        assert_eq!(identity.org_urn, "tml:organization:9");
        assert_eq!(identity.email, None);
    }

    #[test]
    fn text_that_is_no_token_has_no_claims() {
        for text in [
            "",
            "tml-key",
            "eyJ",
            "eyJ.eyJ",
            "eyJ.%%%.x",
            "a.bnVsbA.c",
            "a.b.c.d",
        ] {
            assert_eq!(Claims::of(text), None, "{text}");
        }
    }

    #[test]
    fn missing_or_invalid_claims_are_none() {
        for claims in [
            serde_json::json!({}),
            serde_json::json!({ "exp": "soon", "iat": null, "sub": 7 }),
            serde_json::json!({ "exp": 5, "iat": 5 }),
            serde_json::json!({ "exp": 1e300, "iat": 5 }),
        ] {
            let read = Claims::of(&token(&claims)).expect("a JWT");
            assert_eq!(read.lifetime(), None, "{claims}");
            assert_eq!(read.identity(), None, "{claims}");
        }
    }
}
