//! Rendered as transformers renders, and never without end.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::*;
use crate::text::special::SpecialTokens;
use crate::text::tokenizer::tests::{MODELS, cases, golden_json, golden_tokenizer, ids};

fn compiled(text: &str) -> Result<ChatTemplate, TemplateError> {
    let mut sources = TemplateSources::default();
    sources.add("default", text);
    let tokens = [("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
    ChatTemplate::new(&sources, &tokens, TemplateLimits::default())
}

fn chat<'a>(messages: &'a [Value], variables: &'a Map<String, Value>) -> Chat<'a> {
    // Sunday, 2024-02-29 would be a Thursday: the 29th of February of a leap year, 13:05:09.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_211_909);
    Chat {
        messages,
        tools: None,
        add_generation_prompt: false,
        continue_final_message: false,
        variables,
        now,
    }
}

/// Renders a template over one user's message `hi` and these variables.
fn render_with(text: &str, variables: Value) -> Result<String, TemplateError> {
    let variables = variables.as_object().unwrap().clone();
    compiled(text)?.render(&chat(&[json!({"role": "user", "content": "hi"})], &variables))
}

fn render(text: &str) -> String {
    render_with(text, json!({})).unwrap()
}

fn golden_template(model: &str) -> Option<ChatTemplate> {
    let config = golden_json(model, "tokenizer_config.json");
    let special = SpecialTokens::parse(&config, &Value::Null).unwrap();
    let mut sources = TemplateSources::default();
    sources.add_field(&config["chat_template"]).unwrap();
    (!sources.is_empty())
        .then(|| ChatTemplate::new(&sources, &special.named, TemplateLimits::default()).unwrap())
}

#[test]
fn every_golden_conversation_is_rendered_as_the_reference_does() {
    let mut rendered = 0;
    for model in MODELS {
        let Some(template) = golden_template(model) else { continue };
        let tokenizer = golden_tokenizer(model);
        for case in cases(model)["chat"].as_array().unwrap() {
            let mut variables = Map::new();
            if let Some(thinking) = case.get("enable_thinking") {
                variables.insert("enable_thinking".into(), thinking.clone());
            }
            let messages = case["messages"].as_array().unwrap();
            let add_generation_prompt = case["add_generation_prompt"].as_bool().unwrap();
            let result = template.render(&Chat { add_generation_prompt, ..chat(messages, &variables) });
            if let Some(error) = case["error"].as_str() {
                assert_eq!(result, Err(TemplateError::Refused(error.into())), "{model}");
            } else {
                let prompt = result.unwrap();
                assert_eq!(prompt, case["rendered"].as_str().unwrap(), "{model}");
                assert_eq!(tokenizer.encode(&prompt, false).unwrap(), ids(&case["ids"]), "{model}");
            }
            rendered += 1;
        }
    }
    assert!(rendered > 80);
}

#[test]
fn values_read_as_python_writes_them() {
    assert_eq!(render("{{ true }} {{ none }} {{ 1.0 }} {{ 'a' ~ false }}"), "True None 1.0 aFalse");
    assert_eq!(render("{{ missing }}|{{ missing is defined }}|{{ tools is none }}"), "|False|True");
    assert_eq!(render("{{ messages[0].role.upper() }}{{ messages[-1]['content'] }}"), "USERhi");
    assert_eq!(render("{{ 'a,b'.split(',')[-1] }}{{ ' x '.strip() }}{{ 'xay'.replace('a', 'b') }}"), "bxxby");
    assert_eq!(render("{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'a=b=c'.partition('=')[2] }}"), "xb=c");
    assert_eq!(render("{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}"), "b1a2");
    assert_eq!(render("{{ bos_token }}{{ eos_token }}"), "<s></s>");
}

#[test]
fn white_space_around_blocks_is_trimmed_as_transformers_sets_it() {
    assert_eq!(render("{% if true %}\n  a\n  {% endif %}\nb\n"), "  a\nb");
    assert_eq!(
        render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}"),
        "1"
    );
    assert_eq!(
        render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}"),
        "13"
    );
}

#[test]
fn the_marks_of_what_is_trained_on_leave_no_trace() {
    let text =
        "{% for m in messages %}\n{% generation %}\n{{ m.content }}{%- endgeneration -%}  \n{% endfor %}end";
    assert_eq!(render(text), "hiend");
    assert_eq!(render("{{ '{% x' }}{% raw %}{% endraw %}{{ 'generation' }}"), "{% xgeneration");
}

#[test]
fn json_is_written_as_python_does() {
    let value =
        json!({"b": [1, 2.5, 1e16, 1e-5, 1.0, true, null], "a": "é\"<\n\u{1}", "empty": {}, "none": []});
    let compact = render_with("{{ x | tojson }}", json!({"x": value})).unwrap();
    assert_eq!(
        compact,
        "{\"b\": [1, 2.5, 1e+16, 1e-05, 1.0, true, null], \"a\": \"é\\\"<\\n\\u0001\", \"empty\": {}, \"none\": []}"
    );
    let indented = render_with("{{ x | tojson(indent=2) }}", json!({"x": {"b": [1], "a": {}}})).unwrap();
    assert_eq!(indented, "{\n  \"b\": [\n    1\n  ],\n  \"a\": {}\n}");
    let options = "{{ x | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}";
    assert_eq!(
        render_with(options, json!({"x": {"b": "é🙂", "a": 1}})).unwrap(),
        "{\"a\":1,\"b\":\"\\u00e9\\ud83d\\ude42\"}"
    );
    assert!(matches!(render_with("{{ missing | tojson }}", json!({})), Err(TemplateError::Failed(_))));
}

