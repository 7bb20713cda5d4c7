//! `router chat`: a conversation in the terminal. Each turn is a session of its own; the history goes into the model's
//! chat template.

use std::process::ExitCode;

use proto_text::ChatMessage;
use router::Router;
use router::generate::{GenerateError, GenerateRequest, Reply, Step};
use router::model::{Model, Prompt, PromptError};
use router_plan::ModelRef;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio_util::sync::CancellationToken;

use super::generate::{remark, sampling, timeout, until_interrupted};
use super::options::Chat;
use super::output;
use super::settings::Settings;

const HELP: &str = "/reset  forget the conversation\n/help   this text\n/quit   leave, as Ctrl-D does\n\
                    Ctrl-C stops a reply";

/// What the user typed.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Nothing,
    Reset,
    Help,
    Quit,
    Unknown(&'a str),
    Turn(&'a str),
}

pub(super) async fn run(router: &Router, settings: &Settings, arguments: &Chat) -> anyhow::Result<ExitCode> {
    let wanted = arguments.choice.model.clone().or_else(|| settings.model.clone());
    let (model, _) = router.model(wanted.as_ref()).await?;
    let request = GenerateRequest {
        answer: proto::answer::AnswerTerms::default(),
        model: Some(ModelRef::Id(model.id())),
        class: arguments.choice.numerics,
        prompt: Prompt::Chat(Vec::new()),
        max_tokens: arguments.sampling.max_tokens,
        sampling: sampling(&arguments.sampling)?,
        stop: arguments.sampling.stop.clone(),
        credit: arguments.sampling.credit.unwrap_or(settings.credit),
        standby: arguments.sampling.standby.unwrap_or(settings.standby),
        timeout: timeout(&arguments.sampling, settings)?,
    };
    output::remark(&format!("{}@{}; /help says what can be typed", model.name(), model.id().short()));
    let beginning: Vec<ChatMessage> =
        arguments.system.iter().map(|text| ChatMessage::new("system", text)).collect();
    let mut history = beginning.clone();
    let mut editor = DefaultEditor::new()?;
    loop {
        let Some((returned, line)) = read_line(editor).await? else { return Ok(ExitCode::SUCCESS) };
        editor = returned;
        match parse(&line) {
            Input::Nothing => {}
            Input::Quit => return Ok(ExitCode::SUCCESS),
            Input::Help => output::remark(HELP),
            Input::Reset => {
                history.clone_from(&beginning);
                output::remark("forgotten");
            }
            Input::Unknown(command) => output::remark(&format!("{command} is no command; /help lists them")),
            Input::Turn(text) => {
                // The terminal's memory is a comfort, not a record.
                let _ = editor.add_history_entry(text);
                history.push(ChatMessage::new("user", text));
                match turn(router, settings, &model, &request, &history).await {
                    Ok(reply) => history.push(ChatMessage::new("assistant", reply.text)),
                    Err(error) => {
                        history.pop();
                        say(&error);
                    }
                }
            }
        }
    }
}

/// One reply. Ctrl-C keeps what has come.
async fn turn(
    router: &Router,
    settings: &Settings,
    model: &Model,
    request: &GenerateRequest,
    history: &[ChatMessage],
) -> Result<Reply, GenerateError> {
    let request = GenerateRequest { prompt: Prompt::Chat(history.to_vec()), ..request.clone() };
    let cancel = CancellationToken::new();
    let mut watch = |step: Step<'_>| {
        remark(step, settings.verbose);
        if let (false, Step::Token(_, text) | Step::Rest(text)) = (settings.json, step)
            && output::piece(text).is_err()
        {
            cancel.cancel();
        }
    };
    let answer = async {
        // Nodes come and go between two turns.
        let mut view = router.view_of(request.model.as_ref()).await?;
        router.generate_on(model, &mut view, &request, &mut watch, &cancel).await
    };
    let reply = until_interrupted(answer, &cancel).await;
    let shown = match &reply {
        Ok(reply) if settings.json => output::line(&reply.to_json(false).to_string()),
        _ if settings.json => Ok(()),
        _ => output::line(""),
    };
    if shown.is_err() {
        tracing::debug!("stdout is closed");
    }
    reply
}

fn say(error: &GenerateError) {
    match error {
        GenerateError::Prompt(PromptError::TooLong { .. } | PromptError::TextTooLong { .. }) => {
            output::remark(&format!("error: {error}; /reset forgets the conversation"));
        }
        error => output::remark(&format!("error: {error}")),
    }
}

fn parse(line: &str) -> Input<'_> {
    match line.trim() {
        "" => Input::Nothing,
        "/reset" => Input::Reset,
        "/help" => Input::Help,
        "/quit" | "/exit" => Input::Quit,
        command if command.starts_with('/') && !command.contains(' ') => Input::Unknown(command),
        text => Input::Turn(text),
    }
}

/// Waits for a line; `None` at the end. The terminal's library blocks, so it gets a thread.
async fn read_line(mut editor: DefaultEditor) -> anyhow::Result<Option<(DefaultEditor, String)>> {
    let reading = tokio::task::spawn_blocking(move || {
        loop {
            match editor.readline("> ") {
                Ok(line) => return Ok(Some((editor, line))),
                // Ctrl-C at the prompt empties the line.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    });
    tokio::select! {
        read = reading => Ok(read??),
        // Not from the keyboard, which the library reads itself.
        _ = tokio::signal::ctrl_c() => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_turns_are_told_apart() {
        assert_eq!(parse(" /reset "), Input::Reset);
        assert_eq!(parse("/rest"), Input::Unknown("/rest"));
        assert_eq!(parse("/etc/passwd is what?"), Input::Turn("/etc/passwd is what?"));
        assert_eq!(parse(""), Input::Nothing);
    }
}
