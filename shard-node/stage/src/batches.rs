//! How many batches of decode rows are under way in a pipeline at once, and how large they are.
//!
//! Left to themselves the rows of many sessions scatter into more batches than there are stages, and where stages share
//! a machine each batch slows down all others. So stage 0 counts the batches that it sent off and that have not come
//! back, and keeps rows back while there are enough of them: as many as stages where these are machines of their own,
//! one where they share a memory bus. Which of the two it is shows in the time of a round: stage 0 tries more and fewer
//! batches now and then and keeps what makes rounds shorter. Pure: times come in as arguments.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The batches of one stage 0, by whatever names a session.
#[derive(Debug, Clone)]
pub struct Batches<K> {
    /// `None` until something else than one for each stage was seen to be better.
    choice: Option<u32>,
    // Bounded by the sessions: each is in one batch at most, and a batch holds at least one.
    under_way: HashMap<u64, UnderWay>,
    by_session: HashMap<K, u64>,
    next: u64,
    /// Mean round of the last window.
    usual: Option<Duration>,
    window: Window,
    trial: Option<Trial>,
    /// The next trial is of more batches rather than of fewer.
    upwards: bool,
    /// Windows to wait before the next trial, and how many the next failure costs.
    wait: u32,
    penalty: u32,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    sessions: u32,
    since: Instant,
}

/// Rounds seen since the window began.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    rows: u64,
    seconds: f64,
    /// Sessions that decoded when it began.
    sessions: u32,
}

#[derive(Debug, Clone, Copy)]
struct Trial {
    before: Option<u32>,
    round: f64,
    /// The batches of before have come back.
    settled: bool,
}

impl<K> Default for Batches<K> {
    fn default() -> Self {
        Self {
            choice: None,
            under_way: HashMap::new(),
            by_session: HashMap::new(),
            next: 0,
            usual: None,
            window: Window::default(),
            trial: None,
            upwards: false,
            wait: 0,
            penalty: FIRST_PENALTY,
        }
    }
}

impl<K: Copy + Eq + Hash> Batches<K> {
    /// Batches that may be under way when so many sessions decode in pipelines of up to `stages` stages.
    pub fn most(&self, sessions: u32, stages: u32) -> u32 {
        self.choice.unwrap_or(stages).min(stages).min(sessions).max(1)
    }

    /// Decode rows that the next step may take; 0 while enough batches are under way.
    pub fn room(&mut self, now: Instant, sessions: u32, stages: u32) -> u32 {
        let patience = self.usual.map_or(LONGEST, |usual| (usual * LATE).clamp(SHORTEST, LONGEST));
        let late = |batch: &UnderWay| now.saturating_duration_since(batch.since) >= patience;
        // One that is held up, by a stage that only some sessions have for instance, must not hold up the others.
        self.under_way.retain(|_, batch| !late(batch));
        let most = self.most(sessions, stages);
        if self.under_way.len() >= most as usize { 0 } else { sessions.div_ceil(most).max(1) }
    }

    /// Rows of these sessions go off together.
    pub fn sent(&mut self, now: Instant, sessions: &[K]) {
        if sessions.is_empty() {
            return;
        }
        self.next += 1;
        for &session in sessions {
            self.back(session);
            self.by_session.insert(session, self.next);
        }
        self.under_way.insert(self.next, UnderWay { sessions: sessions.len() as u32, since: now });
    }

    /// The token of a session's row came back, or the session is over.
    pub fn back(&mut self, session: K) {
        let Some(number) = self.by_session.remove(&session) else { return };
        if let Some(batch) = self.under_way.get_mut(&number) {
            batch.sessions -= 1;
            if batch.sessions == 0 {
                self.under_way.remove(&number);
            }
        }
    }

    /// A session's row was computed `round` after its last one; `sessions` decode, in up to `stages` stages.
    pub fn round(&mut self, round: Duration, sessions: u32, stages: u32) {
        if self.window.rows == 0 || self.window.sessions.abs_diff(sessions) * 4 > sessions {
            // Rounds of many more or fewer sessions can't be compared.
            self.window = Window { sessions, ..Window::default() };
        }
        self.window.rows += 1;
        self.window.seconds += round.as_secs_f64();
        if self.window.rows >= u64::from(sessions) * ROUNDS {
            let mean = self.window.seconds / self.window.rows as f64;
            self.window = Window::default();
            self.usual = Some(Duration::from_secs_f64(mean));
            self.judge(mean, sessions, stages);
        }
    }

