//! Experts in files. Their canonical names are those that HF publishes: one tensor for each expert and matrix. GGUF
//! stacks a matrix of all experts of a layer in one tensor; opening takes such a stack apart, so that everything
//! above reads the experts it needs by name, and nothing else of the stack.

use proto::manifest::Experts;

use crate::architecture::FieldError;
use crate::architecture::families::Family;
use crate::names::gguf_layer;

/// The names of the routers and experts of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertNames {
    /// What holds a layer's router and experts.
    block: &'static str,
    /// Gate, up, down.
    matrices: [&'static str; 3],
}

impl ExpertNames {
    /// Those of Mixtral's first files.
    pub(crate) const MIXTRAL: Self = Self { block: "block_sparse_moe", matrices: ["w1", "w3", "w2"] };
    /// Those of most families.
    pub(crate) const USUAL: Self = Self { block: "mlp", matrices: ["gate_proj", "up_proj", "down_proj"] };

    /// Of a family of the table of architectures.
    pub fn of(family: &str) -> Self {
        Family::named(family).and_then(|family| family.experts).unwrap_or(Self::USUAL)
    }

    /// The matrix that gives a row's logits, one for each expert.
    pub fn router(self, layer: u32) -> String {
        format!("model.layers.{layer}.{}.gate.weight", self.block)
    }

    /// Gate, up and down of one expert.
    pub fn matrices(self, layer: u32, expert: u32) -> [String; 3] {
        let Self { block, matrices } = self;
        matrices.map(|matrix| format!("model.layers.{layer}.{block}.experts.{expert}.{matrix}.weight"))
    }

    /// What a GGUF tensor is to the experts of its layer.
    pub(crate) fn in_gguf(self, name: &str) -> Option<InGguf> {
        let (layer, part) = gguf_layer(name)?;
        let matrix = match part {
            "ffn_gate_inp.weight" => return Some(InGguf::Router(self.router(layer))),
            "ffn_gate_exps.weight" => 0,
            "ffn_up_exps.weight" => 1,
            "ffn_down_exps.weight" => 2,
            _ => return None,
        };
        Some(InGguf::Stack { layer, matrix })
    }
}

/// A GGUF tensor that belongs to the experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InGguf {
    /// The router, under its canonical name.
    Router(String),
    /// One matrix of all experts of a layer, the expert outermost.
    Stack {
        /// The layer.
        layer: u32,
        /// Gate, up or down: 0, 1 or 2.
        matrix: usize,
    },
}

/// Checks what metadata say of experts; `fields` are the names of the two numbers there.
pub(crate) fn checked(
    experts: Experts,
    n_layers: u32,
    [count, used]: [&str; 2],
) -> Result<Experts, FieldError> {
    let Experts { count: has, used: uses, .. } = experts;
    if !(1..=MAX_EXPERTS).contains(&has) {
        return Err(FieldError::new(count, format!("is {has}; a layer has 1 to {MAX_EXPERTS} experts")));
    }
    if !(1..=has).contains(&uses) {
        return Err(FieldError::new(used, format!("is {uses}; a row uses 1 to all of {has} experts")));
    }
    let tensors = 3 * u64::from(has) * u64::from(n_layers);
    if tensors > MAX_EXPERT_TENSORS {
        let what = format!(
            "is {has}: in {n_layers} layers these are {tensors} matrices, at most {MAX_EXPERT_TENSORS}"
        );
        return Err(FieldError::new(count, what));
    }
    Ok(experts)
}

/// Most experts of a layer, as [`proto::manifest::Architecture::check`] has it; published models have up to 512.
pub(crate) const MAX_EXPERTS: u32 = 4096;
/// Most matrices of experts in a model: what a manifest can list. 128 experts in 64 layers are 24,576.
const MAX_EXPERT_TENSORS: u64 = proto::manifest::MAX_TENSORS as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_hf_publishes() {
        let names = ExpertNames::of("mixtral");
        assert_eq!(names.router(3), "model.layers.3.block_sparse_moe.gate.weight");
        assert_eq!(names.matrices(3, 7)[1], "model.layers.3.block_sparse_moe.experts.7.w3.weight");
        let names = ExpertNames::of("qwen3_moe");
        assert_eq!(names.router(0), "model.layers.0.mlp.gate.weight");
        assert_eq!(names.matrices(0, 12)[2], "model.layers.0.mlp.experts.12.down_proj.weight");
    }

    #[test]
    fn gguf_stacks_and_routers_are_told_from_the_rest() {
        let names = ExpertNames::MIXTRAL;
        let router = InGguf::Router("model.layers.2.block_sparse_moe.gate.weight".to_owned());
        assert_eq!(names.in_gguf("blk.2.ffn_gate_inp.weight"), Some(router));
        let stack = InGguf::Stack { layer: 2, matrix: 2 };
        assert_eq!(names.in_gguf("blk.2.ffn_down_exps.weight"), Some(stack));
        for other in [
            "blk.2.ffn_down.weight",
            "blk.2.ffn_down_exps.bias",
            "blk.02.ffn_down_exps.weight",
            "ffn_down_exps.weight",
        ] {
            assert_eq!(names.in_gguf(other), None, "{other}");
        }
    }

    #[test]
    fn absurd_numbers_are_refused_by_field() {
        let experts = |count, used| Experts { count, used, ffn: 8, normalise: true };
        let check = |count, used, layers| checked(experts(count, used), layers, ["count", "used"]);
        assert!(check(128, 8, 64).is_ok());
        for (count, used, layers, field) in [
            (0, 0, 1, "count"),
            (8, 0, 1, "used"),
            (8, 9, 1, "used"),
            (1_000_000, 8, 1, "count"),
            (4096, 8, 1024, "count"),
        ] {
            let error = check(count, used, layers).unwrap_err();
            assert_eq!(error.field, field, "{error:?}");
        }
    }
}
