//! Progress: a bar on a terminal, plain lines otherwise.

use std::{
    io::{self, IsTerminal},
    sync::Mutex,
};

use barycenter_api::{Progress, client::ByteCounter};
use indicatif::{ProgressBar, ProgressStyle};

/// How far something is, shown on standard error.
#[derive(Debug)]
pub struct Bar {
    live: Option<ProgressBar>,
    /// The last plain line, so that none is told twice.
    last: Mutex<String>,
    quiet: bool,
}

impl Bar {
    /// A bar over so many bytes.
    pub fn of_bytes(total: u64, label: &str, quiet: bool) -> Self {
        Self::new(total, label, "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}", quiet)
    }

    /// A bar over so many things.
    pub fn of_units(total: u64, label: &str, quiet: bool) -> Self {
        Self::new(total, label, "{msg} [{bar:30}] {pos}/{len}", quiet)
    }

    fn new(total: u64, label: &str, template: &str, quiet: bool) -> Self {
        let live = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template(template).expect("the templates of this file are right");
            ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(label.to_owned())
        });
        Self { live, last: Mutex::default(), quiet }
    }

    /// Whether someone looks at a bar.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// A counter that moves the bar.
    pub fn counter(&self) -> ByteCounter {
        match self.live.clone() {
            Some(bar) => ByteCounter::new(move |bytes| bar.set_position(bytes)),
            None => ByteCounter::none(),
        }
    }

    /// Moves the bar.
    pub fn set(&self, done: u64) {
        if let Some(bar) = &self.live {
            bar.set_position(done);
        }
    }

    /// Shows how far a job is; a plain line only where it says something new.
    pub fn show_job(&self, state: &str, progress: Option<&Progress>) {
        let line = job_line(state, progress);
        match (&self.live, progress) {
            (Some(bar), progress) => {
                bar.set_length(progress.map_or(0, |p| p.total));
                bar.set_position(progress.map_or(0, |p| p.done));
                bar.set_message(line);
            }
            (None, _) if self.quiet => {}
            (None, _) => {
                let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if *last != line {
                    eprintln!("{line}");
                    *last = line;
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.live {
            bar.finish_and_clear();
        }
    }
}

/// `running: fit 120/1700, loss 0.5312`
fn job_line(state: &str, progress: Option<&Progress>) -> String {
    let Some(progress) = progress else {
        return state.to_owned();
    };
    let loss = progress.fit_loss.map(|loss| format!(", loss {loss:.4}")).unwrap_or_default();
    format!("{state}: {} {}/{}{loss}", progress.phase, progress.done, progress.total)
}

#[cfg(test)]
mod tests {
    use barycenter_api::Phase;

    use super::*;

    #[test]
    fn a_line_tells_phase_step_and_loss() {
        let progress = Progress { phase: Phase::Fit, done: 120, total: 1700, fit_loss: Some(0.531_24) };
        assert_eq!(job_line("running", Some(&progress)), "running: fit 120/1700, loss 0.5312");
        assert_eq!(job_line("queued", None), "queued");
    }
}