    fn judge(&mut self, round: f64, sessions: u32, stages: u32) {
        match self.trial {
            Some(trial) if !trial.settled => self.trial = Some(Trial { settled: true, ..trial }),
            Some(trial) if round < trial.round * KEPT => {
                self.trial = None;
                self.penalty = FIRST_PENALTY;
            }
            Some(trial) => {
                self.choice = trial.before;
                self.trial = None;
                self.upwards = !self.upwards;
                self.wait = self.penalty;
                self.penalty = (self.penalty * 2).min(LAST_PENALTY);
            }
            None if self.wait > 0 => self.wait -= 1,
            None => {
                let now = self.most(sessions, stages);
                let other =
                    |up: bool| if up { (now * 2).min(stages).min(sessions) } else { (now / 2).max(1) };
                if other(self.upwards) == now {
                    self.upwards = !self.upwards;
                }
                let next = other(self.upwards);
                if next != now {
                    self.trial = Some(Trial { before: self.choice, round, settled: false });
                    self.choice = Some(next);
                }
            }
        }
    }
}

/// Rounds of each session that are averaged: single ones wait for others' prefills.
const ROUNDS: u64 = 12;
/// Rounds must have become shorter by this much, which is more than they vary by themselves.
const KEPT: f64 = 0.95;
/// Windows without a trial after one that failed: stages that share a machine will go on sharing it. A trial takes two
/// windows, so in the end it costs a percent of what a bad choice costs.
const FIRST_PENALTY: u32 = 4;
const LAST_PENALTY: u32 = 512;
/// A batch is waited for so many usual rounds, within bounds: the next tick after them looks again.
const LATE: u32 = 2;
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the origin of the test's own time")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn rows_are_kept_back_while_enough_batches_are_under_way() {
        let mut batches = Batches::default();
        let begin = now();
        assert_eq!(batches.room(begin, 8, 3), 3);
        batches.sent(begin, &[1, 2, 3]);
        batches.sent(begin, &[4, 5, 6]);
        assert_eq!(batches.room(begin, 8, 3), 3);
        batches.sent(begin, &[7, 8]);
        assert_eq!(batches.room(begin, 8, 3), 0);
        (4..6).for_each(|session| batches.back(session));
        assert_eq!(batches.room(begin, 8, 3), 0, "one of them is still out");
        batches.back(6);
        assert_eq!(batches.room(begin, 8, 3), 3);
    }

    #[test]
    fn one_that_is_late_is_not_waited_for_and_its_rows_may_still_come() {
        let mut batches = Batches::default();
        let begin = now();
        batches.sent(begin, &[1, 2]);
        assert_eq!(batches.room(begin + LONGEST / 2, 2, 1), 0);
        assert_eq!(batches.room(begin + LONGEST, 2, 1), 2);
        batches.sent(begin + LONGEST, &[1]);
        batches.back(2);
        assert_eq!(batches.room(begin + LONGEST, 2, 1), 0);
        batches.back(1);
        assert_eq!(batches.room(begin + LONGEST, 2, 1), 2);
        assert!(batches.under_way.is_empty() && batches.by_session.is_empty());
    }

    /// `stages` equal stages whose steps take `fixed + row * rows` ms, `shared` or each on a machine of its own, with
    /// `sessions` that never end: rounds by arithmetic. Gives the batches after `windows` windows and the mean number
    /// of those meanwhile.
    fn settle(stages: u32, sessions: u32, fixed: f64, row: f64, shared: bool, windows: u32) -> (u32, f64) {
        let mut batches = Batches::<u32>::default();
        let mut sum = 0;
        for _ in 0..windows {
            let most = batches.most(sessions, stages);
            sum += most;
            let busy = if shared { f64::from(most.min(stages)) } else { 1.0 };
            let step = (fixed + row * f64::from(sessions.div_ceil(most))) * busy / 1000.0;
            let round = Duration::from_secs_f64(step * f64::from(stages.max(most)));
            for _ in 0..u64::from(sessions) * ROUNDS {
                batches.round(round, sessions, stages);
            }
        }
        (batches.most(sessions, stages), f64::from(sum) / f64::from(windows))
    }

    #[test]
    fn machines_of_their_own_get_a_batch_for_each_stage() {
        for (row, sessions) in [(1.0, 16), (0.0, 16), (3.0, 4)] {
            let (most, mean) = settle(4, sessions, 2.0, row, false, 400);
            assert_eq!(most, 4);
            assert!(mean > 3.9, "{mean}: trials are rare");
        }
        assert_eq!(settle(4, 3, 2.0, 1.0, false, 400).0, 3);
        assert_eq!(settle(1, 16, 2.0, 1.0, false, 400).0, 1);
    }

    #[test]
    fn one_shared_machine_gets_one_batch() {
        let (most, mean) = settle(4, 16, 2.0, 0.5, true, 400);
        assert_eq!(most, 1);
        assert!(mean < 1.1, "{mean}");
    }

    #[test]
    fn few_sessions_do_not_change_what_many_get() {
        let mut batches = Batches::<u32>::default();
        for _ in 0..100 {
            batches.round(Duration::from_millis(10), 1, 4);
        }
        assert_eq!((batches.most(1, 4), batches.most(16, 4)), (1, 4));
    }
}
