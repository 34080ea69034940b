//! What joins the ranks of one fit: the calls that all of them make together.
//!
//! The words are those of MPI and NCCL. A rank that comes to such a call waits for the others; when one of them is gone
//! for good, the call errors instead, so that nobody waits for ever.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result, projection::Columns};

/// One rank's end of the calls that all ranks make together, in the same order.
pub trait Collective: std::fmt::Debug + Send {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// All-reduce: every number becomes its sum over the ranks, the same bits on each.
    ///
    /// # Errors
    /// [`Error::Stopped`] where another rank has ended.
    fn sum(&mut self, numbers: &mut [f64]) -> Result<()>;

    /// Reduce-scatter: this rank's columns of `vectors` become their sum over the ranks; the others mean nothing any more.
    /// `columns` holds those of every rank.
    ///
    /// # Errors
    /// [`Error::Stopped`] where another rank has ended.
    fn sum_columns(&mut self, vectors: &mut Vec<Vec<f32>>, columns: &[Columns]) -> Result<()>;

    /// All-gather: the columns of every other rank are filled in.
    ///
    /// # Errors
    /// [`Error::Stopped`] where another rank has ended.
    fn gather_columns(&mut self, vectors: &mut [Vec<f32>], columns: &[Columns]) -> Result<()>;
}

/// A rank that is a thread of this process.
#[derive(Debug)]
pub struct ThreadRank {
    rank: usize,
    meeting: Arc<Meeting>,
}

impl ThreadRank {
    /// The ends of so many ranks, in order.
    pub fn group(ranks: usize) -> Vec<Self> {
        let round = Round { brought: vec![None; ranks], taken: 0, has_left: false };
        let meeting = Arc::new(Meeting { round: Mutex::new(round), changed: Condvar::new() });
        (0..ranks).map(|rank| Self { rank, meeting: Arc::clone(&meeting) }).collect()
    }

    fn exchange(&self, brought: Brought) -> Result<Vec<Arc<Brought>>> {
        self.meeting.exchange(self.rank, brought)
    }
}

/// The end of one rank ends the others: they find out at the next call.
impl Drop for ThreadRank {
    fn drop(&mut self) {
        self.meeting.lock().has_left = true;
        self.meeting.changed.notify_all();
    }
}

impl Collective for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.meeting.lock().brought.len()
    }

    fn sum(&mut self, numbers: &mut [f64]) -> Result<()> {
        let all = self.exchange(Brought::Numbers(numbers.to_vec()))?;
        numbers.fill(0.0);
        for of_rank in &all {
            numbers.iter_mut().zip(of_rank.numbers()).for_each(|(sum, number)| *sum += number);
        }
        Ok(())
    }

    fn sum_columns(&mut self, vectors: &mut Vec<Vec<f32>>, columns: &[Columns]) -> Result<()> {
        let sizes: Vec<usize> = vectors.iter().map(Vec::len).collect();
        let all = self.exchange(Brought::Vectors(std::mem::take(vectors)))?;
        *vectors = sizes.into_iter().map(|size| vec![0.0; size]).collect();
        for of_rank in &all {
            for ((t, own), sums) in columns[self.rank].ranges().zip(vectors.iter_mut()) {
                let summands = &of_rank.vectors()[t][own.clone()];
                sums[own].iter_mut().zip(summands).for_each(|(sum, summand)| *sum += summand);
            }
        }
        Ok(())
    }

    fn gather_columns(&mut self, vectors: &mut [Vec<f32>], columns: &[Columns]) -> Result<()> {
        let own = columns[self.rank].ranges().map(|(t, own)| vectors[t][own].to_vec()).collect();
        let all = self.exchange(Brought::Vectors(own))?;
        for (columns, of_rank) in columns.iter().zip(&all) {
            for (t, held) in columns.ranges() {
                vectors[t][held].copy_from_slice(&of_rank.vectors()[t]);
            }
        }
        Ok(())
    }
}

/// Where threads exchange what they bring, round after round.
#[derive(Debug)]
struct Meeting {
    round: Mutex<Round>,
    changed: Condvar,
}

