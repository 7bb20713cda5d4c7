//! Chores of the workspace: setup, demo, test, tidy, layers, verify-libraries.

fn main() {}
