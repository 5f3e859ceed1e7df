//! Correct projects: the contracts of the units in ever other combinations, and more contracts put together from parts that are correct by themselves.

use std::collections::BTreeMap;

use super::units::UNITS;

/// How many projects there are.
const PROJECTS: usize = 40;

/// A field that is mapped correctly: in the source, its expression, in the target. `N` stands for a number that keeps names apart.
const FIELDS: &[(&str, &str, &str)] = &[
    ("orderN: str(1..30)", "orderN", "orderN: str(1..40)"),
    ("orderN?: str(1..30)", "orderN", "orderN?: str(1..40)"),
    (
        "orderN?: str(1..30)",
        "not_null(orderN, 'none')",
        "orderN: str(1..40)",
    ),
    (
        "orderN: str or null",
        "orderN || 'none'",
        "orderN: str(1..)",
    ),
    (
        "orderN: str or null",
        "orderN && truncate(orderN, `12`)",
        "orderN?: str(0..12)",
    ),
    ("qtyN: int(1..)", "qtyN", "qtyN: num"),
    ("qtyN: int(1..99)", "to_string(qtyN)", "qtyN: str"),
    ("qtyN: num(0..)", "round(qtyN)", "qtyN: int"),
    ("qtyN: /^[0-9]{1,5}$/", "decimal(qtyN)", "qtyN: int"),
    ("qtyN: /^[0-9]{1,5}$/", "decimal(qtyN)", "qtyN: num"),
    (
        "priceN: /^[0-9]+\\.[0-9]{2}$/",
        "minor_units(decimal(priceN))",
        "priceN: int",
    ),
    (
        "priceN: /^[0-9]+\\.[0-9]{2}$/",
        "fixed(decimal(priceN), `2`)",
        "priceN: str",
    ),
    (
        "priceN: num",
        "multiply(priceN, `100`) | floor(@)",
        "priceN: int",
    ),
    (
        "stateN: one new paid sent",
        "stateN",
        "stateN: one new paid sent lost",
    ),
    (
        "stateN: one new paid sent",
        "if(stateN == 'sent', 'done', 'open')",
        "stateN: one open done",
    ),
    (
        "stateN: one A B C",
        "if(one_of(stateN, 'A', 'B'), 'early', 'late')",
        "stateN: one early late",
    ),
    (
        "stateN?: one usps ups",
        "stateN && lookup('carriers', stateN, 'scac')",
        "stateN?: one USPS FEDX UPSN DHLE",
    ),
    ("stateN: one Y N", "stateN == 'Y'", "stateN: bool"),
    ("flagN?: bool", "not_null(flagN, `false`)", "flagN: bool"),
    ("flagN: bool or null", "flagN == `true`", "flagN: bool"),
    ("flagN?: bool", "!flagN", "flagN: bool"),
    ("timeN: time", "date(timeN)", "timeN: date"),
    ("timeN?: time", "timestamp(timeN)", "timeN?: time"),
    ("timeN: date", "add_days(timeN, `3`)", "timeN: str"),
    (
        "timeN: /^[0-9]{8}$/",
        "date(parse_time(timeN, '%Y%m%d'))",
        "timeN: date",
    ),
    (
        "partyN: { code: str(1..10), name?: str }",
        "partyN.code",
        "partyN: str(1..10)",
    ),
    (
        "partyN?: { code: str(1..10), name?: str }",
        "not_null(partyN.code, 'C0')",
        "partyN: str(1..10)",
    ),
    (
        "partyN?: { code: str(1..10), name?: str }",
        "partyN.name",
        "partyN?: str",
    ),
    (
        "partyN?: { code: str(1..10), name?: str }",
        "partyN && {code: partyN.code, name: partyN.name}",
        "partyN?: { code: str(1..10), name?: str }",
    ),
    (
        "partyN: { code: str(1..10), city: str or null } or null",
        "if(partyN, concat(partyN.code, '-', partyN.city), 'none')",
        "partyN: str(1..)",
    ),
    (
        "linesN: [{ sku: str(1..20), qty: int(1..) }]",
        "linesN[].sku",
        "linesN: [str(1..20)]",
    ),
    (
        "linesN: [{ sku: str(1..20), qty: int(1..) }, 1..]",
        "linesN[].{item: sku, count: qty}",
        "linesN: [{ item: str(1..20), count: int(1..) }, 1..]",
    ),
    (
        "linesN?: [{ sku: str(1..20), qty: int(1..) }]",
        "not_null(linesN, `[]`)[].qty",
        "linesN: [int(1..)]",
    ),
    (
        "linesN: [{ sku: str(1..20), qty: int(1..) }]",
        "sum(linesN[].qty)",
        "linesN: int",
    ),
    (
        "linesN: [{ sku?: str(1..20), qty: int(1..) }]",
        "linesN[?sku].sku",
        "linesN: [str(1..20)]",
    ),
    (
        "linesN: [{ sku?: str(1..20), qty: int(1..) }]",
        "linesN[?sku && qty > `1`] | [0].sku",
        "linesN?: str(1..20)",
    ),
    (
        "linesN: [{ sku: str(1..20), qty: int(1..) }, 1..]",
        "linesN[0].sku",
        "linesN: str(1..20)",
    ),
    (
        "linesN: [{ sku: str(1..20), qty: int(1..) }]",
        "length(linesN) > `1`",
        "linesN: bool",
    ),
    (
        "linesN: [{ sku: str(1..20), price?: num }]",
        "sum(linesN[].price)",
        "linesN: num",
    ),
    (
        "linesN: [{ sku: str(1..20), qty: int(1..) }]",
        "join(',', sort(unique(linesN[].sku)))",
        "linesN: str",
    ),
    (
        "linesN: [{ sku: str(1..20), qty: int(1..) }]",
        "max_by(linesN, &qty).sku",
        "linesN?: str(1..20)",
    ),
    (
        "attrsN: [{ name: str, value: str }]",
        "from_items(attrsN) | keys(@)",
        "attrsN: [str]",
    ),
    (
        "attrsN: [{ name: str, value: str or null }]",
        "attrsN[?name == 'po'].value | [0]",
        "attrsN?: str",
    ),
    (
        "attrsN: [{ name: str, value: str or null }]",
        "length(attrsN[?value])",
        "attrsN: int(0..)",
    ),
    ("noteN?: str", "if(noteN, trim(noteN))", "noteN?: str"),
    (
        "noteN: str",
        "substring(noteN, `0`, `3`)",
        "noteN: str(0..3)",
    ),
    ("noteN: str", "split(noteN, ';')[?@]", "noteN: [str(1..)]"),
    (
        "deepN: { a?: { b?: { c?: str(1..5) } } }",
        "deepN.a.b.c",
        "deepN?: str(1..5)",
    ),
    (
        "deepN: { a?: { b?: { c?: str(1..5) } } }",
        "not_null(deepN.a.b.c, 'x')",
        "deepN: str(1..5)",
    ),
    (
        "deepN: { rows: [{ cells: [{ v: int }] }] }",
        "deepN.rows[].cells[].v",
        "deepN: [int]",
    ),
    ("idN: int(1..)", "concat('ID-', idN)", "idN: str(4..)"),
    (
        "idN: int(1..)",
        "let $id = to_string(idN) in pad_left($id, `10`, '0')",
        "idN: str(10..)",
    ),
];

