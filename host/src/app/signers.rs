//! DKIM signers of organizations.

use crate::config::live::SharedEnv;
use crate::config::secrets::resolve;
use crate::config::settings::{DkimAlgorithm, Organization};
use crate::warmup::engine::{BodyHash, MakeSigner, Sign};
use crate::warmup::sign::Signer;
use std::sync::Arc;

/// Makes signers from the keys that organizations name.
pub struct DkimSigners(pub SharedEnv);

struct Dkim {
    signer: Signer,
    slow: bool,
}

/// The keys cannot be used: mail is not sent unsigned by an organization that asked for signatures.
struct Broken(String);

impl MakeSigner for DkimSigners {
    fn make(&self, organization: &Organization) -> Arc<dyn Sign> {
        let resolved = |secret: &_| resolve(secret, &*self.0).map(|s| s.expose().to_owned()).map_err(|e| e.to_string());
        match Signer::new(&organization.dkim, resolved) {
            Ok(signer) => {
                let slow = organization.dkim.iter().any(|d| d.algorithm == DkimAlgorithm::RsaSha256);
                Arc::new(Dkim { signer, slow })
            }
            Err(error) => {
                tracing::error!(organization.name = %organization.name, %error, "the DKIM keys cannot be used; its mail waits until they can");
                Arc::new(Broken(format!("the DKIM keys cannot be used: {error}")))
            }
        }
    }
}

impl Sign for Dkim {
    fn sign(&self, from_domain: &str, header: &[u8], body: BodyHash<'_>, now_ms: i64) -> Result<Option<Vec<u8>>, String> {
        self.signer.sign(from_domain, header, body, now_ms).map_err(|e| e.to_string())
    }

    fn is_slow(&self) -> bool {
        self.slow
    }
}

impl Sign for Broken {
    fn sign(&self, _from_domain: &str, _header: &[u8], _body: BodyHash<'_>, _now_ms: i64) -> Result<Option<Vec<u8>>, String> {
        Err(self.0.clone())
    }

    fn is_slow(&self) -> bool {
        false
    }
}
