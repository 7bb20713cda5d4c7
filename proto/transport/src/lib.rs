//! Authenticated QUIC: the only crate that names quinn and rustls.
