//! The cluster: whether each route leads to it, and its topics are fit.

use super::Finding;
use counterfoil::config::{Config, Kafka, Route};
use counterfoil::transport::kafka::{reader, topics};

/// A finding or more for every route, and for every topic by the first route that answers.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let Some(kafka) = &config.kafka else {
        return Vec::new();
    };
    let own = config.own_streams();
    let mut streams = config.applied_streams();
    streams.extend(own.iter().cloned());
    streams.sort_unstable();
    streams.dedup();
    let topics: Vec<(String, bool)> = streams
        .iter()
        .map(|stream| (kafka.topic(stream), own.contains(stream)))
        .collect();
    let mut findings = Vec::new();
    let mut looked = false;
    for route in &kafka.routes {
        let subject = format!("route {} ({})", route.name, route.bootstrap);
        match look(kafka, route, &topics) {
            Ok(found) => {
                findings.push(Finding::ok("kafka", subject, "answers"));
                if !looked {
                    findings.extend(found);
                }
                looked = true;
            }
            Err(error) => findings.push(Finding::error(
                "kafka",
                subject,
                format!("{error:#}"),
                "see that brokers run there and may be reached from here, and look at [kafka.client] for TLS and SASL",
            )),
        }
    }
    findings
}

/// `topics` with whether this site sends to them.
fn look(kafka: &Kafka, route: &Route, topics: &[(String, bool)]) -> anyhow::Result<Vec<Finding>> {
    let (reader, told) = reader(kafka, route, &format!("{}.check", kafka.topic_prefix))?;
    topics::answers(&reader).map_err(|error| match told.take() {
        Some(reason) => error.context(reason),
        None => error,
    })?;
    let finding = |(topic, is_own): &(String, bool)| match topics::partitions(&reader, topic) {
        Ok(Some(count)) => match topics::check_partitions(kafka, topic, count) {
            Err(error) if *is_own => Finding::error(
                "kafka",
                topic,
                error.to_string(),
                "nothing is sent to it before that is done",
            ),
            Ok(()) | Err(_) if count == 1 => {
                Finding::ok("kafka", topic, "is there, with one partition")
            }
            Ok(()) | Err(_) => {
                Finding::ok("kafka", topic, format!("is there, with {count} partitions"))
            }
        },
        Ok(None) if kafka.create => Finding::ok("kafka", topic, "will be made by `capture`"),
        Ok(None) => Finding::error(
            "kafka",
            topic,
            "isn't there",
            format!(
                "make it, with partitions: {}, or set create_topics = true",
                kafka.partitions_made()
            ),
        ),
        Err(error) => Finding::error(
            "kafka",
            topic,
            format!("{error:#}"),
            "see that this user may describe it",
        ),
    };
    Ok(topics.iter().map(finding).collect())
}
