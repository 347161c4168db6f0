//! Makes the topics where they are missing.
//!
//! Invariant: a topic that exists is left as it is.

use crate::bus::LogError;
use crate::bus::kafka::reach::Reports;
use crate::bus::kafka::{TopicOptions, client_config, unavailable};
use crate::config::settings::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use std::time::Duration;

const ASK_MAX: Duration = Duration::from_secs(10);
/// Records are kept until somebody decides otherwise: a replay needs all of them.
const RETENTION_MS: &str = "-1";

pub async fn ensure(kafka: &Kafka, options: TopicOptions, reports: Reports) -> Result<(), LogError> {
    let admin: AdminClient<Reports> = client_config(kafka).create_with_context(reports).map_err(unavailable)?;
    let wanted = [(&kafka.emails, options.partitions), (&kafka.recipients, options.partitions), (&kafka.facts, 1)];
    let (admin, existing) = tokio::task::spawn_blocking(move || {
        // All topics are listed, for asking after one by name may make it, with the broker's defaults.
        let metadata = admin.inner().fetch_metadata(None, ASK_MAX)?;
        let names: Vec<String> = metadata.topics().iter().map(|t| t.name().to_owned()).collect();
        Ok((admin, names))
    })
    .await
    .map_err(|e| LogError::Unavailable(e.to_string()))?
    .map_err(unavailable)?;
    let missing = wanted.iter().filter(|(name, _)| !existing.contains(name));
    let missing: Vec<NewTopic<'_>> = missing
        .map(|(name, partitions)| {
            NewTopic::new(name, *partitions, TopicReplication::Fixed(options.replication)).set("retention.ms", RETENTION_MS)
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let made = admin.create_topics(&missing, &AdminOptions::new().operation_timeout(Some(ASK_MAX))).await.map_err(unavailable)?;
    for result in made {
        match result {
            Ok(name) => tracing::info!(topic = name, "made a topic"),
            // Another process was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(LogError::Unavailable(format!("topic `{name}` cannot be made: {code}; make it by hand"))),
        }
    }
    Ok(())
}
