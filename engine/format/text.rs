//! Encodings of text files: which one, from their first bytes or a setting; to and from UTF-8 without replacing anything.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::failure::Failure;

/// The encoding with this name, as browsers know it; nothing for one that has states and cannot be read from the middle.
pub(super) fn named(name: &str) -> Option<&'static Encoding> {
    let encoding = Encoding::for_label(name.trim().as_bytes())?;
    let stateless = encoding.name() != "ISO-2022-JP" && encoding.name() != "replacement";
    stateless.then_some(encoding)
}

/// The encoding that a byte order mark tells, and the mark's length.
pub(super) fn marked(bytes: &[u8]) -> Option<(&'static Encoding, usize)> {
    match bytes {
        [0xEF, 0xBB, 0xBF, ..] => Some((UTF_8, 3)),
        [0xFF, 0xFE, ..] => Some((UTF_16LE, 2)),
        [0xFE, 0xFF, ..] => Some((UTF_16BE, 2)),
        _ => None,
    }
}

/// Whether characters are units of two bytes.
pub(super) fn is_wide(encoding: &'static Encoding) -> bool {
    encoding == UTF_16LE || encoding == UTF_16BE
}

/// The text of some bytes, if all of them are text in this encoding.
pub(super) fn decode<'a>(encoding: &'static Encoding, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
    encoding.decode_without_bom_handling_and_without_replacement(bytes)
}

/// Writes text in an encoding; fails at a character that the encoding does not have.
pub(super) fn encode(
    encoding: &'static Encoding,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    if encoding == UTF_8 {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    let (bytes, _, replaced) = encoding.encode(text);
    if replaced {
        let missing = text.chars().find(|character| {
            let mut bytes = [0; 4];
            encoding.encode(character.encode_utf8(&mut bytes)).2
        });
        return Err(Failure::mapping(format!(
            "the character `{}` does not exist in {}",
            missing.unwrap_or('?'),
            encoding.name()
        )));
    }
    out.extend_from_slice(&bytes);
    Ok(())
}
