//! Footprints of shapes whose sizes are known, and what fits where.

use super::*;

/// Llama-3.2-1B.
fn llama_1b() -> Architecture {
    Architecture {
        family: "llama".to_owned(),
        n_layers: 16,
        hidden: 2048,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        ffn: 8192,
        vocab: 128_256,
        context: 131_072,
        norm_eps: 1e-5,
        rope_theta: 500_000.0,
        rope_scaling: None,
        tied_head: true,
        window: None,
        local_rope_theta: None,
        query_scalar: None,
        experts: None,
    }
}

fn footprint(class: &str) -> Footprint {
    Footprint::of_all(&llama_1b(), false).into_iter().find(|footprint| footprint.class == class).unwrap()
}

#[test]
fn bytes_follow_from_the_shapes() {
    let values = 2048 * (2048 + 512 + 512 + 2048 + 3 * 8192);
    let norms = 2 * 2048 * 4;
    let rows = 2048 + 512 + 512 + 2048 + 8192 + 8192 + 2048;
    assert_eq!(footprint("exact").layer_bytes, 4 * values + norms);
    assert_eq!(footprint("bf16").layer_bytes, 2 * values + norms);
    assert_eq!(footprint("int8").layer_bytes, values + 4 * rows + norms);
    assert_eq!(footprint("int4").layer_bytes, values / 2 + values / 8 + norms);
    for footprint in Footprint::of_all(&llama_1b(), false) {
        let of_a_row = match footprint.class {
            "exact" => 4 * 2048,
            "bf16" | "bf16-kv8" => 2 * 2048,
            _ => 2048 + 4,
        };
        let of_a_head = match footprint.class {
            "exact" => 4 * 64,
            class if class.ends_with("-kv8") => 64 + 4,
            _ => 2 * 64,
        };
        assert_eq!(footprint.embedding_bytes, 128_256 * of_a_row);
        assert_eq!(footprint.head_bytes, 128_256 * of_a_row + 4 * 2048);
        assert_eq!(footprint.kv_bytes_per_token, 16 * 2 * 8 * of_a_head);
        assert_eq!(footprint.all_layers_bytes, 16 * footprint.layer_bytes);
    }
    let four_bits = Footprint::of_all(&llama_1b(), true);
    assert_eq!(four_bits[3].embedding_bytes, 128_256 * 2048 / 8 * 5);
    for (plain, kv8) in [("bf16", "bf16-kv8"), ("int8", "int8-kv8"), ("int4", "int4-kv8")] {
        let kv = footprint(plain);
        let changed = Footprint {
            class: kv.class,
            kv_bytes_per_token: 0,
            kv_bytes_per_token_and_layer: 0,
            ..footprint(kv8)
        };
        let plain = Footprint { kv_bytes_per_token: 0, kv_bytes_per_token_and_layer: 0, ..kv };
        assert_eq!(changed, plain, "only the KV differs");
    }
    // 1,235,814,400 parameters; the tied head is not there twice.
    let whole = footprint("bf16").whole_bytes(&llama_1b());
    assert_eq!(whole, 2 * 1_235_814_400 + 2 * (2 * 16 + 1) * 2048);
    for footprint in Footprint::of_all(&llama_1b(), false) {
        let span = |start, end| footprint.span_bytes(&llama_1b(), LayerSpan::new(start, end).unwrap());
        assert_eq!(span(0, 16), footprint.whole_bytes(&llama_1b()));
        assert_eq!(span(3, 5), 2 * footprint.layer_bytes);
        // Two stages hold both ends of a tied pair.
        let whole = footprint.whole_bytes(&llama_1b());
        assert_eq!(span(0, 9) + span(9, 16), whole + footprint.embedding_bytes, "{}", footprint.class);
    }
}

#[test]
fn quantised_matrices_are_padded() {
    assert_eq!(matrix(WeightFormat::Int8, 17, 33), 32 * (64 + 4));
    assert_eq!(matrix(WeightFormat::Int4, 17, 33), 32 * 2 * 20);
    assert_eq!(matrix(WeightFormat::Bf16, 17, 33), 32 * 33 * 2);
    assert_eq!(matrix(WeightFormat::Exact, 17, 33), 17 * 33 * 4);
    // Gate and up are 48 rows, not twice 32; the router is in f32.
    let tensor = |name: &str, rows| (format!("model.layers.0.mlp.{name}.weight"), vec![rows, 32]);
    let tensors = [tensor("gate_proj", 24), tensor("up_proj", 24), tensor("gate", 3)];
    assert_eq!(layer(WeightFormat::Int8, &tensors), 48 * (32 + 4) + 3 * 32 * 4);
}

#[test]
fn what_fits_grows_with_memory_and_shrinks_with_kv() {
    let footprint = footprint("bf16");
    let fit = |gib: u64, positions: u64| footprint.fit(&llama_1b(), Budget { memory: gib << 30, positions });
    assert!(fit(4, 4096).whole);
    assert_eq!(fit(4, 4096).machines, Some(1));
    let small = fit(2, 4096);
    assert!(!small.whole && small.first < small.middle && small.machines == Some(3), "{small:?}");
    let loaded = fit(2, 262_144);
    assert!(loaded.middle < small.middle, "{loaded:?}");
    let none = fit(0, 0);
    assert_eq!((none.first, none.middle, none.last, none.machines), (0, 0, 0, None));
    assert_eq!(fit(1 << 20, 0).middle, 16, "never more layers than there are");
    assert_eq!(fit(u64::MAX >> 30, u64::MAX >> 40).machines, Some(1), "nothing overflows");
}

#[test]
fn spans_of_the_sizes_that_fit_stay_within_the_budget() {
    let architecture = llama_1b();
    for footprint in Footprint::of_all(&architecture, false) {
        for memory in [1 << 30, 3 << 29, 2 << 30, 3 << 30] {
            let budget = Budget { memory, positions: 8192 };
            let fit = footprint.fit(&architecture, budget);
            let needs = |layers: u32, ends: u64| {
                let kv = footprint.kv_bytes_per_token_and_layer * budget.positions;
                u64::from(layers) * (footprint.layer_bytes + kv) + ends
            };
            for (layers, ends) in
                [(fit.first, footprint.embedding_bytes), (fit.middle, 0), (fit.last, footprint.head_bytes)]
            {
                assert!(layers == 0 || needs(layers, ends) <= budget.usable());
                assert!(layers == 16 || needs(layers + 1, ends) > budget.usable());
            }
            if let Some(machines) = fit.machines.filter(|&machines| machines > 1) {
                let held = fit.first + fit.last + fit.middle * (machines - 2);
                assert!(held >= 16, "{fit:?}");
            }
        }
    }
}
