//! API keys: who calls.
//!
//! Invariant: an organization comes from the key or the settings, never from a path or a body. A key that is not known
//! is refused even where none is needed.

use crate::clock::Clock;
use crate::config::settings::{Organization, Settings};
use crate::http::error::{ApiError, Code};
use crate::http::serve::Remote;
use crate::http::tries::Tries;
use crate::model::name::OrgName;
use axum::extract::{FromRef, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Unknown keys that one remote address may try within a minute.
pub const BAD_TRIES_MAX: usize = 10;
/// The longest key in octets.
const KEY_OCTETS_MAX: usize = 512;

/// The keys of all organizations.
pub trait Keys: Send + Sync + 'static {
    /// The organization that a key names; `None` where the key is unknown or revoked.
    fn organization(&self, key: &str) -> Option<OrgName>;
}

/// Tells who calls. One for each listener.
pub struct Auth {
    keys: Arc<dyn Keys>,
    settings: watch::Receiver<Arc<Settings>>,
    bad_tries: Tries,
}

/// The organization that a request speaks for. As an extractor it needs `Arc<Auth>` in the router's state.
#[derive(Debug, Clone)]
pub struct Caller {
    pub org: OrgName,
    pub organization: Arc<Organization>,
}

impl Auth {
    pub fn new(keys: Arc<dyn Keys>, settings: watch::Receiver<Arc<Settings>>, clock: Arc<dyn Clock>) -> Auth {
        Auth { keys, settings, bad_tries: Tries::new(BAD_TRIES_MAX, clock) }
    }

    /// Tells who calls from `remote` with these headers.
    ///
    /// # Errors
    /// `key_missing`, `key_unknown`, and `key_tries_exceeded` for an unknown key after ten others within a minute. A
    /// known key is never refused for the tries of others behind the same address. `organization_unavailable` where it
    /// names an organization that could not start.
    pub fn caller(&self, remote: Option<IpAddr>, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let settings = self.settings.borrow().clone();
        let Some(header) = headers.get(AUTHORIZATION) else {
            let organization = settings
                .without_key()
                .filter(|o| o.development)
                .ok_or_else(|| ApiError::new(Code::KeyMissing, "send `Authorization: Bearer KEY`; `postwarm key new ORG` makes a key"))?;
            return Ok(Caller { org: organization.name.clone(), organization: organization.clone() });
        };
        let key = header.to_str().ok().and_then(bearer);
        let org = key.filter(|k| k.len() <= KEY_OCTETS_MAX).and_then(|key| self.keys.organization(key));
        match org.map(|org| (settings.organizations.get(&org).cloned(), org)) {
            Some((Some(organization), org)) => Ok(Caller { org, organization }),
            Some((None, org)) if settings.unusable.contains(&org) => {
                let text = "the configuration of this organization is broken; `postwarm check` on the server names the file";
                Err(ApiError::new(Code::OrganizationUnavailable, text))
            }
            _ => Err(self.refuse(remote, key.is_some())),
        }
    }

    fn refuse(&self, remote: Option<IpAddr>, is_bearer: bool) -> ApiError {
        let text = match is_bearer {
            true => "the key is not known; `postwarm key list ORG` shows those that are",
            false => "this `Authorization` holds no bearer token; send `Authorization: Bearer KEY`, with a key of `postwarm key new ORG`",
        };
        match self.bad_tries.failed(remote) {
            None => ApiError::new(Code::KeyUnknown, text),
            Some(secs) => {
                let text = format!("too many unknown keys came from this address; try again in {secs} s");
                ApiError::new(Code::KeyTriesExceeded, text).retry_after(secs)
            }
        }
    }
}

/// The token of `Bearer TOKEN` (RFC 6750 2.1); the scheme compares without case.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|t| !t.is_empty())
}

