//! Cross-reference tables and units of measure. The tables come with the scope; the units are the ones that distributors use.

use std::borrow::Cow;

use super::{Arguments, Function, Group, Types, overflow, takes};
use crate::diagnostic::closest;
use crate::expression::Table;
use crate::expression::Value;
use crate::expression::evaluate::{Outcome, Run};
use crate::expression::number::{Decimal, Rounding, SCALE_MAX};
use crate::expression::{Fault, FaultKind, shortened};

const KEY: Types = Types::STRING.or(Types::NUMBER).or(Types::NULL);

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "lookup",
        group: Group::Codes,
        parameters: &[
            takes("table", Types::STRING),
            takes("key", KEY),
            takes("column", Types::STRING.or(Types::NULL)),
            takes("default", Types::VALUE),
        ],
        optional: 2,
        repeats: false,
        null_gives_null: false,
        gives: Types::VALUE,
        doc: "The cell in the row of a key; the column may be left out where the table has two. A key without a row gives the default, and is a failure where there is none; null as the key gives null",
        example: ("lookup('carriers', 'ups', 'scac')", "null", "\"UPSN\""),
        run: lookup,
    },
    Function {
        name: "known",
        group: Group::Codes,
        parameters: &[takes("table", Types::STRING), takes("key", KEY)],
        optional: 0,
        repeats: false,
        null_gives_null: false,
        gives: Types::BOOLEAN,
        doc: "Whether the table has a row for the key",
        example: ("known('carriers', 'dhl')", "null", "false"),
        run: known,
    },
    Function {
        name: "convert",
        group: Group::Codes,
        parameters: &[
            takes("quantity", Types::NUMBER.or(Types::NULL)),
            takes("from", Types::STRING),
            takes("to", Types::STRING),
            takes("scale", Types::NUMBER),
        ],
        optional: 1,
        repeats: false,
        null_gives_null: true,
        gives: Types::NUMBER.or(Types::NULL),
        doc: "The quantity in another unit, exact; where that has no end the number of digits after the point must be said (half-up). Units: mg g kg t oz lb, mm cm m km in ft yd mi, ml cl l m3 floz pt qt gal, mm2 cm2 m2 ft2, s min h d, each pair dozen gross hundred thousand; and their codes of UN/ECE Recommendation 20 (KGM, GRM, LBR, MTR, INH, LTR, C62, DZN ..)",
        example: ("convert(`2`, 'lb', 'KGM')", "null", "0.90718474"),
        run: convert,
    },
];

fn lookup<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let table = table(run, &mut arguments)?;
    if arguments.values[1].is_null() {
        return Ok(Value::Null);
    }
    let key = arguments.text(1);
    let column = match arguments.given(2) {
        true => arguments.string(2),
        false if table.columns().len() == 2 => Cow::Borrowed(table.columns()[1].as_str()),
        false => {
            return Err(arguments.refuse(
                0,
                format!(
                    "the table `{}` has several columns ({}), lookup() needs to know which",
                    table.name(),
                    table.columns()[1..].join(", ")
                ),
            ));
        }
    };
    if !table.columns().iter().any(|known| *known == column) {
        let mut fault = arguments.refuse(
            2,
            format!(
                "the table `{}` has no column `{}`",
                table.name(),
                shortened(&column)
            ),
        );
        fault.help = format!("its columns are {}", table.columns().join(", "));
        return Err(fault);
    }
    if let Some(cell) = table.cell(&key, &column) {
        return Ok(Value::Text(Cow::Borrowed(cell)));
    }
    if arguments.len() == 4 {
        return Ok(arguments.take(3));
    }
    let node = &arguments.call.arguments[1];
    Err(Fault::new(
        FaultKind::UnknownReference,
        format!(
            "the table `{}` has no row for `{}`",
            table.name(),
            shortened(&key)
        ),
    )
    .at(node.start, node.end)
    .with_help("add the row, or give lookup() a default as its fourth argument")
    .boxed())
}

fn known<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let table = table(run, &mut arguments)?;
    let known = !arguments.values[1].is_null() && table.row(&arguments.text(1)).is_some();
    Ok(Value::Bool(known))
}

fn table<'a>(
    run: &mut Run<'_, 'a>,
    arguments: &mut Arguments<'a>,
) -> Result<&'a Table, Box<Fault>> {
    let name = arguments.string(0);
    let tables = run.scope.tables();
    tables.get(&name).ok_or_else(|| {
        let node = &arguments.call.arguments[0];
        let help = match closest(&name, tables.names()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("add tables/{name}.csv"),
        };
        Fault::new(
            FaultKind::UnknownReference,
            format!("there is no table `{}`", shortened(&name)),
        )
        .at(node.start, node.end)
        .with_help(help)
        .boxed()
    })
}

