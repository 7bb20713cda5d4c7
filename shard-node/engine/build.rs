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

    cc::Build::new()
        .cpp(true)
        .pic(true)
        .std("c++17")
        .opt_level(2)
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("shim/torch.cc")
        .compile("layerlane_torch_shim");

    // No torch headers here; the loops want -O3. Their threads are those of libtorch's own libgomp.
    let kernels = |contract: &str, files: &[&str], name: &str| {
        cc::Build::new()
            .cpp(true)
            .pic(true)
            .std("c++17")
            .opt_level(3)
            .flag("-fopenmp")
            .flag("-fno-math-errno")
            .flag("-fno-trapping-math")
            .flag("-Wno-psabi")
            .flag(contract)
            .files(files)
            .compile(name);
    };
    // See the head of rows.cc for why it must not fuse products and sums.
    kernels("-ffp-contract=off", &["shim/rows.cc"], "layerlane_rows");
    kernels("-ffp-contract=fast", &["shim/attention.cc", "shim/head.cc"], "layerlane_attention");
    println!("cargo:rustc-link-search=native={lib}");
    println!("cargo:rustc-link-lib=dylib:+verbatim=libgomp.so.1");
}
