//! Calls as the families write them, broken ones, and that cuts and hostile text change nothing.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::request::Tool;
use crate::writer::Part;

/// Content, and each call's name and arguments.
type Read = (String, Vec<(String, String)>);

fn tools() -> Arc<[Tool]> {
    let tool = |name: &str| Tool {
        name: name.into(),
        parameters: Some(json!({"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}})),
        definition: json!({}),
    };
    [tool("weather"), tool("add")].into()
}

fn read<'a>(format: ToolFormat, pieces: impl IntoIterator<Item = &'a str>) -> Read {
    let mut reader = CallReader::new(format, tools());
    let mut read = Read::default();
    let mut sink = |part: Part<'_>| match part {
        Part::Content(text) => {
            assert!(!text.is_empty());
            read.0.push_str(text);
        }
        Part::CallBegin { name } => read.1.push((name.into(), String::new())),
        Part::CallArguments(json) => read.1.last_mut().unwrap().1.push_str(json),
        Part::Reasoning(_) => unreachable!(),
    };
    for piece in pieces {
        reader.push(piece, &mut sink);
    }
    reader.finish(&mut sink);
    read
}

fn whole(format: ToolFormat, text: &str) -> Read {
    let whole = read(format, [text]);
    let letters = read(format, text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]));
    assert_eq!(whole, letters, "{text}");
    whole
}

fn calls(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, json)| ((*name).into(), (*json).into())).collect()
}

