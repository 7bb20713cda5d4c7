//! In-process swarms, fault injection and real processes.

pub mod clients;
pub mod http;
pub mod processes;
pub mod prompts;
pub mod relay;
pub mod serving;
pub mod stamps;
pub mod tiny_llama;
pub mod toy;
pub mod watched;
