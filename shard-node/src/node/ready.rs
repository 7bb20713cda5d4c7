//! What a process says when it is ready.

use std::net::SocketAddr;

use proto::{LayerSpan, ModelId, NodeId};
use serde::Serialize;

/// The facts of a process that serves. Serialises to the one line that binaries print on stdout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    event: &'static str,
    /// Who.
    pub node: NodeId,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its admin endpoint listens.
    pub admin: Option<SocketAddr>,
    /// The name of the model; `None` for a peer of the DHT only.
    pub model: Option<String>,
    /// Its id.
    pub model_id: Option<ModelId>,
    /// The layers held.
    pub layers: Option<LayerSpan>,
}

impl Ready {
    pub(crate) const fn new(node: NodeId, listen: SocketAddr, admin: Option<SocketAddr>) -> Self {
        Self { event: "ready", node, listen, admin, model: None, model_id: None, layers: None }
    }

    /// The line, without its end.
    pub fn to_line(&self) -> String {
        // Strings, numbers and arrays only: this can't fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_fields_that_programs_read() {
        let mut ready = Ready::new(NodeId::from_bytes([1; 32]), "127.0.0.1:7401".parse().unwrap(), None);
        ready.model = Some("toy".into());
        ready.layers = Some(LayerSpan::new(0, 3).unwrap());
        let value: serde_json::Value = serde_json::from_str(&ready.to_line()).unwrap();
        assert_eq!(value["event"], "ready");
        assert_eq!(value["layers"], serde_json::json!([0, 3]));
        assert_eq!(value["node"], "01".repeat(32));
        assert_eq!((&value["listen"], &value["admin"]), (&"127.0.0.1:7401".into(), &serde_json::Value::Null));
    }
}
