//! The demo's orders and customers: what the storefront sends and what the ERP knows. It reads nothing and sends nothing.

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::dice::Dice;

/// The ERP's known customers are `C-1000` up to, but not including, this number.
const CUSTOMER_END: u64 = 1500;
const CUSTOMER_FIRST: u64 = 1000;
/// Every customer may order up to this, in euros.
const CREDIT_LIMIT: &str = "10000.00";
/// The first order's number.
const NUMBER_FIRST: u64 = 1001;

/// What an order is made to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Must be booked in the ERP, once.
    Good,
    /// Does not keep the storefront's contract: must wait as an exception.
    BreaksContract,
    /// Of a customer that the ERP does not know: must wait as an exception.
    UnknownCustomer,
    /// Of a customer on hold: must be put on the review list.
    OnHold,
    /// Above the customer's credit limit: must be put on the review list.
    OverLimit,
    /// Placed to try the shop out: must be filtered.
    Test,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Good,
        Kind::BreaksContract,
        Kind::UnknownCustomer,
        Kind::OnHold,
        Kind::OverLimit,
        Kind::Test,
    ];

    /// The name in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Good => "good",
            Kind::BreaksContract => "breaks-contract",
            Kind::UnknownCustomer => "unknown-customer",
            Kind::OnHold => "on-hold",
            Kind::OverLimit => "over-limit",
            Kind::Test => "test",
        }
    }

    /// The kind that the journal names so.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Of ten thousand orders, how many are of this kind; the rest is good.
    fn share(self) -> u64 {
        match self {
            Kind::Good => 0,
            Kind::BreaksContract | Kind::OnHold | Kind::OverLimit => 100,
            Kind::UnknownCustomer => 200,
            Kind::Test => 50,
        }
    }
}

/// When an order is delivered a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Never.
    No,
    /// Together with the first delivery.
    AtOnce,
    /// After this many other orders.
    Later(u64),
}

/// One order as the storefront sends it.
#[derive(Clone, Debug)]
pub struct Order {
    /// The number that people use.
    pub number: String,
    /// What it is made to show.
    pub kind: Kind,
    /// What the buyer owes, in decimal digits.
    pub total: String,
    /// How many lines it has.
    pub lines: usize,
    /// The customer's number in the ERP.
    pub customer: String,
    /// The webhook's body.
    pub body: Bytes,
}

impl Order {
    /// The hash of the body, in hexadecimal digits.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.body))
    }
}

/// All orders of a demo: which kinds there are, and which come twice.
pub struct Plan {
    seed: u64,
    first: u64,
    kinds: Vec<Kind>,
    again: Vec<Again>,
}

impl Plan {
    /// A plan of `count` orders; the shares of kinds and duplicates are exact, their places are by chance.
    pub fn new(count: u64, seed: u64) -> Plan {
        let mut kinds = Vec::new();
        for kind in Kind::ALL {
            let many = count * kind.share() / 10_000;
            kinds.extend(std::iter::repeat_n(
                kind,
                usize::try_from(many).unwrap_or(0),
            ));
        }
        kinds.resize(usize::try_from(count).unwrap_or(usize::MAX), Kind::Good);
        let mut dice = Dice::of(seed, u64::MAX);
        dice.shuffle(&mut kinds);
        let again = plan_duplicates(&kinds, &mut dice);
        Plan {
            seed,
            first: 0,
            kinds,
            again,
        }
    }

    /// The same plan for orders that come after `first` others, with other numbers.
    pub fn after(self, first: u64) -> Plan {
        Plan { first, ..self }
    }

    /// How many orders there are.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// How many deliveries there are, duplicates included.
    pub fn deliveries(&self) -> usize {
        self.len()
            + self
                .again
                .iter()
                .filter(|again| **again != Again::No)
                .count()
    }

    /// How many orders are of `kind`.
    pub fn count(&self, kind: Kind) -> usize {
        self.kinds.iter().filter(|each| **each == kind).count()
    }

    /// Whether the order at `index` comes twice.
    pub fn again(&self, index: usize) -> Again {
        self.again[index]
    }

