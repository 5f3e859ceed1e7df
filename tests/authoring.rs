//! What helps to write a project: mappings tried on made-up bodies and watched, samples rehearsed.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Sandbox, text};

const SOURCE: &str = r#"{ "type": "object", "required": ["name", "lines"], "additionalProperties": false,
  "properties": { "name": { "type": "string", "minLength": 1 }, "note": { "type": ["string", "null"] },
    "lines": { "type": "array", "items": { "type": "object", "required": ["sku", "price", "quantity"], "properties": {
      "sku": { "type": "string", "minLength": 1 }, "price": { "type": "number", "minimum": 0, "multipleOf": 0.01 }, "quantity": { "type": "integer", "minimum": 0 } } } } } }"#;
const TARGET: &str = r#"{ "type": "object", "required": ["number", "items"], "additionalProperties": false,
  "properties": { "number": { "type": "string", "minLength": 1 }, "note": { "type": "string" },
    "items": { "type": "array", "items": { "type": "object", "required": ["item", "unitPrice"], "properties": {
      "item": { "type": "string" }, "unitPrice": { "type": "number" } } } } } }"#;
const MAPPING: &str = "mapping: order\nfrom: source.v1\nto: target.v1\nfields:\n  number: name\n  note: note\n  items:\n    - each: lines\n      fields: { item: sku, unitPrice: price }\n";

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("schemas/source.v1.json", SOURCE);
    sandbox.file("schemas/target.v1.json", TARGET);
    sandbox.file("mappings/order.yaml", MAPPING);
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders\nsource: { stdin: {} }\naccepts: source.v1\nkeys: { order: name }\nonce: { key: order, keep: 30d }\nsteps:\n  - id: live\n    filter: name != 'TEST'\n  - id: customer\n    call: { system: erp, get: \"/customers/{{name}}\", answer: source.v1 }\n    into: customer\n  - id: shape\n    map: order\nroutes:\n  first:\n    - when: length(items) > `1`\n      to: [erp]\n    - otherwise: [small]\nsinks:\n  erp: { http: { system: erp, post: /orders, idempotency_key: number } }\n  small: { file: { path: \"small.jsonl\", format: jsonl } }\n",
    );
    sandbox.file(
        "systems/erp.yaml",
        "system: erp\nhttp: { base_url: \"http://127.0.0.1:9\" }\n",
    );
    sandbox
}

#[test]
fn a_mapping_that_keeps_its_promises_passes_and_one_that_drops_money_is_caught() {
    let sandbox = project();
    let keeps = "sum(lines[].price) == sum(items[].unitPrice)";
    let arguments = [
        "map",
        "order",
        "--property",
        "500",
        "--seed",
        "7",
        "--keeps",
        keeps,
    ];
    let said = sandbox.prints(&arguments);
    assert!(
        said.contains(
            "500 bodies of `source.v1`, seed 7: never fails, keeps to `target.v1`, keeps sum"
        ),
        "{said}"
    );

    sandbox.file(
        "mappings/order.yaml",
        &MAPPING.replace("each: lines", "each: lines[?quantity > `0`]"),
    );
    let found = sandbox.crossdock(&arguments);
    let said = text(&found.stdout);
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(said.contains("does not keep sum(lines[].price)"), "{said}");
    // The smallest body that shows it: one line, nothing ordered, and some price.
    assert!(
        said.matches("\"sku\"").count() == 1
            && said.contains("\"quantity\": 0")
            && !said.contains("\"note\""),
        "{said}"
    );
    assert!(
        said.contains(", 0 goes out") && said.contains("--seed 7"),
        "{said}"
    );
    assert_eq!(
        text(&sandbox.crossdock(&arguments).stdout),
        said,
        "the same seed finds the same"
    );

    sandbox.file(
        "mappings/order.yaml",
        &MAPPING.replace("number: name", "number: trim(name)"),
    );
    let found = sandbox.crossdock(&arguments[..6]);
    assert_eq!(found.status.code(), Some(1));
    assert!(
        text(&found.stdout).contains("breaks the target's schema")
            || text(&found.stdout).contains("it fails"),
        "{}",
        text(&found.stdout)
    );

    let wrong = sandbox.crossdock(&[
        "map",
        "order",
        "--property",
        "5",
        "--keeps",
        "sum(lines[].price)",
    ]);
    assert!(
        text(&wrong.stderr).contains("has no `==`"),
        "{}",
        text(&wrong.stderr)
    );
}

