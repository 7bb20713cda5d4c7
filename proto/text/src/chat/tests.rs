//! Templates against Jinja itself (`golden/make_golden.py`), and the limits.

use std::collections::HashMap;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    now: i64,
    templates: HashMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
    text: Option<String>,
    raised: Option<String>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../golden/chat.json")).unwrap()
}

fn render(source: &str, messages: &[ChatMessage]) -> Result<String, TemplateError> {
    let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
    ChatTemplate::new(source)?.render(input)
}

#[test]
fn every_golden_conversation_is_rendered_as_jinja_does() {
    let golden = golden();
    for case in &golden.cases {
        let rendered = ChatTemplate::new(&golden.templates[&case.template]).unwrap().render(ChatInput {
            messages: &case.messages,
            add_generation_prompt: case.add_generation_prompt,
            bos: Some("<s>"),
            eos: Some("</s>"),
            now: Some(golden.now),
        });
        match (rendered, &case.text, &case.raised) {
            (Ok(text), Some(want), _) => assert_eq!(&text, want, "{} {:?}", case.template, case.messages),
            (Err(TemplateError::Raised(message)), _, Some(want)) => assert_eq!(&message, want),
            (got, ..) => panic!("{}: {got:?}, wanted {:?} {:?}", case.template, case.text, case.raised),
        }
    }
    assert!(golden.cases.iter().any(|case| case.raised.is_some()));
}

