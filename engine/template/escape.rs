//! How values are written so that they stay values in the text around them. It knows the target, not the template.

use std::fmt::Write;

use super::Escape;

/// Writes a value; the answer says why it cannot stand in such a text.
pub(super) fn write(out: &mut String, value: &str, escape: Escape) -> Result<(), &'static str> {
    match escape {
        Escape::None => out.push_str(value),
        Escape::UrlPath => {
            if matches!(value, "" | "." | "..") {
                return Err("would change where the address leads");
            }
            percent(out, value, |byte| {
                byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
            });
        }
        Escape::UrlQuery => percent(out, value, |byte| {
            byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
        }),
        Escape::FileName => {
            if matches!(value, "" | "." | "..") {
                return Err("is no file name");
            }
            percent(out, value, |byte| {
                byte >= 0x80 || (byte > 0x1F && byte != 0x7F && !b"/\\:*?\"<>|%".contains(&byte))
            });
        }
        Escape::Header => {
            if value.chars().any(|c| c.is_control() && c != '\t') {
                return Err("has a control character, which a header must not have");
            }
            out.push_str(value);
        }
        Escape::Html => {
            for character in value.chars() {
                match character {
                    '&' => out.push_str("&amp;"),
                    '<' => out.push_str("&lt;"),
                    '>' => out.push_str("&gt;"),
                    '"' => out.push_str("&quot;"),
                    '\'' => out.push_str("&#39;"),
                    other => out.push(other),
                }
            }
        }
        Escape::Json => {
            let mut quoted = Vec::with_capacity(value.len() + 2);
            crate::body::write_string(&mut quoted, value);
            let inside = quoted.get(1..quoted.len() - 1).unwrap_or_default();
            out.push_str(&String::from_utf8_lossy(inside));
        }
        Escape::Csv => {
            if value.contains([',', ';', '\t', '"', '\n', '\r']) || value.trim() != value {
                out.push('"');
                out.push_str(&value.replace('"', "\"\""));
                out.push('"');
            } else {
                out.push_str(value);
            }
        }
    }
    Ok(())
}

fn percent(out: &mut String, value: &str, keep: impl Fn(u8) -> bool) {
    for character in value.chars() {
        let mut bytes = [0; 4];
        let text = character.encode_utf8(&mut bytes);
        if text.bytes().all(&keep) {
            out.push(character);
            continue;
        }
        for byte in text.bytes() {
            // Writing to a text cannot fail.
            write!(out, "%{byte:02X}").expect("a text takes all that is written");
        }
    }
}
