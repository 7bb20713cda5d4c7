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

    // A thread for each archive: libtorch's headers take most of a minute to compile, the kernels some seconds each.
    std::thread::scope(|scope| {
        for name in ["torch", "device"] {
            let include = &include;
            scope.spawn(move || with_torch(name, include));
        }
        for archive in &KERNELS {
            scope.spawn(move || kernels(archive));
        }
    });
    println!("cargo:rustc-link-search=native={lib}");
    println!("cargo:rustc-link-lib=dylib:+verbatim=libgomp.so.1");
}

/// The half with libtorch's headers; the kernels beside it change far more often.
fn with_torch(name: &str, include: &Path) {
    let (archive, file) = (format!("layerlane_{name}_shim"), format!("shim/{name}.cc"));
    if up_to_date(&archive, &[&file, "shim/guarded.h", "shim/values.h"]) {
        return;
    }
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .std("c++17")
        .opt_level(2)
        .warnings(false)
        .include(include)
        .include(include.join("torch/csrc/api/include"))
        .file(file)
        .compile(&archive);
}

/// An archive of kernels.
struct Kernels {
    name: &'static str,
    flags: &'static [&'static str],
    files: &'static [&'static str],
}

const KERNELS: [Kernels; 8] = [
    // See the head of rows.cc for why it must not fuse products and sums.
    Kernels { name: "rows", flags: UNFUSED, files: &["shim/rows.cc"] },
    Kernels { name: "panels", flags: UNFUSED, files: &["shim/panels.cc", "shim/panels_pack.cc"] },
    Kernels {
        name: "attention",
        flags: &["-ffp-contract=fast"],
        files: &["shim/attention.cc", "shim/head.cc", "shim/amx.cc", "shim/team.cc"],
    },
    Kernels { name: "pairs", flags: &["-ffp-contract=fast"], files: &["shim/pairs.cc", "shim/pairs_amx.cc"] },
    // Whole files for one level of vectors, called only where the CPU has it.
    Kernels {
        name: "pairs_avx2",
        flags: &["-ffp-contract=off", "-mavx2", "-mfma"],
        files: &["shim/pairs_avx2.cc"],
    },
    Kernels {
        name: "panels_avx2",
        flags: &["-ffp-contract=off", "-mavx2", "-mfma", "-mf16c"],
        files: &["shim/panels_avx2.cc"],
    },
    Kernels {
        name: "panels_avx512",
        flags: &["-ffp-contract=off", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mfma"],
        files: &["shim/panels_avx512.cc"],
    },
    Kernels { name: "panels_amx", flags: TILES, files: &["shim/panels_amx.cc"] },
];

const UNFUSED: &[&str] = &["-ffp-contract=off"];
const TILES: &[&str] = &[
    "-ffp-contract=off",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mf16c",
    "-mfma",
    "-mamx-tile",
    "-mamx-int8",
];

/// No torch headers here; the loops want -O3. Their threads are those of libtorch's own libgomp.
fn kernels(archive: &Kernels) {
    let name = format!("layerlane_{}", archive.name);
    if up_to_date(&name, &[archive.files, &HEADERS].concat()) {
        return;
    }
    // A compiler that does not know AMX makes a file without kernels of it.
    let known = !archive.flags.contains(&"-mamx-int8")
        || cc::Build::new().cpp(true).is_flag_supported("-mamx-int8").unwrap_or(false);
    let mut build = cc::Build::new();
    for flag in if known { archive.flags } else { UNFUSED } {
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
        .files(archive.files)
        .compile(&name);
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
        .chain([&"build.rs"])
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
