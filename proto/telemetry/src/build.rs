//! The build gauge: which program of which version is running, as labels of a constant 1.
//!
//! It owns the one metric that every process has. It does not read the environment: `main` says who it is.

use prometheus::{IntGauge, Opts};

use crate::{RegisterMetricError, Registry};

/// What the build gauge says about a process.
#[derive(Clone, Copy, Debug)]
pub struct BuildLabels<'a> {
    /// The program, e.g. `shard-node-engine`.
    pub program: &'a str,
    /// Its package version (`env!("CARGO_PKG_VERSION")` of the binary's crate).
    pub version: &'a str,
    /// The newest protocol version it speaks, as in the ALPN.
    pub protocol: &'a str,
}

/// Registers `layerlane_build_info`, which is 1 from start to end.
pub fn register_build(registry: &Registry, labels: BuildLabels<'_>) -> Result<(), RegisterMetricError> {
    let name = "layerlane_build_info";
    let options = Opts::new(name, "The running program, its version and the protocol it speaks; always 1.")
        .const_label("program", labels.program)
        .const_label("version", labels.version)
        .const_label("protocol", labels.protocol);
    let gauge = registry.register(name, IntGauge::with_opts(options))?;
    gauge.set(1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_carries_program_version_and_protocol() {
        let registry = Registry::new();
        register_build(&registry, BuildLabels { program: "router", version: "0.1.0", protocol: "1" })
            .unwrap();
        let text = registry.encode().unwrap();
        assert!(
            text.contains("layerlane_build_info{program=\"router\",protocol=\"1\",version=\"0.1.0\"} 1"),
            "{text}"
        );
    }
}