#[test]
fn a_watched_mapping_is_shown_again_when_it_changes() {
    let sandbox = project();
    sandbox.file("sample.json", r#"{"name": "1001", "lines": []}"#);
    let mut child = sandbox
        .command(&["map", "order", "sample.json", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let round = || -> String {
        let begun = Instant::now();
        let mut all = String::new();
        while begun.elapsed() < Duration::from_secs(60) {
            let line = lines.recv_timeout(Duration::from_secs(60)).unwrap();
            if line.starts_with("---") {
                return all;
            }
            all.push_str(&line);
            all.push('\n');
        }
        panic!("it does not come to an end: {all}");
    };
    let round_with = |field: &str| {
        let changed = MAPPING.replace("number: name", field);
        sandbox.file("mappings/order.yaml", &changed);
        round()
    };
    assert!(round().contains("\"number\": \"1001\""));
    let said = round_with("number: join('-', ['SO', name])");
    assert!(
        said.contains("different: number: \"1001\" -> \"SO-1001\""),
        "{said}"
    );
    let said = round_with("nmber: name");
    assert!(
        said.contains("unknown-target-field") && said.contains("mappings/order.yaml:5:3"),
        "{said}"
    );
    let said = round_with("number: to_number(note)");
    assert!(
        said.contains("the result breaks `target.v1`") && said.contains("`number` is missing"),
        "{said}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_rehearsal_shows_what_would_be_sent_and_sends_nothing() {
    let sandbox = project();
    let line = r#"{"sku": "A", "price": 1.5, "quantity": 1}"#;
    let samples = [
        format!(r#"{{"name": "1001", "lines": [{line}, {line}]}}"#),
        format!(r#"{{"name": "1002", "lines": [{line}]}}"#),
        r#"{"name": "TEST", "lines": []}"#.to_owned(),
        format!(r#"{{"name": "1001", "lines": [{line}]}}"#),
        r#"{"name": "1003"}"#.to_owned(),
        "no json".to_owned(),
    ];
    sandbox.file("samples.jsonl", &samples.join("\n"));
    sandbox.file("customer.json", r#"{"name": "C-1", "lines": []}"#);
    let run = sandbox.crossdock(&[
        "run",
        "--dry",
        "samples.jsonl",
        "--answer",
        "customer=customer.json",
    ]);
    let said = text(&run.stdout);
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(
        said.contains(
            "6 samples: 2 delivered, 1 filtered, 1 duplicates, 2 failed; nothing was sent"
        ),
        "{said}"
    );
    assert!(
        said.contains("orders / customer: would send to erp")
            && said.contains("\"path\": \"/customers/1001\""),
        "{said}"
    );
    assert!(
        said.contains("orders / erp: would send to erp (idempotency key 1001)"),
        "{said}"
    );
    assert!(
        said.contains("orders / small: would write small.jsonl"),
        "{said}"
    );
    assert!(said.contains("known already as sample 1"), "{said}");
    assert!(
        said.contains("samples.jsonl:5") && said.contains("the field `lines` is missing"),
        "{said}"
    );
    assert!(
        !sandbox.root().join(".crossdock").exists() && !sandbox.root().join("small.jsonl").exists(),
        "nothing is stored"
    );

    // Without the answer it is not known how the message goes on, and that is no failure.
    sandbox.file("one.json", &samples[0]);
    let run = sandbox.prints(&["run", "--dry", "one.json", "--json"]);
    let course: Value = serde_json::from_str(run.trim()).unwrap();
    assert_eq!(course["course"]["end"], "open", "{course}");
    assert!(
        course["course"]["acts"][2]["words"]
            .as_str()
            .unwrap()
            .contains("--answer customer=FILE"),
        "{course}"
    );
    sandbox.file("rows.csv", "name,lines\n1,2\n");
    assert_eq!(
        sandbox
            .crossdock(&["run", "--dry", "rows.csv"])
            .status
            .code(),
        Some(1)
    );
    let wrong = sandbox.crossdock(&["run", "--dry", "one.json", "--flow", "order"]);
    assert!(
        text(&wrong.stderr).contains("did you mean `orders`?"),
        "{}",
        text(&wrong.stderr)
    );
    let wrong = sandbox.crossdock(&[
        "run",
        "--dry",
        "one.json",
        "--answer",
        "customr=customer.json",
    ]);
    assert!(
        text(&wrong.stderr).contains("there is no step `customr`"),
        "{}",
        text(&wrong.stderr)
    );
}

/// Shapes of the research on real systems: a Shopify order, and what SAP Business One books.
const SHOPIFY: &str = r#"{ "type": "object", "required": ["name", "line_items", "created_at"], "properties": {
  "id": { "type": "integer" }, "name": { "type": "string" }, "po_number": { "type": ["string", "null"] }, "currency": { "type": "string" },
  "created_at": { "type": "string", "format": "date-time" }, "total_price": { "type": "string" }, "note": { "type": ["string", "null"] },
  "customer": { "type": "object", "properties": { "id": { "type": "integer" }, "email": { "type": "string" } } },
  "shipping_address": { "type": ["object", "null"], "properties": { "first_name": { "type": "string" }, "address1": { "type": "string" }, "city": { "type": "string" }, "zip": { "type": "string" }, "country_code": { "type": "string" } } },
  "line_items": { "type": "array", "items": { "type": "object", "required": ["quantity"], "properties": {
    "id": { "type": "integer" }, "sku": { "type": "string" }, "quantity": { "type": "integer" }, "price": { "type": "string" } } } } } }"#;
const BUSINESS_ONE: &str = r#"{ "type": "object", "required": ["CardCode", "NumAtCard", "DocDueDate", "DocumentLines"], "additionalProperties": false, "properties": {
  "CardCode": { "type": "string" }, "NumAtCard": { "type": "string" }, "DocDueDate": { "type": "string" }, "DocCurrency": { "type": "string" },
  "Comments": { "type": "string" }, "ShipToCity": { "type": "string" }, "ShipToZip": { "type": "string" },
  "DocumentLines": { "type": "array", "items": { "type": "object", "required": ["ItemCode", "Quantity"], "additionalProperties": false, "properties": {
    "ItemCode": { "type": "string" }, "Quantity": { "type": "number" }, "UnitPrice": { "type": "number" }, "WarehouseCode": { "type": "string" } } } } } }"#;
/// WooCommerce's order, and the canonical shape of this repository's kind.
const WOO: &str = r#"{ "type": "object", "required": ["number", "line_items"], "properties": {
  "id": { "type": "integer" }, "number": { "type": "string" }, "currency": { "type": "string" }, "total": { "type": "string" }, "customer_note": { "type": "string" },
  "billing": { "type": "object", "properties": { "email": { "type": "string" }, "city": { "type": "string" }, "postcode": { "type": "string" } } },
  "shipping": { "type": "object", "properties": { "address_1": { "type": "string" }, "city": { "type": "string" }, "postcode": { "type": "string" }, "country": { "type": "string" } } },
  "line_items": { "type": "array", "items": { "type": "object", "properties": { "sku": { "type": "string" }, "quantity": { "type": "integer" }, "price": { "type": "number" } } } } } }"#;
const CANONICAL: &str = r#"{ "type": "object", "required": ["orderNumber", "lineItems", "channel"], "additionalProperties": false, "properties": {
  "orderNumber": { "type": "string" }, "channel": { "const": "woo" }, "currency": { "type": "string" },
  "shippingAddress": { "type": "object", "properties": { "address1": { "type": "string" }, "city": { "type": "string" }, "postCode": { "type": "string" } } },
  "lineItems": { "type": "array", "items": { "type": "object", "properties": { "sku": { "type": "string" }, "qty": { "type": "integer" }, "unitPrice": { "type": "number" } } } } } }"#;

