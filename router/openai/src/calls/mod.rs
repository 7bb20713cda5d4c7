//! Calls of tools in a model's text: how each family writes them, and how they are read while they are being written.

mod object;
mod reader;
mod tag;
mod value;
mod xml;

pub(crate) use reader::CallReader;
pub(crate) use tag::TagScan;

/// How a family of models writes calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToolFormat {
    /// `<tool_call>{"name":"f","arguments":{..}}</tool_call>` (Hermes, Qwen 2.5 and 3, and many more), and Qwen3-Coder's
    /// `<tool_call><function=f><parameter=x>1</parameter></function></tool_call>`.
    Hermes,
    /// `{"name":"f","parameters":{..}}` as the whole answer, or after `<|python_tag|>` (Llama 3.1 and later).
    Llama,
    /// `[TOOL_CALLS][{"name":"f","arguments":{..}}]`, and the newer `[TOOL_CALLS]f[ARGS]{..}`.
    Mistral,
    /// A call, or a list of them, as the whole answer: what an answer is held to where a call is required.
    Json,
}

impl ToolFormat {
    /// What a chat template's text tells of how the model was taught to call. Templates that know nothing of tools get the
    /// format that most models know.
    pub fn detect(template: &str) -> Self {
        let has = |what: &str| template.contains(what);
        if has("[TOOL_CALLS]") {
            Self::Mistral
        } else if has("<tool_call>") {
            Self::Hermes
        } else if has("<|python_tag|>") || has("Environment: ipython") {
            Self::Llama
        } else {
            Self::Hermes
        }
    }

    /// Special tokens that the reader must see as text, though special tokens are left out of answers.
    pub const fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>", "</tool_call>"],
            Self::Llama => &["<|python_tag|>"],
            Self::Mistral => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
            Self::Json => &[],
        }
    }
}

/// Whether a chat template shows tools to the model. If not, [`tool_prompt`] does.
pub fn template_shows_tools(template: &str) -> bool {
    template.contains("tools")
}

/// A system prompt that teaches a model the tools it may call, in [`ToolFormat::Hermes`] and in our own words, for models
/// whose template does not.
pub fn tool_prompt(definitions: &[serde_json::Value]) -> String {
    let mut prompt =
        String::from("Tools are at your service. Each line here describes one, as JSON:\n<tools>");
    for definition in definitions {
        prompt.push('\n');
        prompt.push_str(&definition.to_string());
    }
    prompt.push_str(
        "\n</tools>\nWhere a tool helps, call it by writing its name and its arguments in this form, and nothing else:\n\
         <tool_call>\n{\"name\": \"NAME\", \"arguments\": {}}\n</tool_call>",
    );
    prompt
}

#[cfg(test)]
mod tests;
