//! Dequantisation and the GGUF reader against files made by the Python `gguf` package.

use proto::tensor::Dtype;

use super::golden;
use crate::gguf::{Array, Gguf, Value};
use crate::{Bf16, Checkpoint, RowLayout, dequantise};

fn f32_bits(name: &str) -> Vec<u32> {
    let bytes = std::fs::read(golden(name)).unwrap();
    bytes.chunks_exact(4).map(|bits| u32::from_le_bytes(bits.try_into().unwrap())).collect()
}

fn bits_of(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_type_equals_the_gguf_package_bit_for_bit() {
    for ty in Dtype::ALL {
        let stored = std::fs::read(golden(&format!("{ty}.stored"))).unwrap();
        let values: Vec<f32> = dequantise::to_vec(ty, &stored).unwrap();
        assert_eq!(bits_of(&values), f32_bits(&format!("{ty}.f32")), "{ty} to f32");
        let rounded: Vec<u8> = dequantise::to_vec::<Bf16>(ty, &stored)
            .unwrap()
            .into_iter()
            .flat_map(|value| value.0.to_le_bytes())
            .collect();
        assert_eq!(rounded, std::fs::read(golden(&format!("{ty}.bf16"))).unwrap(), "{ty} to bf16");
    }
}

#[test]
fn every_half_becomes_its_f32() {
    let stored: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let values: Vec<f32> = dequantise::to_vec(Dtype::F16, &stored).unwrap();
    for (bits, value) in (0..=u16::MAX).zip(values) {
        let (sign, exponent, fraction) = (bits >> 15, (bits >> 10) & 31, f32::from(bits & 0x3ff) / 1024.0);
        let size = match exponent {
            0 => fraction * 2_f32.powi(-14),
            31 if fraction == 0.0 => f32::INFINITY,
            31 => f32::NAN,
            _ => (1.0 + fraction) * 2_f32.powi(i32::from(exponent) - 15),
        };
        let expected = if sign == 1 { -size } else { size };
        assert!(value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(), "{bits:04x}");
    }
}

#[test]
fn a_gguf_file_reads_back_and_its_permuted_rows_come_in_hf_order() {
    let checkpoint = Checkpoint::open(&golden("tiny.gguf")).unwrap();
    let architecture = checkpoint.architecture().unwrap();
    assert_eq!((architecture.n_layers, architecture.heads, architecture.kv_heads), (1, 4, 2));
    assert_eq!((architecture.head_dim, architecture.ffn, architecture.vocab), (16, 96, 40));
    assert_eq!(architecture.norm_eps, f64::from(1e-5_f32));
    assert!(architecture.tied_head);
    checkpoint.check_span(&architecture, proto::LayerSpan::new(0, 1).unwrap()).unwrap();
    for (part, dtype) in [("q", Dtype::Q4_1), ("k", Dtype::Q4_0)] {
        let name = format!("model.layers.0.self_attn.{part}_proj.weight");
        let tensor = checkpoint.tensor(&name).unwrap();
        assert_eq!((tensor.dtype, tensor.layout), (dtype, RowLayout::HeadInterleaved { head_dim: 16 }));
        let expected = f32_bits(&format!("tiny.attn_{part}.f32"));
        assert_eq!(bits_of(&checkpoint.values(&name).unwrap()), expected, "{part}");
        let middle: Vec<f32> = checkpoint.rows(&name, 5..23).unwrap();
        assert_eq!(bits_of(&middle), expected[5 * 64..23 * 64], "{part} rows");
    }
    let v: Vec<f32> = checkpoint.rows("model.layers.0.self_attn.v_proj.weight", 3..4).unwrap();
    assert_eq!(v.len(), 64);
    checkpoint.release("model.layers.0.self_attn.v_proj.weight").unwrap();
    assert_eq!(checkpoint.rows::<f32>("model.layers.0.self_attn.v_proj.weight", 3..4).unwrap(), v);
}

#[test]
fn metadata_of_every_kind_reads_back() {
    let gguf = Gguf::parse(&std::fs::read(golden("tiny.gguf")).unwrap()).unwrap();
    let array = |key: &str| match gguf.metadata.get(key) {
        Some(Value::Array(array)) => array.clone(),
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(array("layerlane.booleans"), Array::Bool(vec![true, false]));
    assert_eq!(array("layerlane.signed"), Array::Signed(vec![-1, 2]));
    assert_eq!(gguf.metadata.get("layerlane.wide"), Some(&Value::Signed(-(1 << 40))));
    assert_eq!(gguf.float("layerlane.precise"), Some(0.1));
    assert_eq!(gguf.string("layerlane.text"), Some("grüß dich"));
    assert_eq!(gguf.unsigned("llama.block_count"), Some(1));
}
