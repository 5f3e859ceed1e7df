//! Messages of the language server protocol on a pipe: a header with the length, then JSON. It knows no method.

use std::io::{self, BufRead, Read, Write};

use serde_json::{Value, json};

/// How many bytes one message may have; a longer one is read past.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// How many bytes one line of a header may have.
const HEADER_BYTES_MAX: u64 = 4 << 10;

/// What came in.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// A message.
    Message(Value),
    /// Something that is no message; what comes after it can be read.
    Broken(String),
    /// The client has gone.
    End,
}

/// Reads the next message.
pub(super) fn read(input: &mut impl BufRead) -> Incoming {
    let mut length = None;
    loop {
        let mut line = Vec::new();
        match input.take(HEADER_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return Incoming::End,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        if line.is_empty() {
            match length {
                Some(length) => return body(input, length),
                None => return Incoming::Broken("a header without Content-Length".to_owned()),
            }
        }
        let value = line
            .split_once(':')
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if let Some((_, value)) = value {
            length = value.trim().parse::<u64>().ok();
        }
    }
}

fn body(input: &mut impl BufRead, length: u64) -> Incoming {
    if length > MESSAGE_BYTES_MAX {
        return match io::copy(&mut input.take(length), &mut io::sink()) {
            Ok(passed) if passed == length => Incoming::Broken(format!(
                "a message of {length} bytes; the limit is {MESSAGE_BYTES_MAX}"
            )),
            _ => Incoming::End,
        };
    }
    let mut bytes = Vec::new();
    match input.take(length).read_to_end(&mut bytes) {
        Ok(read) if read as u64 == length => {}
        _ => return Incoming::End,
    }
    match serde_json::from_slice(&bytes) {
        Ok(message) => Incoming::Message(message),
        Err(error) => Incoming::Broken(error.to_string()),
    }
}

/// Writes a message.
pub(super) fn write(output: &mut dyn Write, message: &Value) -> io::Result<()> {
    let text = message.to_string();
    write!(output, "Content-Length: {}\r\n\r\n{text}", text.len())?;
    output.flush()
}

/// The answer to a request.
pub(super) fn answer(id: &Value, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

/// The refusal of a request, by the codes of JSON-RPC and the protocol.
pub(super) fn refusal(id: &Value, code: i64, words: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": words } })
}

/// Something that the client is told.
pub(super) fn notice(method: &str, parameters: Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_read_past() {
        let text = "Content-Length: 2\r\n\r\n{}Content-Length: 3\r\nContent-Type: x\r\n\r\n{]}nonsense\r\n\r\ncontent-length: 4\r\n\r\ntrueContent-Length: 9\r\n\r\n{}";
        let mut input = io::BufReader::new(text.as_bytes());
        assert_eq!(read(&mut input), Incoming::Message(json!({})));
        assert!(matches!(read(&mut input), Incoming::Broken(_)));
        assert!(matches!(read(&mut input), Incoming::Broken(_)));
        assert_eq!(read(&mut input), Incoming::Message(json!(true)));
        assert_eq!(read(&mut input), Incoming::End, "cut off");
        let huge = format!("Content-Length: {}\r\n\r\nx", u64::MAX);
        assert_eq!(
            read(&mut io::BufReader::new(huge.as_bytes())),
            Incoming::End
        );
    }
}
