//! TLS for SMTP: rustls with aws-lc-rs, the system's roots, and further roots of the operator.
//!
//! Invariant: a certificate is always verified; no setting turns that off.

use crate::settings::ServerSettings;
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// The TLS configuration of one client, built on its first connection.
#[derive(Default)]
pub struct TlsCell(OnceCell<Arc<ClientConfig>>);

impl TlsCell {
    /// Returns the connector. A failure, such as a CA file that cannot be read, is not remembered.
    pub async fn connector(&self, settings: &ServerSettings) -> Result<TlsConnector, String> {
        let ca_file = settings.tls_ca_file.clone();
        let build = || async {
            // Reads the root certificates from files.
            tokio::task::spawn_blocking(move || client_config(ca_file)).await.map_err(|error| error.to_string())?
        };
        self.0.get_or_try_init(build).await.map(|config| TlsConnector::from(Arc::clone(config)))
    }
}

/// Returns the name that the server's certificate must have.
pub fn server_name(settings: &ServerSettings) -> Result<ServerName<'static>, String> {
    let name = settings.tls_server_name.as_ref().unwrap_or(&settings.host);
    ServerName::try_from(name.clone()).map_err(|_| format!("{name} is no name that a certificate could have; set tls_server_name"))
}

fn client_config(ca_file: Option<PathBuf>) -> Result<Arc<ClientConfig>, String> {
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let extra = match ca_file {
        None => Vec::new(),
        Some(path) => {
            let wrong = |error| format!("tls_ca_file {} cannot be used: {error}", path.display());
            CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(wrong)?
        }
    };
    let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
        .map_err(|error| format!("the root certificates of the system cannot be used: {error}"))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}
