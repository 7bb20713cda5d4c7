//! The table's invariants, over random histories.