#[derive(Debug)]
struct Round {
    /// One a rank; all are taken away when the last rank has seen them.
    brought: Vec<Option<Arc<Brought>>>,
    /// Ranks that have seen what all brought.
    taken: usize,
    has_left: bool,
}

#[derive(Debug)]
enum Brought {
    Numbers(Vec<f64>),
    Vectors(Vec<Vec<f32>>),
}

impl Brought {
    /// Ranks make the same calls in the same order, so nobody brings the other kind.
    fn numbers(&self) -> &[f64] {
        if let Self::Numbers(numbers) = self { numbers } else { &[] }
    }

    fn vectors(&self) -> &[Vec<f32>] {
        if let Self::Vectors(vectors) = self { vectors } else { &[] }
    }
}

impl Meeting {
    /// A rank that panicked has left, which is all there is to know of it.
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        mut round: MutexGuard<'a, Round>,
        until: impl Fn(&Round) -> bool,
    ) -> Result<MutexGuard<'a, Round>> {
        loop {
            if until(&round) {
                return Ok(round);
            }
            if round.has_left {
                return Err(Error::Stopped);
            }
            round = self.changed.wait(round).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What every rank brought, in the order of the ranks.
    fn exchange(&self, rank: usize, brought: Brought) -> Result<Vec<Arc<Brought>>> {
        let mut round = self.wait(self.lock(), |round| round.brought[rank].is_none())?;
        round.brought[rank] = Some(Arc::new(brought));
        self.changed.notify_all();
        let mut round = self.wait(round, |round| round.brought.iter().all(Option::is_some))?;
        let all = round.brought.iter().flatten().cloned().collect();
        round.taken += 1;
        if round.taken == round.brought.len() {
            round.taken = 0;
            round.brought.fill(None);
            self.changed.notify_all();
        }
        Ok(all)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;
    use std::thread;

    /// What every rank of a group returns.
    fn on_ranks<T: Send>(ranks: usize, call: impl Fn(&mut ThreadRank) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let call = &call;
            let threads = ThreadRank::group(ranks).into_iter().map(|mut rank| scope.spawn(move || call(&mut rank)));
            threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_has_the_same_sums_round_after_round() {
        let sums = on_ranks(4, |rank| {
            let mut sums = Vec::new();
            for round in 0..200 {
                let mut numbers = [0.1 * (rank.rank() + 1) as f64, f64::from(round)];
                rank.sum(&mut numbers).unwrap();
                sums.push(numbers);
            }
            sums
        });
        for of_rank in &sums {
            assert_eq!(of_rank, &sums[0]);
            for (round, numbers) in of_rank.iter().enumerate() {
                assert_eq!(*numbers, [0.1 + 0.2 + 0.1 * 3.0 + 0.4, 4.0 * round as f64]);
            }
        }
    }

    #[test]
    fn columns_are_summed_where_they_belong_and_gathered_everywhere() {
        let columns = [Columns::new(vec![0..2, 0..0]), Columns::new(vec![2..3, 0..1])];
        let gathered = on_ranks(2, |rank| {
            let mut vectors = vec![vec![1.0, 2.0, 3.0], vec![10.0 * rank.rank() as f32]];
            rank.sum_columns(&mut vectors, &columns).unwrap();
            rank.gather_columns(&mut vectors, &columns).unwrap();
            vectors
        });
        assert_eq!(gathered, vec![vec![vec![2.0, 4.0, 6.0], vec![10.0]]; 2]);
    }

    #[test]
    fn a_rank_that_ends_lets_nobody_wait_for_ever() {
        let outcomes = on_ranks(3, |rank| {
            let mut numbers = [1.0];
            rank.sum(&mut numbers).unwrap();
            if rank.rank() == 1 { Ok(()) } else { rank.sum(&mut numbers) }
        });
        assert!(outcomes[1].is_ok());
        for rank in [0, 2] {
            assert!(matches!(outcomes[rank], Err(Error::Stopped)), "rank {rank}");
        }
    }
}
