//! The reference project against its samples and the demo's orders: what the mappings make of them, digit by digit. No part of the program.

use std::fs;
use std::path::{Path, PathBuf};

use rust_decimal::Decimal;
use serde_json::Value;

use super::orders::{Kind, Plan};
use crate::body::Body;
use crate::diagnostic::{File, Findings};
use crate::expression::{Table, Tables};
use crate::mapping::{self, Mapping};
use crate::message::{Message, MessageId};
use crate::schema::Schemas;
use crate::yaml;

/// The parts of the reference project that need no engine.
struct Reference {
    schemas: Schemas,
    tables: Tables,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn files(folder: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(path, found)
        } else {
            found.push(path)
        }
    }
}

fn load() -> Reference {
    let mut paths = Vec::new();
    for folder in ["storefront", "fieldsales", "canonical", "erp", "finance"] {
        files(root().join("schemas").join(folder), &mut paths);
    }
    let named: Vec<_> = paths
        .iter()
        .map(|path| {
            let name = path
                .strip_prefix(root().join("schemas"))
                .unwrap()
                .with_extension("");
            let name = name.to_str().unwrap().to_owned();
            (
                name.clone(),
                File::new(format!("schemas/{name}.json"), read(path)),
            )
        })
        .collect();
    let mut findings = Findings::new();
    let schemas = Schemas::load(&named, &mut findings);
    assert!(findings.is_empty(), "{:?}", findings.sorted());
    let mut tables = Tables::new();
    for name in ["units", "countries"] {
        let mut rows = csv::Reader::from_path(root().join(format!("tables/{name}.csv"))).unwrap();
        let cells = |row: &csv::StringRecord| row.iter().map(str::to_owned).collect::<Vec<_>>();
        let header = cells(rows.headers().unwrap());
        let rows = rows.records().map(|row| cells(&row.unwrap())).collect();
        tables.insert(Table::new(name, header, rows).unwrap());
    }
    Reference { schemas, tables }
}

impl Reference {
    fn mapping(&self, name: &str) -> Mapping {
        let path = format!("mappings/{name}.yaml");
        let file = File::new(path.as_str(), read(&path));
        let mut findings = Findings::new();
        let node = yaml::parse(&file, &mut findings).unwrap();
        let mapping = mapping::compile(&file, &node, &mut findings);
        assert!(findings.is_empty(), "{:?}", findings.sorted());
        let mut mapping = mapping.unwrap();
        let (to, _) = mapping.to().unwrap();
        let schema = self.schemas.raw(to).unwrap();
        mapping.with_target_in(schema, &|reference| {
            self.schemas.raw(&format!(
                "canonical/{}",
                reference.trim_end_matches(".json")
            ))
        });
        mapping
    }

    /// What the mapping makes of the body; both must keep to the mapping's schemas.
    fn map(&self, mapping: &Mapping, body: &str) -> String {
        let keeps = |schema: &str, body: &Body| {
            let schema = self.schemas.get(schema).unwrap();
            schema
                .validate(body.document().unwrap())
                .unwrap_or_else(|breaches| panic!("{}: {breaches:?}", schema.name()));
        };
        let body = Body::new(body.to_owned());
        keeps(mapping.from().unwrap().0, &body);
        let made = mapping
            .apply(&Message::new(MessageId(7), 0, body), &self.tables)
            .unwrap();
        keeps(mapping.to().unwrap().0, &made);
        String::from_utf8(made.bytes().to_vec()).unwrap()
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_storefront_order_becomes_the_canonical_one_and_then_a_sales_order() {
    let reference = load();
    let canonical = reference.map(
        &reference.mapping("storefront-order"),
        &read("samples/storefront-order-1001.json"),
    );
    assert_eq!(
        json(&canonical),
        json(&read("samples/canonical-order-1001.json"))
    );
    let sales_order = reference.map(&reference.mapping("erp-sales-order"), &canonical);
    assert_eq!(
        json(&sales_order),
        json(&read("samples/erp-sales-order-1001.json"))
    );
    // Amounts are numbers there, and still the digits that came.
    assert!(
        sales_order.contains(r#""unit_price":45.50,"amount":136.50"#),
        "{sales_order}"
    );
}

#[test]
fn an_order_without_addresses_has_none() {
    let reference = load();
    let canonical = json(&reference.map(
        &reference.mapping("storefront-order"),
        &read("samples/storefront-order-without-addresses.json"),
    ));
    assert_eq!(
        (
            canonical.get("billingAddress"),
            canonical.get("shippingAddress")
        ),
        (None, None)
    );
    assert_eq!(canonical["customer"]["code"], "WEB-7012934857162");
    assert_eq!(canonical["externalId"], "5837460918273645092");
}

#[test]
fn rows_of_field_sales_become_canonical_orders() {
    let reference = load();
    let mapping = reference.mapping("fieldsales-order");
    let mut rows = csv::ReaderBuilder::new()
        .delimiter(b';')
        .from_path(root().join("samples/fieldsales-orders.csv"))
        .unwrap();
    let header = rows.headers().unwrap().clone();
    let totals: Vec<(String, String, usize)> = rows
        .records()
        .map(|row| {
            let row = row.unwrap();
            let body: serde_json::Map<_, _> = header
                .iter()
                .zip(&row)
                .map(|(name, cell)| (name.to_owned(), Value::from(cell)))
                .collect();
            let order = json(&reference.map(&mapping, &Value::from(body).to_string()));
            let total = order["totalPrice"]["amount"].as_str().unwrap().to_owned();
            (
                order["orderNumber"].as_str().unwrap().to_owned(),
                total,
                order["lineItems"].as_array().unwrap().len(),
            )
        })
        .collect();
    // 24 * 18.75 + 2 * 61.20, and 37.5 * 2.4875 = 93.28125.
    assert_eq!(
        totals,
        [
            ("FS-2041".into(), "572.40".into(), 2),
            ("FS-2042".into(), "93.28".into(), 1)
        ]
    );
}

#[test]
fn a_review_entry_says_what_finance_needs() {
    let reference = load();
    let entry = json(&reference.map(
        &reference.mapping("credit-review-entry"),
        &read("samples/canonical-order-1001.json"),
    ));
    assert_eq!(
        (&entry["order"], &entry["lines"], &entry["total"]["amount"]),
        (&"#1001".into(), &2.into(), &"450.87".into())
    );
}

#[test]
fn every_order_of_the_demo_reaches_the_erp_with_its_total() {
    let reference = load();
    let (canonical, sales) = (
        reference.mapping("storefront-order"),
        reference.mapping("erp-sales-order"),
    );
    let plan = Plan::new(400, 9);
    for order in (0..plan.len())
        .map(|index| plan.order(index))
        .filter(|order| order.kind != Kind::BreaksContract)
    {
        let body = std::str::from_utf8(&order.body).unwrap();
        let booked = json(&reference.map(&sales, &reference.map(&canonical, body)));
        let total: Decimal = booked["total"].to_string().parse().unwrap();
        assert_eq!(total, order.total.parse().unwrap(), "{}", order.number);
        assert_eq!(booked["customer_number"], *order.customer);
        assert_eq!(booked["lines"].as_array().unwrap().len(), order.lines);
        assert_eq!(booked["order_number"], *order.number);
    }
}
