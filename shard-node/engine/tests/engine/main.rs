//! The engine from outside: whole models as rows of stages.

mod bad_weights;
mod exact;
mod golden;
mod misuse;
mod pipeline;
mod real_model;
mod synthetic;