#[test]
fn a_new_flow_comes_with_a_mapping_that_check_accepts_or_says_what_is_missing() {
    let sandbox = Sandbox::new();
    sandbox.file("schemas/woo/order.v1.json", WOO);
    sandbox.file("schemas/canonical/order.v1.json", CANONICAL);
    let said = sandbox.prints(&[
        "new",
        "flow",
        "woo-orders",
        "--from",
        "woo/order.v1",
        "--to",
        "canonical/order.v1",
    ]);
    assert!(said.contains("0 required ones have none"), "{said}");
    let mapping = std::fs::read_to_string(sandbox.root().join("mappings/woo-orders.yaml")).unwrap();
    for line in [
        "orderNumber: number #",
        "channel: \"'woo'\" #",
        "currency: currency #",
        "address1: shipping.address_1 #",
        "city: shipping.city #",
        "postCode: shipping.postcode #",
        "- each: line_items #",
        "sku: sku #",
        "qty: quantity #",
        "unitPrice: price #",
    ] {
        assert!(mapping.contains(line), "{line}\n{mapping}");
    }
    assert!(sandbox.prints(&["check"]).contains("no findings"));
    let again = sandbox.crossdock(&[
        "new",
        "flow",
        "woo-orders",
        "--from",
        "woo/order.v1",
        "--to",
        "canonical/order.v1",
    ]);
    assert!(
        text(&again.stderr).contains("exists"),
        "{}",
        text(&again.stderr)
    );
    let wrong = sandbox.crossdock(&[
        "new",
        "flow",
        "x",
        "--from",
        "woo/order.v2",
        "--to",
        "canonical/order.v1",
    ]);
    assert!(
        text(&wrong.stderr).contains("did you mean `woo/order.v1`?"),
        "{}",
        text(&wrong.stderr)
    );

    sandbox.file("schemas/shopify/order.v1.json", SHOPIFY);
    sandbox.file("schemas/b1/order.v1.json", BUSINESS_ONE);
    let made = sandbox.crossdock(&[
        "new",
        "flow",
        "shopify-b1",
        "--from",
        "shopify/order.v1",
        "--to",
        "b1/order.v1",
    ]);
    let mapping = std::fs::read_to_string(sandbox.root().join("mappings/shopify-b1.yaml")).unwrap();
    for line in [
        "DocCurrency: currency #",
        "ShipToCity: shipping_address.city #",
        "ShipToZip: shipping_address.zip #",
        "- each: line_items #",
        "ItemCode: sku #",
        "Quantity: quantity #",
        "UnitPrice: decimal(price) #",
        "# WarehouseCode:",
    ] {
        assert!(mapping.contains(line), "{line}\n{mapping}");
    }
    assert_eq!(made.status.code(), Some(1), "{mapping}");
    assert!(
        mapping.contains("# DocDueDate: required, and nothing in the source is like it"),
        "{mapping}"
    );
    let check = sandbox.crossdock(&["check", "--format", "json"]);
    let found: Value = serde_json::from_slice(&check.stdout).unwrap();
    let missing = found.as_array().unwrap().iter().any(|one| {
        one["code"] == "missing-target-field"
            && one["message"].as_str().unwrap().contains("DocDueDate")
    });
    assert!(missing, "{found}");
}