/// Choices from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % count
    }
}

/// A contract of some fields, its mapping, and a flow with a condition of its own.
fn contract(name: &str, dice: &mut Dice) -> BTreeMap<String, String> {
    let count = 6 + dice.below(8);
    let (mut from, mut to, mut fields) = (String::new(), String::new(), String::new());
    for number in 0..count {
        let (source, expression, target) = FIELDS[dice.below(FIELDS.len())];
        let numbered = |text: &str| {
            let mut out = String::new();
            for (at, c) in text.char_indices() {
                let before = text[..at]
                    .chars()
                    .next_back()
                    .is_some_and(|c| c.is_ascii_lowercase());
                let after = text[at + c.len_utf8()..]
                    .chars()
                    .next()
                    .is_none_or(|c| !c.is_ascii_alphanumeric());
                match c {
                    'N' if before && after => out.push_str(&number.to_string()),
                    _ => out.push(c),
                }
            }
            out
        };
        from.push_str(&format!("{}\n", numbered(source)));
        to.push_str(&format!("{}\n", numbered(target)));
        let target = numbered(target);
        let field = target.split([':', '?']).next().unwrap();
        fields.push_str(&format!("  {field}: >-\n    {}\n", numbered(expression)));
    }
    from.push_str("number: str(1..20)\nkind: one normal urgent\nweight?: num\n");
    to.push_str("number: str(1..20)\nweight: num\n");
    let guards = [
        "  - filter: weight != `null`\n",
        "  - filter: kind == 'urgent' && weight\n    when: kind == 'urgent'\n",
        "  - id: sort\n    branch:\n      - when: kind == 'urgent'\n        steps: [{ log: urgent }]\n",
    ];
    let guard = dice.below(3);
    let weight = if guard == 0 {
        "weight"
    } else {
        "not_null(weight, `0`)"
    };
    let guard = if guard == 1 {
        "  - filter: kind == 'urgent' || weight != `null`\n"
    } else {
        guards[guard]
    };
    let text =
        |short: &str, closed| format!("{:#}\n", super::schema(&super::with_null(short), closed));
    BTreeMap::from([
        (
            format!("schemas/{name}/from.json"),
            text(&from, dice.below(2) == 0),
        ),
        (format!("schemas/{name}/to.json"), text(&to, true)),
        (
            format!("mappings/{name}.yaml"),
            format!(
                "mapping: {name}\nfrom: {name}/from\nto: {name}/to\nfields:\n  number: number\n  weight: {weight}\n{fields}"
            ),
        ),
        (
            format!("flows/{name}.yaml"),
            format!(
                "flow: {name}\nsource: {{ flow: {{}} }}\naccepts: {name}/from\nkeys: {{ order: number }}\nonce: {{ key: order }}\nsteps:\n{guard}  - map: {name}\n\
                 routes:\n  first:\n    - when: weight > `100`\n      to: heavy\n    - otherwise: light\nsinks:\n  heavy: {{ discard: {{}} }}\n  light: {{ discard: {{}} }}\n"
            ),
        ),
    ])
}

/// All projects, each by its files.
pub fn projects() -> Vec<BTreeMap<String, String>> {
    let one = |number: usize| {
        let mut dice = Dice(number as u64 * 7_919 + 1);
        let mut files = BTreeMap::new();
        for at in 0..3 {
            files.extend(super::files(&UNITS[(number * 3 + at) % UNITS.len()]));
        }
        for at in 0..4 {
            files.extend(contract(&format!("made-{at}"), &mut dice));
        }
        files
    };
    (0..PROJECTS).map(one).collect()
}
