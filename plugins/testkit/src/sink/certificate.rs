//! The sink's certificate, made anew for each sink.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// A self-signed certificate and what serves it.
pub struct Certificate {
    pub pem: String,
    pub acceptor: TlsAcceptor,
}

impl Certificate {
    /// Makes a certificate for these DNS names and addresses.
    pub fn new(names: &[String]) -> Certificate {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(names.to_vec()).expect("a self-signed certificate can be made");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("the key belongs to the certificate");
        Certificate { pem: cert.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}
