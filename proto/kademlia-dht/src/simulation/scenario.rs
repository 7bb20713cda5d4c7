//! The two scenarios whose figures the project states: a fifth of the nodes dead, a fifth of the ids Sybils.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use proto::NodeId;
use proto::record::DhtKey;

use super::network::{Config, NodeIndex, Simulation};
use crate::core::{Distance, Outcome};
use crate::testing::{announcement, node_key};

/// What a scenario measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// Lookups made.
    pub lookups: usize,
    /// Lookups that returned the record.
    pub found: usize,
    /// How long lookups took until they were complete.
    pub latencies: Latencies,
    /// Mean number of peers asked per lookup.
    pub asked_mean: f64,
    /// Mean size of an honest node's routing table.
    pub table_mean: f64,
    /// Frames sent in all, and their bytes.
    pub traffic: (u64, u64),
}

/// Sorted durations.
#[derive(Debug, Clone, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The value that `share` (0..=1) of the lookups stayed below.
    pub fn quantile(&self, share: f64) -> Duration {
        let at = (share * self.0.len() as f64) as usize;
        self.0.get(at.min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// `nodes` join, `publishers` of them announce a record each, then `dead` (a share) of all nodes die at once and
/// `lookups` lookups run from live nodes for the records of live publishers. Nobody had time to notice the deaths.
pub fn dead_nodes(config: Config, nodes: usize, publishers: usize, dead: f64, lookups: usize) -> Report {
    let mut swarm = Simulation::new(config);
    grow(&mut swarm, nodes);
    let published = publish(&mut swarm, publishers);
    let mut order: Vec<NodeIndex> = (0..nodes).collect();
    shuffle(&mut swarm, &mut order);
    for node in order.into_iter().take((dead * nodes as f64) as usize) {
        swarm.kill(node);
    }
    let wanted: Vec<_> =
        published.into_iter().filter(|(node, ..)| swarm.is_honest_and_alive(*node)).collect();
    measure(&mut swarm, nodes, &wanted, lookups)
}

/// `nodes` honest nodes and, on top, as many Sybils as make `share` of all ids. All Sybil ids are nearer to one
/// key than any honest id; the Sybils' addresses lie in `subnets` /24s. They join first the swarm, then the
/// honest publisher announces under the key (so its stores go through the attack too), then lookups run. With ten
/// subnets or more the Sybils own all 20 places that a key has.
pub fn sybils_around_a_key(config: Config, nodes: usize, share: f64, subnets: u8, lookups: usize) -> Report {
    let seed = config.seed;
    let mut swarm = Simulation::new(config);
    grow(&mut swarm, nodes);
    let publisher_key = node_key(0);
    let record = announcement(&publisher_key, "attacked model");
    let target = DhtKey::of_model_name("attacked model");
    let nearest_honest = (0..nodes)
        .map(|node| Distance::between(&target, &DhtKey::of_node(swarm.core(node).own())))
        .min()
        .expect("there are honest nodes");
    let sybils = (nodes as f64 * share / (1.0 - share)) as usize;
    let mut counter = seed;
    for sybil in 0..sybils {
        let id = loop {
            counter += 1;
            let id = NodeId::from_bytes(*DhtKey::of_model_name(&format!("sybil {counter}")).as_bytes());
            if Distance::between(&target, &DhtKey::of_node(id)) < nearest_honest {
                break id;
            }
        };
        let host = 1 + (sybil / usize::from(subnets)) % 250;
        let ip = Ipv4Addr::new(200, 10, (sybil % usize::from(subnets)) as u8, host as u8);
        let port = 7401 + (sybil / usize::from(subnets) / 250) as u16;
        let index = swarm.add(id, SocketAddr::from((ip, port)), true);
        let through = swarm.draw(nodes);
        let at = swarm.now() + Duration::from_millis(10 * sybil as u64);
        swarm.join_at(at, index, through);
    }
    let joined = swarm.now() + Duration::from_millis(10 * sybils as u64) + Duration::from_mins(1);
    swarm.run_until(joined);
    let millis = swarm.unix_seconds() * 1000;
    let signed = record.sign_at(millis).expect("the test record keeps all limits");
    let operation = swarm.publish(0, signed);
    swarm.finish(0, operation);
    measure(&mut swarm, nodes, &[(0, target)], lookups)
}

fn grow(swarm: &mut Simulation, nodes: usize) {
    for number in 0..nodes {
        let addr = swarm.free_addr();
        let index = swarm.add(node_key(number as u64).node_id(), addr, false);
        if index > 0 {
            // Everybody joins through one of three bootstrap nodes.
            let through = swarm.draw(3.min(index));
            swarm.join_at(Duration::from_millis(20 * index as u64), index, through);
        }
    }
    swarm.run_until(Duration::from_millis(20 * nodes as u64) + Duration::from_mins(1));
}

fn publish(swarm: &mut Simulation, publishers: usize) -> Vec<(NodeIndex, DhtKey)> {
    let mut published = Vec::new();
    for publisher in 0..publishers {
        let node = (publisher * 7919 + 3) % swarm.len();
        let key = node_key(node as u64);
        let name = format!("model {publisher}");
        let millis = swarm.unix_seconds() * 1000;
        let signed = announcement(&key, &name).sign_at(millis).expect("the test record keeps all limits");
        let operation = swarm.publish(node, signed);
        swarm.finish(node, operation);
        published.push((node, DhtKey::of_model_name(&name)));
    }
    published
}

fn measure(swarm: &mut Simulation, honest: usize, wanted: &[(NodeIndex, DhtKey)], lookups: usize) -> Report {
    let mut found = 0;
    let mut asked = 0;
    let mut latencies = Vec::with_capacity(lookups);
    for number in 0..lookups {
        let (publisher, key) = wanted[number % wanted.len()];
        let from = loop {
            let node = swarm.draw(honest);
            if swarm.is_honest_and_alive(node) && node != publisher {
                break node;
            }
        };
        let started = swarm.now();
        let operation = swarm.lookup(from, key);
        let outcome = swarm.finish(from, operation);
        latencies.push(swarm.now().saturating_sub(started));
        if let Outcome::Found(Ok(result)) = outcome {
            let publisher = swarm.core(publisher).own();
            found += usize::from(result.records.iter().any(|record| record.node() == publisher));
            asked += result.asked;
        }
    }
    latencies.sort_unstable();
    let tables: usize = (0..honest).map(|node| swarm.core(node).table_len()).sum();
    Report {
        lookups,
        found,
        latencies: Latencies(latencies),
        asked_mean: asked as f64 / lookups.max(1) as f64,
        table_mean: tables as f64 / honest.max(1) as f64,
        traffic: swarm.traffic(),
    }
}

fn shuffle(swarm: &mut Simulation, order: &mut [NodeIndex]) {
    for at in (1..order.len()).rev() {
        order.swap(at, swarm.draw(at + 1));
    }
}
