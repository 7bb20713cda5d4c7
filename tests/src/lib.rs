//! In-process swarms, fault injection and real processes.