#[test]
fn the_date_is_the_one_that_was_passed() {
    assert_eq!(render("{{ strftime_now('%d %b %Y') }}"), "29 Feb 2024");
    assert_eq!(
        render("{{ strftime_now('%A, %-d %B %y, %H:%M:%S %I %p, day %j, %F, 100%%, %q') }}"),
        "Thursday, 29 February 24, 13:05:09 01 PM, day 060, 2024-02-29, 100%, %q"
    );
}

#[test]
fn a_templates_refusal_is_its_own_words() {
    let refused = render_with("{{ raise_exception('Only user and assistant roles!') }}", json!({}));
    assert_eq!(refused, Err(TemplateError::Refused("Only user and assistant roles!".into())));
    let in_macro =
        "{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{% for x in [1] %}{{ m() }}{% endfor %}";
    assert_eq!(render_with(in_macro, json!({})), Err(TemplateError::Refused("deep".into())));
}

#[test]
fn a_failure_names_its_kind_and_line() {
    let failed = render_with("a\n{{ messages[0].content.nothing.at_all }}", json!({})).unwrap_err();
    assert!(matches!(&failed, TemplateError::Failed(reason) if reason.contains("line 2")), "{failed}");
    let malformed = compiled("{% for x in %}").unwrap_err();
    assert!(
        matches!(&malformed, TemplateError::Malformed(reason) if reason.contains("line 1")),
        "{malformed}"
    );
}

#[test]
fn no_template_runs_without_end_or_fills_the_memory() {
    let loops = "{% for a in range(300) %}{% for b in range(300) %}{% for c in range(300) %}x{% endfor %}{% endfor %}{% endfor %}";
    let doubled = format!("{{% set ns = namespace(a='x') %}}{}", "{% set ns.a = ns.a ~ ns.a %}".repeat(60));
    for hostile in [
        loops,
        &doubled,
        "{{ 'a' * 100000000 }}",
        "{{ 'a' * 10000000000 }}",
        "{% set x = 'a' * 90000000 %}{% set y = 'a' * 90000000 %}{% set z = 'a' * 90000000 %}{{ 1 }}{% set w = 'a' * 90000000 %}",
        "{{ ('a' * 10000).replace('a', 'b' * 100000) | length }}",
        "{{ range(100000000) | list | length }}",
        "{% for x in range(1000000) %}{{ messages | tojson(indent=10000000) }}{% endfor %}",
        "{{ 'x' | indent(1000000000) }}{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ [1] * 100000000 | length }}{% for x in [1] * 100000000 %}{{ x }}{% endfor %}",
    ] {
        let result = render_with(hostile, json!({}));
        assert!(
            matches!(result, Err(TemplateError::Limit(_) | TemplateError::Failed(_))),
            "{hostile:.60}: {:?}",
            result.map(|text| text.len())
        );
    }
}

#[test]
fn no_template_reaches_beyond_its_variables() {
    for hostile in [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}{{ y }}",
        "{% extends 'other' %}",
        "{{ self.__init__ }}{{ self._TemplateReference__context.x }}",
    ] {
        assert!(render_with(hostile, json!({})).is_err(), "{hostile}");
    }
}

#[test]
fn nested_source_is_refused_and_not_a_stack_overflow() {
    let most = LONGEST_TAG - 16;
    let many = |text: &str| text.repeat(most / text.len());
    let ifs = format!("{}x{}", "{% if true %}".repeat(6000), "{% endif %}".repeat(6000));
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(most / 2), ")".repeat(most / 2));
    let lists = format!("{{{{ {}1{} }}}}", "[".repeat(most / 2), "]".repeat(most / 2));
    let nots = format!("{{{{ {}1 }}}}", many("not "));
    let minus = format!("{{{{ {}1 }}}}", many("-"));
    let sums = format!("{{{{ 1{} }}}}", many("+1"));
    let texts = format!("{{{{ 'a'{} }}}}", many("~a"));
    let powers = format!("{{{{ 1{} }}}}", many("**1"));
    let filters = format!("{{{{ 'a'{} }}}}", many("|e"));
    let items = format!("{{{{ messages{} }}}}", many(".a"));
    let calls = format!("{{{{ messages{} }}}}", many("()"));
    let tests = format!("{{{{ 1{} }}}}", many(" is odd"));
    let choices = format!("{{{{ 1{} }}}}", many(" if 1 else 1"));
    let elifs = format!("{{% if false %}}{}{{% endif %}}", "{% elif false %}".repeat(15_000));
    for hostile in [
        ifs,
        parentheses,
        lists,
        nots,
        minus,
        sums,
        texts,
        powers,
        filters,
        items,
        calls,
        tests,
        choices,
        elifs,
    ] {
        // Any outcome, but an outcome.
        let _ = render_with(&hostile, json!({}));
    }
    let hidden = format!("{{{{ '}}}}{{#'{} }}}}", "+1".repeat(4000));
    assert_eq!(compiled(&hidden).unwrap_err(), TemplateError::Limit("bytes in one tag"));
    let long_text = format!("{{{{ '{}' }}}}", "x".repeat(100_000));
    assert_eq!(render_with(&long_text, json!({})).unwrap().len(), 100_000);
    assert_eq!(compiled(&"x".repeat(2 << 20)).unwrap_err(), TemplateError::Limit("source bytes"));
}

