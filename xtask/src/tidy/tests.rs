//! Each rule with an example that keeps it and one that breaks it.

use super::*;

#[test]
fn a_clean_file_has_no_findings() {
    let text = "//! Owns x.\n\n#[expect(dead_code, reason = \"x\")]\npub struct Route;\n";
    assert_eq!(check(&[file("router/src/route.rs", text)]), []);
}

#[test]
fn a_file_over_the_limit_is_found() {
    let text = |lines: usize| format!("//! Long.\n{}", "\n".repeat(lines - 1));
    assert_eq!(check(&[file("a/src/b.rs", &text(600))]), []);
    assert!(only(&check(&[file("a/src/b.rs", &text(601))])).contains("a/src/b.rs:601: 601 lines, limit 600"));
    assert_eq!(check(&[file("docs/LONG.md", &text(900))]), []);
}

#[test]
fn a_missing_module_doc_is_found() {
    assert!(only(&check(&[file("a/src/b.rs", "// x\nfn main() {}\n")])).contains("b.rs:1: open the file"));
    assert!(only(&check(&[file("a/src/b.rs", "")])).contains("//!"));
}

#[test]
fn vague_module_names_are_found_as_files_folders_and_inline() {
    for path in ["a/src/utils.rs", "a/src/common/mod.rs", "a/helpers/b.rs"] {
        assert!(only(&check(&[file(path, "//! X.\n")])).contains("name it after the idea"), "{path}");
    }
    assert!(only(&check(&[file("a/src/b.rs", "//! X.\npub(crate) mod misc {\n}\n")])).contains("b.rs:2"));
    assert_eq!(check(&[file("a/src/commonality.rs", "//! X.\nmod utilisation;\n")]), []);
}

#[test]
fn vague_type_names_are_found() {
    assert!(only(&check(&[file("a/src/b.rs", "//! X.\npub struct NodeInfo {\n")])).contains("NodeInfo"));
    assert!(only(&check(&[file("a/src/b.rs", "//! X.\nenum StepData<T> {\n")])).contains("StepData"));
    assert_eq!(check(&[file("a/src/b.rs", "//! X.\nstruct Infos;\nlet struct_data = 1;\n")]), []);
}

#[test]
fn an_ignored_test_needs_a_reason_and_a_name_that_something_runs() {
    let test = |attribute: &str, name: &str| {
        file("a/src/b.rs", &format!("//! X.\n    {attribute}\n    fn {name}() {{}}\n"))
    };
    assert!(only(&check(&[test("#[ignore]", "soak_x")])).contains("b.rs:2: say why"));
    assert!(only(&check(&[test("#[ignore = \"slow\"]", "x")])).contains("nothing runs the ignored test `x`"));
    assert_eq!(check(&[test("#[ignore = \"soak: an hour\"]", "soak_x")]), []);
}

#[test]
fn allow_attributes_are_found_and_expect_is_not() {
    let text = "//! X.\n#![allow(dead_code)]\n    #[allow(unused, reason = \"y\")]\n#[expect(unused, reason = \"y\")]\n";
    assert_eq!(check(&[file("a/src/b.rs", text)]).len(), 2);
}

#[test]
fn a_bare_spawn_is_found_but_not_in_comments_and_strings() {
    let call = ["tokio", "::spawn("].concat();
    assert!(
        only(&check(&[file("a/src/b.rs", &format!("//! X.\n    {call}async {{}});\n"))])).contains("JoinSet")
    );
    let text = format!("//! X.\n// no {call}\nlet x = \"{call}\";\ntracker.spawn(x);\n");
    assert_eq!(check(&[file("a/src/b.rs", &text)]), []);
}

#[test]
fn a_package_without_the_workspace_lints_is_found() {
    let good = "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n";
    assert_eq!(check(&[file("a/Cargo.toml", good)]), []);
    assert!(only(&check(&[file("a/Cargo.toml", "[package]\nname = \"a\"\n")])).contains("[lints]"));
    assert!(
        only(&check(&[file("a/Cargo.toml", "[package]\n[lints]\n[x]\nworkspace = true\n")]))
            .contains("[lints]")
    );
    assert_eq!(check(&[file("a/fuzz/Cargo.toml", "[package]\n[workspace]\n")]), []);
    assert_eq!(check(&[file("Cargo.toml", "[workspace]\n")]), []);
}

#[test]
fn a_large_file_is_found() {
    assert_eq!(packages::oversized(Path::new("a"), 1 << 20), None);
    assert!(packages::oversized(Path::new("a"), (1 << 20) + 1).is_some());
}

#[test]
fn a_metric_needs_a_row_and_a_row_a_metric() {
    let code = file("router/src/metrics.rs", "//! X.\nregistry.counter(\n    \"router_tokens_total\",\n);\n");
    let row = |name: &str| file("docs/OPERATIONS.md", &format!("| `{name}` | tokens |\n"));
    assert_eq!(check(&[code.clone(), row("router_tokens_total")]), []);
    assert!(only(&check(std::slice::from_ref(&code))).contains("metrics.rs:3: metric `router_tokens_total`"));
    let both =
        file("docs/OPERATIONS.md", "| `router_tokens_total` | tokens |\n| `router_old_total` | tokens |\n");
    let findings = check(&[code, both]);
    assert!(only(&findings).contains("OPERATIONS.md:2: no code registers `router_old_total`"));
}

#[test]
fn crate_names_tests_and_other_strings_are_no_metrics() {
    let text = "//! X.\nlet a = \"shard_node_engine\";\nlet b = \"router_x y\";\n#[cfg(test)]\nlet c = \"router_x_total\";\n";
    assert_eq!(
        check(&[file("router/src/a.rs", text), file("tests/src/b.rs", "//! X.\nf(\"router_x_total\");\n")]),
        []
    );
}

#[test]
fn a_frame_kind_needs_a_place_in_the_protocol_document() {
    let frames = "//! X.\nkinds! {\n    // Sessions.\n    /// Opens.\n    Open = 0x0001, limit BIG;\n    Close = 0x0002, limit SMALL;\n}\n";
    let frames = file("proto/src/frame.rs", frames);
    let both = file("docs/PROTOCOL.md", "`Open` (1) and `Close` (2).\n");
    assert_eq!(check(&[frames.clone(), both]), []);
    let one = file("docs/PROTOCOL.md", "`Open` only; Close later.\n");
    assert!(only(&check(&[frames, one])).contains("frame.rs:6: frame kind `Close`"));
    assert!(only(&check(&[file("proto/src/frame.rs", "//! X.\n")])).contains("no frame kinds found"));
}

#[test]
fn words_that_promise_too_much_are_found_in_documents() {
    let word = ["trust", "less"].concat();
    let findings = check(&[file("README.md", &format!("# X\nA {word} swarm.\n"))]);
    assert!(only(&findings).contains("README.md:2"));
    assert_eq!(
        check(&[file("docs/SECURITY.md", "The private key stays on disk; improved, privately.\n")]),
        []
    );
    assert!(
        only(&check(&[file("docs/SECURITY.md", "Your prompt is Private here.\n")])).contains("who sees what")
    );
}

#[test]
fn the_line_counts_name_the_longest_file() {
    let text = line_counts(&[file("a.rs", "//!\n"), file("b.rs", "//!\n\n\n"), file("c.md", "")]);
    assert!(text.contains("2 Rust files, 4 lines; median 1") && text.contains("longest 3 (b.rs"), "{text}");
}

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.into(), text: text.into() }
}

fn only(findings: &[Finding]) -> String {
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings[0].to_string()
}
