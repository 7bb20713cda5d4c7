//! Tests of opening and reading.
