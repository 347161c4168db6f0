//! What tests of HTTP share: settings, keys, and requests through a router.
//!
//! Invariant: nothing here opens a socket.

use crate::config::settings::{
    BackfillSettings, Dns, Events, Listener, OnUnknown, Organization, Process, Providers, Retry, Settings, Window,
};
use crate::http::auth::Keys;
use crate::model::name::OrgName;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

/// Knows the key `key-NAME` of each organization NAME.
pub struct FakeKeys;

impl Keys for FakeKeys {
    fn organization(&self, key: &str) -> Option<OrgName> {
        OrgName::parse(key.strip_prefix("key-")?).ok()
    }
}

/// Settings with these organizations, each with whether it is for development. Each may send from `NAME.example`.
pub fn settings(organizations: &[(&str, bool)], default: Option<&str>) -> Arc<Settings> {
    let name = |text: &str| OrgName::parse(text).expect("a name");
    let listener = || Listener { listen: ([127, 0, 0, 1], 0).into() };
    let process = Process {
        warmup: listener(),
        health: listener(),
        default_organization: default.map(name),
        allow_development_beyond_loopback: false,
        plugins_directory: "plugins".into(),
        events: Events::Embedded { retention: Duration::from_secs(60) },
        shares: Default::default(),
        sending_rows_max: 512,
        drain_max: Duration::from_secs(30),
        watch_for: Duration::from_secs(60),
        dns: Dns { nameserver: None, timeout: Duration::from_secs(2), enabled: false },
    };
    let organization = |text: &str, development: bool| Organization {
        name: name(text),
        from_domains: vec![format!("{text}.example")],
        development,
        public_url: None,
        on_unknown: OnUnknown::Hold,
        limits: vec![],
        provider_limits: Default::default(),
        dkim: vec![],
        smtp: vec![],
        feedback: vec![],
        backfill: BackfillSettings {
            per_recipient: Window { messages: 1, per: Duration::from_secs(10) },
            hold_max: Duration::from_secs(3_600),
        },
        retry: Retry { schedule: vec![Duration::from_secs(60)], give_up_after: Duration::from_secs(3_600), jitter: 0.1 },
    };
    Arc::new(Settings {
        process: Arc::new(process),
        providers: Arc::new(Providers::default()),
        organizations: organizations.iter().map(|(text, dev)| (name(text), Arc::new(organization(text, *dev)))).collect(),
        unusable: [].into(),
    })
}

/// An answer, read whole.
pub struct Answer {
    pub status: StatusCode,
    pub headers: axum::http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// `STATUS code pointers` of a problem.
    pub fn problem(&self) -> String {
        let json = self.json();
        let places: Vec<&str> = json["errors"].as_array().into_iter().flatten().filter_map(place).collect();
        format!("{} {} {}", self.status.as_u16(), json["code"].as_str().unwrap_or_default(), places.join(" "))
    }
}

fn place(error: &serde_json::Value) -> Option<&str> {
    error["pointer"].as_str().or(error["parameter"].as_str())
}

/// Sends a request through the router.
pub async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.expect("a router never fails");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("the body of a test");
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() }
}

/// `METHOD path` with the key of `org`, without a body.
pub async fn call(router: &Router, org: &str, method: &str, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer key-{org}"));
    send(router, request.body(Body::empty()).expect("a request")).await
}

/// `POST path` with the key of `org` and JSON.
pub async fn post(router: &Router, org: &str, path: &str, json: &serde_json::Value) -> Answer {
    let request = Request::post(path).header("authorization", format!("Bearer key-{org}")).header("content-type", "application/json");
    send(router, request.body(Body::from(json.to_string())).expect("a request")).await
}
