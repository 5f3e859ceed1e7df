//! `map --batch`: JSON lines of expression and document in, JSON lines of result or error out. For tests of conformance and for scripts.

use std::io::{BufRead, Write};

use bytes::Bytes;

use crate::body::{Limits, Tape, write_string};
use crate::expression::{Expression, Fault, Scope, Tables};

/// How many bytes a line may have.
pub const LINE_BYTES_MAX: u64 = 64 << 20;

/// Answers each line `{"expression": .., "input": ..}` with `{"result": ..}` or `{"error": {"kind": .., "message": ..}}`, in order.
/// A line that cannot be read is answered with an error of kind `invalid-input`.
pub fn batch(mut input: impl BufRead, output: &mut impl Write) -> std::io::Result<()> {
    let tables = Tables::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut input, LINE_BYTES_MAX + 1);
        if limited.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let mut answer = if line.len() as u64 > LINE_BYTES_MAX {
            skip_line(&mut input)?;
            error(
                "invalid-input",
                &format!("the line is longer than {LINE_BYTES_MAX} bytes"),
            )
        } else if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        } else {
            answer(&line, &tables)
        };
        answer.push(b'\n');
        output.write_all(&answer)?;
        output.flush()?;
    }
}

fn answer(line: &[u8], tables: &Tables) -> Vec<u8> {
    let tape = match Tape::parse(Bytes::copy_from_slice(line), Limits::DEFAULT) {
        Ok(tape) => tape,
        Err(failure) => return error("invalid-input", &failure.message),
    };
    let expression = tape.root().get("expression").and_then(|item| item.as_str());
    let Some(expression) = expression else {
        return error(
            "invalid-input",
            "a line is an object with a text `expression` and any value `input`",
        );
    };
    let nothing = Tape::parse(Bytes::from_static(b"null"), Limits::DEFAULT);
    let document = match (&nothing, tape.root().get("input")) {
        (_, Some(document)) => document,
        (Ok(nothing), None) => nothing.root(),
        (Err(failure), None) => return error("invalid-input", &failure.message),
    };
    let compiled = match Expression::compile(&expression) {
        Ok(compiled) => compiled,
        Err(faults) => return faults.first().map(fault).unwrap_or_default(),
    };
    let scope = Scope::bare(document, tables);
    match compiled.evaluate(&scope) {
        Ok(value) => {
            let mut out = b"{\"result\":".to_vec();
            value.write_json(&mut out);
            out.push(b'}');
            out
        }
        Err(found) => fault(&found),
    }
}

fn fault(fault: &Fault) -> Vec<u8> {
    error(fault.kind.name(), &fault.message)
}

fn error(kind: &str, message: &str) -> Vec<u8> {
    let mut out = b"{\"error\":{\"kind\":".to_vec();
    write_string(&mut out, kind);
    out.extend_from_slice(b",\"message\":");
    write_string(&mut out, message);
    out.extend_from_slice(b"}}");
    out
}

/// Reads to the end of a line that is too long, without keeping it.
fn skip_line(input: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(buffer.len(), |at| at + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, expect: &str) {
        let mut out = Vec::new();
        batch(lines.as_bytes(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn each_line_is_answered_in_order() {
        check(
            "{\"expression\": \"a\", \"input\": {\"a\": 19.90}}\n\n{\"expression\": \"sum(@)\", \"input\": [9007199254740993, 0.10]}\n{\"expression\": \"@\"}",
            "{\"result\":19.90}\n{\"result\":9007199254740993.10}\n{\"result\":null}\n",
        );
    }

    #[test]
    fn a_fault_is_answered_with_its_kind() {
        check(
            "{\"expression\": \"abs('a')\", \"input\": 1}\n{\"expression\": \"$a\", \"input\": 1}\n",
            "{\"error\":{\"kind\":\"invalid-type\",\"message\":\"abs() takes number as `x`, not string\"}}\n\
             {\"error\":{\"kind\":\"undefined-variable\",\"message\":\"nothing has bound the variable $a\"}}\n",
        );
    }

    #[test]
    fn a_broken_line_does_not_end_the_batch() {
        let mut out = Vec::new();
        let lines = "{\n[]\n{\"expression\": 1}\n{\"expression\": \"@\", \"input\": \"x\"}\n";
        batch(lines.as_bytes(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.matches("invalid-input").count(), 3, "{out}");
        assert!(out.ends_with("{\"result\":\"x\"}\n"), "{out}");
    }
}