impl<S> FromRequestParts<S> for Caller
where
    Arc<Auth>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Caller, ApiError> {
        let remote = parts.extensions.get::<Remote>().map(|r| r.0.ip());
        Arc::<Auth>::from_ref(state).caller(remote, &parts.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::http::testing;
    use std::time::Duration;

    const REMOTE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));

    fn auth(organizations: &[(&str, bool)], default: Option<&str>) -> (Auth, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(0));
        let settings = testing::settings(organizations, default);
        (Auth::new(Arc::new(testing::FakeKeys), watch::channel(settings).1, clock.clone()), clock)
    }

    fn who(auth: &Auth, header: Option<&str>) -> Result<String, Code> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().expect("a header"));
        }
        auth.caller(REMOTE, &headers).map(|c| c.org.to_string()).map_err(|e| e.code)
    }

    #[test]
    fn a_key_names_its_organization_and_an_unknown_one_nobody() {
        let (auth, _) = auth(&[("acme", false), ("demo", true)], Some("demo"));
        assert_eq!(who(&auth, Some("Bearer key-acme")), Ok("acme".into()));
        assert_eq!(who(&auth, Some("bearer key-demo")), Ok("demo".into()));
        for bad in ["Bearer nonsense", "Bearer key-gone", "Basic key-acme", "Bearer", "Bearer ", "key-acme"] {
            assert_eq!(who(&auth, Some(bad)), Err(Code::KeyUnknown), "{bad}");
        }
    }

    #[test]
    fn what_is_no_bearer_token_is_told_that_one_is_expected() {
        let (auth, _) = auth(&[("acme", false)], None);
        let text = |header: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, header.parse().expect("a header"))]);
            format!("{:?}", auth.caller(REMOTE, &headers).expect_err("refused"))
        };
        for bad in ["Basic YWNtZTpwdw==", "Bearer", "key-acme"] {
            assert!(text(bad).contains("Authorization: Bearer KEY"), "{bad}: {}", text(bad));
        }
        assert!(text("Bearer nonsense").contains("the key is not known"));
    }

    #[test]
    fn a_key_of_an_organization_that_could_not_start_is_not_called_unknown() {
        let mut settings = testing::settings(&[("demo", true)], None);
        Arc::make_mut(&mut settings).unusable = [OrgName::parse("acme").expect("a name")].into();
        let auth = Auth::new(Arc::new(testing::FakeKeys), watch::channel(settings).1, Arc::new(ManualClock::at(0)));
        for _ in 0..2 * BAD_TRIES_MAX {
            assert_eq!(who(&auth, Some("Bearer key-acme")), Err(Code::OrganizationUnavailable));
        }
        assert_eq!(who(&auth, None), Err(Code::KeyMissing), "demo is not the only one");
    }

    #[test]
    fn without_a_key_only_a_development_organization_answers() {
        assert_eq!(who(&auth(&[("demo", true)], None).0, None), Ok("demo".into()));
        assert_eq!(who(&auth(&[("acme", false), ("demo", true)], Some("demo")).0, None), Ok("demo".into()));
        assert_eq!(who(&auth(&[("acme", false), ("demo", true)], Some("acme")).0, None), Err(Code::KeyMissing));
        assert_eq!(who(&auth(&[("acme", true), ("demo", true)], None).0, None), Err(Code::KeyMissing));
        assert_eq!(who(&auth(&[("acme", false)], None).0, None), Err(Code::KeyMissing));
    }

    #[test]
    fn the_eleventh_unknown_key_within_a_minute_has_to_wait_and_known_keys_never_do() {
        let (auth, clock) = auth(&[("acme", false)], None);
        for _ in 0..BAD_TRIES_MAX {
            assert_eq!(who(&auth, Some("Bearer x")), Err(Code::KeyUnknown));
        }
        assert_eq!(who(&auth, Some("Bearer x")), Err(Code::KeyTriesExceeded));
        assert_eq!(who(&auth, Some("Bearer key-acme")), Ok("acme".into()));
        clock.advance(Duration::from_secs(60));
        assert_eq!(who(&auth, Some("Bearer x")), Err(Code::KeyUnknown));
    }
}
