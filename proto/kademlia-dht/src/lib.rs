//! Kademlia over signed records: a sans-IO core and a thin driver.
