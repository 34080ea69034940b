//! Where times and ids come from.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, SubsecRound, Utc};
use uuid::{ContextV7, Timestamp, Uuid};

/// Source of times and ids.
pub trait Clock: Send + Sync {
    /// The time, to the microsecond: what Postgres keeps.
    fn now(&self) -> DateTime<Utc>;

    /// A fresh `UUIDv7`; later ids of one clock are greater.
    fn new_id(&self) -> Uuid;
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn new_id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// A clock that stands still until it is moved; for tests.
#[derive(Debug)]
pub struct ManualClock(Mutex<Hands>);

#[derive(Debug)]
struct Hands {
    now: DateTime<Utc>,
    counter: ContextV7,
}

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: DateTime<Utc>) -> Self {
        Self(Mutex::new(Hands { now: start.trunc_subsecs(6), counter: ContextV7::new() }))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.hands(|hands| hands.now += by);
    }

    fn hands<T>(&self, f: impl FnOnce(&mut Hands) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.hands(|hands| hands.now)
    }

    fn new_id(&self) -> Uuid {
        self.hands(|hands| {
            let seconds = u64::try_from(hands.now.timestamp()).unwrap_or(0);
            Uuid::new_v7(Timestamp::from_unix(&hands.counter, seconds, hands.now.timestamp_subsec_nanos()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_clock_that_stands_still_rise() {
        let clock = ManualClock::new(DateTime::from_timestamp(1_800_000_000, 0).unwrap());
        let ids: Vec<Uuid> = (0..100).map(|_| clock.new_id()).collect();
        assert!(ids.is_sorted());
    }
}
