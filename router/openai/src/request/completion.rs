//! `POST /v1/completions`: text that is continued, without a template.

use proto::session::MAX_POSITIONS;

use super::generation::{Generation, MAX_CHOICES, alternatives, token_limit};
use super::parameters::{self, COMPLETION};
use crate::error::{ApiError, ErrorCode};
use crate::read::{self, Json, Kind};

/// A request for the continuation of texts. Choice `i` continues prompt `i / n`.
#[derive(Clone, PartialEq, Debug)]
pub struct CompletionRequest {
    /// What is asked for, whatever the endpoint.
    pub generation: Generation,
    /// What to continue; at least one.
    pub prompts: Vec<CompletionPrompt>,
}

/// A text to continue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompletionPrompt {
    /// As text.
    Text(String),
    /// As token ids.
    Ids(Vec<u32>),
}

impl CompletionRequest {
    /// Reads a body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let body = read::body(bytes)?;
        parameters::check(&body, COMPLETION)?;
        let mut generation = Generation::read(&body)?;
        generation.read_choices(&body)?;
        generation.max_tokens = Some(token_limit(&body, "max_tokens")?.unwrap_or(DEFAULT_MAX_TOKENS));
        generation.logprobs = body.read("logprobs", |json| alternatives(json, MAX_LOGPROBS))?;
        if let Some(json) = body.get("echo")
            && json.boolean()?
        {
            return Err(json.unsupported("the prompt is not repeated; put it in front yourself"));
        }
        if let Some(json) = body.get("best_of")
            && json.integer(1..=MAX_CHOICES)? != i64::from(generation.n)
        {
            return Err(json.unsupported("all answers are given; ask for as many by `n`"));
        }
        let prompts = prompts(body.need("prompt")?)?;
        let choices = prompts.len() as i64 * i64::from(generation.n);
        if choices > MAX_ALL_CHOICES {
            let what = format_args!(
                "{} prompts with {} answers each are {choices} answers",
                prompts.len(),
                generation.n
            );
            let cure = format_args!("ask for at most {MAX_ALL_CHOICES} at once");
            return Err(ApiError::new(ErrorCode::TooMany, what, cure).at("prompt"));
        }
        Ok(Self { generation, prompts })
    }

    /// How many choices the answer has.
    pub fn choices(&self) -> u32 {
        self.prompts.len() as u32 * self.generation.n
    }
}

/// A text, a list of texts, a list of ids, or a list of lists of ids.
fn prompts(json: Json<'_, '_>) -> Result<Vec<CompletionPrompt>, ApiError> {
    match json.kind() {
        Kind::Text => Ok(vec![text(json)?]),
        Kind::List => {
            // Its first item tells what it is; ids are many, the others few.
            if json.source()[1..].trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '-') {
                return Ok(vec![ids(json)?]);
            }
            let list = json.list(MAX_PROMPTS)?;
            if list.len() == 0 {
                return Err(json.invalid("it is empty; at least one prompt is needed"));
            }
            let one = |json: Json<'_, '_>| match json.kind() {
                Kind::Text => text(json),
                Kind::List => ids(json),
                _ => Err(json.wrong_type("a string or a list of token ids")),
            };
            list.iter().map(one).collect()
        }
        _ => Err(json.wrong_type("a string, a list of strings, or token ids")),
    }
}

fn text(json: Json<'_, '_>) -> Result<CompletionPrompt, ApiError> {
    let text = json.text()?;
    if text.is_empty() {
        return Err(json.invalid("it is empty; at least one token is needed"));
    }
    Ok(CompletionPrompt::Text(text.into_owned()))
}

fn ids(json: Json<'_, '_>) -> Result<CompletionPrompt, ApiError> {
    let ids = json.ids(MAX_POSITIONS as usize)?;
    if ids.is_empty() {
        return Err(json.invalid("it is empty; at least one token is needed"));
    }
    Ok(CompletionPrompt::Ids(ids))
}

/// As in OpenAI's API.
const DEFAULT_MAX_TOKENS: u32 = 16;
/// As in OpenAI's API.
pub(crate) const MAX_LOGPROBS: u8 = 5;
/// Each is a session of its own, or several.
pub(crate) const MAX_PROMPTS: usize = 16;
/// All prompts' choices: as many sessions at once from one request.
pub(crate) const MAX_ALL_CHOICES: i64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::parse(body.as_bytes())
    }

    #[test]
    fn prompts_come_in_four_forms() {
        use CompletionPrompt::{Ids, Text};
        for (prompt, expected) in [
            (r#""a""#, vec![Text("a".into())]),
            (r#"["a", "b"]"#, vec![Text("a".into()), Text("b".into())]),
            (r"[ 1, 2]", vec![Ids(vec![1, 2])]),
            (r"[[1], [2, 3]]", vec![Ids(vec![1]), Ids(vec![2, 3])]),
        ] {
            let request = parse(&format!(r#"{{"prompt":{prompt},"n":2}}"#)).unwrap();
            assert_eq!(request.choices() as usize, 2 * expected.len());
            assert_eq!(request.prompts, expected);
            assert_eq!(
                (request.generation.max_tokens, request.generation.sampling.temperature),
                (Some(16), 1.0)
            );
        }
    }

    #[test]
    fn mistakes_name_their_place() {
        let long = format!(r#""prompt":[{}1]"#, "1,".repeat(1 << 18));
        for (fields, place) in [
            (r#""n":1"#, "prompt"),
            (r#""prompt":"""#, "prompt"),
            (r#""prompt":[]"#, "prompt"),
            (r#""prompt":[""]"#, "prompt[0]"),
            (r#""prompt":[[]]"#, "prompt[0]"),
            (r#""prompt":["a",7]"#, "prompt[1]"),
            (r#""prompt":[1,"a"]"#, "prompt[1]"),
            (r#""prompt":[-1]"#, "prompt[0]"),
            (r#""prompt":{}"#, "prompt"),
            (&long, "prompt"),
            (r#""prompt":["a","b","c","d","e"],"n":16"#, "prompt"),
            (r#""prompt":"a","echo":true"#, "echo"),
            (r#""prompt":"a","best_of":2"#, "best_of"),
            (r#""prompt":"a","logprobs":6"#, "logprobs"),
            (r#""prompt":"a","suffix":"b""#, "suffix"),
            (r#""prompt":"a","messages":[]"#, "messages"),
        ] {
            let error = parse(&format!("{{{fields}}}")).expect_err(fields);
            assert_eq!((error.param(), error.status()), (Some(place), 400), "{}", error.message());
        }
    }
}