#[test]
fn proposals_between_the_shipped_schemas_are_mostly_right() {
    let sandbox = Sandbox::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    for folder in ["canonical", "erp", "storefront", "fieldsales", "finance"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            sandbox.file(
                &format!("schemas/{folder}/{name}"),
                &std::fs::read_to_string(path).unwrap(),
            );
        }
    }
    // What the mappings of the reference project say, where they say one field of the source.
    for (from, to, expected) in [
        (
            "canonical/order.v1",
            "erp/sales-order.v1",
            [
                "order_number: orderNumber #",
                "order_date: orderedAt #",
                "total: decimal(totalPrice.amount) #",
                "channel: channel #",
                "currency: currency #",
                "city: shippingAddress.city #",
                "- each: lineItems #",
                "item: sku #",
                "uom: unit #",
            ]
            .as_slice(),
        ),
        (
            "storefront/order.v1",
            "canonical/order.v1",
            ["- each: line_items #", "sku: sku #", "currency: currency #"].as_slice(),
        ),
    ] {
        let name = from.replace(['/', '.'], "-");
        sandbox.crossdock(&["new", "flow", &name, "--from", from, "--to", to]);
        let mapping =
            std::fs::read_to_string(sandbox.root().join(format!("mappings/{name}.yaml"))).unwrap();
        let right = expected
            .iter()
            .filter(|line| mapping.contains(*line))
            .count();
        println!(
            "{from} -> {to}: {right} of {} as the reference project has it",
            expected.len()
        );
        assert!(right * 4 >= expected.len() * 3, "{mapping}");
        let check = sandbox.crossdock(&["check", "--format", "json"]);
        let found: Value = serde_json::from_slice(&check.stdout).unwrap();
        let other: Vec<&Value> = found
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["severity"] == "error")
            // What the source need not have, and what it has not at all, a person decides.
            .filter(|one| {
                !["missing-target-field", "null-for-required"]
                    .contains(&one["code"].as_str().unwrap())
            })
            .collect();
        assert!(other.is_empty(), "{other:?}\n{mapping}");
    }
}
