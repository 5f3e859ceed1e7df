//! Contracts between systems, each with a correct mapping: payload shapes of storefronts, marketplaces, EDI, carriers, ERPs. Schemas are written short; see
//! `schema` beside.

/// Two contracts, the mapping between them, and the steps of the flow around it.
pub struct Unit {
    pub name: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    /// What stands in the mapping's file behind `to`.
    pub mapping: &'static str,
    /// What stands in the flow's file between `accepts` and `sinks`.
    pub flow: &'static str,
}

pub const UNITS: &[Unit] = &[
    Unit {
        name: "shopify-order",
        from: r"
id: int(1..)
name: str(1..40)
email: str or null
created_at: time
cancelled_at: time or null
currency: /^[A-Z]{3}$/
total_price: /^[0-9]+\.[0-9]{2}$/
taxes_included: bool
financial_status: one pending paid refunded
fulfillment_status: one fulfilled partial or null
customer?: { id: int(1..), email: str or null, first_name?: str, last_name?: str }
shipping_address: { name: str(1..80), address1: str, address2?: str or null, city: str(1..40), zip?: str or null, country_code: /^[A-Z]{2}$/ } or null
note_attributes: [{ name: str, value: str or null }]
line_items: [{ id: int(1..), sku: str or null, title: str, quantity: int(1..), price: /^[0-9]+\.[0-9]{2}$/, tax_lines: [{ title: str, rate: num }] }, 1..]
",
        to: r"
number: str(1..40)
channel: const storefront
placed_at: time
currency: /^[A-Z]{3}$/
status: one open paid
buyer: { code: str(1..), email?: str, name?: str }
ship_to?: { name: str(1..80), street: str, city: str(1..40), postcode?: str, country: /^[A-Z]{2}$/ }
lines: [{ line: int(1..), sku: str(1..), quantity: int(1..), unit_price: num, tax_rate?: num }, 1..]
total: num
gift?: bool
",
        mapping: r#"
let:
  gift: note_attributes[?name == 'gift'].value | [0]
fields:
  number: name
  channel: "'storefront'"
  placed_at: timestamp(created_at)
  currency: currency
  status: if(financial_status == 'paid', 'paid', 'open')
  buyer:
    code: concat('WEB-', not_null(customer.id, id))
    email: not_null(customer.email, email)
    name: customer && concat(customer.first_name, ' ', customer.last_name)
  ship_to: >-
    shipping_address && without_nulls({name: shipping_address.name, street: shipping_address.address1,
    city: shipping_address.city, postcode: shipping_address.zip, country: shipping_address.country_code})
  lines:
    - each: enumerate(line_items)
      fields:
        line: "@[0]"
        sku: "@[1].sku || concat('ITEM-', @[1].id)"
        quantity: "@[1].quantity"
        unit_price: decimal(@[1].price)
        tax_rate: "@[1].tax_lines[0].rate"
  total: decimal(total_price)
  gift: $gift == 'yes'
"#,
        flow: r"
keys: { order: name }
once: { key: order }
steps:
  - filter: cancelled_at == `null`
  - map: shopify-order
  - validate: shopify-order/to
",
    },
    Unit {
        name: "shopify-stock",
        from: r"
inventory_item_id: int(1..)
location_id: int(1..)
available: int or null
updated_at: time
",
        to: r"
item: str(1..20)
location: str(1..20)
on_hand: int(0..)
as_of: time
",
        mapping: r"
fields:
  item: truncate(to_string(inventory_item_id), `20`)
  location: truncate(to_string(location_id), `20`)
  on_hand: if(available > `0`, available, `0`)
  as_of: timestamp(updated_at)
",
        flow: r"
keys: { item: to_string(inventory_item_id) }
order_by: item
steps:
  - filter: available != `null`
  - map: shopify-stock
",
    },
    Unit {
        name: "woo-order",
        from: r"
id: int(1..)
number: str(1..20)
order_key: str
status: one pending processing on-hold completed cancelled refunded failed
currency: /^[A-Z]{3}$/
date_created_gmt: str
prices_include_tax: bool
total: /^[0-9]+\.[0-9]{2}$/
billing: { first_name: str, last_name: str, company: str, address_1: str, city: str, postcode: str, country: str, email: str }
line_items: [{ product_id: int, sku: str, quantity: int(1..), total: /^[0-9]+\.[0-9]{2}$/, meta_data: [{ key: str, value: str }] }, 1..100]
coupon_lines: [{ code: str, discount: /^[0-9]+\.[0-9]{2}$/ }]
",
        to: r"
number: str(1..20)
state: one open held closed
placed_at: time
buyer: { name: str, company?: str(1..) , email: str }
lines: [{ sku: str, quantity: int(1..), amount: num, colour?: str }, 1..]
discount: num
total: num
",
        mapping: r#"
fields:
  number: number
  state: if(one_of(status, 'completed', 'cancelled', 'refunded', 'failed'), 'closed', if(status == 'on-hold', 'held', 'open'))
  placed_at: timestamp(concat(date_created_gmt, 'Z'))
  buyer:
    name: trim(join(' ', [billing.first_name, billing.last_name]))
    company: if(billing.company, billing.company)
    email: lower(billing.email)
  lines:
    - each: line_items
      fields:
        sku: sku
        quantity: quantity
        amount: decimal(total)
        colour: meta_data[?key == 'colour'].value | [0]
  discount: sum(coupon_lines[].decimal(discount))
  total: decimal(total)
"#,
        flow: r"
keys: { order: number }
once: { key: order }
steps:
  - id: kind
    branch:
      - when: status == 'failed'
        steps:
          - log: a payment failed
      - when: length(line_items) > `50`
        steps:
          - set: { headers: { x-size: to_string(length(line_items)) } }
  - map: woo-order
",
    },
    Unit {
        name: "amazon-order",
        from: r"
AmazonOrderId: /^[0-9]{3}-[0-9]{7}-[0-9]{7}$/
PurchaseDate: time
OrderStatus: one Pending Unshipped PartiallyShipped Shipped Canceled
FulfillmentChannel: one MFN AFN
OrderTotal?: { CurrencyCode: /^[A-Z]{3}$/, Amount: /^[0-9]+\.[0-9]{2}$/ }
ShippingAddress?: { Name: str, AddressLine1?: str, City: str, StateOrRegion?: str, PostalCode: str, CountryCode: /^[A-Z]{2}$/ }
OrderItems: [{ ASIN: str(10..10), SellerSKU?: str, OrderItemId: str(1..), QuantityOrdered: int(1..), ItemPrice?: { CurrencyCode: str, Amount: /^[0-9]+\.[0-9]{2}$/ }, IsGift: one true false }, 1..]
",
        to: r"
number: str(1..19)
placed_at: time
own_stock: bool
total: { amount: num, currency: /^[A-Z]{3}$/ }
deliver_to: { name: str, street?: str, city: str, country: /^[A-Z]{2}$/ }
lines: [{ id: str(1..), item: str(1..), quantity: int(1..), amount?: num, gift: bool }, 1..]
",
        mapping: r#"
fields:
  number: AmazonOrderId
  placed_at: timestamp(PurchaseDate)
  own_stock: FulfillmentChannel == 'MFN'
  total:
    amount: decimal(OrderTotal.Amount)
    currency: OrderTotal.CurrencyCode
  deliver_to:
    name: ShippingAddress.Name
    street: ShippingAddress.AddressLine1
    city: ShippingAddress.City
    country: ShippingAddress.CountryCode
  lines:
    - each: OrderItems
      fields:
        id: OrderItemId
        item: SellerSKU || ASIN
        quantity: QuantityOrdered
        amount: decimal(ItemPrice.Amount)
        gift: IsGift == 'true'
"#,
        flow: r"
keys: { order: AmazonOrderId }
once: { key: order }
steps:
  - filter: OrderStatus == 'Unshipped' && not_null(OrderTotal, `false`) != `false` && not_null(ShippingAddress, `false`) != `false`
  - map: amazon-order
",
    },
    Unit {
        name: "bigcommerce-shipment",
        from: r"
id: int(1..)
order_id: int(1..)
tracking_number: str
tracking_carrier: one usps fedex ups dhl
date_created: str
items: [{ order_product_id: int(1..), quantity: int(1..) }, 1..]
comments?: str(0..255)
",
        to: r"
shipment: str(1..)
order: str(1..)
carrier: one USPS FEDX UPSN DHLE
tracking?: str(1..)
shipped_at: time
pieces: int(1..)
parts: [{ line: str(1..), quantity: int(1..) }, 1..]
note?: str(0..60)
",
        mapping: r#"
fields:
  shipment: to_string(id)
  order: to_string(order_id)
  carrier: lookup('carriers', tracking_carrier, 'scac')
  tracking: if(tracking_number, tracking_number)
  shipped_at: parse_time(date_created, '%a, %d %b %Y %H:%M:%S %z')
  pieces: max([sum(items[].quantity), `1`])
  parts:
    - each: items
      fields: { line: to_string(order_product_id), quantity: quantity }
  note: truncate(comments, `60`)
"#,
        flow: r"
steps:
  - map: bigcommerce-shipment
",
    },
    Unit {
        name: "easypost-tracker",
        from: r"
id: /^evt_[a-z0-9]+$/
description: const tracker.updated
result: { tracking_code: str(1..), status: one unknown pre_transit in_transit out_for_delivery delivered return_to_sender failure, carrier: str, est_delivery_date: time or null, tracking_details: [{ status: str, datetime: time, message: str, tracking_location: { city: str or null, country: str or null } }] }
",
        to: r"
tracking: str(1..)
state: one waiting moving delivered lost
expected_at?: time
last?: { at: time, text: str, city?: str }
events: [{ at: time, text: str }]
",
        mapping: r#"
let:
  last: "sort_by(result.tracking_details, &datetime)[-1]"
fields:
  tracking: result.tracking_code
  state: >-
    if(result.status == 'delivered', 'delivered', if(one_of(result.status, 'return_to_sender', 'failure'), 'lost',
    if(one_of(result.status, 'unknown', 'pre_transit'), 'waiting', 'moving')))
  expected_at: timestamp(result.est_delivery_date)
  last: "$last && without_nulls({at: $last.datetime, text: $last.message, city: $last.tracking_location.city})"
  events:
    - each: result.tracking_details
      fields: { at: datetime, text: message }
"#,
        flow: r"
keys: { tracking: result.tracking_code }
steps:
  - filter: result.status != 'unknown'
  - map: easypost-tracker
",
    },
    Unit {
        name: "shipengine-track",
        from: r"
resource_url: str
resource_type: const API_TRACK
data: { tracking_number: str(1..), status_code: one UN AC IT DE EX AT NY SP, events: [{ occurred_at: time, city_locality: str or null, status_code: str }] }
",
        to: r"
tracking: str(1..)
done: bool
late: bool
places: [str(1..)]
count: int(0..)
",
        mapping: r#"
fields:
  tracking: data.tracking_number
  done: data.status_code == 'DE'
  late: contains(['EX', 'AT'], data.status_code)
  places: data.events[?city_locality].city_locality
  count: length(data.events)
"#,
        flow: r"
steps:
  - map: shipengine-track
",
    },
    Unit {
        name: "netsuite-order",
        from: r"
number: str(1..40)
customer: { id: str(1..), terms?: str }
placed_on: date
currency: one EUR USD
lines: [{ item: str(1..), quantity: /^[0-9]+$/, price: /^[0-9]+\.[0-9]{2}$/, discount?: /^[0-9]+\.[0-9]{2}$/ }, 1..500]
memo?: str(0..999)
",
        to: r"
entity: { id: str(1..) }
tranDate: date
otherRefNum: str(1..45)
externalId: str(1..60)
currency: { id: one 1 4 }
item: { items: [{ item: { id: str(1..) }, quantity: int(0..), rate: num }, 1..500] }
memo?: str(0..999)
",
        mapping: r#"
fields:
  entity: { id: customer.id }
  tranDate: placed_on
  otherRefNum: number
  externalId: concat('SO-', number)
  currency:
    id: if(currency == 'EUR', '4', '1')
  item:
    items:
      - each: lines
        fields:
          item: { id: item }
          quantity: decimal(quantity)
          rate: subtract(decimal(price), decimal(not_null(discount, '0')))
  memo: memo
"#,
        flow: r"
steps:
  - map: netsuite-order
",
    },
    Unit {
        name: "sap-b1-order",
        from: r"
number: str(1..40)
customer: { code: str(1..15), name: str }
placed_at: time
due_on?: date
lines: [{ sku: str(1..50), quantity: num(0..), price: { amount: /^[0-9]+(\.[0-9]{1,4})?$/, currency: /^[A-Z]{3}$/ }, warehouse?: str(1..8) }, 1..]
",
        to: r"
CardCode: str(1..15)
NumAtCard: str(1..100)
DocDate: date
DocDueDate: date
DocumentLines: [{ ItemCode: str(1..50), Quantity: num(0..), UnitPrice: num, WarehouseCode: str(1..8) }, 1..]
Comments?: str
",
        mapping: r#"
fields:
  CardCode: customer.code
  NumAtCard: number
  DocDate: date(placed_at)
  DocDueDate: not_null(due_on, date(add_days(placed_at, `7`)))
  DocumentLines:
    - each: lines
      fields:
        ItemCode: sku
        Quantity: quantity
        UnitPrice: decimal(price.amount)
        WarehouseCode: not_null(warehouse, '01')
  Comments: customer.name
"#,
        flow: r"
steps:
  - map: sap-b1-order
",
    },
    Unit {
        name: "dynamics-order",
        from: r"
number: str(1..20)
customer_number: str(1..20)
placed_on: date
currency?: /^[A-Z]{3}$/
ship_to?: { name: str(1..100), street: str(1..100), city: str(1..30), country: /^[A-Z]{2}$/ }
lines: [{ kind: one item service, sku: str(1..20), quantity: int(1..), price: num(0..) }, 1..]
",
        to: r"
orderDate: date
customerNumber: str(1..20)
externalDocumentNumber: str(1..35)
currencyCode?: /^[A-Z]{3}$/
shipToName?: str(1..100)
shipToCity?: str(1..30)
shipToCountry?: /^[A-Z]{2}$/
salesOrderLines: [{ lineType: one Item Resource, lineObjectNumber: str(1..20), quantity: int(1..), unitPrice: num }, 1..]
",
        mapping: r#"
fields:
  orderDate: placed_on
  customerNumber: customer_number
  externalDocumentNumber: number
  currencyCode: currency
  shipToName: ship_to.name
  shipToCity: ship_to.city
  shipToCountry: ship_to.country
  salesOrderLines:
    - each: lines
      fields:
        lineType: if(kind == 'item', 'Item', 'Resource')
        lineObjectNumber: sku
        quantity: quantity
        unitPrice: price
"#,
        flow: r"
keys: { order: number, customer: customer_number }
once: { key: order }
steps:
  - split: { items: 'lines', key: sku }
  - log: a line
",
    },
    Unit {
        name: "x12-850",
        from: r"
ISA13: /^[0-9]{9}$/
BEG: { BEG03: str(1..22), BEG05: /^[0-9]{8}$/, BEG02: one NE SA }
REF: [{ REF01: one DP IA CO, REF02?: str(1..50) }]
N1: [{ N101: one ST BT BY, N102?: str(1..60), N104?: str(2..80), N4?: { N401: str(2..30), N403: str(3..15), N404?: str(2..3) } }, 1..]
PO1: [{ PO101?: str(1..20), PO102: /^[0-9]{1,9}$/, PO103: one EA CA, PO104: /^[0-9]{1,8}(\.[0-9]{1,4})?$/, PO107: str(1..48) }, 1..]
",
        to: r"
order: str(1..22)
ordered_on: date
department?: str(1..50)
ship_to?: { name?: str(1..60), gln?: str(2..80), city?: str(2..30), country: str(2..3) }
lines: [{ line: str(1..20), sku: str(1..48), quantity: int(0..), unit: one each case, price: num }, 1..]
control: str(9..9)
",
        mapping: r#"
let:
  ship: "N1[?N101 == 'ST'] | [0]"
fields:
  order: BEG.BEG03
  ordered_on: date(parse_time(BEG.BEG05, '%Y%m%d'))
  department: REF[?REF01 == 'DP'].REF02 | [0]
  ship_to: "$ship && without_nulls({name: $ship.N102, gln: $ship.N104, city: $ship.N4.N401, country: not_null($ship.N4.N404, 'US')})"
  lines:
    - each: enumerate(PO1)
      fields:
        line: not_null(@[1].PO101, to_string(@[0]))
        sku: "@[1].PO107"
        quantity: decimal(@[1].PO102)
        unit: if(@[1].PO103 == 'EA', 'each', 'case')
        price: decimal(@[1].PO104)
  control: ISA13
"#,
        flow: r"
keys: { order: BEG.BEG03, control: ISA13 }
once: { key: order }
steps:
  - filter: BEG.BEG02 == 'NE' || BEG.BEG02 == 'SA'
  - map: x12-850
  - validate: x12-850/to
",
    },
    Unit {
        name: "edifact-invoic",
        from: r"
BGM: { code: one 380 381, number: str(1..35) }
DTM: [{ qualifier: one 137 35, value: /^[0-9]{8}$/, format: const 102 }, 1..]
NAD: [{ party: one BY SE IV, id?: str(1..35) }]
LIN: [{ number: int(1..), item: str(1..35), QTY: [{ qualifier: one 47 46, value: /^[0-9]+$/ }, 1..], MOA: { qualifier: const 203, amount: /^-?[0-9]+\.[0-9]{2}$/ }, TAX?: { rate: /^[0-9]{1,2}$/ } }, 1..]
",
        to: r"
invoice: str(1..35)
kind: one invoice credit
issued_on: date
buyer?: str(1..35)
lines: [{ line: int(1..), item: str(1..35), quantity: int(0..), net: num, rate: num(0..100) }, 1..]
net: num
",
        mapping: r#"
fields:
  invoice: BGM.number
  kind: if(BGM.code == '381', 'credit', 'invoice')
  issued_on: date(parse_time(not_null(DTM[?qualifier == '137'].value | [0], DTM[0].value), '%Y%m%d'))
  buyer: NAD[?party == 'BY'].id | [0]
  lines:
    - each: LIN
      fields:
        line: number
        item: item
        quantity: decimal(not_null(QTY[?qualifier == '47'].value | [0], '0'))
        net: decimal(MOA.amount)
        rate: decimal(not_null(TAX.rate, '0'))
  net: sum(LIN[].decimal(MOA.amount))
"#,
        flow: r"
keys: { invoice: BGM.number }
steps:
  - map: edifact-invoic
",
    },
    Unit {
        name: "customer-row",
        from: r"
account: /^[0-9]{6}$/
name: str(1..60)
vat?: str(0..20)
country: /^[A-Za-z]{2}$/
credit_limit: /^[0-9]+$/
active: one Y N
email?: str
tags: str
",
        to: r"
code: str(8..8)
name: str(1..60)
vat?: str(1..20)
country: str(2..2)
limit: int(0..)
active: bool
contacts: [{ kind: const email, value: str(1..) }, 0..1]
tags: [str]
",
        mapping: r#"
fields:
  code: pad_left(account, `8`, '0')
  name: name
  vat: if(vat, vat)
  country: upper(country)
  limit: decimal(credit_limit)
  active: active == 'Y'
  contacts:
    - each: "[email][?@]"
      fields: { kind: "'email'", value: "@" }
  tags: split(tags, ',')
"#,
        flow: r"
keys: { customer: account }
steps:
  - map: customer-row
",
    },
    Unit {
        name: "return-credit",
        from: r"
rma: str(1..20)
order: str(1..40)
reason: one damaged wrong unwanted
received_at?: time
items: [{ sku: str(1..), quantity: int(1..), unit_price: num(0..), restock: bool }, 1..]
fee?: num(0..)
",
        to: r"
credit: str(1..24)
order: str(1..40)
cause: one quality logistics customer
booked_on: date
amount: num
restock: [{ sku: str(1..), quantity: int(1..) }]
units: int(1..)
",
        mapping: r#"
fields:
  credit: concat('CR-', rma)
  order: order
  cause: if(reason == 'damaged', 'quality', if(reason == 'wrong', 'logistics', 'customer'))
  booked_on: date(received_at)
  amount: subtract(sum_by(items, &multiply(unit_price, quantity)), not_null(fee, `0`))
  restock:
    - each: items[?restock]
      fields: { sku: sku, quantity: quantity }
  units: max([sum(items[].quantity), `1`])
"#,
        flow: r"
steps:
  - filter: not_null(received_at, '') != ''
  - map: return-credit
",
    },
    Unit {
        name: "pick-list",
        from: r"
order: str(1..40)
priority?: int(1..9)
warehouse: { code: str(1..8), zone?: str }
lines: [{ sku: str(1..), quantity: int(1..), lot?: str, serials?: [str(1..)] }, 1..]
express: bool or null
",
        to: r"
pick: str(1..44)
site: str(1..8)
priority: int(1..9)
express: bool
tasks: [{ sku: str(1..), quantity: int(1..), lot?: str, serials: [str(1..)] }, 1..]
total: int(1..)
",
        mapping: r#"
fields:
  pick: concat('PCK-', order)
  site: warehouse.code
  priority: not_null(priority, `5`)
  express: express == `true`
  tasks:
    - each: lines
      fields:
        sku: sku
        quantity: quantity
        lot: lot
        serials: not_null(serials, `[]`)
  total: max([sum(lines[].quantity), `1`])
"#,
        flow: r"
keys: { order: order }
order_by: order
steps:
  - id: how
    branch:
      - when: express == `true`
        steps:
          - set: { variables: { speed: to_string(priority) } }
      - otherwise:
          steps:
            - log: as usual
  - map: pick-list
",
    },
    Unit {
        name: "s4-posting",
        from: r"
d: { results: [{ BillingDocument: /^[0-9]{10}$/, TotalNetAmount: /^-?[0-9]+\.[0-9]{2}$/, TransactionCurrency: /^[A-Z]{3}$/, BillingDocumentDate: str, to_Item: { results: [{ Material: str(1..40), BillingQuantity: /^[0-9]+(\.[0-9]{1,3})?$/ }] } }, 1..] }
",
        to: r"
postings: [{ document: str(10..10), cents: int, currency: /^[A-Z]{3}$/, materials: [str(1..40)], quantity: num }, 1..]
",
        mapping: r#"
fields:
  postings:
    - each: d.results
      fields:
        document: BillingDocument
        cents: minor_units(decimal(TotalNetAmount))
        currency: TransactionCurrency
        materials: to_Item.results[].Material
        quantity: sum(to_Item.results[].decimal(BillingQuantity))
"#,
        flow: r"
steps:
  - map: s4-posting
",
    },
];
