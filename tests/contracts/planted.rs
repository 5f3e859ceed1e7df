//! The mistakes: in which contract, what is written instead of what, and which finding must stand where.

use std::collections::BTreeMap;

/// One mistake.
pub struct Plant {
    pub unit: &'static str,
    /// What stands in the correct file.
    pub old: &'static str,
    /// What is written instead.
    pub new: &'static str,
    /// The code of the finding.
    pub code: &'static str,
    /// The part of `new` at which it must stand, or at its `^`; behind `->` a part of the mapping, where the mistake in the flow shows.
    pub at: &'static str,
}

impl Plant {
    /// The file that it goes into: the mapping, or the flow.
    pub fn path(&self, files: &BTreeMap<String, String>) -> String {
        let in_file = |kind: &str| {
            let path = format!("{kind}/{}.yaml", self.unit);
            files[&path].contains(self.old).then_some(path)
        };
        in_file("mappings")
            .or_else(|| in_file("flows"))
            .unwrap_or_else(|| panic!("{}: {:?}", self.unit, self.old))
    }
}

const fn plant(
    unit: &'static str,
    old: &'static str,
    new: &'static str,
    code: &'static str,
    at: &'static str,
) -> Plant {
    Plant {
        unit,
        old,
        new,
        code,
        at,
    }
}

