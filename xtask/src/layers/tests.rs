//! The table against made-up workspaces that keep and break it.

use super::*;

#[test]
fn a_workspace_that_keeps_the_table_passes() {
    assert_eq!(judge(&workspace()), Vec::<String>::new());
}

#[test]
fn a_router_that_depends_on_the_node_is_refused() {
    let wrong = judge(&with("router", "shard-node"));
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].starts_with("router must not depend on shard-node"), "{wrong:?}");
}

#[test]
fn a_node_that_names_tch_is_refused() {
    let wrong = judge(&with("shard-node", "tch"));
    assert!(wrong[0].contains("shard-node must not name tch: only shard-node-engine may"), "{wrong:?}");
}

#[test]
fn tokio_in_a_pure_crate_is_refused() {
    for pure in [
        "proto",
        "proto-sampling",
        "proto-attest",
        "proto-log",
        "proto-text",
        "shard-node-stage",
        "shard-node-weights",
        "router-plan",
        "router-openai",
    ] {
        assert!(judge(&with(pure, "tokio"))[0].contains("must not name tokio"), "{pure}");
    }
}

#[test]
fn anyhow_is_for_programs_and_tests() {
    let mut packages = with("proto-transport", "anyhow");
    assert!(judge(&packages)[0].contains("proto-transport must not name anyhow"));
    let transport = packages.iter_mut().find(|package| package.name == "proto-transport").unwrap();
    transport.for_tests.insert("anyhow".into());
    assert_eq!(judge(&packages), Vec::<String>::new());
}

#[test]
fn what_comes_in_through_another_crate_is_refused_too() {
    let mut packages = workspace();
    let plan = packages.iter_mut().find(|package| package.name == "router-plan").unwrap();
    plan.linked.insert("quinn".into());
    let wrong = judge(&packages);
    assert!(wrong[0].contains("router-plan links quinn through another crate"), "{wrong:?}");
}

#[test]
fn a_new_crate_needs_a_row_and_a_row_a_crate() {
    let mut packages = workspace();
    packages.retain(|package| package.name != "benches");
    packages.push(Package { name: "proto-settlement".into(), ..Package::default() });
    let wrong = judge(&packages);
    assert!(wrong.iter().any(|line| line.contains("proto-settlement has no row")), "{wrong:?}");
    assert!(wrong.iter().any(|line| line.contains("benches is in the table but not")), "{wrong:?}");
}

#[test]
fn the_table_itself_has_no_cycles_and_no_unknown_names() {
    // Rows stand after what they depend on, save tests and tools, so a cycle cannot be written.
    for (index, row) in CRATES.iter().enumerate() {
        for ours in row.ours {
            assert!(CRATES[..index].iter().any(|earlier| earlier.name == *ours), "{} -> {ours}", row.name);
        }
        assert!(!row.why.is_empty());
    }
    for guard in HEAVY {
        assert!(guard.only.iter().all(|name| ROW_OF(name).is_some()), "{guard:?}");
    }
}

fn workspace() -> Vec<Package> {
    CRATES
        .iter()
        .map(|row| Package {
            name: row.name.into(),
            direct: row.ours.iter().map(ToString::to_string).collect(),
            ..Package::default()
        })
        .collect()
}

fn with(name: &str, dependency: &str) -> Vec<Package> {
    let mut packages = workspace();
    let package = packages.iter_mut().find(|package| package.name == name).unwrap();
    package.direct.insert(dependency.into());
    packages
}
