//! scratch
fn main(){ println!("{} {:?}", shard_node_engine::ffi::cpu_capability(), shard_node_engine::ffi::onednn_has_bf16()); }
