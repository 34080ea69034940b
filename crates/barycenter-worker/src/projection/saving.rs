//! A projection on its way into the worker's cache, and from there to the server's, beside the fit.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use barycenter_core::{Error, Result, projection::Projection};
use barycenter_faults::{self as faults, Point};

use crate::sharing::{Offer, Sharing};

/// Writes a projection on a thread of its own. Whoever drops it stops the writing and waits until the file is whole or gone.
#[derive(Debug)]
pub(crate) struct Saving {
    path: PathBuf,
    is_abandoned: Arc<AtomicBool>,
    writer: Option<JoinHandle<Result<()>>>,
}

impl Saving {
    /// Begins to write; what is written is offered to the server, if anything is.
    pub fn begin(projection: Arc<Projection>, path: PathBuf, offer: Option<(Arc<Sharing>, Offer)>) -> Result<Self> {
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let (told, file) = (Arc::clone(&is_abandoned), path.clone());
        let write = move || {
            projection.save_in_pieces(&file, &mut |written, bytes| {
                if written * 2 >= bytes {
                    faults::pass_blocking(Point::WorkerSaving);
                }
                if told.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
            })?;
            drop(projection);
            if let Some((sharing, offer)) = offer {
                sharing.offer(offer);
            }
            Ok(())
        };
        let writer = thread::Builder::new().name("save-projection".to_owned()).spawn(write);
        let writer = Some(writer.map_err(|e| Error::io(&path, e))?);
        Ok(Self { path, is_abandoned, writer })
    }

    /// Waits until the file is written.
    pub fn finish(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        writer.join().unwrap_or_else(|_| Err(Error::io(&self.path, io::Error::other("the thread that writes it died"))))
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        // Nobody is left to be told how it ended.
        let _ = self.join();
    }
}
