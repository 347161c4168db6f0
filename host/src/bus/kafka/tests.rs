use super::*;
use crate::bus::contract;
use crate::clock::SystemClock;
use postwarm_plugin_testkit::skip::skip;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::BTreeSet;

fn settings(brokers: &str, unique: &str) -> Kafka {
    let name = |topic: &str| format!("postwarm-test-{unique}-{topic}");
    Kafka { brokers: vec![brokers.to_owned()], emails: name("emails"), recipients: name("recipients"), facts: name("facts") }
}

/// The broker that POSTWARM_TEST_KAFKA names; without one the test is skipped, which is said and counted.
fn real_broker(test: &str) -> Option<String> {
    let brokers = std::env::var("POSTWARM_TEST_KAFKA").ok();
    if brokers.is_none() {
        skip(test, "POSTWARM_TEST_KAFKA=host:port is not set");
    }
    brokers
}

/// A broker within this process, with the topics of `settings`; it knows no AdminClient.
fn mock(unique: &str) -> (MockCluster<'static, rdkafka::producer::DefaultProducerContext>, Kafka) {
    let cluster = MockCluster::new(1).unwrap();
    let kafka = settings(&cluster.bootstrap_servers(), unique);
    for (name, partitions) in [(&kafka.emails, 4), (&kafka.recipients, 4), (&kafka.facts, 1)] {
        cluster.create_topic(name, partitions, 1).unwrap();
    }
    (cluster, kafka)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kafka_log_passes_the_contract_over_the_clients_own_mock_broker() {
    for (number, case) in contract::CASES.iter().enumerate() {
        let (_cluster, kafka) = mock(&number.to_string());
        case(Arc::new(KafkaLog::open(kafka, TopicOptions::default(), Arc::new(SystemClock)).unwrap())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kafka_log_passes_the_contract_over_a_real_broker() {
    let Some(brokers) = real_broker("the_kafka_log_passes_the_contract_over_a_real_broker") else { return };
    let run = format!("{}-{}", std::process::id(), fastrand::u64(..));
    for (number, case) in contract::CASES.iter().enumerate() {
        let kafka = settings(&brokers, &format!("{run}-{number}"));
        case(Arc::new(KafkaLog::open(kafka, TopicOptions::default(), Arc::new(SystemClock)).unwrap())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_a_real_broker_no_longer_keeps_are_gone() {
    let Some(brokers) = real_broker("records_that_a_real_broker_no_longer_keeps_are_gone") else { return };
    let kafka = settings(&brokers, &format!("{}-{}-gone", std::process::id(), fastrand::u64(..)));
    let log = KafkaLog::open(kafka.clone(), TopicOptions::default(), Arc::new(SystemClock)).unwrap();
    log.publish(contract::sealed((0..10).map(|n| contract::record(Topic::Facts, "a", n)))).await.unwrap();
    let admin: rdkafka::admin::AdminClient<_> = client_config(&kafka).create().unwrap();
    let mut until = rdkafka::TopicPartitionList::new();
    until.add_partition_offset(&kafka.facts, 0, rdkafka::Offset::Offset(5)).unwrap();
    admin.delete_records(&until, &rdkafka::admin::AdminOptions::new()).await.unwrap();
    let at = |next_offset| [Position { topic: Topic::Facts, partition: 0, next_offset }];
    let refused = log.consume(&[Topic::Facts], &at(3)).await;
    assert!(matches!(refused, Err(LogError::Gone { wanted: 3, oldest: 5, .. })), "{:?}", refused.err());
    let mut rest = log.consume(&[Topic::Facts], &at(5)).await.unwrap();
    assert_eq!(rest.poll(10, PUBLISH_MAX).await.unwrap()[0].offset, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_delays_a_publish_and_loses_nothing() {
    let (cluster, kafka) = mock("away");
    let log = Arc::new(KafkaLog::open(kafka, TopicOptions::default(), Arc::new(SystemClock)).unwrap());
    log.publish(contract::record(Topic::Recipients, "before", 0).seal()).await.unwrap();
    cluster.broker_down(1).unwrap();
    let publisher = log.clone();
    let records = (0..5000).map(|n| contract::record(Topic::Recipients, &format!("k{}", n % 7), n));
    let published = tokio::spawn(async move { publisher.publish(contract::sealed(records)).await });
    cluster.broker_up(1).unwrap();
    published.await.unwrap().unwrap();
    let mut consumer = log.consume(&[Topic::Recipients], &[]).await.unwrap();
    let mut texts = BTreeSet::new();
    while texts.len() < 5001 {
        let some = consumer.poll(2000, PUBLISH_MAX).await.unwrap();
        assert!(!some.is_empty(), "{} of 5001", texts.len());
        texts.extend(some.into_iter().map(|r| r.payload));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_is_in_trouble_until_it_is_back() {
    let (cluster, kafka) = mock("trouble");
    let address = kafka.brokers[0].clone();
    let log = KafkaLog::open(kafka, TopicOptions::default(), Arc::new(SystemClock)).unwrap();
    log.publish(contract::record(Topic::Recipients, "before", 0).seal()).await.unwrap();
    assert_eq!(log.trouble(), None);
    cluster.broker_down(1).unwrap();
    let until = async |wanted: fn(Option<String>, &str) -> bool| {
        let waiting = async {
            while !wanted(log.trouble(), &address) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PUBLISH_MAX, waiting).await.unwrap_or_else(|_| panic!("{:?}", log.trouble()));
    };
    until(|trouble, address| trouble.is_some_and(|words| words.contains(address))).await;
    cluster.broker_up(1).unwrap();
    until(|trouble, _| trouble.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_met_a_fatal_error_is_replaced_by_the_next_publish() {
    let (cluster, kafka) = mock("fatal");
    // The brokers refuse the idempotent producer its number, as where an ACL is missing: that one never asks again.
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED]);
    let log = KafkaLog::open(kafka, TopicOptions::default(), Arc::new(SystemClock)).unwrap();
    let publish = async || log.publish(contract::record(Topic::Recipients, "a", 0).seal()).await;
    // The first is refused, or comes when the error is known already.
    let first = publish().await;
    assert!(matches!(first, Ok(()) | Err(LogError::Unavailable(_))), "{first:?}");
    publish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_behind_the_end_is_gone() {
    let (_cluster, kafka) = mock("gone");
    let log = KafkaLog::open(kafka, TopicOptions::default(), Arc::new(SystemClock)).unwrap();
    let position = Position { topic: Topic::Facts, partition: 0, next_offset: 9 };
    let refused = log.consume(&[Topic::Facts], &[position]).await;
    assert!(matches!(refused, Err(LogError::Gone { wanted: 9, .. })), "{:?}", refused.err());
}

#[test]
fn headers_are_the_attributes_of_a_cloud_event() {
    use rdkafka::message::Headers;
    let batch = contract::record(Topic::Facts, "a", 1_764_072_684_000);
    let headers = headers(&batch.records().next().unwrap());
    let texts: Vec<String> = headers.iter().map(|h| format!("{}={}", h.key, String::from_utf8_lossy(h.value.unwrap()))).collect();
    assert_eq!(
        texts.join(" "),
        "ce_specversion=1.0 ce_id=a/1764072684000 ce_source=/organizations/acme ce_type=postwarm.test.v1 \
         ce_time=2025-11-25T12:11:24.000Z content-type=application/json"
    );
}
