//! What templates promise.

use std::sync::Arc;

use super::*;
use crate::body::Body;
use crate::failure::Class;
use crate::message::MessageId;

const BODY: &str = r#"{"customer": {"code": "C/1 ä", "name": "O'Neil & \"Sons\""}, "total": 19.90, "big": 9007199254740993,
    "none": null, "empty": "", "dots": "..", "yes": true, "lines": [{"sku": "A"}, {"sku": "B", "price": 1.50}], "map": {"x": 1, "y": 2},
    "a key": 7, "line\nbreak": "x\ny", "list": []}"#;

fn message() -> Message {
    let mut message = Message::new(MessageId(7), 1_763_704_800_123, Body::new(BODY));
    message.set_header("X-Trace", "t1");
    Arc::make_mut(&mut message.keys).insert(Arc::from("order"), "SO-1".to_owned());
    message.bind("customer_record", Body::new(r#"{"id": 42, "tags": ["a"]}"#));
    message
}

fn render(text: &str, escape: Escape) -> Result<String, Failure> {
    Template::compile(text)
        .unwrap_or_else(|fault| panic!("{text}: {fault:?}"))
        .render(&message(), escape)
}

fn check(text: &str, expect: &str) {
    assert_eq!(render(text, Escape::None).unwrap(), expect, "{text}");
}

#[test]
fn values_come_from_body_context_and_variables() {
    check("no value", "no value");
    check(
        "{{total}} {{big}} {{yes}} {{none}}|{{empty}}",
        "19.90 9007199254740993 true |",
    );
    check(
        "{{customer.name}} {{customer/code}}",
        "O'Neil & \"Sons\" C/1 ä",
    );
    check("{{lines.1.sku}}{{lines.[0].sku}} {{[a key]}}", "BA 7");
    check(
        "{{lines}}",
        r#"[{"sku": "A"}, {"sku": "B", "price": 1.50}]"#,
    );
    check(
        "{{@today}} {{@received_at}}",
        "2025-11-21 2025-11-21T06:00:00.123Z",
    );
    check("{{@message_id}}", "00000000000000000000000000000007");
    check(
        "{{@key.order}} {{@header.x-trace}} {{@header.X-Trace}}",
        "SO-1 t1 t1",
    );
    check(
        "{{@customer_record.id}} {{@customer_record.tags.0}}",
        "42 a",
    );
    check(
        "\\{{literal}} {{! comment }}{{!-- }} --}}x",
        "{{literal}} x",
    );
}

#[test]
fn blocks_work() {
    check(
        "{{#each lines}}{{@index}}:{{sku}}{{#unless @last}}, {{/unless}}{{/each}}",
        "0:A, 1:B",
    );
    check(
        "{{#each lines}}{{this.sku}}{{#if price}}={{price}}{{else}}-{{/if}} {{../total}};{{/each}}",
        "A- 19.90;B=1.50 19.90;",
    );
    check("{{#each map}}{{@key}}={{this}} {{/each}}", "x=1 y=2 ");
    check("{{#each list}}x{{else}}nothing{{/each}}", "nothing");
    check(
        "{{#each missing}}x{{else}}nothing{{/each}}{{#each list}}x{{/each}}",
        "nothing",
    );
    check(
        "{{#with customer}}{{code}} {{@root.total}}{{/with}}",
        "C/1 ä 19.90",
    );
    check("{{#if missing}}a{{else if yes}}b{{else}}c{{/if}}", "b");
    check(
        "{{#if (eq customer.code \"C/1 ä\")}}a{{/if}}{{#if (eq total 19.9)}}b{{/if}}{{#if (ne total \"19.90\")}}c{{/if}}",
        "abc",
    );
    check(
        "{{#if (and yes (not none) (or missing total))}}{{len lines}}{{/if}}",
        "2",
    );
    check(
        "{{#each lines}}{{#each ../lines}}{{../sku}}{{sku}} {{/each}}{{/each}}",
        "AA AB BA BB ",
    );
}

#[test]
fn what_leads_nowhere_is_a_mapping_failure_that_names_the_path() {
    for text in [
        "{{custmer.code}}",
        "{{customer.cod}}",
        "{{lines.9.sku}}",
        "{{@unbound}}",
        "{{@key.no}}",
        "{{@header.no}}",
        "{{#each no}}{{/each}}",
        "{{total.x}}",
    ] {
        let failure = render(text, Escape::None).unwrap_err();
        assert_eq!(failure.class, Class::Mapping, "{text}");
        let path = text
            .trim_start_matches("{{#each ")
            .trim_start_matches("{{")
            .split("}}")
            .next()
            .unwrap();
        assert!(
            failure.message.contains(path),
            "{text}: {}",
            failure.message
        );
    }
    let broken = message().with_body(Body::new("{"));
    let failure = Template::compile("{{a}}")
        .unwrap()
        .render(&broken, Escape::None)
        .unwrap_err();
    assert_eq!(failure.class, Class::Parse);
    assert_eq!(
        Template::compile("{{@today}}")
            .unwrap()
            .render(&broken, Escape::None)
            .unwrap(),
        "2025-11-21"
    );
}

#[test]
fn values_cannot_break_out_of_the_text_around_them() {
    let checks = [
        (
            "/customers/{{customer.code}}",
            Escape::UrlPath,
            "/customers/C%2F1%20%C3%A4",
        ),
        (
            "/x?ref={{customer.code}}&e={{empty}}",
            Escape::UrlPath,
            "/x?ref=C%2F1%20%C3%A4&e=",
        ),
        (
            "{{customer.name}}",
            Escape::UrlQuery,
            "O%27Neil%20%26%20%22Sons%22",
        ),
        (
            "{{customer.name}}",
            Escape::Html,
            "O&#39;Neil &amp; &quot;Sons&quot;",
        ),
        (
            "{{{customer.name}}} {{&customer.name}}",
            Escape::Html,
            "O'Neil & \"Sons\" O'Neil & \"Sons\"",
        ),
        (
            "{\"a\": \"{{customer.name}}\"}",
            Escape::Json,
            r#"{"a": "O'Neil & \"Sons\""}"#,
        ),
        (
            "{{customer.name}},{{total}}",
            Escape::Csv,
            "\"O'Neil & \"\"Sons\"\"\",19.90",
        ),
        (
            "out/{{customer.code}}.csv",
            Escape::FileName,
            "out/C%2F1 ä.csv",
        ),
    ];
    for (text, escape, expect) in checks {
        assert_eq!(render(text, escape).unwrap(), expect, "{text}");
    }
    for (text, escape) in [
        ("/a/{{dots}}/b", Escape::UrlPath),
        ("/a/{{empty}}", Escape::UrlPath),
        ("/a/{{none}}", Escape::UrlPath),
        ("/a/{{lines}}", Escape::UrlPath),
        ("{{dots}}", Escape::FileName),
        ("{{[line\nbreak]}}", Escape::Header),
    ] {
        let failure = render(text, escape).unwrap_err();
        assert_eq!(failure.class, Class::Mapping, "{text}");
    }
}

#[test]
fn faults_have_a_place() {
    for (text, part, marked) in [
        ("a {{b", "not closed", "{{b"),
        ("{{#if a}}x", "block", "{{#if a}}"),
        ("x {{#if a}}{{/each}}", "closed by", "{{#if a}}"),
        ("ä {{> part}}", "partials", "{{> part}}"),
        (
            "a {{b}} {{shout c}} {{d}}",
            "no word `shout`",
            "{{shout c}}",
        ),
        ("a {{#loop b}}{{/loop}}", "no block `#loop`", "{{#loop b}}"),
        ("a {{$record.id}}", "{{@record.id}}", "$record.id"),
        ("a {{../b}}", "out of the template", "../b"),
        ("{{@key}}", "name one", "@key"),
        ("{{@today.x}}", "no fields", "@today.x"),
        ("{{a b=c}}", "named values", "{{a b=c}}"),
        ("{{#each a as |x|}}{{/each}}", "this", "{{#each a as |x|}}"),
    ] {
        let fault = Template::compile(text).unwrap_err();
        assert!(fault.message.contains(part), "{text}: {fault:?}");
        assert_eq!(&text[fault.start..fault.end], marked, "{text}: {fault:?}");
    }
}

#[test]
fn paths_are_known_for_checks() {
    let text = "{{customer.code}} {{#each lines}}{{sku}}{{/each}} {{@record.id}} {{#if x}}{{/if}} {{customer.code}}";
    let template = Template::compile(text).unwrap();
    let paths: Vec<_> = template
        .paths()
        .iter()
        .map(|path| {
            (
                path.root.clone(),
                path.segments.join("."),
                &text[path.start..path.end],
                path.required,
            )
        })
        .collect();
    assert_eq!(
        paths,
        [
            (
                Root::Body,
                "customer.code".to_owned(),
                "customer.code",
                true
            ),
            (Root::Body, "lines".to_owned(), "lines", true),
            (Root::Item, "sku".to_owned(), "sku", true),
            (
                Root::Variable("record".to_owned()),
                "id".to_owned(),
                "@record.id",
                true
            ),
            (Root::Body, "x".to_owned(), "x", false),
            (
                Root::Body,
                "customer.code".to_owned(),
                "customer.code",
                true
            ),
        ]
    );
    assert_ne!(template.paths()[0].start, template.paths()[5].start);
    assert_eq!(
        template.variables().into_iter().collect::<Vec<_>>(),
        ["record"]
    );
    assert!(Template::compile("/orders").unwrap().paths().is_empty());
}

#[test]
fn hostile_templates_and_bodies_end() {
    let started = std::time::Instant::now();
    for hostile in [
        "{{#if a}}".repeat(5_000),
        format!("{{{{{}", "(".repeat(50_000)),
        format!("{{{{a {}", "[".repeat(50_000)),
        "x".repeat(100_000),
        "{{".repeat(30_000),
        "{{{{".repeat(10_000),
    ] {
        Template::compile(&hostile).unwrap_err();
    }
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    let many = format!("{{\"l\": [{}1]}}", "1,".repeat(2_000));
    let message = message().with_body(Body::new(many));
    let template =
        Template::compile("{{#each l}}{{#each ../l}}{{this}}{{/each}}{{/each}}").unwrap();
    let failure = template.render(&message, Escape::None).unwrap_err();
    assert_eq!(failure.class, Class::TooLarge);
}