pub const ALL: &[Plant] = &[
    // Shopify orders.
    plant(
        "shopify-order",
        "timestamp(created_at)",
        "timestamp(create_at)",
        "undeclared-field",
        "create_at",
    ),
    plant(
        "shopify-order",
        "not_null(customer.email, email)",
        "customer.emial",
        "undeclared-field",
        "emial",
    ),
    plant(
        "shopify-order",
        "concat('WEB-', not_null(customer.id, id))",
        "to_string(id) | @.code",
        "wrong-shape",
        "code",
    ),
    plant(
        "shopify-order",
        "concat('WEB-', not_null(customer.id, id))",
        "customer.first_name",
        "null-for-required",
        "customer.first_name",
    ),
    plant(
        "shopify-order",
        "if(financial_status == 'paid', 'paid', 'open')",
        "financial_status",
        "value-mismatch",
        "financial_status",
    ),
    plant(
        "shopify-order",
        "total: decimal(total_price)",
        "total: total_price",
        "type-mismatch",
        "total_price",
    ),
    plant(
        "shopify-order",
        "sku: \"@[1].sku || concat('ITEM-', @[1].id)\"",
        "sku: \"@[1].sku\"",
        "null-for-required",
        "\"@[1].sku\"",
    ),
    plant(
        "shopify-order",
        "filter: cancelled_at == `null`",
        "filter: taxes_included && cancelled_at",
        "not-boolean",
        "taxes_included",
    ),
    plant(
        "shopify-order",
        "keys: { order: name }",
        "keys: { order: email }",
        "null-key",
        "email",
    ),
    plant(
        "shopify-order",
        "$gift == 'yes'",
        "$gift == `1`",
        "never-equal",
        "$gift",
    ),
    // Shopify stock levels.
    plant(
        "shopify-stock",
        "if(available > `0`, available, `0`)",
        "available",
        "unchecked-value",
        "available",
    ),
    plant(
        "shopify-stock",
        "on_hand: if(available > `0`, available, `0`)",
        "on_hand: divide(available, `2`, `1`)",
        "fraction-for-integer",
        "divide",
    ),
    plant(
        "shopify-stock",
        "filter: available != `null`",
        "filter: available > `0`",
        "null-condition",
        "available",
    ),
    plant(
        "shopify-stock",
        "truncate(to_string(location_id), `20`)",
        "location_id.code",
        "wrong-shape",
        "code",
    ),
    // WooCommerce.
    plant(
        "woo-order",
        "status == 'on-hold'",
        "status == 'on_hold'",
        "never-equal",
        "status",
    ),
    plant(
        "woo-order",
        "when: status == 'failed'",
        "when: status == 'fialed'",
        "never-equal",
        "status",
    ),
    plant(
        "woo-order",
        "quantity: quantity",
        "quantity: total",
        "type-mismatch",
        "total",
    ),
    plant(
        "woo-order",
        "sum(coupon_lines[].decimal(discount))",
        "sum(coupon_lines[].discount)",
        "argument-type",
        "coupon_lines[]",
    ),
    plant(
        "woo-order",
        "- each: line_items",
        "- each: billing",
        "wrong-shape",
        "billing",
    ),
    plant(
        "woo-order",
        "amount: decimal(total)",
        "amount: meta_data[0].value",
        "null-for-required",
        "meta_data",
    ),
    plant(
        "woo-order",
        "email: lower(billing.email)",
        "email: lower(billing.mail)",
        "undeclared-field",
        ".^mail",
    ),
    // Amazon.
    plant(
        "amazon-order",
        "filter: OrderStatus == 'Unshipped' && not_null(OrderTotal, `false`) != `false` && not_null(ShippingAddress, `false`) != `false`",
        "filter: OrderStatus == 'Unshipped'",
        "null-for-required",
        "->decimal(OrderTotal.Amount)",
    ),
    plant(
        "amazon-order",
        "item: SellerSKU || ASIN",
        "item: SellerSKU",
        "null-for-required",
        "SellerSKU",
    ),
    plant(
        "amazon-order",
        "gift: IsGift == 'true'",
        "gift: IsGift",
        "type-mismatch",
        "IsGift",
    ),
    plant(
        "amazon-order",
        "FulfillmentChannel == 'MFN'",
        "FulfillmentChannel == `true`",
        "never-equal",
        "FulfillmentChannel",
    ),
    plant(
        "amazon-order",
        "OrderItems\n",
        "OrderItems[0]\n",
        "wrong-shape",
        "OrderItems[0]",
    ),
    // BigCommerce.
    plant(
        "bigcommerce-shipment",
        "note: truncate(comments, `60`)",
        "note: comments",
        "length-mismatch",
        "comments",
    ),
    plant(
        "bigcommerce-shipment",
        "lookup('carriers', tracking_carrier, 'scac')",
        "tracking_carrier",
        "value-mismatch",
        "tracking_carrier",
    ),
    plant(
        "bigcommerce-shipment",
        "shipment: to_string(id)",
        "shipment: id.value",
        "wrong-shape",
        "value",
    ),
    plant(
        "bigcommerce-shipment",
        "if(tracking_number, tracking_number)",
        "length(comments)",
        "null-argument",
        "comments",
    ),
    // EasyPost.
    plant(
        "easypost-tracker",
        "one_of(result.status, 'return_to_sender', 'failure')",
        "one_of(result.status, 'returned_to_sender', 'failure')",
        "never-equal",
        "'returned_to_sender'",
    ),
    plant(
        "easypost-tracker",
        "tracking: result.tracking_code",
        "tracking: tracking_code",
        "undeclared-field",
        "tracking_code",
    ),
    plant(
        "easypost-tracker",
        "- each: result.tracking_details",
        "- each: result",
        "wrong-shape",
        "result",
    ),
    plant(
        "easypost-tracker",
        "city: $last.tracking_location.city",
        "city: $last.tracking_location",
        "type-mismatch",
        "->\"$last && without_nulls",
    ),
    // ShipEngine.
    plant(
        "shipengine-track",
        "data.status_code == 'DE'",
        "data.status_code == 'delivered'",
        "never-equal",
        "data",
    ),
    plant(
        "shipengine-track",
        "data.events[?city_locality].city_locality",
        "data.events.city_locality",
        "wrong-shape",
        "city_locality",
    ),
    plant(
        "shipengine-track",
        "count: length(data.events)",
        "count: data.events",
        "type-mismatch",
        "data.events",
    ),
    plant(
        "shipengine-track",
        "contains(['EX', 'AT'], data.status_code)",
        "data.events[].status_code > `5`",
        "never-ordered",
        "data",
    ),
    // NetSuite.
    plant(
        "netsuite-order",
        "quantity: decimal(quantity)",
        "quantity: decimal(price)",
        "fraction-for-integer",
        "decimal(price)",
    ),
    plant(
        "netsuite-order",
        "decimal(not_null(discount, '0'))",
        "decimal(discount)",
        "null-argument",
        "decimal(discount)",
    ),
    plant(
        "netsuite-order",
        "entity: { id: customer.id }",
        "entity: { id: customer.terms }",
        "null-for-required",
        "customer.terms",
    ),
    plant(
        "netsuite-order",
        "id: if(currency == 'EUR', '4', '1')",
        "id: currency",
        "value-mismatch",
        "currency",
    ),
    plant(
        "netsuite-order",
        "subtract(decimal(price),",
        "subtract(item,",
        "argument-type",
        "item",
    ),
    // SAP Business One.
    plant(
        "sap-b1-order",
        "not_null(warehouse, '01')",
        "warehouse",
        "null-for-required",
        "warehouse",
    ),
    plant(
        "sap-b1-order",
        "CardCode: customer.code",
        "CardCode: number",
        "length-mismatch",
        "number",
    ),
    plant(
        "sap-b1-order",
        "DocDate: date(placed_at)",
        "DocDate: placed_at",
        "pattern-mismatch",
        "placed_at",
    ),
    plant(
        "sap-b1-order",
        "UnitPrice: decimal(price.amount)",
        "UnitPrice: price",
        "type-mismatch",
        "price",
    ),
    // Dynamics.
    plant(
        "dynamics-order",
        "customer: customer_number",
        "customer: ship_to",
        "key-type",
        "ship_to",
    ),
    plant(
        "dynamics-order",
        "items: 'lines'",
        "items: ship_to",
        "wrong-shape",
        "ship_to",
    ),
    // X12.
    plant(
        "x12-850",
        "REF[?REF01 == 'DP'].REF02 | [0]",
        "REF[?REF01 == 'DPT'].REF02 | [0]",
        "never-equal",
        "REF01",
    ),
    plant(
        "x12-850",
        "line: not_null(@[1].PO101, to_string(@[0]))",
        "line: \"@[1].PO101\"",
        "null-for-required",
        "\"@[1].PO101\"",
    ),
    plant(
        "x12-850",
        "quantity: decimal(@[1].PO102)",
        "quantity: decimal(@[1].PO104)",
        "fraction-for-integer",
        "decimal",
    ),
    plant(
        "x12-850",
        "ordered_on: date(parse_time(BEG.BEG05, '%Y%m%d'))",
        "ordered_on: BEG.BEG05",
        "pattern-mismatch",
        "BEG.BEG05",
    ),
    plant(
        "x12-850",
        "department: REF[?REF01 == 'DP'].REF02 | [0]",
        "department: REF[?REF01 == 'DP'].REF02",
        "type-mismatch",
        "REF",
    ),
    plant(
        "x12-850",
        "filter: BEG.BEG02 == 'NE' || BEG.BEG02 == 'SA'",
        "filter: BEG.BEG02 == '00'",
        "never-passes",
        "BEG",
    ),
    // EDIFACT.
    plant(
        "edifact-invoic",
        "kind: if(BGM.code == '381', 'credit', 'invoice')",
        "kind: BGM.code",
        "value-mismatch",
        "BGM.code",
    ),
    plant(
        "edifact-invoic",
        "rate: decimal(not_null(TAX.rate, '0'))",
        "rate: decimal(TAX.rate)",
        "null-for-required",
        "decimal",
    ),
    plant(
        "edifact-invoic",
        "net: sum(LIN[].decimal(MOA.amount))",
        "net: sum(LIN[].MOA.amount)",
        "argument-type",
        "LIN",
    ),
    plant(
        "edifact-invoic",
        "buyer: NAD[?party == 'BY'].id | [0]",
        "buyer: NAD[?party == 'BY'].ids | [0]",
        "undeclared-field",
        "ids",
    ),
    // Rows of a CSV file.
    plant(
        "customer-row",
        "active: active == 'Y'",
        "active: active == `true`",
        "never-equal",
        ": ^active",
    ),
    plant(
        "customer-row",
        "code: pad_left(account, `8`, '0')",
        "code: account",
        "length-mismatch",
        "account",
    ),
    plant(
        "customer-row",
        "vat: if(vat, vat)",
        "vat: not_null(vat, '')",
        "unchecked-value",
        "not_null",
    ),
    plant(
        "customer-row",
        "- each: \"[email][?@]\"",
        "- each: email",
        "wrong-shape",
        "email",
    ),
    // Returns.
    plant(
        "return-credit",
        "filter: not_null(received_at, '') != ''",
        "filter: order != ''",
        "null-for-required",
        "->date(received_at)",
    ),
    plant(
        "return-credit",
        "not_null(fee, `0`)",
        "fee",
        "null-argument",
        "fee",
    ),
    plant(
        "return-credit",
        "cause: if(reason == 'damaged', 'quality', if(reason == 'wrong', 'logistics', 'customer'))",
        "cause: reason",
        "value-mismatch",
        "reason",
    ),
    plant(
        "return-credit",
        "max([sum(items[].quantity), `1`])",
        "length(items[?restock])",
        "range-mismatch",
        "length",
    ),
    // Picking.
    plant(
        "pick-list",
        "priority: not_null(priority, `5`)",
        "priority: priority",
        "null-for-required",
        ": ^priority",
    ),
    plant(
        "pick-list",
        "express: express == `true`",
        "express: express",
        "null-for-required",
        ": ^express",
    ),
    plant(
        "pick-list",
        "site: warehouse.code",
        "site: warehouse",
        "type-mismatch",
        "warehouse",
    ),
    plant(
        "pick-list",
        "not_null(serials, `[]`)",
        "serials",
        "null-for-required",
        "serials",
    ),
    // SAP S/4.
    plant(
        "s4-posting",
        "cents: minor_units(decimal(TotalNetAmount))",
        "cents: decimal(TotalNetAmount)",
        "fraction-for-integer",
        "decimal",
    ),
    plant(
        "s4-posting",
        "- each: d.results",
        "- each: d.result",
        "undeclared-field",
        "result",
    ),
    plant(
        "s4-posting",
        "materials: to_Item.results[].Material",
        "materials: to_Item.results[].Materials",
        "undeclared-field",
        "Materials",
    ),
];
