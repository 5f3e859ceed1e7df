//! Places as editors count them: lines from zero, characters in units of UTF-16. Bytes are what the engine counts in.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::diagnostic::{File, Place, Span};

/// The position of a byte.
pub(super) fn position(file: &File, offset: usize) -> Value {
    let mut offset = offset.min(file.text.len());
    while !file.text.is_char_boundary(offset) {
        offset -= 1;
    }
    let (line, _) = file.line_column(offset);
    let before = file.text.get(file.line_start(line)..offset).unwrap_or("");
    json!({ "line": line - 1, "character": before.encode_utf16().count() })
}

/// The range of a span.
pub(super) fn range(file: &File, span: Span) -> Value {
    json!({ "start": position(file, span.start), "end": position(file, span.end) })
}

/// The byte at a position; what lies behind a line's end is its end.
pub(super) fn offset(file: &File, position: &Value) -> usize {
    let number = |name: &str| position[name].as_u64().unwrap_or(0);
    let line = usize::try_from(number("line")).unwrap_or(usize::MAX - 1);
    let start = file.line_start(line.saturating_add(1));
    let rest = file.text.get(start..).unwrap_or("");
    let rest = rest.split('\n').next().unwrap_or("");
    let rest = rest.strip_suffix('\r').unwrap_or(rest);
    let mut units = number("character");
    for (at, character) in rest.char_indices() {
        let width = character.len_utf16() as u64;
        if units < width {
            return start + at;
        }
        units -= width;
    }
    start + rest.len()
}

/// A place of the project, as editors want it.
pub(super) fn location(root: &Path, place: &Place) -> Value {
    json!({ "uri": uri(&root.join(&place.file.path)), "range": range(&place.file, place.span) })
}

/// The address of a file.
pub(super) fn uri(path: &Path) -> String {
    let mut out = String::from("file://");
    for byte in path.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The file at an address, if it is one of this machine.
pub(super) fn path(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix("file://")?;
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    let bytes = rest.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = rest.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    let path = PathBuf::from(String::from_utf8(out).ok()?);
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_units_of_utf16() {
        let file = File::new("a", "ä: \"𝄞x\"\r\nb: 2\n");
        let at = file.text.find('x').unwrap();
        assert_eq!(position(&file, at), json!({ "line": 0, "character": 6 }));
        assert_eq!(offset(&file, &json!({ "line": 0, "character": 6 })), at);
        assert_eq!(
            offset(&file, &json!({ "line": 0, "character": 5 })),
            at - '𝄞'.len_utf8(),
            "within a pair is before it"
        );
        let end = file.text.find('\r').unwrap();
        assert_eq!(offset(&file, &json!({ "line": 0, "character": 99 })), end);
        assert_eq!(
            offset(&file, &json!({ "line": 9, "character": 0 })),
            file.text.len()
        );
        assert_eq!(
            offset(&file, &json!({ "line": u64::MAX, "character": u64::MAX })),
            file.text.len()
        );
    }

    #[test]
    fn addresses_of_files_go_both_ways() {
        let plain = Path::new("/tmp/a b/ü.yaml");
        assert_eq!(uri(plain), "file:///tmp/a%20b/%C3%BC.yaml");
        assert_eq!(path(&uri(plain)).as_deref(), Some(plain));
        assert_eq!(path("untitled:1"), None);
    }
}
