//! How commands lay out what they print: columns, JSON with its numbers untouched, times and ages.

use std::io::Write;

use crate::body::{Item, Kind, write_string};

/// Rows under headings, columns as wide as they need; the last column is not padded.
pub(super) fn columns(
    out: &mut dyn Write,
    headings: &[&str],
    rows: &[Vec<String>],
) -> std::io::Result<()> {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([headings[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (at, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            if at + 1 < cells.len() {
                text.push_str(&" ".repeat(widths[at].saturating_sub(cell.chars().count()) + 2));
            }
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(headings.to_vec())?;
    rows.iter()
        .try_for_each(|row| line(row.iter().map(String::as_str).collect()))
}

/// JSON with indentation; numbers stay as they are written.
pub(super) fn pretty(item: Item<'_>, depth: usize, out: &mut Vec<u8>) {
    let indent = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    match item.kind() {
        Kind::List if !item.is_empty() => {
            out.push(b'[');
            for (nth, inner) in item.items().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                indent(out, depth + 1);
                pretty(inner, depth + 1, out);
            }
            indent(out, depth);
            out.push(b']');
        }
        Kind::Object if !item.is_empty() => {
            out.push(b'{');
            for (nth, (key, inner)) in item.entries().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                indent(out, depth + 1);
                write_string(out, &key.as_str().unwrap_or_default());
                out.extend_from_slice(b": ");
                pretty(inner, depth + 1, out);
            }
            indent(out, depth);
            out.push(b'}');
        }
        _ => out.extend_from_slice(item.json().as_bytes()),
    }
}

/// Bytes for a person: JSON laid out, other text as it is, shortened.
pub(super) fn shown(bytes: &[u8]) -> String {
    const CHARACTERS_MAX: usize = 20_000;
    let body = crate::body::Body::new(bytes.to_vec());
    let text = match body.document() {
        Ok(item) => {
            let mut text = Vec::new();
            pretty(item, 0, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    };
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((at, _)) => format!("{}\n.. {} bytes more", &text[..at], text.len() - at),
        None => text,
    }
}

/// A time of the store as people read it, in UTC.
pub(super) fn time(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(
        |_| at_ms.to_string(),
        |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// How long ago, in the largest fitting unit.
pub(super) fn age(ms: i64) -> String {
    match ms.max(0) / 1_000 {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pretty_json_keeps_numbers() {
        let text = shown(br#"{"a":19.90,"b":[],"c":[9007199254740993]}"#);
        assert_eq!(
            text,
            "{\n  \"a\": 19.90,\n  \"b\": [],\n  \"c\": [\n    9007199254740993\n  ]\n}"
        );
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let mut out = Vec::new();
        columns(&mut out, &["a", "bb"], &[vec!["long".into(), "x".into()]]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a     bb\nlong  x\n");
    }
}
