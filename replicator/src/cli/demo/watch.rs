//! The counters: what the status file says of the replicators that ran, and how many rows the database has.

use super::stage::Stage;
use counterfoil::config::Config;
use counterfoil::replicator::open_sink_read_only;
use counterfoil::status::{Status, waiting_bytes};
use counterfoil_sinks::Image;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Counting rows may take one part in this many of the time, so that it doesn't slow what it shows.
const COUNTING_SHARE: u32 = 20;
const COUNTING_PAUSE_MIN: Duration = Duration::from_millis(500);

/// The counters so far.
pub(super) struct Watch {
    config: Config,
    begun: Instant,
    /// The last status of each replicator that ran, by when it started. One that was killed may have done a little more
    /// than it had time to say.
    runs: BTreeMap<i64, Status>,
    lags_ms: Vec<f64>,
    batches: (i64, u64),
    rows: u64,
    count_next: Instant,
    is_away: bool,
}

impl Watch {
    pub(super) fn new(stage: &Stage) -> anyhow::Result<Watch> {
        Ok(Watch {
            config: Config::load(&stage.config())?,
            begun: Instant::now(),
            runs: BTreeMap::new(),
            lags_ms: Vec::new(),
            batches: (0, 0),
            rows: 0,
            count_next: Instant::now(),
            is_away: false,
        })
    }

    /// Whether no replicator runs at present, so that there is no lag to speak of.
    pub(super) fn set_away(&mut self, is_away: bool) {
        self.is_away = is_away;
    }

    /// Takes in what can be seen now. What can't be read yet, or for the moment, is left as it was.
    pub(super) fn look(&mut self) {
        if let Ok(Some(status)) = Status::read(&self.config.site.status_path()) {
            if let Some(sink) = status.sinks.values().next()
                && self.batches != (status.started_ns, sink.batches)
                && sink.batches > 0
            {
                self.batches = (status.started_ns, sink.batches);
                self.lags_ms.push(sink.lag_ms);
            }
            self.runs.insert(status.started_ns, status);
        }
        if Instant::now() >= self.count_next {
            let begun = Instant::now();
            if let Ok(rows) = self.rows_by_file() {
                self.rows = rows.values().sum();
            }
            self.count_next =
                Instant::now() + (begun.elapsed() * COUNTING_SHARE).max(COUNTING_PAUSE_MIN);
        }
    }

    /// How many rows each file has in the database, by path.
    pub(super) fn rows_by_file(&self) -> anyhow::Result<BTreeMap<Vec<u8>, u64>> {
        let mut rows = BTreeMap::new();
        for sink in &self.config.sinks {
            let mut sink = open_sink_read_only(sink)?;
            {
                let mut snapshot = sink.snapshot()?;
                for stream in snapshot.streams()? {
                    for file in snapshot.files(&stream)? {
                        let path = file.description.path;
                        let mut count = 0;
                        snapshot.pieces(&stream, &path, &mut |piece| {
                            count += u64::from(matches!(piece.image, Image::Record { .. }));
                            true
                        })?;
                        rows.insert(path, count);
                    }
                }
            }
            sink.close()?;
        }
        Ok(rows)
    }

    /// Operations captured, as far as the replicators said.
    pub(super) fn operations(&self) -> u64 {
        self.runs.values().map(|run| run.operations).sum()
    }

    /// Images of records applied, as far as the replicators said.
    pub(super) fn images(&self) -> u64 {
        let sinks = self.runs.values().flat_map(|run| run.sinks.values());
        sinks.map(|sink| sink.images).sum()
    }

    /// Ranges read again because order or content was in doubt, as far as the replicators said.
    pub(super) fn rereads(&self) -> u64 {
        self.runs.values().map(|run| run.rereads).sum()
    }

    /// Entries of the journal, exactly.
    pub(super) fn journal_entries(&self) -> u64 {
        let ends = self.runs.values().map(|run| run.journal_end);
        ends.max().unwrap_or(1).saturating_sub(1)
    }

    /// Lag of the batches that were seen, in milliseconds: median and worst.
    pub(super) fn lag_ms(&self) -> Option<(f64, f64)> {
        let mut lags = self.lags_ms.clone();
        lags.sort_by(f64::total_cmp);
        Some((*lags.get(lags.len() / 2)?, *lags.last()?))
    }

    /// The counters in one line.
    pub(super) fn line(&self) -> String {
        let operations = self.operations();
        let state = if self.is_away {
            let waiting = waiting_bytes(&self.config.site.lanes);
            format!("replicator away, {} kB wait in lanes", waiting / 1000)
        } else {
            let lag = self.lags_ms.last();
            lag.map_or_else(|| "starting".to_owned(), |lag| format!("lag {lag:.1} ms"))
        };
        format!(
            "{:4.1} s  {operations} operations, {} records applied, {} rows, {state}",
            self.begun.elapsed().as_secs_f64(),
            self.images(),
            self.rows,
        )
    }
}
