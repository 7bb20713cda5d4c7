//! A node of the swarm: serves one shard of a model.
