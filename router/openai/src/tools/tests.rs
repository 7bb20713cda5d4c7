//! Requests' functions, and calls in texts however they are cut.

use proptest::prelude::*;

use super::*;

fn tools(json: &str, choice: Option<&str>) -> Result<Tools, ApiError> {
    let list = serde_json::from_str(json).unwrap();
    Tools::check(Some(list), choice.map(|choice| serde_json::from_str(choice).unwrap()), None)
}

const WEATHER: &str = r#"[{"type":"function","function":{"name":"weather","description":"d",
    "parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}},
    {"type":"function","function":{"name":"now"}}]"#;

#[test]
fn choices_are_checked_against_the_list() {
    assert_eq!(tools(WEATHER, None).unwrap().choice, ToolChoice::Auto);
    assert_eq!(tools("[]", None).unwrap().choice, ToolChoice::None);
    let named = r#"{"type":"function","function":{"name":"now"}}"#;
    assert_eq!(tools(WEATHER, Some(named)).unwrap().choice, ToolChoice::Named("now".into()));
    for (list, choice, word) in [
        (WEATHER, Some(r#""sometimes""#), "one of none"),
        (WEATHER, Some(r#"{"type":"function","function":{"name":"then"}}"#), "none of `tools`"),
        ("[]", Some(r#""required""#), "empty"),
        (r#"[{"type":"retrieval"}]"#, None, "only functions"),
        (r#"[{"type":"function"}]"#, None, "missing"),
        (r#"[{"type":"function","function":{"name":"a b"}}]"#, None, "letters"),
        (r#"[{"type":"function","function":{"name":"a"}},{"type":"function","function":{"name":"a"}}]"#, None, "twice"),
        (r#"[{"type":"function","function":{"name":"a","parameters":[]}}]"#, None, "a schema is"),
    ] {
        let error = tools(list, choice).unwrap_err();
        assert!(error.message.contains(word), "{list}: {}", error.message);
    }
}

#[test]
fn only_an_answer_that_must_call_is_bound_to_a_grammar() {
    for format in [ToolFormat::Tagged, ToolFormat::Bare, ToolFormat::Listed] {
        assert_eq!(tools(WEATHER, None).unwrap().grammar(format).unwrap(), None);
        let required = tools(WEATHER, Some(r#""required""#)).unwrap().grammar(format).unwrap().unwrap();
        assert!(required.source().contains("\"weather\"") && required.source().contains("\"now\""));
        let named = r#"{"type":"function","function":{"name":"now"}}"#;
        let named = tools(WEATHER, Some(named)).unwrap().grammar(format).unwrap().unwrap();
        assert!(!named.source().contains("\"weather\"") && named.source().contains("\"now\""));
    }
}

/// The parts of a text that comes in pieces, texts put together.
fn parts(format: ToolFormat, pieces: &[&str]) -> Vec<ToolPart> {
    let mut parser = ToolCallParser::new(format);
    let mut all: Vec<ToolPart> = Vec::new();
    let found: Vec<ToolPart> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    for part in found.into_iter().chain(parser.finish()) {
        match (all.last_mut(), part) {
            (Some(ToolPart::Text(text)), ToolPart::Text(more)) => text.push_str(&more),
            (_, part) => all.push(part),
        }
    }
    all
}

fn text(text: &str) -> ToolPart {
    ToolPart::Text(text.into())
}

fn call(index: u32, name: &str, arguments: &str) -> ToolPart {
    ToolPart::Call { index, name: name.into(), arguments: arguments.into() }
}

#[test]
fn each_familys_calls_are_found() {
    let tagged = "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call>\n\
        <tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>";
    let found = [text("I look.\n"), call(0, "weather", r#"{"city":"Köln"}"#), call(1, "now", "{}")];
    assert_eq!(parts(ToolFormat::Tagged, &[tagged]), found);
    let bare = r#"{"name": "now", "parameters": {"zone": "UTC"}}"#;
    assert_eq!(parts(ToolFormat::Bare, &[bare]), [call(0, "now", r#"{"zone":"UTC"}"#)]);
    let tagged_bare = format!("<|python_tag|>{bare}");
    assert_eq!(parts(ToolFormat::Bare, &[&tagged_bare]), [call(0, "now", r#"{"zone":"UTC"}"#)]);
    let listed = r#"[TOOL_CALLS][{"name": "now", "arguments": {"a": 1}}, {"name": "b", "arguments": "{\"c\":2}"}]"#;
    assert_eq!(parts(ToolFormat::Listed, &[listed]), [call(0, "now", r#"{"a":1}"#), call(1, "b", r#"{"c":2}"#)]);
    let later = r#"Well. [TOOL_CALLS]now[ARGS]{"a": 1}[TOOL_CALLS]b[ARGS]{}"#;
    assert_eq!(parts(ToolFormat::Listed, &[later]), [text("Well. "), call(0, "now", r#"{"a":1}"#), call(1, "b", "{}")]);
}

#[test]
fn what_is_no_call_is_text_and_nothing_is_lost() {
    for (format, said) in [
        (ToolFormat::Tagged, "<tool_call>{\"name\": 7}</tool_call> and on"),
        (ToolFormat::Tagged, "a <tool_cal"),
        (ToolFormat::Tagged, "<tool_call>{\"name\": \"x\""),
        (ToolFormat::Bare, "{\"a\": 1}"),
        (ToolFormat::Bare, "so {\"name\": \"x\", \"parameters\": {}}"),
        (ToolFormat::Listed, "[TOOL_CALLS]nonsense"),
        (ToolFormat::Listed, "[TOOL_"),
    ] {
        assert_eq!(parts(format, &[said]), [text(said)], "{format:?}");
    }
    assert_eq!(
        parts(ToolFormat::Tagged, &["<tool_call>{\"name\": \"x\", \"arguments\": {}}"]),
        [call(0, "x", "{}")],
        "the end was forgotten"
    );
}

#[test]
fn formats_are_told_by_templates() {
    for (template, format) in [
        ("{% if tools %}<tool_call>{% endif %}", ToolFormat::Tagged),
        ("<|python_tag|> ipython", ToolFormat::Bare),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS]", ToolFormat::Listed),
        ("nothing of that", ToolFormat::Tagged),
    ] {
        assert_eq!(ToolFormat::of_template(Some(template)), format);
    }
    assert_eq!(ToolFormat::of_template(None), ToolFormat::Tagged);
}

proptest! {
    #[test]
    fn it_does_not_matter_how_a_text_is_cut(
        words in prop::collection::vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "{\"name\":\"x\",\"arguments\":{\"é\":\"語🎉\"}}", "<", "tool", " ", "\n", "a",
            "[TOOL_CALLS]", "[ARGS]", "{", "}", "<|python_tag|>", "🎉",
        ]), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        format in prop::sample::select(vec![ToolFormat::Tagged, ToolFormat::Bare, ToolFormat::Listed]),
    ) {
        let whole = words.concat();
        let mut at: Vec<usize> = cuts.iter().map(|cut| whole.floor_char_boundary(cut.index(whole.len() + 1))).collect();
        at.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for to in at.into_iter().chain([whole.len()]) {
            pieces.push(&whole[from..to]);
            from = to;
        }
        let at_once = parts(format, &[&whole]);
        let in_pieces = parts(format, &pieces);
        let calls = |parts: &[ToolPart]| parts.iter().filter(|part| matches!(part, ToolPart::Call { .. })).cloned().collect::<Vec<_>>();
        prop_assert_eq!(calls(&at_once), calls(&in_pieces));
        let said = |parts: &[ToolPart]| -> String {
            parts.iter().filter_map(|part| match part { ToolPart::Text(text) => Some(text.trim()), ToolPart::Call { .. } => None }).collect()
        };
        if calls(&at_once).is_empty() {
            prop_assert_eq!(said(&at_once), whole.trim());
            prop_assert_eq!(said(&in_pieces), whole.trim());
        }
    }
}
