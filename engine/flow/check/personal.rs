//! What a flow says is personal: each entry is a path, or the name of a property. Whether the accepted body can have it is for the types to say.

use super::Cx;
use crate::component::codes as part_codes;
use crate::personal::{Path, Rules};
use crate::yaml::Node;

/// How many paths a flow may name.
const PATHS_MAX: usize = 100;

/// Reads `personal`.
pub(super) fn check(cx: &mut Cx<'_>, node: &Node) -> Rules {
    let mut rules = Rules::default();
    let Some(list) = node.get("personal") else {
        return rules;
    };
    if list.items().len() > PATHS_MAX {
        let message = format!("a flow may name {PATHS_MAX} personal paths");
        let help = "name the object that holds them: all that is below it is personal, too";
        cx.error(part_codes::BAD_VALUE, list.span, message, help);
        return rules;
    }
    for item in list.items() {
        let Some(text) = item.as_text().filter(|_| !cx.holds_missing(item.span)) else {
            continue;
        };
        match Path::parse(text) {
            Ok(path) if rules.paths.contains(&path) => {
                let message = format!("`{text}` is named twice");
                let help = "leave one of them out";
                cx.warning(part_codes::BAD_VALUE, item.span, message, help);
            }
            Ok(path) => drop(rules.paths.insert(path)),
            Err(why) => {
                let help = "name a property of the accepted body, such as `customer.email` or `lines[].note`, or one wherever it is: `**.email`";
                cx.error(part_codes::BAD_VALUE, item.span, why, help);
            }
        }
    }
    rules
}
