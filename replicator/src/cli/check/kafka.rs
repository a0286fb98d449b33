//! The cluster: whether each route leads to it, and its topics are fit.

use super::Finding;
use counterfoil::config::{Config, Kafka, Route};
use counterfoil::transport::kafka::{reader, topics};

/// A finding or more for every route, and for every topic by the first route that answers.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let Some(kafka) = &config.kafka else {
        return Vec::new();
    };
    let mut topics = config.applied_streams();
    topics.extend(config.own_streams());
    let mut topics: Vec<String> = topics.iter().map(|stream| kafka.topic(stream)).collect();
    topics.sort_unstable();
    topics.dedup();
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

fn look(kafka: &Kafka, route: &Route, topics: &[String]) -> anyhow::Result<Vec<Finding>> {
    let (reader, told) = reader(kafka, route, &format!("{}.check", kafka.topic_prefix))?;
    topics::answers(&reader).map_err(|error| match told.take() {
        Some(reason) => error.context(reason),
        None => error,
    })?;
    let finding = |topic: &String| match topics::exists(&reader, topic) {
        Ok(true) => Finding::ok("kafka", topic, "is there, with one partition"),
        Ok(false) if kafka.create => Finding::ok("kafka", topic, "will be made by `capture`"),
        Ok(false) => Finding::error(
            "kafka",
            topic,
            "isn't there",
            "make it, with one partition, or set create_topics = true",
        ),
        Err(error) => Finding::error(
            "kafka",
            topic,
            format!("{error:#}"),
            "make it anew with one partition, or choose another topic_prefix",
        ),
    };
    Ok(topics.iter().map(finding).collect())
}