#[test]
fn the_families_calls_are_read() {
    use ToolFormat::{Hermes, Json, Llama, Mistral};
    let paris = r#"{"city": "Paris </tool_call> \"}"}"#;
    let weather = &[("weather", paris)][..];
    for (format, text, content, list) in [
        (Hermes, format!("Let me see.\n\n<tool_call>\n{{\"name\": \"weather\", \"arguments\": {paris}}}\n</tool_call>"), "Let me see.", weather),
        (Hermes, format!("<tool_call>{{\"arguments\": {paris}, \"name\": \"weather\"}}}}</tool_call>\n"), "", weather),
        (
            Hermes,
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"add\"}\n</tool_call> ok".into(),
            " ok",
            &[("weather", "{}"), ("add", "{}")],
        ),
        (Hermes, r#"<tool_call>{"name":"add","arguments":"{\"a\": 1}"}</tool_call>"#.into(), "", &[("add", r#"{"a": 1}"#)]),
        (
            Hermes,
            "<tool_call>\n<function=weather>\n<parameter=city>\nNew\n\"York\"\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=x>a<b</parameter>\n</function>\n</tool_call>".into(),
            "",
            &[("weather", r#"{"city": "New\n\"York\"", "days": 3, "x": "a<b"}"#)],
        ),
        (Hermes, "<tool_call><function=add></function></tool_call>".into(), "", &[("add", "{}")]),
        (Llama, format!("{{\"name\": \"weather\", \"parameters\": {paris}}}"), "", weather),
        (Llama, format!(" <|python_tag|>{{\"type\": \"function\", \"name\": \"weather\", \"parameters\": {paris}}}"), "", weather),
        (Llama, r#"{"name":"add","parameters":{}}; {"name":"weather","parameters":{"a":[1]}}"#.into(), "", &[("add", "{}"), ("weather", r#"{"a":[1]}"#)]),
        (Mistral, format!("Hm. [TOOL_CALLS] [{{\"name\": \"weather\", \"arguments\": {paris}}}, {{\"name\": \"add\", \"arguments\": {{}}}}]"), "Hm.", &[("weather", paris), ("add", "{}")]),
        (Mistral, format!("[TOOL_CALLS]weather[ARGS]{paris}[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{{\"a\": 1}}"), "", &[("weather", paris), ("add", r#"{"a": 1}"#)]),
        (Mistral, format!("[TOOL_CALLS]weather{paris}"), "", weather),
        (Json, format!("[{{\"name\": \"weather\", \"arguments\": {paris}}}, {{\"name\": \"add\", \"arguments\": {{}}}}]"), "", &[("weather", paris), ("add", "{}")]),
        (Json, format!("{{\"name\": \"weather\", \"arguments\": {paris}}}"), "", weather),
    ] {
        assert_eq!(whole(format, &text), (content.to_owned(), calls(list)), "{format:?} {text}");
    }
}

#[test]
fn what_is_no_call_is_content() {
    use ToolFormat::{Hermes, Json, Llama, Mistral};
    for (format, text) in [
        (Hermes, "a < b <tool> <tool_call"),
        (Hermes, "<tool_call>nothing</tool_call>"),
        (Hermes, "<tool_call>{\"nam\": 1}</tool_call>"),
        (Hermes, "<tool_call>{\"name\": \"a b\", \"arguments\": {}}</tool_call>"),
        (Hermes, "<tool_call>{\"name\": 7}</tool_call>"),
        (Hermes, "<tool_call>\n{\"arguments\": {\"a\": "),
        (Hermes, "<tool_call><b>x</b></tool_call>"),
        (Hermes, "  \n trailing space \n"),
        (Llama, "{\"city\": \"Paris\"}"),
        (Llama, "{\"name\": \"unknown\", \"parameters\": {}}"),
        (Llama, "{\"name\": \"add\", \"age\": 3}"),
        (Llama, "{\"name\": \"add\"}"),
        (Llama, " [1, 2] {"),
        (Llama, "<|python_tag|>print(1)"),
        (Mistral, "[TOOL_CALLS] nothing here"),
        (Mistral, "[TOOL_CALLS][ ]"),
        (Mistral, "[TOOL_CALLS]add[ARG]{}"),
        (Json, "[{\"name\": \"x\"}]"),
        (Json, "plain"),
    ] {
        let (content, list) = whole(format, text);
        assert_eq!((content.as_str(), list.len()), (text, 0), "{format:?}");
    }
    // Long space is content, wherever it is cut.
    let long = format!("a{}<tool_call>{{\"name\":\"add\"}}", " ".repeat(300));
    assert_eq!(whole(Hermes, &long), (format!("a{}", " ".repeat(300)), calls(&[("add", "{}")])));
}

#[test]
fn a_call_that_is_cut_off_shows_what_there_is() {
    let text = "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Par";
    assert_eq!(whole(ToolFormat::Hermes, text).1, calls(&[("weather", "{\"city\": \"Par")]));
    let text = "<tool_call>{\"name\": \"weather\", \"arguments\": \"{\\\"city\\u00";
    assert_eq!(whole(ToolFormat::Hermes, text).1, calls(&[("weather", "{\"city")]));
    let text = "<tool_call><function=weather><parameter=days>12";
    assert_eq!(whole(ToolFormat::Hermes, text).1, calls(&[("weather", "{\"days\": 12")]));
}

#[test]
fn the_format_is_seen_in_the_template() {
    for (template, format) in [
        ("{% if tools %}<tool_call>{% endif %}", ToolFormat::Hermes),
        ("{{ '[TOOL_CALLS]' }}", ToolFormat::Mistral),
        ("Environment: ipython", ToolFormat::Llama),
        ("{{ messages }}", ToolFormat::Hermes),
    ] {
        assert_eq!(ToolFormat::detect(template), format);
    }
    assert!(
        tool_prompt(&[json!({"type": "function"})]).contains("<tools>\n{\"type\":\"function\"}\n</tools>")
    );
}

#[test]
fn hostile_text_takes_linear_time_and_bounded_memory() {
    for part in [
        "<tool_call>",
        "<tool_call>{",
        "<",
        " ",
        "<tool_call>{\"name\":\"add\",\"arguments\":",
        "{\"arguments\":[",
        "\\",
        "<tool_call><function=add><parameter=days>",
        "[TOOL_CALLS][",
        "}",
        "<tool_call>{\"name\":\"add\"}",
    ] {
        for format in [ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::Mistral, ToolFormat::Json] {
            let text = part.repeat((4 << 20) / part.len());
            #[expect(clippy::disallowed_methods, reason = "the test measures that work is not quadratic")]
            let begun = Instant::now();
            let mut reader = CallReader::new(format, tools());
            for piece in text.as_bytes().chunks(7) {
                reader.push(std::str::from_utf8(piece).unwrap(), &mut |_| {});
                assert!(reader.is_bounded());
            }
            reader.finish(&mut |_| {});
            assert!(begun.elapsed().as_secs() < 5, "{part} {format:?}");
        }
    }
}

fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(
        prop::sample::select(vec![
            "<tool_call>",
            "</tool_call>",
            "{",
            "}",
            "[",
            "]",
            "\"name\"",
            "\"add\"",
            ":",
            ",",
            "\"arguments\"",
            "\"parameters\"",
            "\"",
            "\\",
            " ",
            "\n",
            "<function=add>",
            "<parameter=city>",
            "<parameter=days>",
            "</parameter>",
            "</function>",
            "<",
            "[TOOL_CALLS]",
            "add",
            "[ARGS]",
            "[CALL_ID]",
            "<|python_tag|>",
            "é",
            "😀",
            "e\u{301}",
            "12",
            ";",
            "{\"name\":\"add\",\"arguments\":{",
        ]),
        0..40,
    )
}

proptest! {
    #[test]
    fn cuts_change_nothing(pieces in pieces(), cuts in prop::collection::vec(1usize..6, 1..20)) {
        let text = pieces.concat();
        for format in [ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::Mistral, ToolFormat::Json] {
            let (mut cut, mut rest, mut cut_up) = (cuts.iter().cycle(), text.as_str(), Vec::new());
            while !rest.is_empty() {
                let end = rest.char_indices().nth(*cut.next().unwrap()).map_or(rest.len(), |(at, _)| at);
                cut_up.push(&rest[..end]);
                rest = &rest[end..];
            }
            prop_assert_eq!(read(format, cut_up), whole(format, &text));
        }
    }
}
