//! Metrics in OpenMetrics text, made of the view at each request.
//!
//! Names end in their unit, and counters in `_total`. Every metric has the label `site`; other labels have values that the
//! configuration bounds (sinks, streams, routes), or this code (kinds, reasons, threads): none is a file or a program.
//! Counters begin anew with the process. Each is described in `docs/monitoring.md`, which a test holds to be true.

use super::view::{About, View};
use crate::status::{SinkStatus, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;

/// What a scraper is told that it gets.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as of a view.
pub(super) fn expose(view: Arc<View>, about: About) -> Result<String, Error> {
    let site = (Cow::Borrowed("site"), Cow::Owned(about.site.clone()));
    let mut registry = Registry::with_labels(std::iter::once(site));
    registry.register_collector(Box::new(Scrape { view, about }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    view: Arc<View>,
    about: About,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut sheet = Sheet(encoder);
        self.process(&mut sheet)?;
        if let Some(status) = &self.view.captured {
            self.captured(&mut sheet, status)?;
        }
        if let Some(status) = &self.view.applied {
            sheet.counter(
                "counterfoil_events_received",
                "Events taken from Kafka",
                [(labels([]), status.events)],
            )?;
        }
        let halves = [&self.view.captured, &self.view.applied];
        let sinks = halves.into_iter().flatten().flat_map(|half| &half.sinks);
        self.sinks(&mut sheet, &sinks.collect())
    }
}

impl Scrape {
    fn process(&self, sheet: &mut Sheet<'_>) -> Result<(), Error> {
        let (view, about) = (&self.view, &self.about);
        sheet.info(
            "counterfoil_build",
            "The release, and which halves the process has",
            &labels([("version", env!("CARGO_PKG_VERSION")), ("role", about.role)]),
        )?;
        sheet.gauge(
            "process_start_time",
            "When the process started, since 1970",
            Some(&Unit::Seconds),
            [(labels([]), about.started_ns as f64 / 1e9)],
        )?;
        if let Some(bytes) = resident_bytes() {
            sheet.gauge(
                "process_resident_memory",
                "Memory of the process that is in RAM",
                Some(&Unit::Bytes),
                [(labels([]), bytes)],
            )?;
        }
        let health = view.health();
        sheet.gauge(
            "counterfoil_healthy",
            "1 while all threads go on, as /healthz says",
            None,
            [(labels([]), flag(health.healthy))],
        )?;
        let readiness = view.readiness(about);
        sheet.gauge(
            "counterfoil_ready",
            "1 while data flows, as /readyz says",
            None,
            [(labels([]), flag(readiness.ready))],
        )?;
        sheet.gauge(
            "counterfoil_problems",
            "How much is wrong at present, as status says",
            None,
            [(labels([]), readiness.problems.len() as f64)],
        )?;
        let silences = view.threads.silences.iter();
        sheet.gauge(
            "counterfoil_thread_silence",
            "For how long a thread hasn't gone on though it should have",
            Some(&Unit::Seconds),
            silences.map(|(thread, silence)| {
                (labels([("thread", thread.as_str())]), silence.as_secs_f64())
            }),
        )
    }

    fn captured(&self, sheet: &mut Sheet<'_>, status: &Status) -> Result<(), Error> {
        let coverage = &status.coverage;
        let by = |label: &'static str, counts: &BTreeMap<String, u64>| {
            let counts = counts.iter();
            let each = counts.map(|(word, &count)| (labels([(label, word.as_str())]), count));
            each.collect::<Vec<_>>()
        };
        sheet.counter(
            "counterfoil_captured_operations",
            "Operations taken from captured programs, by kind",
            by("kind", &coverage.operations),
        )?;
        sheet.counter(
            "counterfoil_records",
            "Records by the way they came: written by a captured program, found by reading again, loaded at first sight",
            [
                (labels([("way", "captured")]), coverage.records_captured),
                (labels([("way", "found")]), coverage.records_found),
                (labels([("way", "loaded")]), coverage.records_loaded),
            ],
        )?;
        sheet.counter(
            "counterfoil_rereads",
            "Ranges of files that were to be read again, by reason",
            by("reason", &coverage.rereads),
        )?;
        sheet.counter(
            "counterfoil_compared_ranges",
            "Ranges read again and compared, by result",
            [
                (labels([("result", "equal")]), coverage.compared_equal),
                (
                    labels([("result", "different")]),
                    coverage.compared_different,
                ),
            ],
        )?;
        sheet.counter(
            "counterfoil_units_cut",
            "Units of work cut because they were too long or too large",
            [(labels([]), status.units_cut)],
        )?;
        sheet.counter(
            "counterfoil_events_published",
            "Events published",
            [(labels([]), status.events)],
        )?;
        let uncaptured = coverage.uncaptured.iter().filter(|program| program.open);
        let about = &self.about;
        for (name, help, unit, value) in [
            (
                "counterfoil_journal_size",
                "Bytes in the journal",
                Some(&Unit::Bytes),
                status.journal_bytes as f64,
            ),
            (
                "counterfoil_journal_limit",
                "Bytes that the journal may have (journal.bytes_max)",
                Some(&Unit::Bytes),
                about.journal_bytes_max as f64,
            ),
            (
                "counterfoil_lanes_size",
                "Bytes of all lanes",
                Some(&Unit::Bytes),
                status.lane_bytes as f64,
            ),
            (
                "counterfoil_lanes_limit",
                "Bytes that all lanes may have (site.lanes_bytes_max)",
                Some(&Unit::Bytes),
                about.lanes_bytes_max as f64,
            ),
            (
                "counterfoil_journal_end_lsn",
                "First lsn that isn't in the journal",
                None,
                status.journal_end as f64,
            ),
            (
                "counterfoil_published_end_lsn",
                "First lsn that isn't published",
                None,
                status.published_end as f64,
            ),
            ("counterfoil_lanes", "Lanes", None, status.lanes as f64),
            (
                "counterfoil_captured_programs",
                "Captured programs",
                None,
                status.programs as f64,
            ),
            (
                "counterfoil_waiting_programs",
                "Programs that wait for room in their lanes (on_backlog = \"block\")",
                None,
                status.programs_waiting as f64,
            ),
            (
                "counterfoil_uncaptured_programs",
                "Programs that have captured files open for writing without being captured",
                None,
                uncaptured.count() as f64,
            ),
            (
                "counterfoil_hidden_processes",
                "Processes that the replicator's user may not look into",
                None,
                coverage.processes_hidden as f64,
            ),
            (
                "counterfoil_reads_waiting",
                "Files and ranges waiting to be read",
                None,
                status.reads_waiting as f64,
            ),
            (
                "counterfoil_units_open",
                "Units of work open",
                None,
                status.units_open as f64,
            ),
            (
                "counterfoil_refilling",
                "1 while every file is read again, since a target couldn't be brought up otherwise",
                None,
                flag(status.refilling),
            ),
        ] {
            sheet.gauge(name, help, unit, [(labels([]), value)])?;
        }
        Ok(())
    }

    fn sinks(
        &self,
        sheet: &mut Sheet<'_>,
        sinks: &BTreeMap<&String, &SinkStatus>,
    ) -> Result<(), Error> {
        let each = |value: fn(&SinkStatus) -> f64| {
            let of = move |(name, sink): (&&String, &&SinkStatus)| {
                (labels([("sink", name.as_str())]), value(sink))
            };
            sinks.iter().map(of).collect::<Vec<_>>()
        };
        let count = |value: fn(&SinkStatus) -> u64| {
            let of = move |(name, sink): (&&String, &&SinkStatus)| {
                (labels([("sink", name.as_str())]), value(sink))
            };
            sinks.iter().map(of).collect::<Vec<_>>()
        };
        sheet.counter(
            "counterfoil_sink_images",
            "Record images applied (to the sink kafka: events acknowledged)",
            count(|sink| sink.images),
        )?;
        sheet.counter(
            "counterfoil_sink_batches",
            "Batches applied (to the sink kafka: units of work acknowledged)",
            count(|sink| sink.batches),
        )?;
        sheet.gauge(
            "counterfoil_sink_lag",
            "Time from the end of a program's call to the row, of the last batch",
            Some(&Unit::Seconds),
            each(|sink| sink.lag_ms / 1e3),
        )?;
        sheet.gauge(
            "counterfoil_sink_pending",
            "For how long the oldest of what isn't applied has been waiting, as far as this process has seen; 0 when all is applied",
            Some(&Unit::Seconds),
            each(|sink| sink.pending_ms / 1e3),
        )?;
        sheet.gauge(
            "counterfoil_sink_behind_operations",
            "Operations in the journal, or messages on the topics, that aren't applied",
            None,
            each(|sink| sink.operations_behind as f64),
        )?;
        sheet.gauge(
            "counterfoil_sink_spooled",
            "What waits for the sink on disk while others are further on",
            Some(&Unit::Bytes),
            each(|sink| sink.spooled_bytes as f64),
        )?;
        sheet.gauge(
            "counterfoil_sink_refusing",
            "1 while the sink refuses what it is given",
            None,
            each(|sink| flag(sink.error.is_some())),
        )?;
        sheet.counter(
            "counterfoil_sink_dead_letters_kept",
            "Records that the sink refused and that were kept as dead letters",
            count(|sink| sink.letters_kept),
        )?;
        sheet.counter(
            "counterfoil_sink_dead_letters_made_up",
            "Dead letters that a later change of the record made up for",
            count(|sink| sink.letters_made_up),
        )?;
        sheet.gauge(
            "counterfoil_sink_dead_letters",
            "Records that the sink lacks because it refuses them",
            None,
            each(|sink| sink.letters_open as f64),
        )?;
        sheet.gauge(
            "counterfoil_sink_verified_files",
            "Files that the last rounds of verification compared with what the sink has of them",
            None,
            each(|sink| sink.verified.files as f64),
        )?;
        sheet.gauge(
            "counterfoil_sink_different_files",
            "Those of them of which something differed",
            None,
            each(|sink| sink.verified.different as f64),
        )?;
        sheet.gauge(
            "counterfoil_sink_verified_oldest_timestamp",
            "When the round of verification ended that is the longest ago, since 1970; 0: there was none",
            Some(&Unit::Seconds),
            each(|sink| sink.verified.oldest_ns as f64 / 1e9),
        )?;
        sheet.gauge(
            "counterfoil_sink_stopped_files",
            "Files that are passed over because the sink refuses something of them",
            None,
            each(|sink| sink.stopped.len() as f64),
        )?;
        let positions = || {
            sinks.iter().flat_map(|(name, sink)| {
                sink.positions.iter().filter_map(move |(stream, position)| {
                    let (epoch, lsn) = position.split_once('/')?;
                    let labels = labels([("sink", name.as_str()), ("stream", stream.as_str())]);
                    Some((labels, epoch.parse::<f64>().ok()?, lsn.parse::<f64>().ok()?))
                })
            })
        };
        sheet.gauge(
            "counterfoil_sink_position_epoch",
            "Epoch of the position that the sink has",
            None,
            positions().map(|(labels, epoch, _)| (labels, epoch)),
        )?;
        sheet.gauge(
            "counterfoil_sink_position_lsn",
            "Lsn of the position that the sink has",
            None,
            positions().map(|(labels, _, lsn)| (labels, lsn)),
        )?;
        if self.about.routes.is_empty() {
            return Ok(());
        }
        let routes = sinks.iter().flat_map(|(name, sink)| {
            self.about.routes.iter().map(|route| {
                let labels = labels([("sink", name.as_str()), ("route", route.as_str())]);
                (labels, flag(sink.route.as_ref() == Some(route)))
            })
        });
        sheet.gauge(
            "counterfoil_kafka_route",
            "1 for the route to Kafka that is used, or was last",
            None,
            routes,
        )?;
        let preferred = self.about.routes.first();
        let is_preferred = |(name, sink): (&&String, &&SinkStatus)| {
            let labels = labels([("sink", name.as_str())]);
            (labels, flag(sink.route.as_ref() == preferred))
        };
        sheet.gauge(
            "counterfoil_kafka_route_preferred",
            "1 while the first of the routes to Kafka is used",
            None,
            sinks.iter().map(is_preferred),
        )?;
        let Some(kafka) = sinks.get(&KAFKA.to_owned()) else {
            return Ok(());
        };
        sheet.gauge(
            "counterfoil_kafka_queue_events",
            "Events in memory on their way to Kafka",
            None,
            [(labels([]), kafka.queue_events as f64)],
        )?;
        sheet.gauge(
            "counterfoil_kafka_unacknowledged",
            "Bytes sent to Kafka and not acknowledged",
            Some(&Unit::Bytes),
            [(labels([]), kafka.queue_bytes as f64)],
        )
    }
}

/// The cluster's name as of a sink.
const KAFKA: &str = "kafka";

type Labels = Vec<(&'static str, String)>;

fn labels<const N: usize>(labels: [(&'static str, &str); N]) -> Labels {
    labels.map(|(name, value)| (name, value.to_owned())).into()
}

fn flag(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// Writes families of metrics. One without values isn't written.
struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn info(&mut self, name: &str, help: &str, labels: &Labels) -> Result<(), Error> {
        self.0
            .encode_descriptor(name, help, None, MetricType::Info)?
            .encode_info(labels)
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Result<(), Error> {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Result<(), Error> {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let kind = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            family
                .encode_family(&labels)?
                .encode_counter(&value, None::<&Exemplar<Labels, f64>>)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::{about, view};
    use super::*;

    fn full() -> View {
        let mut view = view();
        let captured = view.captured.as_mut().unwrap();
        captured.coverage.operations.insert("write".to_owned(), 7);
        captured.coverage.rereads.insert("gap".to_owned(), 2);
        captured.journal_bytes = 4096;
        let sink = captured.sinks.get_mut("here").unwrap();
        sink.positions
            .insert("hq/pay \"x\"".to_owned(), "3/99".to_owned());
        sink.lag_ms = 12.5;
        sink.pending_ms = 1500.0;
        sink.images = 8;
        sink.route = Some("b".to_owned());
        let kafka = SinkStatus {
            queue_bytes: 77,
            ..SinkStatus::default()
        };
        captured.sinks.insert(KAFKA.to_owned(), kafka);
        view.applied = Some(Status::default());
        view.threads
            .silences
            .insert("publish".to_owned(), std::time::Duration::from_millis(20));
        view
    }

    fn text() -> String {
        expose(Arc::new(full()), about(&["a", "b"])).unwrap()
    }

    #[test]
    fn what_status_says_becomes_metrics() {
        let text = text();
        for line in [
            "counterfoil_captured_operations_total{site=\"hq\",kind=\"write\"} 7",
            "counterfoil_rereads_total{site=\"hq\",reason=\"gap\"} 2",
            "counterfoil_journal_size_bytes{site=\"hq\"} 4096.0",
            "counterfoil_sink_lag_seconds{site=\"hq\",sink=\"here\"} 0.0125",
            "counterfoil_sink_pending_seconds{site=\"hq\",sink=\"here\"} 1.5",
            "counterfoil_sink_images_total{site=\"hq\",sink=\"here\"} 8",
            "counterfoil_sink_position_lsn{site=\"hq\",sink=\"here\",stream=\"hq/pay \\\"x\\\"\"} 99.0",
            "counterfoil_kafka_route{site=\"hq\",sink=\"here\",route=\"a\"} 0.0",
            "counterfoil_kafka_route{site=\"hq\",sink=\"here\",route=\"b\"} 1.0",
            "counterfoil_kafka_route_preferred{site=\"hq\",sink=\"here\"} 0.0",
            "counterfoil_kafka_unacknowledged_bytes{site=\"hq\"} 77.0",
            "counterfoil_events_received_total{site=\"hq\"} 0",
            "process_start_time_seconds{site=\"hq\"} 1700000000.5",
            "# EOF",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn alerts_speak_of_metrics_that_there_are() {
        let alerts = include_str!("../../../packaging/prometheus/alerts.yml");
        let text = text();
        let there: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split('{').next())
            .collect();
        let is_part = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
        let words = alerts.split(|byte| !is_part(byte));
        let named: Vec<&str> = words
            .filter(|word| word.starts_with("counterfoil_"))
            .collect();
        assert!(named.len() > 5, "{named:?}");
        for name in named {
            assert!(there.contains(&name), "no metric is called {name}");
        }
    }

    /// Every metric has its row in the page that describes them.
    #[test]
    fn every_metric_is_described() {
        let page = include_str!("../../../docs/monitoring.md");
        let text = text();
        let names = text.lines().filter(|line| !line.starts_with('#'));
        for name in names.filter_map(|line| line.split('{').next()) {
            assert!(
                page.contains(&format!("`{name}`")),
                "docs/monitoring.md doesn't describe {name}"
            );
        }
    }
}