/// A unit: its names, what it measures, and how much of that dimension's base unit it is, exactly.
struct Unit {
    names: &'static [&'static str],
    dimension: &'static str,
    factor: &'static str,
}

const fn unit(
    names: &'static [&'static str],
    dimension: &'static str,
    factor: &'static str,
) -> Unit {
    Unit {
        names,
        dimension,
        factor,
    }
}

const UNITS: &[Unit] = &[
    unit(&["mg", "MGM"], "mass", "0.000001"),
    unit(&["g", "GRM"], "mass", "0.001"),
    unit(&["kg", "KGM"], "mass", "1"),
    unit(&["t", "TNE"], "mass", "1000"),
    unit(&["oz", "ONZ"], "mass", "0.028349523125"),
    unit(&["lb", "LBR"], "mass", "0.45359237"),
    unit(&["mm", "MMT"], "length", "0.001"),
    unit(&["cm", "CMT"], "length", "0.01"),
    unit(&["m", "MTR"], "length", "1"),
    unit(&["km", "KMT"], "length", "1000"),
    unit(&["in", "INH"], "length", "0.0254"),
    unit(&["ft", "FOT"], "length", "0.3048"),
    unit(&["yd", "YRD"], "length", "0.9144"),
    unit(&["mi", "SMI"], "length", "1609.344"),
    unit(&["ml", "MLT"], "volume", "0.001"),
    unit(&["cl", "CLT"], "volume", "0.01"),
    unit(&["l", "LTR"], "volume", "1"),
    unit(&["m3", "MTQ"], "volume", "1000"),
    unit(&["floz", "OZA"], "volume", "0.0295735295625"),
    unit(&["pt", "PTL"], "volume", "0.473176473"),
    unit(&["qt", "QTL"], "volume", "0.946352946"),
    unit(&["gal", "GLL"], "volume", "3.785411784"),
    unit(&["mm2", "MMK"], "area", "0.000001"),
    unit(&["cm2", "CMK"], "area", "0.0001"),
    unit(&["m2", "MTK"], "area", "1"),
    unit(&["ft2", "FTK"], "area", "0.09290304"),
    unit(&["s", "SEC"], "time", "1"),
    unit(&["min", "MIN"], "time", "60"),
    unit(&["h", "HUR"], "time", "3600"),
    unit(&["d", "DAY"], "time", "86400"),
    unit(
        &["each", "ea", "pcs", "EA", "C62", "H87", "PCE"],
        "count",
        "1",
    ),
    unit(&["pair", "PR"], "count", "2"),
    unit(&["dozen", "DZN"], "count", "12"),
    unit(&["gross", "GRO"], "count", "144"),
    unit(&["hundred", "CEN"], "count", "100"),
    unit(&["thousand", "MIL"], "count", "1000"),
];

fn convert<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let quantity = arguments.number(0)?;
    let from = named(&mut arguments, 1)?;
    let to = named(&mut arguments, 2)?;
    if from.dimension != to.dimension {
        return Err(arguments.refuse(
            2,
            format!(
                "`{}` is a unit of {} and `{}` one of {}",
                from.names[0], from.dimension, to.names[0], to.dimension
            ),
        ));
    }
    let factor = |unit: &Unit| Decimal::parse(unit.factor);
    let (Some(above), Some(below)) = (
        factor(from).and_then(|factor| quantity.multiply(factor)),
        factor(to),
    ) else {
        return Err(overflow("the quantity does not fit").boxed());
    };
    let converted = if arguments.len() > 3 {
        let scale = arguments.whole(3, 0, i64::from(SCALE_MAX))? as u32;
        above.divide(below, scale, Rounding::HalfUp)
    } else {
        above.divide_exactly(below).map(Decimal::normal)
    };
    converted.map(Value::decimal).ok_or_else(|| {
        Fault::new(
            FaultKind::Overflow,
            format!(
                "{} {} has no exact value in {}",
                quantity.to_text(),
                from.names[0],
                to.names[0]
            ),
        )
        .with_help("say how many digits after the point: convert(x, from, to, scale)")
        .boxed()
    })
}

fn named(arguments: &mut Arguments, at: usize) -> Result<&'static Unit, Box<Fault>> {
    let name = arguments.string(at);
    let known = |name: &str| UNITS.iter().find(|unit| unit.names.contains(&name));
    known(&name)
        .or_else(|| known(&name.to_lowercase()))
        .or_else(|| known(&name.to_uppercase()))
        .ok_or_else(|| {
            let mut fault = arguments.refuse(at, format!("`{}` is no unit", shortened(&name)));
            let names = UNITS.iter().flat_map(|unit| unit.names.iter().copied());
            fault.help = match closest(&name, names) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "put codes of your own into a table and use lookup()".to_owned(),
            };
            fault
        })
}
