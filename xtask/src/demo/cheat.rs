//! `cargo xtask demo --cheat NAME`: one node of the swarm cheats, and an audit of its answers finds it.

use anyhow::{Context, Result, ensure};

use super::audit::Audit;
use super::spans::Span;
use super::swarm::Swarm;
use super::{DemoArgs, generate};

/// Cheats that the test engine knows.
pub(super) const CHEATS: [&str; 6] = ["int8", "int4", "kv8", "skip", "identity", "tamper"];

/// Lets the swarm answer some prompts, audits all hops, and says who was caught. Fails if the cheat was not, or somebody
/// honest was.
pub(super) fn play(
    audit: &Audit<'_>,
    cheat: &str,
    (swarm, cheater, span): (&Swarm, usize, Span),
) -> Result<String> {
    let mut bundles = Vec::new();
    for (number, prompt) in std::iter::once(audit.args.prompt.as_str()).chain(PROMPTS).enumerate() {
        let bundle = audit.directory.join(format!("evidence-{number}"));
        let args = DemoArgs { prompt: prompt.to_owned(), bundle: Some(bundle.clone()), ..audit.args.clone() };
        generate(&audit.programs.join("router"), &args, true, swarm, audit.directory, || {})?;
        bundles.push(bundle);
    }
    eprintln!("auditing {} answers", bundles.len());
    let text = audit.of(swarm, &bundles, "1,2,4,8,16,32")?;
    eprintln!("{text}");
    let id = swarm.id(cheater).context("find the node that cheats")?;
    verdict(&text, id, cheat, span)
}

/// What an audit's lines say of the node that cheats.
fn verdict(text: &str, cheater: &str, cheat: &str, span: Span) -> Result<String> {
    let cheater = &cheater[..8.min(cheater.len())];
    let caught = || text.lines().filter_map(|line| line.strip_prefix("caught: "));
    let innocent = caught().find(|line| !line.starts_with(cheater));
    ensure!(innocent.is_none(), "an honest node was caught: {}", innocent.unwrap_or_default());
    let count = caught().count();
    let audited = text.lines().find(|line| line.starts_with("audited ")).unwrap_or("audited nothing");
    ensure!(
        count > 0,
        "{audited}; node {cheater} computed layers {span} as `{cheat}` and was not caught:\n{text}"
    );
    Ok(format!("{audited}; {count} of them speak against one node\ncaught: {cheater} {cheat} layers {span}"))
}

/// Beside the one that is asked for: a fine cheat shows in some chunks and not in others.
const PROMPTS: [&str; 3] = [
    "Explain to a child why the sky is blue.",
    "Write a short story about a clockmaker and a cat.",
    "How do I bake bread?",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cheater_may_be_caught_and_must_be() {
        let span: Span = super::super::spans::equal(30, 3).unwrap()[1];
        let text =
            "pass: x\naudited 9 receipts of 3 answers\ncaught: abcdef01 layers 10..20: rows 0..4: delta 1\n";
        let said = verdict(text, "abcdef0123", "skip", span).unwrap();
        assert!(said.ends_with("caught: abcdef01 skip layers 10..20"), "{said}");
        assert!(said.starts_with("audited 9 receipts"), "{said}");
        assert!(verdict("audited 9 receipts\n", "abcdef0123", "skip", span).is_err());
        let error = verdict(&text.replace("abcdef01", "99999999"), "abcdef0123", "skip", span).unwrap_err();
        assert!(error.to_string().contains("honest"), "{error}");
    }
}
