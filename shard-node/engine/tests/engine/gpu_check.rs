//! `gpu-check` as it is carried to a machine with a GPU, run here on the CPU: that it finds what is wrong, and
//! claims nothing about a GPU that it did not use.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gpu-check");

fn engine() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Two of the bundle's models, laid out as by `cargo xtask gpu-check`.
fn models(folder: &Path) -> PathBuf {
    let models = folder.join("models");
    for name in ["qwen3", "gemma3"] {
        std::fs::create_dir_all(models.join(name)).unwrap();
        for file in ["model.gguf", "logits", "bf16.json"] {
            std::fs::copy(engine().join("golden").join(name).join(file), models.join(name).join(file))
                .unwrap();
        }
    }
    std::fs::copy(engine().join("golden/tokens.json"), models.join("tokens.json")).unwrap();
    models
}

fn run(models: &Path, scratch: &Path, device: &str) -> (Output, String) {
    let output = Command::new(PROGRAM)
        .args(["--device", device, "--sizes", "small"])
        .arg("--models")
        .arg(models)
        .arg("--scratch")
        .arg(scratch)
        // Threads that spin would wait for each other's cores where other tests run.
        .env("OMP_WAIT_POLICY", "passive")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    (output, text)
}

/// The lines of JSON: each check with its status.
fn checks(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .map(|line| {
            assert_eq!(line["device"], "cpu", "{line}");
            assert!(line["figures"].as_object().unwrap().values().all(Value::is_number), "{line}");
            let word = |key: &str| line[key].as_str().unwrap().to_owned();
            (word("check"), word("status"))
        })
        .collect()
}

#[test]
fn the_check_passes_on_the_cpu_and_claims_no_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let (output, text) = run(&models(folder.path()), folder.path(), "cpu");
    assert!(output.status.success());
    let checks = checks(&text);
    for name in [
        "parity_exact_gemma3",
        "stages_exact_qwen3",
        "parity_bf16_qwen3",
        "stages_bf16_gemma3",
        "parity_int8_qwen3",
        "stages_int4_gemma3",
        "memory_as_accounted_bf16",
        "memory_as_accounted_int4",
    ] {
        assert!(checks.contains(&(name.to_owned(), "PASS".to_owned())), "{name}: {checks:?}");
    }
    for name in [
        "read_limit",
        "decode_bf16_batch_1",
        "decode_bf16_batch_8",
        "decode_int4_batch_32",
        "prefill_bf16_chunk_64",
    ] {
        assert!(checks.contains(&(name.to_owned(), "figure".to_owned())), "{name}: {checks:?}");
    }
    assert!(text.lines().last().unwrap().contains("NO GPU WAS USED"), "{text}");
    assert!(!text.contains("cuda"), "{text}");
    // The models are all that is left: what was made at run time is gone.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_wrong_weight_fails_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path());
    let path = models.join("qwen3/model.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    // Many values, since a file may end in padding: another sign for each third one's upper byte.
    let half = bytes.len() / 2;
    for byte in bytes[half..].iter_mut().skip(1).step_by(4) {
        *byte ^= 0x10;
    }
    std::fs::write(&path, bytes).unwrap();
    let (output, text) = run(&models, folder.path(), "cpu");
    assert_eq!(output.status.code(), Some(1));
    let checks = checks(&text);
    assert!(checks.contains(&("parity_exact_qwen3".to_owned(), "FAIL".to_owned())), "{checks:?}");
    assert!(text.lines().last().unwrap().contains("FAIL"), "{text}");
}

#[test]
fn without_a_gpu_nothing_is_measured_and_the_cure_is_named() {
    if Path::new("/dev/nvidia0").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (output, text) = run(&models(folder.path()), folder.path(), "cuda:0");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text, "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("FAIL") && error.contains("driver") && error.contains("--device cpu"), "{error}");
    let (output, _) = run(&folder.path().join("models"), folder.path(), "auto");
    assert_eq!(output.status.code(), Some(1), "auto could fall back to the CPU");
}

/// Runs the bundle's script with a `python3` that says what the real one would of its torch.
fn script(torch: &str, libraries: &Path) -> Output {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    std::fs::copy(PROGRAM, folder.path().join("gpu-check")).unwrap();
    std::fs::copy(engine().join("gpu-check/run.sh"), folder.path().join("run.sh")).unwrap();
    let python = folder.path().join("bin/python3");
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    let says = format!("#!/bin/sh\necho {torch}\necho '{}'\necho 'no GPU'\n", libraries.display());
    std::fs::write(&python, says).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().join("bin").display(), std::env::var("PATH").unwrap());
    Command::new("bash")
        .arg(folder.path().join("run.sh"))
        .args(["--device", "cpu", "--sizes", "small"])
        .env("PATH", path)
        .env("TMPDIR", folder.path())
        .output()
        .unwrap()
}

#[test]
fn the_script_finds_torch_by_python_and_refuses_another_version() {
    // The folder that this program was linked against; cargo sets it.
    let libtorch = std::env::var("LIBTORCH")
        .map_or_else(|_| engine().join("../../third_party/libtorch/torch"), PathBuf::from);
    let output = script("2.11.0+cu130", &libtorch.join("lib"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("torch 2.11.0+cu130") && text.contains("NO GPU WAS USED"), "{text}");

    let refused = script("2.12.1", &libtorch.join("lib"));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("built against 2.11"), "{error}");
}
