//! Which field of the target a place in a mapping file stands for.

use super::cursor::Part;
use super::within::Spot;
use crate::flow::workspace::View;
use crate::schema::place::At;
use crate::yaml::Node;

/// What the schema under `to` says of the place at the end of this way.
pub(super) fn at<'s>(view: &'s View, tree: &Node, path: &[Part]) -> Spot<'s> {
    let (Some(Part::Key(first)), Some(to)) = (path.first(), tree.get("to").and_then(Node::as_text))
    else {
        return Spot::default();
    };
    let mut spot = Spot::one(At::named(&view.library().schemas, to));
    if first != "fields" {
        return Spot::default();
    }
    let mut behind_item = false;
    for part in &path[1..] {
        spot = match part {
            Part::Item(_) => {
                behind_item = true;
                spot.item()
            }
            Part::Key(key) if behind_item && key == "each" => return Spot::default(),
            Part::Key(key) if behind_item && (key == "fields" || key == "value") => {
                behind_item = false;
                spot
            }
            Part::Key(key) => {
                behind_item = false;
                spot.field(key)
            }
        };
    }
    spot
}
