//! How far an import is.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::size::human;
use crate::image::import::Progress;
use crate::image::store::LayerRecord;

/// Nothing is told.
pub(super) struct Quiet;

impl Progress for Quiet {
    fn begin(&mut self, _: &[(Option<u64>, Arc<AtomicU64>)]) {}
    fn tick(&mut self) {}
    fn done(&mut self, _: usize, _: &LayerRecord, _: bool) {}
}

/// A line for each layer that is complete.
#[derive(Debug, Default)]
pub(super) struct Lines {
    count: usize,
}

impl Progress for Lines {
    fn begin(&mut self, layers: &[(Option<u64>, Arc<AtomicU64>)]) {
        self.count = layers.len();
    }

    fn tick(&mut self) {}

    fn done(&mut self, number: usize, record: &LayerRecord, reused: bool) {
        let line = format!(
            "layer {} of {}: {}\n",
            number + 1,
            self.count,
            outcome(record, reused)
        );
        let _nowhere_to_report = std::io::stderr().write_all(line.as_bytes());
    }
}

fn outcome(record: &LayerRecord, reused: bool) -> String {
    if reused {
        return "is there already".to_owned();
    }
    let listing = &record.listing;
    format!("{} files, {}", listing.entries, human(listing.bytes))
}

/// A bar for each layer, on a terminal.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    bars: Vec<(ProgressBar, Arc<AtomicU64>)>,
}

impl Bars {
    /// Bars, if there is a terminal to show them on.
    pub(super) fn if_terminal() -> Option<Self> {
        std::io::stderr().is_terminal().then(|| Self {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            bars: Vec::new(),
        })
    }
}

impl Progress for Bars {
    fn begin(&mut self, layers: &[(Option<u64>, Arc<AtomicU64>)]) {
        let style =
            ProgressStyle::with_template("{prefix} {bar:30} {bytes:>11} of {total_bytes} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
        let count = layers.len();
        for (number, (size, read)) in layers.iter().enumerate() {
            let bar = self.all.add(ProgressBar::new(size.unwrap_or(0)));
            bar.set_style(style.clone());
            bar.set_prefix(format!("layer {} of {count}", number + 1));
            self.bars.push((bar, Arc::clone(read)));
        }
        self.tick();
    }

    fn tick(&mut self) {
        for (bar, read) in &self.bars {
            if !bar.is_finished() {
                bar.set_position(read.load(Ordering::Relaxed));
            }
        }
    }

    fn done(&mut self, number: usize, record: &LayerRecord, reused: bool) {
        if let Some((bar, _)) = self.bars.get(number) {
            bar.set_position(bar.length().unwrap_or(0));
            bar.finish_with_message(outcome(record, reused));
        }
    }
}

impl Drop for Bars {
    /// What comes after it begins on a line of its own.
    fn drop(&mut self) {
        for (bar, _) in &self.bars {
            if !bar.is_finished() {
                bar.abandon();
            }
        }
    }
}
