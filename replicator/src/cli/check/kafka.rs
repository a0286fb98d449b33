//! The cluster: whether each route leads to it, and its topics are fit.

use super::Finding;
use counterfoil::config::{Config, Kafka, Route};
use counterfoil::transport::kafka::advice::advice;
use counterfoil::transport::kafka::settings::Settings;
use counterfoil::transport::kafka::{Reader, reader, reason, topics};

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
                help(kafka, &format!("{error:#}")),
            )),
        }
    }
    findings
}

/// What to do, and the files and names that it is about.
fn help(kafka: &Kafka, error: &str) -> String {
    let default = "see that brokers run there and may be reached from here, and look at [kafka.client] for TLS and SASL";
    let mut help = advice(error).unwrap_or(default).to_owned();
    let client = kafka.client.iter();
    let mut named: Vec<String> = client
        .filter(|(key, _)| help.contains(key.as_str()) || error.contains(key.as_str()))
        .map(|(key, value)| format!("{key} is {value}"))
        .collect();
    if let Some(path) = &kafka.password_file
        && help.contains("password_file")
    {
        named.push(format!("password_file is {}", path.display()));
    }
    if !named.is_empty() {
        help += &format!(" ({})", named.join(", "));
    }
    help
}

/// `topics` with whether this site sends to them.
fn look(kafka: &Kafka, route: &Route, topics: &[(String, bool)]) -> anyhow::Result<Vec<Finding>> {
    let (reader, told) = reader(kafka, route, &format!("{}.check", kafka.topic_prefix))?;
    topics::answers(&reader).map_err(|error| match reason(&reader, &told) {
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
    let mut findings: Vec<Finding> = topics.iter().map(finding).collect();
    for (topic, _) in topics {
        if topics::partitions(&reader, topic).is_ok_and(|there| there.is_some()) {
            findings.extend(settings(kafka, route, &reader, topic));
        }
    }
    Ok(findings)
}

/// What a topic is set to that endangers events.
fn settings(kafka: &Kafka, route: &Route, reader: &Reader, topic: &str) -> Vec<Finding> {
    let settings = match Settings::of(kafka, route, reader, topic) {
        Ok(settings) => settings,
        Err(error) => {
            return vec![Finding::warning(
                "kafka",
                topic,
                format!("whether its settings are safe can't be found out: {error:#}"),
                "give this user the right to describe the configurations of topics (DescribeConfigs)",
            )];
        }
    };
    let dangers = settings.dangers(kafka).into_iter();
    dangers
        .map(|danger| {
            let finding = if danger.certain {
                Finding::error
            } else {
                Finding::warning
            };
            finding("kafka", topic, danger.message, danger.help)
        })
        .collect()
}
