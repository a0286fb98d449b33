//! Files that are being loaded, as people see them: a bar in a terminal, a line elsewhere.

use counterfoil::status::LoadStatus;
use counterfoil::words::{about, bytes};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::LazyLock;
use std::time::Duration;

/// Bars at once; a terminal has no room for more.
const BARS_MAX: usize = 8;

/// Everything that is drawn on the terminal, so that lines of the log come above it.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5)));

/// How far a file is.
pub(super) fn line(load: &LoadStatus) -> String {
    let percent = match load.size {
        0 => 100,
        size => load.read.saturating_mul(100) / size,
    };
    let left = load.seconds_left.map_or(String::new(), |seconds| {
        let left = about(Duration::from_secs(seconds));
        format!(", {} a second, {left} left", bytes(load.bytes_per_second))
    });
    format!(
        "loading {}: {} of {} ({percent} %){left}",
        load.path,
        bytes(load.read),
        bytes(load.size),
    )
}

/// The bars of a terminal.
#[derive(Default)]
pub(super) struct Bars(BTreeMap<String, ProgressBar>);

impl Bars {
    /// Draws what is being loaded, where there is a terminal.
    pub(super) fn draw(&mut self, loads: &[LoadStatus]) {
        self.0.retain(|path, bar| {
            let goes_on = loads.iter().any(|load| load.path == *path);
            if !goes_on {
                bar.finish_and_clear();
                BARS.remove(bar);
            }
            goes_on
        });
        for load in loads.iter().take(BARS_MAX) {
            let bar = self.0.entry(load.path.clone()).or_insert_with(|| {
                let bar = BARS.add(ProgressBar::new(load.size));
                let style = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left";
                bar.set_style(
                    ProgressStyle::with_template(style)
                        .unwrap_or_else(|_| ProgressStyle::default_bar()),
                );
                bar.set_message(load.path.clone());
                bar
            });
            bar.set_length(load.size);
            bar.set_position(load.read);
        }
    }
}

/// Writes to standard error, above the bars.
pub(crate) struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
