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

#[cfg(test)]
mod tests {
    use super::{super::sample::projection, *};

    #[test]
    fn a_projection_is_written_beside_its_use_and_is_its_owners_alone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        let own = Arc::new(projection());
        Saving::begin(Arc::clone(&own), path.clone(), None).unwrap().finish().unwrap();
        assert_eq!(Projection::load(path).unwrap(), Arc::into_inner(own).unwrap());
    }

    #[test]
    fn a_file_is_whole_or_gone_as_soon_as_its_writer_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let own = Arc::new(projection());
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            drop(Saving::begin(Arc::clone(&own), folder.path().join(name), None).unwrap());
        }
        for entry in std::fs::read_dir(&folder).unwrap() {
            assert_eq!(Projection::load(entry.unwrap().path()).unwrap(), *own);
        }
        assert!(Arc::into_inner(own).is_some(), "no thread has it any more");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_to_whoever_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no/abc");
        let error = Saving::begin(Arc::new(projection()), path, None).unwrap().finish().unwrap_err();
        assert!(error.to_string().contains("no/abc"), "{error}");
    }
}
