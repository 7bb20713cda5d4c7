//! The engine from outside: whole models as rows of stages.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "tests print the figures they hold against bounds")]

mod bad_weights;
mod classes;
mod exact;
mod experts;
mod golden;
mod gpu_check;
mod misuse;
mod parts;
mod pieces;
mod pipeline;
mod real_model;
mod synthetic;
