//! Seeded schedules of faults: small swarms whose nodes and network go wrong in drawn ways while clients read, go or
//! dawdle. In each of them every answer that has a route is the model's, token by token; one that has none says which
//! layers are missing; nothing hangs, breaks a rule, or is left behind.
//!
//! A schedule that fails is told by its seed: `LAYERLANE_SCHEDULE_SEED=<seed>` plays that one alone (`<first>..<end>` these).

mod draw;
mod run;
mod tally;
mod truth;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::swarm::PATIENCE;
use draw::{KINDS, Schedule};
use run::run;
use tally::Tally;

/// Schedules whose streams run, and those besides that wait for leases to end: with more, two cores would be too slow for
/// a second's silence to mean that somebody is gone.
const AT_WORK: usize = 12;
const AT_ONCE: usize = 120;

/// Plays these, many at once.
async fn play(seeds: Range<u64>) -> Tally {
    let begun = Instant::now();
    let panics = count_panics();
    let (work, all) = (Arc::new(Semaphore::new(AT_WORK)), Arc::new(Semaphore::new(AT_ONCE)));
    let (mut running, mut sum, mut failed, mut played) = (JoinSet::new(), Tally::default(), Vec::new(), 0);
    let mut take = |(seed, ended): (u64, Result<Tally, String>)| {
        played += 1;
        match ended {
            Ok(tally) => sum.add(&tally),
            Err(why) => {
                eprintln!("LAYERLANE_SCHEDULE_SEED={seed}: {why}");
                failed.push(seed);
            }
        }
    };
    for seed in seeds {
        // Never closed.
        let place = Arc::clone(&all).acquire_owned().await.unwrap();
        let at_work = Arc::clone(&work).acquire_owned().await.unwrap();
        running.spawn(async move {
            let ended = timeout(PATIENCE * 3, run(Schedule::draw(seed), at_work)).await;
            let ended = ended.unwrap_or_else(|_| Err("it does not come to an end".into()));
            drop(place);
            (seed, ended)
        });
        while let Some(ended) = running.try_join_next() {
            take(ended.unwrap());
        }
    }
    while let Some(ended) = running.join_next().await {
        take(ended.unwrap());
    }
    eprintln!("{played} schedules in {:?}: {sum:?}", begun.elapsed());
    assert!(failed.is_empty(), "{} of {played} failed: {failed:?}", failed.len());
    assert_eq!(panics.load(Ordering::Relaxed), 0, "something panicked");
    sum
}

/// Panics from now on, of any thread: tasks' are caught by who owns them.
fn count_panics() -> Arc<AtomicUsize> {
    let (panics, before) = (Arc::new(AtomicUsize::new(0)), std::panic::take_hook());
    let counted = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    panics
}

/// Something of everything: otherwise a run says nothing.
fn is_telling(tally: &Tally, schedules: usize) -> bool {
    let often = schedules / 50;
    let counts = [tally.whole, tally.given_up, tally.cut_off, tally.moves, tally.resumed, tally.replayed];
    counts
        .into_iter()
        .chain(KINDS.map(|kind| tally.faults.get(kind).copied().unwrap_or(0)))
        .all(|count| count >= often)
}

/// The seeds that were asked for: one, or `first..end`.
fn wanted() -> Option<Range<u64>> {
    let wanted = std::env::var("LAYERLANE_SCHEDULE_SEED").ok()?;
    let number = |seed: &str| seed.parse::<u64>().expect("a seed is a number");
    Some(match wanted.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&wanted)..number(&wanted) + 1,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_schedules_of_faults_break_no_answer() {
    if let Some(seeds) = wanted() {
        if seeds.end - seeds.start == 1 {
            eprintln!("{:#?}", Schedule::draw(seeds.start));
        }
        play(seeds).await;
        return;
    }
    let tally = play(1..1001).await;
    assert!(is_telling(&tally, 1000), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: half an hour"]
async fn soak_twenty_thousand_schedules_of_faults_break_no_answer() {
    let first = rand::random_range(1_000_000..1 << 40);
    eprintln!("seeds from {first} on");
    let tally = play(first..first + 20_000).await;
    assert!(is_telling(&tally, 20_000), "{tally:?}");
}
