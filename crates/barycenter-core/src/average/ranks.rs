//! The ranks of a fit as threads of this process: the first one leads, the others follow it step by step.

use std::{panic::resume_unwind, thread};

use super::{Averaging, TwaOptions, fitting::AveragedLoss};
use crate::{
    Error, Result,
    fit::{Collective, Fit, FitOptions, StepReport, ThreadRank},
    projection::Projection,
};

/// The first rank of a fit, or the only one.
pub(super) struct Leader<'p> {
    pub fit: Fit<'p>,
    member: Member,
}

/// What a rank has of its own beside the fit.
struct Member {
    objective: AveragedLoss,
    /// Absent where there is one rank.
    shared: Option<Shared>,
}

struct Shared {
    /// Where the leader tells the others to make a step; when it has gone, no more are to be made.
    signal: ThreadRank,
    /// The rank's part of the threads that the job may use.
    threads: rayon::ThreadPool,
}

impl Leader<'_> {
    /// One step of all ranks together.
    pub fn step(&mut self) -> Result<StepReport> {
        self.member.step(&mut self.fit)
    }
}

impl Member {
    fn step(&mut self, fit: &mut Fit<'_>) -> Result<StepReport> {
        let Some(Shared { signal, threads }) = &mut self.shared else { return fit.step(&mut self.objective) };
        signal.sum(&mut [])?;
        threads.install(|| fit.step(&mut self.objective))
    }

    /// Makes the leader's steps until it makes no more.
    fn follow(mut self, mut fit: Fit<'_>) -> Result<()> {
        loop {
            match self.step(&mut fit) {
                Ok(_) => {}
                Err(Error::Stopped) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Averaging<'_> {
    /// Calls `lead` with the fit's first rank, while threads of this process are the others.
    ///
    /// # Errors
    /// What `lead` returns, or the error of another rank that ended it.
    pub(super) fn with_ranks<'p, T>(
        &self,
        twa: &TwaOptions,
        (projection, options): (&'p Projection, FitOptions),
        fit: Fit<'p>,
        lead: impl FnOnce(Leader<'p>) -> Result<T>,
    ) -> Result<T> {
        if twa.ranks <= 1 {
            return lead(Leader { fit, member: Member { objective: self.objective(0, 1)?, shared: None } });
        }
        let saved = fit.state().clone();
        let mut ranks = ThreadRank::group(twa.ranks).into_iter().zip(ThreadRank::group(twa.ranks));
        let mut join = |fit: Fit<'p>| -> Result<(Fit<'p>, Member)> {
            let (collective, signal) = ranks.next().expect("one for each rank");
            let objective = self.objective(collective.rank(), twa.ranks)?;
            let shared = Some(Shared { signal, threads: threads_of_rank(twa.ranks)? });
            Ok((fit.as_rank(Box::new(collective), twa.sharding), Member { objective, shared }))
        };
        let (fit, member) = join(fit)?;
        let others = (1..twa.ranks)
            .map(|_| join(Fit::resume(projection, options.clone(), saved.clone())?))
            .collect::<Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let others: Vec<_> = others.into_iter().map(|(fit, member)| scope.spawn(|| member.follow(fit))).collect();
            let led = lead(Leader { fit, member });
            let ends: Vec<Result<()>> =
                others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic))).collect();
            ends.into_iter().collect::<Result<()>>()?;
            led
        })
    }
}

/// The threads of one rank.
fn threads_of_rank(ranks: usize) -> Result<rayon::ThreadPool> {
    let threads = (rayon::current_num_threads() / ranks).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|error| Error::input(format!("ranks: the threads of {ranks} ranks could not be started: {error}")))
}
