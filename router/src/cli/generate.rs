//! `router generate`: one prompt, one answer.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use proto::session::SamplingParams;
use proto_sampling::Sampler;
use proto_text::ChatMessage;
use router::Router;
use router::generate::{Finish, GenerateRequest, Reply, Step};
use router::model::Prompt;
use tokio_util::sync::CancellationToken;

use super::options::{Generate, Sampling};
use super::output;
use super::settings::{Settings, UsageError, is_duration};

pub(super) async fn run(
    router: &Router,
    settings: &Settings,
    arguments: &Generate,
) -> anyhow::Result<ExitCode> {
    let request = GenerateRequest { prompt: prompt(arguments)?, ..request(settings, arguments)? };
    let cancel = CancellationToken::new();
    let mut shown = false;
    let mut watch = |step: Step<'_>| {
        remark(step, settings.verbose);
        if let (false, Step::Token(_, text) | Step::Rest(text)) = (settings.json, step) {
            shown = true;
            if output::piece(text).is_err() {
                // Nobody reads any more.
                cancel.cancel();
            }
        }
    };
    let answer = router.generate(&request, &mut watch, &cancel);
    let reply = until_interrupted(answer, &cancel).await;
    if shown && output::line("").is_err() {
        tracing::debug!("stdout is closed");
    }
    let reply = reply?;
    report(&reply, settings, arguments)?;
    Ok(if reply.finish == Finish::Cancelled { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs `work`; Ctrl-C cancels it.
pub(super) async fn until_interrupted<T>(work: impl Future<Output = T>, cancel: &CancellationToken) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            interrupted = tokio::signal::ctrl_c(), if !cancel.is_cancelled() => {
                // Without a signal handler there is nothing to wait for, but the work goes on.
                if interrupted.is_ok() {
                    cancel.cancel();
                } else {
                    return work.await;
                }
            }
        }
    }
}

fn request(settings: &Settings, arguments: &Generate) -> anyhow::Result<GenerateRequest> {
    let choice = &arguments.choice;
    Ok(GenerateRequest {
        answer: proto::answer::AnswerTerms::default(),
        model: choice.model.clone().or_else(|| settings.model.clone()),
        class: choice.numerics,
        prompt: Prompt::TokenIds(Vec::new()),
        max_tokens: arguments.sampling.max_tokens,
        sampling: sampling(&arguments.sampling)?,
        stop: arguments.sampling.stop.clone(),
        credit: arguments.sampling.credit.unwrap_or(settings.credit),
        standby: arguments.sampling.standby.unwrap_or(settings.standby),
        timeout: timeout(&arguments.sampling, settings)?,
    })
}

/// Finds mistakes in options before the swarm is asked.
pub(super) fn check(settings: &Settings, arguments: &Sampling) -> anyhow::Result<()> {
    timeout(arguments, settings)?;
    // Without biases the size of the vocabulary does not matter.
    Sampler::new(&sampling(arguments)?, 1).map_err(|error| UsageError::Option(error.to_string()))?;
    Ok(())
}

/// The time limit, from flag or file.
pub(super) fn timeout(arguments: &Sampling, settings: &Settings) -> Result<Option<Duration>, UsageError> {
    match arguments.timeout.or(settings.timeout_s) {
        Some(seconds) if is_duration(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        Some(seconds) => {
            Err(UsageError::Option(format!("--timeout {seconds} is not a positive number of seconds")))
        }
        None => Ok(None),
    }
}

/// Sampling parameters as given.
pub(super) fn sampling(arguments: &Sampling) -> anyhow::Result<SamplingParams> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        // Greedy choices do not depend on it.
        None if arguments.temperature == 0.0 => 0,
        None => {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes)
                .map_err(|error| anyhow::anyhow!("draw a seed: {error}; give --seed"))?;
            u64::from_le_bytes(bytes)
        }
    };
    Ok(SamplingParams {
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        min_p: arguments.min_p,
        repetition_penalty: arguments.repetition_penalty,
        presence_penalty: arguments.presence_penalty,
        frequency_penalty: arguments.frequency_penalty,
        logit_bias: Vec::new(),
        seed,
    })
}

fn prompt(arguments: &Generate) -> anyhow::Result<Prompt> {
    let source = &arguments.prompt;
    if let Some(ids) = &source.token_ids {
        return Ok(Prompt::TokenIds(ids.clone()));
    }
    let text = match (&source.prompt, &source.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => read(path)?,
        (None, None) => String::new(),
    };
    if !arguments.chat {
        return Ok(Prompt::Text(text));
    }
    let system = arguments.system.as_ref().map(|text| ChatMessage::new("system", text));
    Ok(Prompt::Chat(system.into_iter().chain([ChatMessage::new("user", text)]).collect()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("read the prompt from stdin")?;
    } else {
        text =
            std::fs::read_to_string(path).with_context(|| format!("read the prompt {}", path.display()))?;
    }
    Ok(text)
}

/// What is worth a remark on the way.
pub(super) fn remark(step: Step<'_>, verbose: bool) {
    match step {
        Step::Route(route) if verbose => {
            let stages: Vec<_> = route
                .stages
                .iter()
                .map(|stage| format!("{} (layers {}, {})", stage.node.short(), stage.span, stage.addr))
                .collect();
            output::remark(&format!("route in class {}: {}", route.class, stages.join(" -> ")));
        }
        Step::Moved(lost, route) => {
            let stages: Vec<_> = route.stages.iter().map(|stage| stage.node.short()).collect();
            output::remark(&format!("{lost}; the answer goes on over {}", stages.join(" -> ")));
        }
        Step::Retry(error) => output::remark(&format!("another route is tried: {error}")),
        Step::Route(_) | Step::Token(..) | Step::Rest(_) => {}
    }
}

/// Saves what the stages signed.
fn bundle(reply: &Reply, path: &Path) -> anyhow::Result<()> {
    let none = "nobody signed for this answer: its nodes sign nothing, or --attest=false was given";
    let evidence = reply.evidence.as_ref().filter(|evidence| evidence.collected().generations > 0);
    let bytes = evidence.context(none)?.bundle(&reply.token_ids)?;
    std::fs::write(path, bytes).with_context(|| format!("write the evidence {}", path.display()))
}

fn report(reply: &Reply, settings: &Settings, arguments: &Generate) -> anyhow::Result<()> {
    if let Some(path) = &arguments.bundle {
        bundle(reply, path)?;
    }
    let object = serde_json::to_string(&reply.to_json(arguments.margins))?;
    if let Some(path) = &arguments.report {
        std::fs::write(path, format!("{object}\n"))
            .with_context(|| format!("write the report {}", path.display()))?;
    }
    if settings.json {
        output::line(&object)?;
    } else if settings.verbose {
        let figure = |figure: Option<f64>| figure.map_or_else(|| "-".into(), |value| format!("{value:.1}"));
        let timings = &reply.timings;
        output::remark(&format!(
            "{} tokens, first after {} ms, then {} tokens/s (p50 {} ms, p99 {} ms); prompt of {} tokens at {} tokens/s",
            reply.token_ids.len(),
            figure(timings.ttft_ms),
            figure(timings.decode_tokens_per_second),
            figure(timings.itl_ms_p50),
            figure(timings.itl_ms_p99),
            reply.prompt_token_ids.len(),
            figure(timings.prefill_tokens_per_second),
        ));
    }
    Ok(())
}