#[test]
fn what_is_gravity_gets_the_default_system_prompt() {
    let text = render(&golden().templates["smollm2"], &[ChatMessage::new("user", "What is gravity?")]);
    assert_eq!(
        text.unwrap(),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn without_a_date_templates_take_their_own() {
    let text = render(&golden().templates["llama-3"], &[ChatMessage::new("user", "Hi")]).unwrap();
    assert!(text.contains("26 Jul 2024"));
}

#[test]
fn hostile_templates_are_stopped() {
    let message = [ChatMessage::new("user", "x")];
    let long = format!("{{{{ '{}' }}}}", "x".repeat(200_000));
    assert!(matches!(render(&long, &message), Err(TemplateError::TooLarge { .. })));
    assert!(matches!(render("{% for", &message), Err(TemplateError::Syntax(_))));
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{{ a }}{% endfor %}{% endfor %}";
    assert!(matches!(render(endless, &message), Err(TemplateError::OutOfFuel)));
    let wide = "{% set x = 'y' * 100000 %}{% for a in range(200) %}{{ x }}{% endfor %}";
    assert!(matches!(render(wide, &message), Err(TemplateError::OutputTooLong { .. })));
    let deep = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    assert!(matches!(render(deep, &message), Err(TemplateError::Render(_))));
    let nested = format!("{}{}", "{% if true %}".repeat(2000), "{% endif %}".repeat(2000));
    assert!(render(&nested, &message).is_err());
    let brackets = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(render(&brackets, &message).is_err());
    for missing in
        ["{{ nothing.at.all }}", "{{ messages[0].content.nomethod() }}", "{{ unknown_function() }}"]
    {
        assert!(matches!(render(missing, &message), Err(TemplateError::Render(_))), "{missing}");
    }
    for outside in ["{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends 'base' %}"] {
        assert!(render(outside, &message).is_err(), "{outside}");
    }
}

#[test]
fn what_templates_do_to_strings_and_lists_is_paid_for() {
    let message = [ChatMessage::new("user", "x")];
    let long = "{% set s = 'a' * 1000000 %}";
    let many = |what: &str| format!("{long}{{% for i in range(10000) %}}{what}{{% endfor %}}");
    let hostile = [
        "{% set s = 'a' * 100000000 %}{% for i in range(100) %}{{ s.count('b') }}{% endfor %}".to_owned(),
        "{% set s = 'a' * 100 * 100 * 100 * 100 %}".to_owned(),
        "{% set s = 100000000 * (1 and 'a') %}".to_owned(),
        "{% set n = namespace(s='ab') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
            .to_owned(),
        "{% set n = namespace(s='ab') %}{% for i in range(40) %}{% set n.s = n.s + n.s %}{% endfor %}"
            .to_owned(),
        "{% set n = namespace(s='ab') %}{% for i in range(40) %}{% set s %}{{ n.s }}{{ n.s }}{% endset %}\
         {% set n.s = s %}{% endfor %}"
            .to_owned(),
        "{% set n = namespace(s=['ab']) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}\
         {{ n.s == n.s }}{{ n.s|tojson }}"
            .to_owned(),
        "{% set n = namespace(s=['ab']) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}\
         {{ n.s|list|length }}"
            .to_owned(),
        "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}".to_owned(),
        "{{ ['a' * 1000000]|map('replace', 'a', 'b' * 1000000)|list }}".to_owned(),
        "{{ range(10000)|list|join('a' * 1000000) }}".to_owned(),
        "{{ ('a' * 1000000).join(range(10000)|list) }}".to_owned(),
        "{{ 'a\nb'|indent(1000000000) }}".to_owned(),
        "{{ range(3)|batch(1000000000, 'x')|list }}".to_owned(),
        "{{ range(3)|tojson(indent=1000000) }}".to_owned(),
        "{{ range(10000)|select('in', 'a' * 1000000)|list }}".to_owned(),
        many("{{ 'b' in s }}"),
        many("{% if s == s %}{% endif %}"),
        many("{% set t = s.upper() %}"),
        many("{% set t = s|upper %}"),
        many("{% set t = s[1:] %}"),
        many("{% set t = s.split('a') %}"),
        many("{% set t = s|list %}"),
    ];
    for source in &hostile {
        assert!(render(source, &message).is_err(), "{source}");
    }
    for splat in ["{{ f(*messages) }}", "{{ 'a'|replace(*messages) }}"] {
        assert!(matches!(render(splat, &message), Err(TemplateError::Syntax(_))), "{splat}");
    }
}

/// Many levels for each turn of a loop.
const DEEP_LITERAL: &str = "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[n.s]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]";

#[test]
fn deep_nests_of_values_do_not_overflow_the_stack() {
    let message = vec![ChatMessage::new("user", "x"); 10_000];
    for step in [
        "[n.s]",
        "{'a': n.s}",
        "n.s[0:]",
        "n.s|reverse",
        "n.s + [1]",
        "(n.s,)",
        "namespace(s=n.s)",
        "dict(s=n.s)",
        DEEP_LITERAL,
    ] {
        let source = format!(
            "{{% set n = namespace(s=[1]) %}}{{% for i in range(10000) %}}{{% for j in range(10000) %}}\
             {{% set n.s = {step} %}}{{% endfor %}}{{% endfor %}}"
        );
        assert!(render(&source, &message).is_err(), "{step}");
    }
}

#[test]
fn products_and_growing_filters_still_work() {
    let message = [ChatMessage::new("user", "x")];
    let source = "{{ 2 * 3 }}{{ 'ab' * 2 }}{{ 2 * 1.5 }}{{ ('a,b'|split(','))|join('-') }}{{ 'aXb'|replace('X', '--') }}\
                  {{ [1, 2, 3][1:]|list }}{{ 'a' ~ 1 ~ [2] }}{{ 'a' in 'ab' }}{{ messages|map(attribute='role')|join }}";
    assert_eq!(render(source, &message).unwrap(), "6abab3.0a-ba--b[2, 3]a1[2]Trueuser");
}

#[test]
fn templates_and_messages_of_any_bytes_do_not_panic() {
    use proptest::prelude::*;
    let parts = prop::sample::select(vec![
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "#}",
        "-",
        " generation ",
        " for x in messages ",
        " endfor ",
        " if ",
        " x.y ",
        " set a = ",
        "'",
        "\"",
        "|",
        "trim",
        "(",
        ")",
        "[",
        "]",
        "é",
        "\0",
        "\n",
        " endif ",
        "1",
        "::",
        "~",
        ".strip",
    ]);
    let source = prop::collection::vec(parts, 0..40).prop_map(|parts| parts.concat());
    proptest!(|(source in source, content: String)| {
        let _ = render(&source, &[ChatMessage::new("user", content)]);
    });
}
