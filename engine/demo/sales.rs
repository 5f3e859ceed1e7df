//! The stand-in ERP's sales orders: what was booked, under which key, and what an order must have to be booked. It neither listens nor writes.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::journal::read_lines;

/// A sales order that was booked.
#[derive(Clone, Debug)]
pub(crate) struct Sale {
    /// The ERP's number.
    pub(crate) number: String,
    /// The channel's number.
    pub(crate) order_number: String,
    /// The key that it was booked under.
    pub(crate) idempotency_key: Option<String>,
    /// The hash of the request.
    pub(crate) sha256: String,
    /// When it was booked; for those of an earlier start, when this one began.
    pub(crate) booked: Instant,
}

impl Sale {
    /// What the ERP answers about it.
    pub(crate) fn body(&self) -> Value {
        json!({"number": self.number, "order_number": self.order_number, "status": "booked"})
    }
}

/// All sales orders.
#[derive(Default)]
pub(crate) struct Sales {
    /// How many there are.
    pub(crate) count: u64,
    /// All of an order; more than one is a double.
    pub(crate) by_order: HashMap<String, Vec<Sale>>,
    /// The first of each idempotency key.
    pub(crate) by_key: HashMap<String, Sale>,
}

impl Sales {
    /// Books one more.
    pub(crate) fn add(&mut self, sale: Sale) {
        self.count += 1;
        if let Some(key) = &sale.idempotency_key {
            self.by_key
                .entry(key.clone())
                .or_insert_with(|| sale.clone());
        }
        self.by_order
            .entry(sale.order_number.clone())
            .or_default()
            .push(sale);
    }
}

/// What the ERP needs of an order.
pub(crate) struct Facts {
    /// The channel's number.
    pub(crate) order_number: String,
    /// Whose order it is.
    pub(crate) customer_number: String,
    /// What it comes to, digit by digit.
    pub(crate) total: String,
    /// How many lines it has.
    pub(crate) lines: usize,
}

/// What the ERP needs of `order`, or what is wrong with it.
pub(crate) fn order_facts(order: &Value) -> Result<Facts, &'static str> {
    let text = |name: &str| {
        order[name]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let total = match &order["total"] {
        Value::Number(number) => number.to_string(),
        Value::String(digits) => digits.clone(),
        _ => return Err("total is missing"),
    };
    Ok(Facts {
        order_number: text("order_number").ok_or("order_number is missing")?,
        customer_number: text("customer_number").ok_or("customer_number is missing")?,
        total,
        lines: order["lines"]
            .as_array()
            .filter(|lines| !lines.is_empty())
            .ok_or("lines are missing")?
            .len(),
    })
}

/// What a journal says was booked, and the number of its last request.
pub(crate) fn read_sales(journal: &Path) -> Result<(Sales, u64), String> {
    let mut books = Sales::default();
    let mut requests = 0;
    for line in read_lines(journal)? {
        requests = requests.max(line["seq"].as_u64().unwrap_or(0));
        let applied = &line["applied"];
        if let (Some(number), Some(order_number)) =
            (applied["number"].as_str(), applied["order_number"].as_str())
        {
            books.add(Sale {
                number: number.to_owned(),
                order_number: order_number.to_owned(),
                idempotency_key: applied["idempotency_key"].as_str().map(str::to_owned),
                sha256: applied["sha256"].as_str().unwrap_or_default().to_owned(),
                booked: Instant::now(),
            });
        }
    }
    Ok((books, requests))
}
