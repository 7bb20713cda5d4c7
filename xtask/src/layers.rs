//! `cargo xtask layers`: holds the table of allowed dependencies against `cargo metadata`.
//!
//! Owns reading the metadata and judging it. What is allowed, and why, is data in `layers/table.rs`; a new
//! edge is a new word there, which is the point.

mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

pub(crate) use table::CRATES;
use table::{Guard, HEAVY, ROW_OF, Row};

use crate::workspace::Workspace;

/// What one of our crates depends on.
#[derive(Clone, Debug, Default)]
struct Package {
    name: String,
    /// Named in its manifest, of whatever kind.
    direct: BTreeSet<String>,
    /// The part of these that is needed for tests, examples and benches only.
    for_tests: BTreeSet<String>,
    /// Everything that is linked into it: normal dependencies, transitively.
    linked: BTreeSet<String>,
}

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let metadata = MetadataCommand::new()
        .current_dir(workspace.root())
        .other_options(["--locked".to_owned()])
        .exec()
        .context(
            "read cargo metadata; if it says that Cargo.lock is out of date, run `cargo check` and commit it",
        )?;
    let packages = packages(&metadata)?;
    let wrong = judge(&packages);
    if !wrong.is_empty() {
        for line in &wrong {
            println!("layers: {line}");
        }
        bail!("layers: {} edges are not allowed; see xtask/src/layers/table.rs", wrong.len());
    }
    println!("layers: {} crates keep to the table", packages.len());
    Ok(())
}

/// All that breaks the table, each with its cure.
fn judge(packages: &[Package]) -> Vec<String> {
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let Some(row) = ROW_OF(&package.name) else {
            wrong.push(format!("{} has no row in the table; add one with its reason", package.name));
            continue;
        };
        wrong.extend(wrong_edges(package, row, &names));
        wrong.extend(HEAVY.iter().filter_map(|guard| wrong_names(package, guard)));
        wrong.extend(row.links_no.iter().filter(|heavy| package.linked.contains(**heavy)).map(|heavy| {
            format!(
                "{} links {heavy} through another crate, which it must never do ({})",
                package.name, row.why
            )
        }));
    }
    for row in CRATES.iter().filter(|row| !names.contains(row.name)) {
        wrong.push(format!("{} is in the table but not in the workspace; drop its row", row.name));
    }
    wrong
}

/// Edges between our crates that the row does not list.
fn wrong_edges(package: &Package, row: &Row, ours: &BTreeSet<&str>) -> Vec<String> {
    package
        .direct
        .iter()
        .filter(|name| ours.contains(name.as_str()) && **name != package.name)
        .filter(|name| !row.ours.contains(&name.as_str()))
        .map(|name| format!("{} must not depend on {name} ({})", package.name, row.why))
        .collect()
}

/// Whether the package names an outside crate that is kept to others.
fn wrong_names(package: &Package, guard: &Guard) -> Option<String> {
    let named = package.direct.contains(guard.name) && !guard.only.contains(&package.name.as_str());
    let excused = guard.free_in_tests && package.for_tests.contains(guard.name);
    (named && !excused).then(|| {
        format!(
            "{} must not name {}: only {} may ({})",
            package.name,
            guard.name,
            guard.only.join(", "),
            guard.why
        )
    })
}

fn packages(metadata: &Metadata) -> Result<Vec<Package>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata gave no dependency graph")?;
    let names: BTreeMap<_, _> =
        metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    let mut edges = BTreeMap::new();
    for node in &resolve.nodes {
        let normal = node
            .deps
            .iter()
            .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        edges.insert(&node.id, normal.map(|dep| &dep.pkg).collect::<Vec<_>>());
    }
    Ok(metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let mut linked = BTreeSet::new();
            let mut waiting = edges.get(&package.id).cloned().unwrap_or_default();
            while let Some(id) = waiting.pop() {
                if linked.insert(id) {
                    waiting.extend(edges.get(id).into_iter().flatten());
                }
            }
            Package {
                name: package.name.to_string(),
                for_tests: for_tests(package),
                direct: package.dependencies.iter().map(|dependency| dependency.name.clone()).collect(),
                linked: linked.into_iter().filter_map(|id| names.get(id)).map(ToString::to_string).collect(),
            }
        })
        .collect())
}

/// What a package names for its tests and for nothing else.
fn for_tests(package: &cargo_metadata::Package) -> BTreeSet<String> {
    let of_kind = |tests: bool| {
        let dependencies = package.dependencies.iter();
        dependencies
            .filter(|dependency| (dependency.kind == DependencyKind::Development) == tests)
            .map(|dependency| dependency.name.clone())
            .collect::<BTreeSet<_>>()
    };
    &of_kind(true) - &of_kind(false)
}