#[test]
fn a_prompt_has_an_end() {
    let mut sources = TemplateSources::default();
    sources.add("default", "{{ messages[0].content }}");
    let limits = TemplateLimits { output_bytes: 10, ..TemplateLimits::default() };
    let template = ChatTemplate::new(&sources, &[], limits).unwrap();
    let messages = [json!({"role": "user", "content": "eleven char"})];
    assert_eq!(template.render(&chat(&messages, &Map::new())), Err(TemplateError::Limit("output bytes")));
}

#[test]
fn content_may_be_parts_and_other_fields_pass_through() {
    let template = compiled("{{ messages[0].content }}|{{ messages[0].name }}|{{ messages[1].tool_calls[0].function.arguments.city }}").unwrap();
    let messages = [
        json!({"role": "user", "name": "Ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\"city\": \"Oslo\"}"}}]}),
    ];
    assert_eq!(template.render(&chat(&messages, &Map::new())).unwrap(), "a\nb|Ann|Oslo");
}

#[test]
fn a_message_that_is_none_is_named() {
    let template = compiled("x").unwrap();
    for (messages, expected) in [
        (vec![], "messages: expected at least one message, got none"),
        (vec![json!("hi")], "messages[0]: expected an object, got a text"),
        (vec![json!({"content": "hi"})], "messages[0].role: expected a text, got nothing"),
        (vec![json!({"role": 1})], "messages[0].role: expected a text, got a number"),
        (
            vec![json!({"role": "user", "content": 5})],
            "messages[0].content: expected a text or a list of parts, got a number",
        ),
        (
            vec![json!({"role": "user", "content": [{"type": "image_url"}]})],
            "messages[0].content[0].type: expected \"text\", got \"image_url\"",
        ),
        (
            vec![json!({"role": "user", "content": [{"type": "text"}]})],
            "messages[0].content[0].text: expected a text, got nothing",
        ),
        (
            vec![json!({"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]})],
            "messages[0].tool_calls[0].function.arguments: expected the JSON of an object",
        ),
    ] {
        assert_eq!(template.render(&chat(&messages, &Map::new())).unwrap_err().to_string(), expected);
    }
}

#[test]
fn the_last_message_can_be_left_open() {
    let template =
        compiled("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>\n{% endfor %}").unwrap();
    let open = |messages: &[Value]| {
        template.render(&Chat { continue_final_message: true, ..chat(messages, &Map::new()) })
    };
    let messages = [
        json!({"role": "user", "content": "Count."}),
        json!({"role": "assistant", "content": " one, two, "}),
    ];
    assert_eq!(open(&messages).unwrap(), "<user>Count.</>\n<assistant>one, two,");
    assert!(open(&[json!({"role": "assistant", "content": ""})]).is_err());
    let variables = Map::new();
    let both =
        Chat { continue_final_message: true, add_generation_prompt: true, ..chat(&messages, &variables) };
    assert!(matches!(template.render(&both), Err(TemplateError::Continue(_))));
}

#[test]
fn of_several_templates_tools_choose() {
    let mut sources = TemplateSources::default();
    let list = json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools[0].name }}"}]);
    sources.add_field(&list).unwrap();
    let template = ChatTemplate::new(&sources, &[], TemplateLimits::default()).unwrap();
    let (messages, variables) = ([json!({"role": "user", "content": "hi"})], Map::new());
    assert_eq!(template.render(&chat(&messages, &variables)).unwrap(), "plain");
    let tools = json!([{"name": "weather"}]);
    assert_eq!(
        template.render(&Chat { tools: Some(&tools), ..chat(&messages, &variables) }).unwrap(),
        "weather"
    );
    let mut sources = TemplateSources::default();
    assert!(sources.add_field(&json!([{"name": "x"}])).is_err() && sources.add_field(&json!(5)).is_err());
    sources.add("rag", "x");
    sources.add("tool_use", "x");
    assert!(matches!(
        ChatTemplate::new(&sources, &[], TemplateLimits::default()),
        Err(TemplateError::Malformed(_))
    ));
}

#[test]
fn a_request_cannot_change_what_is_the_models() {
    let variables = json!({"bos_token": "evil", "messages": [], "add_generation_prompt": true, "extra": 1});
    assert_eq!(
        render_with(
            "{{ bos_token }}{{ messages | length }}{{ add_generation_prompt }}{{ extra }}",
            variables
        )
        .unwrap(),
        "<s>1False1"
    );
}
