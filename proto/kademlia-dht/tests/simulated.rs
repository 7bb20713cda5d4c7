//! The figures that the project promises, on 1,000 simulated nodes with real encoded frames.

use std::time::Duration;

use kademlia_dht::simulation::{Config, Report, dead_nodes, sybils_around_a_key};

#[test]
fn with_a_fifth_dead_every_lookup_succeeds_and_p99_is_under_600_ms() {
    let config = Config { seed: 11, ..Config::default() };
    println!("seed {}", config.seed);
    let report = dead_nodes(config, 1_000, 100, 0.2, 500);
    show(&report);
    assert_eq!(report.found, report.lookups);
    assert!(report.latencies.quantile(0.99) < Duration::from_millis(600));
}

/// 250 Sybils, all nearer to the key than any honest node, from 8 subnets.
#[test]
fn sybils_around_a_key_do_not_hide_its_records() {
    let config = Config { seed: 12, ..Config::default() };
    println!("seed {}", config.seed);
    let report = sybils_around_a_key(config, 1_000, 0.2, 8, 400);
    show(&report);
    assert!(report.found * 100 >= report.lookups * 99);
}

#[test]
fn one_seed_has_one_outcome() {
    let run = || {
        let report = dead_nodes(Config { seed: 13, ..Config::default() }, 120, 10, 0.2, 40);
        (report.traffic, report.found, report.latencies.quantile(0.5), report.latencies.quantile(1.0))
    };
    assert_eq!(run(), run());
}

#[expect(clippy::print_stdout, reason = "a failing test shows its figures")]
fn show(report: &Report) {
    let millis = |share| report.latencies.quantile(share).as_millis();
    println!(
        "{}/{} found, p50 {} ms, p99 {} ms, {:.0} asked",
        report.found,
        report.lookups,
        millis(0.5),
        millis(0.99),
        report.asked_mean
    );
}