    /// The order at `index`; the same whenever it is asked for.
    pub fn order(&self, index: usize) -> Order {
        make_order(self.seed, self.first + index as u64, self.kinds[index])
    }
}

/// The ERP's answer about the customer `code`; `None` when it does not know one.
pub fn customer(code: &str) -> Option<Value> {
    let number: u64 = code.strip_prefix("C-")?.parse().ok()?;
    if !(CUSTOMER_FIRST..CUSTOMER_END).contains(&number) {
        return None;
    }
    Some(json!({
        "code": code,
        "name": format!("Customer {number} GmbH"),
        "on_hold": is_on_hold(number),
        "credit_limit": CREDIT_LIMIT,
        "currency": "EUR",
        "payment_terms": "NET30",
    }))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn is_on_hold(customer: u64) -> bool {
    customer % 50 == 49
}

fn plan_duplicates(kinds: &[Kind], dice: &mut Dice) -> Vec<Again> {
    let mut again = vec![Again::No; kinds.len()];
    // A second delivery of a broken order would be a second exception, so those come once.
    let mut whole: Vec<usize> = (0..kinds.len())
        .filter(|index| kinds[*index] != Kind::BreaksContract)
        .collect();
    dice.shuffle(&mut whole);
    for (nth, index) in whole.into_iter().take(kinds.len() / 20).enumerate() {
        again[index] = if nth % 2 == 0 {
            Again::AtOnce
        } else {
            Again::Later(20 + dice.below(2_000))
        };
    }
    again
}

/// A line's amounts, in cents.
struct Line {
    sku: &'static str,
    name: &'static str,
    quantity: u64,
    price: u64,
    discount: u64,
    tax: u64,
}

const ARTICLES: [(&str, &str, u64); 8] = [
    ("BRG-6204-2RS", "Deep groove bearing 6204-2RS", 1_999),
    ("SEAL-KIT-45", "Seal kit 45 mm", 4_550),
    ("HOSE-12MM", "Hydraulic hose 12 mm", 249),
    ("GREASE-5KG", "Bearing grease, 5 kg pail", 5_995),
    ("BELT-A42", "V-belt A42", 871),
    ("VALVE-BALL-1", "Ball valve 1 inch", 2_240),
    ("FILTER-OIL-7", "Oil filter, type 7", 1_333),
    ("SCREW-M8-40", "Hexagon screw M8x40, box of 100", 1_105),
];

fn make_order(seed: u64, index: u64, kind: Kind) -> Order {
    let mut dice = Dice::of(seed, index);
    let mut lines: Vec<Line> = (0..1 + dice.below(5))
        .map(|_| make_line(&mut dice))
        .collect();
    if kind == Kind::OverLimit {
        lines[0].quantity = 6_000;
        lines[0].discount = 0;
        lines[0].tax = tax_on(lines[0].quantity * lines[0].price);
    }
    let customer = customer_code(kind, &mut dice);
    let number = format!("#{}", NUMBER_FIRST + index);
    let shipping = 1_250;
    let subtotal: u64 = lines
        .iter()
        .map(|line| line.quantity * line.price - line.discount)
        .sum();
    let tax = lines.iter().map(|line| line.tax).sum::<u64>() + tax_on(shipping);
    let total = subtotal + shipping + tax;
    let mut body = body(
        index,
        &number,
        &customer,
        &lines,
        [subtotal, shipping, tax, total],
        &mut dice,
    );
    match kind {
        Kind::Test => body["test"] = json!(true),
        Kind::BreaksContract => break_contract(&mut body, index),
        _ => {}
    }
    Order {
        number,
        kind,
        total: euros(total),
        lines: lines.len(),
        customer,
        body: Bytes::from(body.to_string()),
    }
}

fn make_line(dice: &mut Dice) -> Line {
    let (sku, name, price) = ARTICLES[dice.below(ARTICLES.len() as u64) as usize];
    let quantity = 1 + dice.below(24);
    let discount = if dice.below(10) == 0 {
        quantity * price / 10
    } else {
        0
    };
    Line {
        sku,
        name,
        quantity,
        price,
        discount,
        tax: tax_on(quantity * price - discount),
    }
}

fn customer_code(kind: Kind, dice: &mut Dice) -> String {
    if kind == Kind::UnknownCustomer {
        return format!("C-{}", 7_000 + dice.below(500));
    }
    let mut number = CUSTOMER_FIRST + dice.below(CUSTOMER_END - CUSTOMER_FIRST);
    if kind == Kind::OnHold {
        number = number / 50 * 50 + 49;
    } else if is_on_hold(number) {
        number -= 1;
    }
    format!("C-{number}")
}

/// 19 percent of an amount in cents, rounded half up.
fn tax_on(cents: u64) -> u64 {
    (cents * 19 + 50) / 100
}

fn euros(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn money(cents: u64) -> Value {
    let amount = json!({"amount": euros(cents), "currency_code": "EUR"});
    json!({"shop_money": amount, "presentment_money": amount})
}

fn tax_lines(cents: u64) -> Value {
    json!([{"channel_liable": false, "price": euros(cents), "price_set": money(cents), "rate": 0.19, "title": "VAT"}])
}

fn body(
    index: u64,
    number: &str,
    customer: &str,
    lines: &[Line],
    [subtotal, shipping, tax, total]: [u64; 4],
    dice: &mut Dice,
) -> Value {
    // Ids are 64 bits wide, as the real ones are: beyond what a binary floating-point number holds.
    let id = 5_837_460_918_000_000_000 + index;
    let discounts: u64 = lines.iter().map(|line| line.discount).sum();
    let address = if dice.below(20) == 0 {
        Value::Null
    } else {
        address(customer)
    };
    let items: Vec<Value> = lines
        .iter()
        .enumerate()
        .map(|(nth, line)| line_item(index * 10 + nth as u64, line))
        .collect();
    json!({
        "id": id,
        "admin_graphql_api_id": format!("gid://shopify/Order/{id}"),
        "cancelled_at": null,
        "confirmed": true,
        "created_at": format!("2026-11-20T{:02}:{:02}:{:02}+01:00", dice.below(24), dice.below(60), dice.below(60)),
        "currency": "EUR",
        "email": format!("orders@{}.example", customer.to_lowercase()),
        "financial_status": "pending",
        "fulfillment_status": null,
        "name": number,
        "note": null,
        "note_attributes": [{"name": "account_number", "value": customer}],
        "order_number": NUMBER_FIRST + index,
        "po_number": if dice.below(2) == 0 { json!(format!("PO-{}", dice.below(100_000))) } else { Value::Null },
        "source_name": "web",
        "tags": "wholesale",
        "taxes_included": false,
        "test": false,
        "subtotal_price": euros(subtotal),
        "subtotal_price_set": money(subtotal),
        "total_discounts": euros(discounts),
        "total_discounts_set": money(discounts),
        "total_shipping_price_set": money(shipping),
        "total_tax": euros(tax),
        "total_tax_set": money(tax),
        "total_price": euros(total),
        "total_price_set": money(total),
        "tax_lines": tax_lines(tax),
        "customer": {"id": 7_012_930_000_000u64 + dice.below(1_000_000), "email": null, "first_name": "Mara", "last_name": "Lindqvist", "phone": null},
        "billing_address": address,
        "shipping_address": address,
        "line_items": items,
        "refunds": [],
        "fulfillments": [],
    })
}

fn line_item(id: u64, line: &Line) -> Value {
    json!({
        "id": 14_620_900_000_000u64 + id,
        "sku": line.sku,
        "name": line.name,
        "quantity": line.quantity,
        "price": euros(line.price),
        "price_set": money(line.price),
        "total_discount": euros(line.discount),
        "total_discount_set": money(line.discount),
        "properties": [],
        "requires_shipping": true,
        "taxable": true,
        "tax_lines": tax_lines(line.tax),
    })
}

fn address(customer: &str) -> Value {
    json!({
        "first_name": "Mara", "last_name": "Lindqvist", "company": format!("Customer {customer}"), "address1": "Hafenstrasse 12", "address2": null,
        "city": "Hamburg", "zip": "20457", "province": null, "province_code": null, "country": "Germany", "country_code": "DE", "phone": null,
    })
}

/// Breaks the contract in one of several ways; the order's number stays, so that people can find it.
fn break_contract(body: &mut Value, index: u64) {
    match index % 4 {
        0 => body["line_items"][0]["quantity"] = json!("a dozen"),
        1 => body["line_items"] = json!([]),
        2 => body["currency"] = Value::Null,
        _ => {
            if let Some(members) = body.as_object_mut() {
                members.remove("total_price_set");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;

    #[test]
    fn the_shares_of_ten_thousand_orders_are_exact() {
        let plan = Plan::new(10_000, 1);
        let counts: Vec<usize> = Kind::ALL.into_iter().map(|kind| plan.count(kind)).collect();
        assert_eq!(counts, [9_450, 100, 200, 100, 100, 50]);
        assert_eq!(plan.deliveries(), 10_500);
        assert!((0..plan.len()).any(|index| plan.again(index) == Again::AtOnce));
        assert!((0..plan.len()).any(|index| matches!(plan.again(index), Again::Later(_))));
    }

    #[test]
    fn an_order_is_the_same_whenever_it_is_made_and_another_under_another_seed() {
        let body = |seed| Plan::new(100, seed).order(7).body;
        assert_eq!(body(1), body(1));
        assert_ne!(body(1), body(2));
    }

    #[test]
    fn every_order_is_what_its_kind_says() {
        let plan = Plan::new(2_000, 5);
        let limit: Decimal = CREDIT_LIMIT.parse().unwrap();
        for index in 0..plan.len() {
            let order = plan.order(index);
            let total: Decimal = order.total.parse().unwrap();
            let known = customer(&order.customer);
            assert_eq!(
                known.is_none(),
                order.kind == Kind::UnknownCustomer,
                "{}",
                order.number
            );
            assert_eq!(
                total > limit,
                order.kind == Kind::OverLimit,
                "{} {total}",
                order.number
            );
            if let Some(known) = known {
                assert_eq!(
                    known["on_hold"] == json!(true),
                    order.kind == Kind::OnHold,
                    "{}",
                    order.number
                );
            }
            let body: Value = serde_json::from_slice(&order.body).unwrap();
            assert_eq!(body["name"], json!(order.number));
            assert_eq!(body["test"] == json!(true), order.kind == Kind::Test);
        }
    }

    #[test]
    fn only_orders_made_to_break_the_contract_break_it() {
        let schema = include_str!("../../schemas/storefront/order.v1.json");
        let contract = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
        let plan = Plan::new(2_000, 3);
        for order in (0..plan.len()).map(|index| plan.order(index)) {
            let body = serde_json::from_slice(&order.body).unwrap();
            assert_eq!(
                contract.is_valid(&body),
                order.kind != Kind::BreaksContract,
                "{}",
                order.number
            );
        }
    }

    #[test]
    fn the_amounts_of_an_order_add_up() {
        let plan = Plan::new(500, 2);
        let decimal = |value: &Value| {
            value["shop_money"]["amount"]
                .as_str()
                .unwrap()
                .parse::<Decimal>()
                .unwrap()
        };
        for order in (0..plan.len())
            .map(|index| plan.order(index))
            .filter(|order| order.kind == Kind::Good)
        {
            let body: Value = serde_json::from_slice(&order.body).unwrap();
            let lines: Decimal = body["line_items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|line| {
                    decimal(&line["price_set"]) * Decimal::from(line["quantity"].as_u64().unwrap())
                        - decimal(&line["total_discount_set"])
                })
                .sum();
            assert_eq!(lines, decimal(&body["subtotal_price_set"]));
            let total = lines
                + decimal(&body["total_shipping_price_set"])
                + decimal(&body["total_tax_set"]);
            assert_eq!(total, decimal(&body["total_price_set"]));
            assert_eq!(total.to_string(), order.total);
        }
    }
}
