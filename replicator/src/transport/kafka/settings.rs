//! What a topic is set to, and what of it endangers events.
//!
//! A topic may be made by somebody else, or changed at any time. What isn't known (a broker may not tell, or forbid to
//! ask) is nothing to complain about.

use super::{ANSWER_WITHIN, Reader, block_on, client_config};
use crate::config::{Kafka, Route};
use anyhow::{Context as _, Result};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer as _;
use std::collections::BTreeMap;

/// Retention below which a weekend is enough to lose events, whatever [kafka] says.
const RETENTION_MS_MIN: i64 = 24 * 3_600_000;
/// The smallest parts that large events are sent in.
pub const MESSAGE_BYTES_MIN: usize = 16 << 10;

/// A topic as the cluster has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, String>,
    /// Brokers that the cluster has.
    pub brokers: usize,
    /// Of the partition that has the fewest: how many copies there are to be.
    pub copies: usize,
    /// Of the partition that has the fewest: how many of them are up to date.
    pub in_sync: usize,
}

/// Something about a topic that may cost events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Danger {
    /// It does cost some if nothing is done; otherwise it is a matter of judgement.
    pub certain: bool,
    /// What is so, and what it leads to.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl Settings {
    /// Asks for them.
    ///
    /// # Errors
    /// The brokers don't answer, or may not be asked.
    pub fn of(kafka: &Kafka, route: &Route, reader: &Reader, topic: &str) -> Result<Settings> {
        let asking = || format!("asking for the settings of the topic {topic}");
        let metadata = reader
            .fetch_metadata(Some(topic), ANSWER_WITHIN)
            .with_context(asking)?;
        let mut settings = Settings {
            brokers: metadata.brokers().len(),
            ..Settings::default()
        };
        if let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) {
            let partitions = found.partitions();
            let least = |count: fn(&rdkafka::metadata::MetadataPartition) -> usize| {
                partitions.iter().map(count).min().unwrap_or(0)
            };
            settings.copies = least(|partition| partition.replicas().len());
            settings.in_sync = least(|partition| partition.isr().len());
        }
        let admin: AdminClient<DefaultClientContext> = client_config(kafka, route)?
            .create()
            .context("setting up a Kafka client")?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN));
        let described =
            block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options))
                .with_context(asking)?;
        for resource in described {
            let resource = resource
                .map_err(|code| anyhow::anyhow!("{code}"))
                .with_context(asking)?;
            let values = resource.entries.into_iter();
            settings
                .values
                .extend(values.filter_map(|entry| Some((entry.name, entry.value?))));
        }
        Ok(settings)
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.values.get(key)?.parse().ok()
    }

    /// How long events are kept, in milliseconds, where that is limited.
    pub fn retention_ms(&self) -> Option<i64> {
        self.number("retention.ms").filter(|ms| *ms >= 0)
    }

    /// How many bytes of a partition are kept, where that is limited.
    pub fn retention_bytes(&self) -> Option<i64> {
        self.number("retention.bytes").filter(|bytes| *bytes >= 0)
    }

    /// How large a message may be, where that is known.
    pub fn message_bytes_max(&self) -> Option<usize> {
        usize::try_from(self.number("max.message.bytes")?).ok()
    }

    /// What of it endangers events, by what `[kafka]` asks for.
    pub fn dangers(&self, kafka: &Kafka) -> Vec<Danger> {
        let mut dangers = Vec::new();
        let mut add = |certain, message: String, help: &str| {
            dangers.push(Danger {
                certain,
                message,
                help: help.to_owned(),
            });
        };
        let policy = self.values.get("cleanup.policy").map_or("", String::as_str);
        if policy.contains("compact") {
            let chosen = kafka.topic.get("cleanup.policy");
            let is_chosen = chosen.is_some_and(|chosen| chosen.contains("compact"));
            add(
                !is_chosen,
                format!(
                    "is compacted (cleanup.policy={policy}): events of ranges and whole files are then kept or dropped out of step with those of records, so a target that reads late gets wrong rows if a file is ever truncated, removed or renamed"
                ),
                "set cleanup.policy=delete on the topic",
            );
        }
        let wanted: Option<i64> = kafka
            .topic
            .get("retention.ms")
            .and_then(|value| value.parse().ok());
        if let Some(kept) = self.retention_ms()
            && wanted.is_some_and(|wanted| wanted < 0 || kept < wanted)
        {
            add(
                kept < RETENTION_MS_MIN,
                format!(
                    "keeps events for {} (retention.ms={kept}), less than [kafka] says: a target that is away for longer needs every file read again",
                    crate::words::about(std::time::Duration::from_millis(kept.unsigned_abs()))
                ),
                "raise retention.ms of the topic, or write the shorter time into [kafka]",
            );
        }
        if let Some(kept) = self.retention_bytes()
            && kafka.topic.get("retention.bytes") != Some(&kept.to_string())
        {
            add(
                false,
                format!(
                    "keeps {} of a partition (retention.bytes={kept}): much written at once may push out what a target hasn't applied, whatever the time",
                    crate::words::bytes(kept.unsigned_abs())
                ),
                "set retention.bytes=-1 on the topic, or say that it is meant in [kafka.topic]",
            );
        }
        let insync_min = self.number("min.insync.replicas");
        if let Some(min) = insync_min.and_then(|min| usize::try_from(min).ok()) {
            if self.copies > 0 && self.copies < min {
                add(
                    true,
                    format!(
                        "has {} copies and takes nothing with fewer than {min} (min.insync.replicas): nothing can be sent to it",
                        self.copies
                    ),
                    "raise the topic's replication, or lower its min.insync.replicas",
                );
            } else if self.in_sync < min {
                add(
                    true,
                    format!(
                        "has {} of its {} copies up to date and takes nothing with fewer than {min} (min.insync.replicas): nothing can be sent to it",
                        self.in_sync, self.copies
                    ),
                    "see which brokers are down",
                );
            } else if self.copies > 1 && min < 2 {
                add(
                    false,
                    format!(
                        "acknowledges what one of its {} copies has (min.insync.replicas={min}): what that broker loses before the others have it is lost",
                        self.copies
                    ),
                    "set min.insync.replicas=2 on the topic",
                );
            }
        }
        if self.copies == 1 && self.brokers > 1 {
            add(
                false,
                format!(
                    "has one copy on a cluster of {} brokers: what is on it is gone with its broker",
                    self.brokers
                ),
                "raise its replication with kafka-reassign-partitions, or make it anew with `replication` in [kafka]",
            );
        }
        if self
            .values
            .get("unclean.leader.election.enable")
            .is_some_and(|value| value == "true")
        {
            add(
                false,
                "lets copies lead that aren't up to date (unclean.leader.election.enable): acknowledged events may be lost".to_owned(),
                "set unclean.leader.election.enable=false on the topic",
            );
        }
        if let Some(max) = self.message_bytes_max() {
            if max < MESSAGE_BYTES_MIN {
                add(
                    true,
                    format!(
                        "takes messages of at most {max} bytes (max.message.bytes): events that aren't as small are refused"
                    ),
                    "raise max.message.bytes of the topic; Kafka's default is 1048588",
                );
            } else if max < kafka.message_bytes_max {
                add(
                    false,
                    format!(
                        "takes messages of at most {max} bytes (max.message.bytes), less than message_bytes_max: every start finds that out by being refused"
                    ),
                    "lower message_bytes_max in [kafka], or raise max.message.bytes of the topic",
                );
            }
        }
        for key in [
            "message.timestamp.before.max.ms",
            "message.timestamp.difference.max.ms",
        ] {
            let type_is_own = self
                .values
                .get("message.timestamp.type")
                .is_none_or(|kind| kind == "CreateTime");
            if let Some(max) = self.number(key)
                && type_is_own
                && max < wanted.unwrap_or(i64::MAX).max(RETENTION_MS_MIN)
            {
                add(
                    false,
                    format!(
                        "refuses messages older than {} ({key}): what the journal kept during an outage that long is refused",
                        crate::words::about(std::time::Duration::from_millis(max.unsigned_abs()))
                    ),
                    "leave that setting at its default",
                );
            }
        }
        dangers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka(topic: &[(&str, &str)]) -> Kafka {
        Kafka {
            topic_prefix: "cf".to_owned(),
            routes: Vec::new(),
            streams: Vec::new(),
            message_bytes_max: 1_000_000,
            create: true,
            replication: None,
            topic: owned(topic),
            client: BTreeMap::new(),
            password_file: None,
            tombstones: false,
            ordering: crate::config::Ordering::Group,
            partitions: None,
            instance: None,
            registry: None,
            read_again_on_request: true,
            read_again_interval: std::time::Duration::ZERO,
        }
    }

    fn owned(values: &[(&str, &str)]) -> BTreeMap<String, String> {
        let values = values.iter();
        values
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn topic(values: &[(&str, &str)]) -> Settings {
        Settings {
            values: owned(values),
            brokers: 3,
            copies: 3,
            in_sync: 3,
        }
    }

    #[test]
    fn what_endangers_events_is_told_and_what_is_chosen_less_loudly() {
        let week = [("retention.ms", "604800000")];
        let told = |settings: &Settings, kafka: &Kafka| -> Vec<(bool, String)> {
            let dangers = settings.dangers(kafka).into_iter();
            dangers
                .map(|danger| (danger.certain, danger.message))
                .collect()
        };
        let good = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "-1"),
            ("min.insync.replicas", "2"),
            ("max.message.bytes", "1048588"),
            ("message.timestamp.before.max.ms", "9223372036854775807"),
            ("unclean.leader.election.enable", "false"),
        ];
        assert_eq!(told(&topic(&good), &kafka(&week)), []);
        assert_eq!(told(&Settings::default(), &kafka(&week)), []);
        for (bad, certain, words) in [
            (("cleanup.policy", "compact,delete"), true, "is compacted"),
            (("retention.ms", "3600000"), true, "for 60 minutes"),
            (("retention.ms", "172800000"), false, "for 2 days"),
            (("retention.bytes", "1048576"), false, "keeps 1.0 MiB"),
            (("min.insync.replicas", "4"), true, "nothing can be sent"),
            (("min.insync.replicas", "1"), false, "one of its 3 copies"),
            (("max.message.bytes", "1000"), true, "at most 1000 bytes"),
            (("max.message.bytes", "50000"), false, "being refused"),
            (
                ("message.timestamp.before.max.ms", "3600000"),
                false,
                "older than",
            ),
            (
                ("unclean.leader.election.enable", "true"),
                false,
                "may be lost",
            ),
        ] {
            let mut settings = topic(&good);
            settings.values.extend(owned(&[bad]));
            let told = told(&settings, &kafka(&week));
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!(told[0].0, certain, "{told:?}");
            assert!(told[0].1.contains(words), "{told:?}");
        }
        let chosen = kafka(&[("cleanup.policy", "compact")]);
        let compacted = topic(&[("cleanup.policy", "compact")]);
        assert!(!told(&compacted, &chosen)[0].0);
        let behind = Settings {
            in_sync: 1,
            ..topic(&good)
        };
        assert!(
            told(&behind, &kafka(&week))[0]
                .1
                .contains("1 of its 3 copies up to date")
        );
        let single = Settings {
            copies: 1,
            ..topic(&[])
        };
        assert!(
            told(&single, &kafka(&week))[0]
                .1
                .contains("gone with its broker")
        );
    }
}
