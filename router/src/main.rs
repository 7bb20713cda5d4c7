//! Front door of the swarm: discovers, plans, drives, streams.

fn main() {}
