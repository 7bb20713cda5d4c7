//! Compiles the C++ shim and links libtorch by RUNPATH.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    for name in COMPILER {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
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
    // For the test that they share no code with the rest.
    let levels = KERNELS.iter().filter(|archive| archive.is_for_one_level()).map(|archive| archive.name);
    println!("cargo:rustc-env=LAYERLANE_LEVEL_ARCHIVES={}", levels.collect::<Vec<_>>().join(" "));
}

/// The half with libtorch's headers; the kernels beside it change far more often.
fn with_torch(name: &str, include: &Path) {
    let (archive, file) = (format!("layerlane_{name}_shim"), format!("shim/{name}.cc"));
    let stamp = Stamp::new(&archive, &[]);
    if stamp.holds(&[&file, "shim/guarded.h", "shim/values.h"]) {
        return;
    }
    stamp.begin();
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
    stamp.end();
}

/// An archive of kernels.
struct Kernels {
    name: &'static str,
    flags: &'static [&'static str],
    files: &'static [&'static str],
}

impl Kernels {
    /// May not run on every x86-64.
    fn is_for_one_level(&self) -> bool {
        self.flags.iter().any(|flag| flag.starts_with("-m"))
    }
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
    // Whole files for one level of vectors, called only where the CPU has it. They hold nothing that the linker may share
    // with other files, such as code of std's containers: a test in src/kernels/levels.rs looks.
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
    let stamp = Stamp::new(&name, archive.flags);
    if stamp.holds(&[archive.files, &HEADERS].concat()) {
        return;
    }
    stamp.begin();
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
    stamp.end();
}

/// What the kernels include.
const HEADERS: [&str; 5] = ["shim/amx.h", "shim/pairs.h", "shim/panels.h", "shim/team.h", "shim/values.h"];

/// What chooses the compiler.
const COMPILER: [&str; 2] = ["CXX", "CXXFLAGS"];

/// Says of an archive when its making began, and how it was made. Its time is not the archive's own, which would be later
/// than a change of a source while the compiler ran.
struct Stamp {
    archive: String,
    how: String,
}

impl Stamp {
    fn new(archive: &str, flags: &[&str]) -> Self {
        let compiler = COMPILER.map(|name| std::env::var(name).unwrap_or_default());
        Self { archive: archive.to_owned(), how: format!("{flags:?} {compiler:?}") }
    }

    /// The archive of an earlier run was made the same way, of these sources as they are; if so, links it.
    fn holds(&self, sources: &[&str]) -> bool {
        let modified = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
        let Some(made) = modified(&self.file("made")) else { return false };
        // Cargo calls this script anew when libtorch's folder changes; its version stands in this file.
        let libtorch = modified(Path::new(&std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default()));
        let mut times =
            sources.iter().chain([&"build.rs"]).map(|source| modified(Path::new(source))).chain([libtorch]);
        let same = std::fs::read_to_string(self.file("made")).is_ok_and(|how| how == self.how);
        let holds = same && times.all(|source| source < Some(made));
        if holds {
            println!("cargo:rustc-link-search=native={}", folder().display());
            println!("cargo:rustc-link-lib=static={}", self.archive);
            println!("cargo:rustc-link-lib=stdc++");
        }
        holds
    }

    fn begin(&self) {
        // What was made before is about to be overwritten.
        let _ = std::fs::remove_file(self.file("made"));
        std::fs::write(self.file("begun"), &self.how).expect("write to the folder for what we make");
    }

    /// Keeps the time of the beginning.
    fn end(&self) {
        std::fs::rename(self.file("begun"), self.file("made"))
            .expect("rename what was written at the beginning");
    }

    fn file(&self, state: &str) -> PathBuf {
        folder().join(format!("{}.{state}", self.archive))
    }
}

fn folder() -> PathBuf {
    std::env::var_os("OUT_DIR").expect("cargo names the folder for what we make").into()
}
