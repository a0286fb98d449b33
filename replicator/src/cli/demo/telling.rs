//! What the demo tells while it runs: a progress line on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often the counters are printed when they can't be drawn over.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Where it is told.
pub(super) struct Telling {
    bar: Option<ProgressBar>,
    begun: Instant,
    line_next: Instant,
}

impl Telling {
    /// On standard output, for something that takes about so many seconds.
    pub(super) fn new(seconds: u64) -> Telling {
        let begun = Instant::now();
        let bar = std::io::stdout().is_terminal().then(|| {
            let length_ms = seconds.saturating_mul(1000);
            let bar = ProgressBar::with_draw_target(Some(length_ms), ProgressDrawTarget::stdout());
            // The template is a constant; were it wrong, the default would do.
            if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Telling {
            bar,
            begun,
            line_next: begun + LINE_EVERY,
        }
    }

    /// Says something that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) if !bar.is_finished() => bar.println(text),
            _ => print(text),
        }
    }

    /// Shows the counters as they are now.
    pub(super) fn show(&mut self, counters: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.begun.elapsed().as_millis() as u64);
            bar.set_message(counters.to_owned());
        } else if Instant::now() >= self.line_next {
            self.line_next = Instant::now() + LINE_EVERY;
            print(counters);
        }
    }

    /// No more counters.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// Nobody may be there to read it (`demo | head`), which is no reason to stop half-way.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
