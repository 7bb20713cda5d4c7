//! Compiles the C++ shim and links libtorch by RUNPATH.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=shim");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys publishes where libtorch is");
    let torch = Path::new(&lib).parent().expect("libtorch keeps its libraries in a folder of its own");
    let include = torch.join("include");

    // Before the build tree's copy, look where an installed one lies: bin/ beside lib/libtorch/.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/libtorch/torch/lib");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");

    // libtorch's headers take most of a minute to compile; the kernels beside it change far more often.
    if !up_to_date("layerlane_torch_shim", &TORCH_SOURCES) {
        cc::Build::new()
            .cpp(true)
            .pic(true)
            .std("c++17")
            .opt_level(2)
            .warnings(false)
            .include(&include)
            .include(include.join("torch/csrc/api/include"))
            .files(["shim/torch.cc", "shim/device.cc"])
            .compile("layerlane_torch_shim");
    }

    // No torch headers here; the loops want -O3. Their threads are those of libtorch's own libgomp.
    let kernels = |flags: &[&str], files: &[&str], name: &str| {
        if up_to_date(name, &[files, &HEADERS, &["build.rs"]].concat()) {
            return;
        }
        let mut build = cc::Build::new();
        for flag in flags {
            build.flag(flag);
        }
        build
            .cpp(true)
            .pic(true)
            .std("c++17")
            .opt_level(3)
            .flag("-fopenmp")
            .flag("-fno-math-errno")
            .flag("-fno-trapping-math")
            .flag("-Wno-psabi")
            // GCC 12 finds its own AVX-512 headers wanting.
            .flag("-Wno-maybe-uninitialized")
            .files(files)
            .compile(name);
    };
    // See the head of rows.cc for why it must not fuse products and sums.
    let unfused = ["shim/rows.cc", "shim/panels.cc", "shim/panels_pack.cc"];
    kernels(&["-ffp-contract=off"], &unfused, "layerlane_rows");
    let fused = [
        "shim/amx.cc",
        "shim/attention.cc",
        "shim/head.cc",
        "shim/pairs.cc",
        "shim/pairs_amx.cc",
        "shim/team.cc",
    ];
    kernels(&["-ffp-contract=fast"], &fused, "layerlane_attention");
    // Whole files for one level of vectors, called only where the CPU has it.
    let level = |instructions: &[&str], file: &str, name: &str| {
        kernels(&[&["-ffp-contract=off"], instructions].concat(), &[file], name);
    };
    level(&["-mavx2", "-mfma", "-mf16c"], "shim/panels_avx2.cc", "layerlane_panels_avx2");
    level(&["-mavx2", "-mfma"], "shim/pairs_avx2.cc", "layerlane_pairs_avx2");
    level(
        &["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mfma"],
        "shim/panels_avx512.cc",
        "layerlane_panels_avx512",
    );
    // A compiler that does not know these makes a file without kernels of it.
    let tiles = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mf16c", "-mfma", "-mamx-tile", "-mamx-int8"];
    let known = cc::Build::new().cpp(true).is_flag_supported("-mamx-int8").unwrap_or(false);
    level(if known { &tiles } else { &[] }, "shim/panels_amx.cc", "layerlane_panels_amx");
    println!("cargo:rustc-link-search=native={lib}");
    println!("cargo:rustc-link-lib=dylib:+verbatim=libgomp.so.1");
}

/// What the kernels include.
const HEADERS: [&str; 5] = ["shim/amx.h", "shim/pairs.h", "shim/panels.h", "shim/team.h", "shim/values.h"];

/// The archive of an earlier run is newer than everything it was made of; if so, links it.
fn up_to_date(archive: &str, sources: &[&str]) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let folder = std::env::var("OUT_DIR").expect("cargo names the folder for what we make");
    let Some(made) = modified(&Path::new(&folder).join(format!("lib{archive}.a"))) else { return false };
    // Cargo calls this script anew when libtorch's folder changes; its version stands in this file.
    let libtorch = modified(Path::new(&std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default()));
    sources
        .iter()
        .map(|source| modified(Path::new(source)))
        .chain([libtorch])
        .all(|source| source < Some(made))
        && {
            println!("cargo:rustc-link-search=native={folder}");
            println!("cargo:rustc-link-lib=static={archive}");
            println!("cargo:rustc-link-lib=stdc++");
            true
        }
}

/// What the half with libtorch's headers is made of.
const TORCH_SOURCES: [&str; 5] =
    ["shim/torch.cc", "shim/device.cc", "shim/guarded.h", "shim/values.h", "build.rs"];
