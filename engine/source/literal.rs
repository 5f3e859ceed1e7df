//! A value in a YAML file as JSON text, its numbers as they are written, with the counter `{{@n}}` in it. Not a template language.

use crate::body::write_string;
use crate::yaml::{Data, Node};

/// A text with places for a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// The stretches between the places: one more than there are places.
    pieces: Vec<String>,
}

const PLACE: &str = "{{@n}}";

impl Counted {
    /// The text with its places, or the part of it that is neither text nor `{{@n}}`.
    pub(super) fn parse(text: &str) -> Result<Counted, String> {
        let pieces: Vec<String> = text.split(PLACE).map(str::to_owned).collect();
        for piece in &pieces {
            if let Some(at) = piece.find("{{") {
                let end = piece[at..]
                    .find("}}")
                    .map_or(piece.len(), |end| at + end + 2);
                return Err(piece[at..end].to_owned());
            }
        }
        Ok(Counted { pieces })
    }

    /// The text with this number in its places.
    pub(super) fn render(&self, number: u64) -> Vec<u8> {
        let digits = number.to_string();
        let length = self
            .pieces
            .iter()
            .map(|piece| piece.len() + digits.len())
            .sum();
        let mut text = Vec::with_capacity(length);
        for (at, piece) in self.pieces.iter().enumerate() {
            if at > 0 {
                text.extend_from_slice(digits.as_bytes());
            }
            text.extend_from_slice(piece.as_bytes());
        }
        text
    }
}

/// The JSON text of a value in a YAML file; `19.90` stays `19.90`.
pub(super) fn json(node: &Node) -> String {
    let mut text = Vec::new();
    write(&mut text, node);
    String::from_utf8(text).expect("JSON of texts is text")
}

fn write(out: &mut Vec<u8>, node: &Node) {
    match &node.data {
        Data::Number(text) if serde_json::from_str::<serde_json::Number>(text).is_ok() => {
            out.extend_from_slice(text.as_bytes());
        }
        Data::Null | Data::Bool(_) | Data::Number(_) => {
            out.extend_from_slice(node.to_json().to_string().as_bytes());
        }
        Data::Text(text) => write_string(out, &text.value),
        Data::List(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(out, item);
            }
            out.push(b']');
        }
        Data::Map(entries) => {
            out.push(b'{');
            for (at, (key, value)) in entries.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_string(out, &key.text);
                out.push(b':');
                write(out, value);
            }
            out.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{File, Findings};

    #[test]
    fn numbers_stay_as_they_are_written() {
        let file = File::new(
            "a.yaml",
            "{a: 19.90, b: [9007199254740993, 0x10, ~], c: \"x\\\"y\"}",
        );
        let node = crate::yaml::parse(&file, &mut Findings::new()).unwrap();
        assert_eq!(
            json(&node),
            r#"{"a":19.90,"b":[9007199254740993,16,null],"c":"x\"y"}"#
        );
    }

    #[test]
    fn the_number_goes_into_its_places() {
        let counted = Counted::parse("SO-{{@n}}/{{@n}}").unwrap();
        assert_eq!(counted.render(42), b"SO-42/42");
        assert_eq!(Counted::parse("none").unwrap().render(1), b"none");
        assert_eq!(Counted::parse("a {{ x }} b"), Err("{{ x }}".to_owned()));
        assert_eq!(Counted::parse("a {{@n} b"), Err("{{@n} b".to_owned()));
    }
}
