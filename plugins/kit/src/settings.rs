//! The settings of an SMTP server, read from an instance's TOML and secrets.
//!
//! Invariant: every problem of the table is reported at once, each with its pointer.
//! Invariant: TLS is required or off, never opportunistic.

use crate::fields::Fields;
use postwarm_plugin_api::{Instance, Secret, SettingsProblem};
use std::path::PathBuf;
use std::time::Duration;

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// From the first octet on (RFC 8314, port 465).
    Implicit,
    /// By STARTTLS, which the server must offer (RFC 3207, port 587).
    StartTls,
    /// Not at all.
    None,
}

/// How a session authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// PLAIN where it is offered, else LOGIN.
    Auto,
    Plain,
    Login,
    /// The password is an access token.
    XOAuth2,
    /// Not at all, whatever the credentials.
    None,
}

/// How long each phase may take. The defaults are those of RFC 5321 4.5.3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Name look-up, TCP and the TLS handshake.
    pub connect: Duration,
    /// The greeting, and each reply up to the end of authentication.
    pub greeting: Duration,
    pub mail: Duration,
    pub rcpt: Duration,
    pub data: Duration,
    /// Between two blocks of content that the server takes.
    pub content: Duration,
    pub end_of_data: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Deadlines {
            connect: Duration::from_secs(30),
            greeting: minutes(5),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            content: minutes(3),
            end_of_data: minutes(10),
        }
    }
}

/// What a plugin presets; the TOML overrides each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Defaults {
    /// The server's name; required in the TOML where it is absent here.
    pub host: Option<&'static str>,
    /// The port; by default that of the TLS mode: 465, 587 or 25.
    pub port: Option<u16>,
    pub tls: Option<Tls>,
    pub messages_per_connection_max: Option<u32>,
}

/// The settings of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub auth: Auth,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// The name in EHLO; the address of this end of the connection where it is absent.
    pub helo_name: Option<String>,
    /// Lets credentials go in clear, but only over loopback.
    pub allow_insecure_auth: bool,
    /// A PEM file of further root certificates.
    pub tls_ca_file: Option<PathBuf>,
    /// The name that the certificate must have, where it is not `host`.
    pub tls_server_name: Option<String>,
    /// Messages after which a connection is replaced.
    pub messages_per_connection_max: u32,
    /// How long a connection waits for a message before it says QUIT.
    pub idle_max: Duration,
    pub deadlines: Deadlines,
    /// Uses PIPELINING where it is announced.
    pub pipelining: bool,
}

impl ServerSettings {
    /// Reads the settings of `instance` over `defaults`, or returns every problem of them.
    pub fn parse(instance: &Instance, defaults: Defaults) -> Result<ServerSettings, Vec<SettingsProblem>> {
        let mut fields = Fields::new(&instance.settings, &instance.secrets);
        let tls = fields
            .choice("tls", &[("implicit", Tls::Implicit), ("starttls", Tls::StartTls), ("none", Tls::None)])
            .or(defaults.tls)
            .unwrap_or(Tls::StartTls);
        // A preset port belongs to the preset's TLS mode.
        let preset_port = defaults.port.filter(|_| defaults.tls.is_none_or(|preset| preset == tls));
        let auth = fields.choice("auth", &AUTH_NAMES).unwrap_or(Auth::Auto);
        let host = required_host(&mut fields, defaults.host);
        let port = fields.port("port").or(preset_port).unwrap_or(default_port(tls));
        let (username, password) = fields.credentials();
        let settings = ServerSettings {
            host,
            port,
            tls,
            auth,
            username: username.map(str::to_owned),
            password,
            helo_name: fields.text("helo_name").map(str::to_owned),
            allow_insecure_auth: fields.flag("allow_insecure_auth").unwrap_or(false),
            tls_ca_file: fields.text("tls_ca_file").map(PathBuf::from),
            tls_server_name: fields.text("tls_server_name").map(str::to_owned),
            messages_per_connection_max: fields
                .count("messages_per_connection_max")
                .or(defaults.messages_per_connection_max)
                .unwrap_or(1000),
            idle_max: fields.duration("idle_max").unwrap_or(Duration::from_secs(30)),
            deadlines: deadlines(&mut fields),
            pipelining: fields.flag("pipelining").unwrap_or(true),
        };
        check_credentials(&settings, &mut fields);
        check_words(&settings, &mut fields);
        fields.finish(settings)
    }

    /// Settings for unit tests of this crate.
    #[cfg(test)]
    pub(crate) fn for_tests() -> ServerSettings {
        ServerSettings {
            host: "127.0.0.1".into(),
            port: 25,
            tls: Tls::None,
            auth: Auth::Auto,
            username: None,
            password: None,
            helo_name: None,
            allow_insecure_auth: false,
            tls_ca_file: None,
            tls_server_name: None,
            messages_per_connection_max: 1000,
            idle_max: Duration::from_secs(30),
            deadlines: Deadlines::default(),
            pipelining: true,
        }
    }
}

const AUTH_NAMES: [(&str, Auth); 5] =
    [("auto", Auth::Auto), ("plain", Auth::Plain), ("login", Auth::Login), ("xoauth2", Auth::XOAuth2), ("none", Auth::None)];

/// The port of a TLS mode.
fn default_port(tls: Tls) -> u16 {
    match tls {
        Tls::Implicit => 465,
        Tls::StartTls => 587,
        Tls::None => 25,
    }
}

fn required_host(fields: &mut Fields<'_>, default: Option<&str>) -> String {
    match (fields.text("host"), default) {
        (Some(host), _) => host.to_owned(),
        (None, Some(host)) => host.to_owned(),
        (None, None) => {
            if !fields.has("host") {
                fields.problem("/host", "host is missing; name the server, such as host = \"smtp.example.com\"");
            }
            String::new()
        }
    }
}

fn deadlines(fields: &mut Fields<'_>) -> Deadlines {
    let default = Deadlines::default();
    let Some(mut inner) = fields.table("deadlines") else { return default };
    let deadlines = Deadlines {
        connect: inner.duration("connect").unwrap_or(default.connect),
        greeting: inner.duration("greeting").unwrap_or(default.greeting),
        mail: inner.duration("mail").unwrap_or(default.mail),
        rcpt: inner.duration("rcpt").unwrap_or(default.rcpt),
        data: inner.duration("data").unwrap_or(default.data),
        content: inner.duration("content").unwrap_or(default.content),
        end_of_data: inner.duration("end_of_data").unwrap_or(default.end_of_data),
    };
    fields.absorb(inner);
    deadlines
}

/// An explicit mechanism needs credentials.
fn check_credentials(settings: &ServerSettings, fields: &mut Fields<'_>) {
    let named = !matches!(settings.auth, Auth::Auto | Auth::None);
    if named && settings.username.is_none() && settings.password.is_none() {
        fields.problem("/auth", "auth names a mechanism but there are no credentials; add username and password, or remove auth");
    }
}

/// What goes into a command line must be one word of it.
fn check_words(settings: &ServerSettings, fields: &mut Fields<'_>) {
    let is_word = |text: &str| text.bytes().all(|octet| octet.is_ascii_graphic());
    if !is_word(&settings.host) {
        fields.problem("/host", "host must be a host name or an IP address, without spaces");
    }
    if settings.helo_name.as_deref().is_some_and(|name| !is_word(name)) {
        fields.problem("/helo_name", "helo_name must be a host name or an address literal such as [192.0.2.1], without spaces");
    }
}
