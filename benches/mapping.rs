//! Measure (a): bytes -> parse -> validate -> 20-field map -> bytes on a 2.4 KB order, against the plain use of the `jmespath` crate with
//! the same validation. Both sides take turns within one run. The other side gets one expression for all fields: each `search` converts
//! the whole document into the crate's own values, so that twenty expressions take many times as long.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossdock::body::Body;
use crossdock::diagnostic::{File, Findings};
use crossdock::expression::{Scope, Tables};
use crossdock::mapping::{self, Mapping};
use crossdock::schema::{Schema, Schemas};
use crossdock::yaml;

use crate::measure::Line;

pub(crate) const ORDER: &str = include_str!("order.json");
const SCHEMA: &str = include_str!("../schemas/storefront/order.v1.json");

/// Target fields and their expressions. Those of both sides are the same text.
const FIELDS: [(&str, &str); 20] = [
    ("externalId", "to_string(id)"),
    ("orderNumber", "name"),
    ("channel", "'storefront'"),
    ("orderSource", "source_name"),
    ("orderedAt", "created_at"),
    ("currency", "currency"),
    ("pricesIncludeTax", "taxes_included"),
    ("paymentStatus", "financial_status"),
    ("purchaseOrderNumber", "po_number"),
    ("orderNote", "note"),
    (
        "accountNumber",
        "note_attributes[?name == 'account_number'].value | [0]",
    ),
    (
        "customer",
        "customer.{externalId: to_string(id), email: email, firstName: first_name, lastName: last_name}",
    ),
    ("company", "billing_address.company"),
    (
        "billingAddress",
        "billing_address.{address1: address1, city: city, zip: zip, country: country_code, phone: phone}",
    ),
    (
        "shippingAddress",
        "shipping_address.{address1: address1, city: city, zip: zip, country: country_code, phone: phone}",
    ),
    (
        "lineItems",
        "line_items[?quantity > `0`].{id: to_string(id), sku: sku, name: name, quantity: quantity, unitPrice: to_number(price_set.shop_money.amount), tax: tax_lines[*].price}",
    ),
    ("skus", "join(',', line_items[*].sku)"),
    ("itemCount", "sum(line_items[*].quantity)"),
    ("totalTax", "to_number(total_tax_set.shop_money.amount)"),
    ("totalPrice", "to_number(total_price_set.shop_money.amount)"),
];

const ROUNDS: usize = 400;
const TURNS_A_ROUND: u32 = 250;
const GOAL: f64 = 0.30;

/// Measures (a).
pub(crate) fn run(lines: &mut Vec<Line>) {
    let ours = Ours::new();
    let theirs = Theirs::new();
    let expected = theirs.turn(ORDER.as_bytes());
    assert_eq!(plain(&ours.turn(ORDER.as_bytes())), plain(&expected));
    let mut times: [Vec<Duration>; 2] = Default::default();
    for round in 0..ROUNDS + 3 {
        let measured = [
            timed(|| ours.turn(black_box(ORDER.as_bytes()))),
            timed(|| theirs.turn(black_box(ORDER.as_bytes()))),
        ];
        // The first rounds warm up.
        if round >= 3 {
            for (all, one) in times.iter_mut().zip(measured) {
                all.push(one);
            }
        }
    }
    let [ours, theirs] = times.map(median);
    let ratio = ours / theirs;
    let more = format!(
        "{} bytes, 20 fields; the jmespath crate takes {theirs:.1} us",
        ORDER.len()
    );
    lines.push(Line::at_most("mapping-vs-jmespath", ours, "us", ratio, GOAL).with(more));
}

/// The mapping of this measure, as a file.
pub(crate) fn file() -> String {
    let lines: Vec<_> = FIELDS
        .iter()
        .map(|(name, expression)| format!("  {name}: \"{expression}\"\n"))
        .collect();
    format!("mapping: bench\nfields:\n{}", lines.concat())
}

struct Ours {
    schema: Arc<Schema>,
    mapping: Mapping,
    tables: Tables,
}

impl Ours {
    fn new() -> Ours {
        let mut findings = Findings::new();
        let files = [(
            "storefront/order.v1".to_owned(),
            File::new("schemas/storefront/order.v1.json", SCHEMA),
        )];
        let schemas = Schemas::load(&files, &mut findings);
        let file = File::new("mappings/bench.yaml", self::file());
        let node = yaml::parse(&file, &mut findings).expect("the bench's mapping is YAML");
        let mapping = mapping::compile(&file, &node, &mut findings);
        assert!(findings.is_empty(), "{:?}", findings.sorted());
        Ours {
            schema: schemas.get("storefront/order.v1").expect("loaded above"),
            mapping: mapping.expect("has no findings"),
            tables: Tables::new(),
        }
    }

    fn turn(&self, order: &[u8]) -> Vec<u8> {
        let body = Body::new(Bytes::copy_from_slice(order));
        let document = body.document().expect("the order is JSON");
        assert!(self.schema.validate(document).is_ok());
        let scope = Scope::bare(document, &self.tables);
        let mut out = Vec::with_capacity(order.len());
        self.mapping
            .write(scope, &mut out)
            .expect("the order can be mapped");
        out
    }
}

struct Theirs {
    validator: jsonschema::Validator,
    whole: jmespath::Expression<'static>,
}

impl Theirs {
    fn new() -> Theirs {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .expect("the schema is valid");
        let entries: Vec<_> = FIELDS
            .iter()
            .map(|(name, expression)| format!("{name}: {expression}"))
            .collect();
        let compile = |text: &str| jmespath::compile(text).expect("the expression is valid");
        Theirs {
            validator,
            whole: compile(&format!("{{{}}}", entries.join(", "))),
        }
    }

    fn document(&self, order: &[u8]) -> serde_json::Value {
        let value: serde_json::Value = serde_json::from_slice(order).expect("the order is JSON");
        assert!(self.validator.is_valid(&value));
        value
    }

    fn turn(&self, order: &[u8]) -> Vec<u8> {
        let value = self.document(order);
        let found = self.whole.search(&value).expect("the order can be mapped");
        let value = serde_json::to_value(&found).expect("a result is JSON");
        serde_json::to_vec(&value).expect("a value is JSON")
    }
}

/// The document with every number as binary floating point, as the other side has it.
fn plain(bytes: &[u8]) -> serde_json::Value {
    fn soften(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Number(number) => *value = number.as_f64().into(),
            serde_json::Value::Array(items) => items.iter_mut().for_each(soften),
            serde_json::Value::Object(entries) => entries.values_mut().for_each(soften),
            _ => {}
        }
    }
    let mut value = serde_json::from_slice(bytes).expect("both sides write JSON");
    soften(&mut value);
    value
}

fn timed(turn: impl Fn() -> Vec<u8>) -> Duration {
    let start = Instant::now();
    for _ in 0..TURNS_A_ROUND {
        black_box(turn());
    }
    start.elapsed() / TURNS_A_ROUND
}

/// The median, in microseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}
