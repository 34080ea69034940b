//! What Linux says of this process; zeros elsewhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Most memory this process has held, pages of mapped files included.
pub fn peak_rss_bytes() -> u64 {
    status("VmHWM:")
}

/// Memory this process holds, without mapped pages of files.
pub fn held_bytes() -> u64 {
    status("RssAnon:")
}

/// Processor time of all threads so far, in seconds, in steps of 10 ms.
pub fn cpu_seconds() -> f64 {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; user and system time are the 12th and 13th field after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_A_SECOND
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The most memory this process holds without mapped pages of files, read every millisecond by a thread of its own.
pub struct HeldPeak {
    peak: Arc<AtomicU64>,
}

impl HeldPeak {
    /// Starts to watch.
    pub fn watch() -> Self {
        let peak = Arc::new(AtomicU64::new(0));
        let shared = Arc::downgrade(&peak);
        std::thread::spawn(move || {
            while let Some(peak) = shared.upgrade() {
                peak.fetch_max(held_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { peak }
    }

    /// The most so far.
    pub fn bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}
