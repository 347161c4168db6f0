//! Mail exchangers by DNS: the adapter of [`MxLookup`].
//!
//! Invariant: a lookup ends within its timeout, whatever the nameserver does.

use super::{Exchangers, MxError, MxLookup};
use crate::config::settings::Dns;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;
use std::time::Duration;

/// How long an answer without a mail exchanger holds where the server does not say.
const EMPTY_TTL: Duration = Duration::from_secs(600);

/// Asks the configured nameserver, else the system's.
pub struct DnsLookup {
    resolver: TokioResolver,
    timeout: Duration,
}

impl DnsLookup {
    /// Fails where the system's resolver settings cannot be read.
    pub fn new(settings: &Dns) -> Result<DnsLookup, MxError> {
        let mut builder = match settings.nameserver {
            None => TokioResolver::builder(TokioRuntimeProvider::default()).map_err(words)?,
            Some(address) => {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                connections.iter_mut().for_each(|connection| connection.port = address.port());
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                server.connections = connections;
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        // Two tries fit into the time of one lookup. What is known is kept by the directory alone.
        options.timeout = settings.timeout / 2;
        options.attempts = 1;
        options.cache_size = 0;
        options.edns0 = true;
        Ok(DnsLookup { resolver: builder.build().map_err(words)?, timeout: settings.timeout })
    }
}

#[async_trait::async_trait]
impl MxLookup for DnsLookup {
    async fn exchangers(&self, domain: &str) -> Result<Exchangers, MxError> {
        // The final dot keeps the search list of the system out.
        let lookup = self.resolver.mx_lookup(format!("{}.", domain.trim_end_matches('.')));
        let timeout = tokio::time::timeout(self.timeout, lookup);
        match timeout.await.map_err(|_| MxError(format!("no answer within {:?}", self.timeout)))? {
            Ok(lookup) => {
                let records = lookup.answers().iter();
                let ttl = records.clone().map(|record| record.ttl).min().unwrap_or_default();
                let hosts = records.filter_map(|record| match &record.data {
                    RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii().trim_end_matches('.').to_lowercase())),
                    _ => None,
                });
                // A null MX (RFC 7505) names the root: nobody receives.
                let hosts = hosts.filter(|(_, host)| !host.is_empty()).collect();
                Ok(Exchangers { hosts, ttl: Duration::from_secs(ttl.into()) })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
            {
                let ttl = none.negative_ttl.map_or(EMPTY_TTL, |secs| Duration::from_secs(secs.into()));
                Ok(Exchangers { hosts: Vec::new(), ttl })
            }
            Err(error) => Err(words(error)),
        }
    }
}

fn words(error: NetError) -> MxError {
    MxError(error.to_string())
}
