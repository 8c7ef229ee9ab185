//! The arithmetic of a rate: how much may be taken now, and when the rest.
//!
//! It has no clock: whoever asks says what time it is, as time since an epoch of its own choice.
//!
//! `INVARIANT`: over any span of time, what was taken and had not to be waited for is at most what the rate gives in
//! that span, and one burst.

use std::time::Duration;

/// So many in a time; and how many at once, before that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many, and not none.
    pub count: u64,
    /// In which time.
    pub per: Duration,
    /// How many at once.
    pub burst: u64,
}

impl Rate {
    /// How long it takes to earn `count`.
    fn cost(&self, count: u64) -> Duration {
        let nanoseconds = self.per.as_nanos() * u128::from(count) / u128::from(self.count.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// A leaky bucket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    /// When all that was taken is paid for: the theoretical arrival time of the "generic cell rate algorithm".
    paid_at: Duration,
}

impl Bucket {
    /// Takes one, if there is one.
    ///
    /// # Errors
    /// How long it takes until there is one.
    pub fn take(&mut self, rate: Rate, now: Duration) -> Result<(), Duration> {
        // A clock that was set back owes one burst at most.
        let start = self.paid_at.clamp(now, now.saturating_add(rate.cost(rate.burst)));
        let late = late(rate, start, 1, now);
        if late > Duration::ZERO {
            self.paid_at = start;
            return Err(late);
        }
        self.paid_at = start.saturating_add(rate.cost(1));
        Ok(())
    }

    /// Whether there is none to take.
    #[must_use]
    pub fn is_empty(&self, rate: Rate, now: Duration) -> bool {
        Self { ..*self }.take(rate, now).is_err()
    }

    /// Takes `count`, whether or not it is there, and tells how long it takes until it is. Whoever waits so long before
    /// using it keeps to the rate, and those who wait are served in the order in which they came.
    pub fn book(&mut self, rate: Rate, count: u64, now: Duration) -> Duration {
        let start = self.paid_at.max(now);
        self.paid_at = start.saturating_add(rate.cost(count));
        late(rate, start, count, now)
    }
}

/// How long after `now` it is that `count` beyond what is paid for at `start` fits into the burst. What is larger than
/// the burst fits when the bucket is full.
fn late(rate: Rate, start: Duration, count: u64, now: Duration) -> Duration {
    let room = rate.cost(rate.burst.max(count)).saturating_sub(rate.cost(count));
    start.saturating_sub(now.saturating_add(room))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEN: Rate = Rate { count: 10, per: Duration::from_secs(1), burst: 3 };

    fn at(milliseconds: u64) -> Duration {
        Duration::from_secs(1000) + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::default();
        let mut taken = |milliseconds| bucket.take(TEN, at(milliseconds));
        assert_eq!([taken(0), taken(0), taken(0)], [Ok(()); 3]);
        assert_eq!(taken(0), Err(Duration::from_millis(100)));
        assert_eq!(taken(99), Err(Duration::from_millis(1)));
        assert_eq!((taken(100), taken(100)), (Ok(()), Err(Duration::from_millis(100))));
        assert_eq!([taken(5000), taken(5000), taken(5000)], [Ok(()); 3]);
        assert!(taken(5000).is_err(), "a long silence earns one burst and no more");
    }

    #[test]
    fn asking_takes_nothing() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert!(!bucket.is_empty(TEN, at(0)));
            bucket.take(TEN, at(0)).unwrap();
        }
        assert!(bucket.is_empty(TEN, at(0)) && !bucket.is_empty(TEN, at(100)));
    }

    #[test]
    fn what_is_booked_is_waited_for_in_order() {
        let mut bucket = Bucket::default();
        let mut booked = |count, milliseconds| bucket.book(TEN, count, at(milliseconds)).as_millis();
        assert_eq!([booked(2, 0), booked(1, 0)], [0, 0], "the burst");
        assert_eq!([booked(1, 0), booked(2, 0), booked(1, 0)], [100, 300, 400]);
        assert_eq!(booked(7, 1000), 0, "more than the burst fits into a full bucket");
        assert_eq!(booked(1, 1000), 500);
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nothing_for_longer_than_a_burst() {
        let mut bucket = Bucket::default();
        bucket.take(TEN, at(1_000_000)).unwrap();
        assert_eq!(bucket.take(TEN, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(TEN, at(100)), Ok(()));
    }

    proptest! {
        #[test]
        fn no_more_passes_in_any_time_than_the_rate_and_a_burst(
            count in 1..1_000_000_u64,
            burst in 1..10_000_u64,
            takes in proptest::collection::vec((1..500_u64, 0..50_u64), 1..60),
        ) {
            let rate = Rate { count, per: Duration::from_secs(1), burst };
            let (mut bucket, mut now, mut passed) = (Bucket::default(), at(0), Vec::new());
            for (wanted, rest) in takes {
                now += Duration::from_millis(rest);
                passed.push((now + bucket.book(rate, wanted, now), wanted));
            }
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (to, wanted) in passed.iter().skip(first) {
                    sum += wanted;
                    let earned = (*to - *from).as_secs_f64() * count as f64;
                    // One that is larger than the burst passes whole when its turn has come.
                    prop_assert!(sum as f64 <= earned + burst.max(500) as f64 + 1.0, "{sum} in {:?}", *to - *from);
                }
            }
        }
    }
}
