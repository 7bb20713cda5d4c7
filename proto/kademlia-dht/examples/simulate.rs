//! Simulates a swarm and prints the figures that docs/BENCHMARKS.md states.
//!
//! `cargo run --release -p kademlia-dht --example simulate -- --nodes 10000`

#![expect(clippy::print_stdout, reason = "printing figures is what it is for")]

use kademlia_dht::simulation::{Config, Report, dead_nodes, sybils_around_a_key};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut nodes = 1000;
    let mut config = Config::default();
    let mut scenario = String::from("both");
    let mut dead = 0.2;
    let mut subnets = 8;
    let mut lookups = 1000;
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--nodes" => nodes = value()?.parse()?,
            "--seed" => config.seed = value()?.parse()?,
            "--scenario" => scenario = value()?,
            "--dead" => dead = value()?.parse()?,
            "--sybil-subnets" => subnets = value()?.parse()?,
            "--lookups" => lookups = value()?.parse()?,
            "--handshakes" => config.handshakes = true,
            _ => return Err(format!("unknown option {option}: see the source").into()),
        }
    }
    println!("{nodes} nodes, seed {}, round trips {:?}", config.seed, config.round_trip);
    if scenario != "sybil" {
        let publishers = 200.min(nodes);
        let report = dead_nodes(config.clone(), nodes, publishers, dead, lookups);
        print(&format!("{:.0} % dead", dead * 100.0), &report);
    }
    if scenario != "dead" {
        let report = sybils_around_a_key(config, nodes, 0.2, subnets, lookups);
        print(&format!("20 % Sybil ids around the key, from {subnets} subnets"), &report);
    }
    Ok(())
}

fn print(title: &str, report: &Report) {
    let millis = |share| report.latencies.quantile(share).as_secs_f64() * 1000.0;
    println!(
        "{title}: {}/{} found; p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, max {:.0} ms; {:.1} peers asked per \
         lookup; {:.0} contacts per table; {} frames, {} MB",
        report.found,
        report.lookups,
        millis(0.5),
        millis(0.9),
        millis(0.99),
        millis(1.0),
        report.asked_mean,
        report.table_mean,
        report.traffic.0,
        report.traffic.1 / 1_000_000,
    );
}
