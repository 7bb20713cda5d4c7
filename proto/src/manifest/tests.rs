//! Tests of the manifest: canonical bytes, tampering, hostile fields.

use proptest::prelude::*;

use super::*;

fn manifest() -> Manifest {
    Manifest {
        format: 1,
        architecture: Architecture {
            family: "llama".into(),
            n_layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn: 128,
            vocab: 320,
            context: 8192,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: Some(RopeScaling::Linear { factor: 2.0 }),
            tied_head: true,
            window: None,
            local_rope_theta: None,
            query_scalar: None,
            experts: None,
        },
        quantisation: "BF16".into(),
        container: "safetensors".into(),
        bos: Some(1),
        add_bos: false,
        eos: vec![2],
        tokenizer: Some(TokenizerEntry { blake3: ContentHash::of(b"t"), bytes: 1 }),
        chat_template: Some("{{ messages }}".into()),
        licence: None,
        tensors: ["a", "b"]
            .into_iter()
            .map(|name| TensorEntry {
                name: name.into(),
                dtype: Dtype::Q4_1,
                shape: vec![4, 64],
                blake3: ContentHash::of(name.as_bytes()),
            })
            .collect(),
    }
}

#[test]
fn a_manifest_is_found_again_under_its_id() {
    let manifest = manifest();
    let bytes = manifest.to_bytes();
    assert_eq!(Manifest::from_bytes(&bytes, manifest.model_id()).unwrap(), manifest);
    assert_eq!(manifest.tensor("b").unwrap().name, "b");
    assert!(manifest.tensor("c").is_none());
}

#[test]
fn another_byte_is_another_model() {
    let manifest = manifest();
    let (id, bytes) = (manifest.model_id(), manifest.to_bytes());
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(matches!(Manifest::from_bytes(&changed, id), Err(ManifestError::WrongId { .. })));
    }
}

#[test]
fn bytes_in_another_form_are_refused_even_under_their_own_hash() {
    let spaced = serde_json::to_vec_pretty(&manifest()).unwrap();
    let id = ModelId::from_bytes(*ContentHash::of(&spaced).as_bytes());
    assert_eq!(Manifest::from_bytes(&spaced, id), Err(ManifestError::NotCanonical));
}

#[test]
fn an_epsilon_widened_from_f32_is_read_back_to_the_bit() {
    let mut manifest = manifest();
    manifest.architecture.norm_eps = f64::from(1.6e-6_f32);
    let bytes = manifest.to_bytes();
    assert_eq!(Manifest::from_bytes(&bytes, manifest.model_id()).unwrap(), manifest);
}

proptest! {
    #[test]
    fn every_sane_number_keeps_the_manifest_canonical(
        norm_eps in f64::MIN_POSITIVE..1.0,
        widened in f32::MIN_POSITIVE..1e-3,
        rope_theta in 1.0..1e12,
    ) {
        for norm_eps in [norm_eps, f64::from(widened)] {
            let mut manifest = manifest();
            manifest.architecture.norm_eps = norm_eps;
            manifest.architecture.rope_theta = rope_theta;
            let bytes = manifest.to_bytes();
            prop_assert_eq!(Manifest::from_bytes(&bytes, manifest.model_id()), Ok(manifest));
        }
    }
}

#[test]
fn absurd_numbers_are_refused_by_name() {
    type Change = fn(&mut Manifest);
    let changes: [(Change, &str); 15] = [
        (|m| m.format = 2, "format"),
        (|m| m.architecture.n_layers = 0, "n_layers"),
        (|m| m.architecture.hidden = u32::MAX, "hidden"),
        (|m| m.architecture.kv_heads = 3, "kv_heads"),
        (|m| m.architecture.norm_eps = f64::NAN, "norm_eps"),
        (|m| m.bos = Some(320), "bos"),
        (|m| m.eos = vec![2, 320], "eos"),
        (|m| m.licence = Some("\u{1b}[2J".into()), "licence"),
        (|m| m.quantisation = "Q".repeat(MAX_LABEL_BYTES + 1), "quantisation"),
        (|m| m.container = "a\nb".into(), "container"),
        (
            |m| m.architecture.rope_scaling = Some(RopeScaling::Linear { factor: f64::INFINITY }),
            "rope_scaling",
        ),
        (
            |m| {
                m.architecture.rope_scaling = Some(RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor: 4.0,
                    high_freq_factor: 4.0,
                    original_context: 8192,
                });
            },
            "rope_scaling",
        ),
        (|m| m.tensors[1].name = "a".into(), "named twice"),
        (|m| m.tensors[0].shape = vec![u64::MAX, u64::MAX], "tensor a"),
        (|m| m.tensors.swap(0, 1), "not ordered"),
    ];
    for (change, word) in changes {
        let mut manifest = manifest();
        change(&mut manifest);
        let error = manifest.check().unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

/// The names stand in manifests, whose hash is the model's id: they never change.
#[test]
fn every_stored_type_has_its_bytes_in_a_manifest() {
    let expected = [
        "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    ];
    for (dtype, name) in Dtype::ALL.into_iter().zip(expected) {
        let entry = TensorEntry {
            name: "a".into(),
            dtype,
            shape: vec![4, 256],
            blake3: ContentHash::from_bytes([0x5a; 32]),
        };
        let golden =
            format!(r#"{{"name":"a","dtype":"{name}","shape":[4,256],"blake3":"{}"}}"#, "5a".repeat(32));
        assert_eq!(serde_json::to_string(&entry).unwrap(), golden);
        assert_eq!(serde_json::from_str::<TensorEntry>(&golden).unwrap(), entry);
        assert_eq!(dtype.bytes(&[4, 256]), Some(1024 / dtype.block_elements() * dtype.block_bytes()));
        let partial = dtype.block_elements() + 1;
        assert_eq!(dtype.bytes(&[2, partial]).is_some(), dtype.block_elements() == 1, "{dtype}");
    }
    for unknown in ["q2__k", "Q4_K", "q8_k", ""] {
        assert!(serde_json::from_value::<Dtype>(unknown.into()).is_err(), "{unknown}");
    }
}
