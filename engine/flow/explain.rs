//! What a finding means, at length: why it matters, what is wrong and what is right, for `crossdock explain` and the reference. One text a code.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::codes;
use super::reference::all_codes;
use crate::diagnostic::closest;

/// A page about a code.
pub struct Page {
    /// Why it matters, in a few sentences.
    pub why: &'static str,
    /// What is wrong.
    pub bad: &'static str,
    /// What is right.
    pub good: &'static str,
}

/// The page of a code, as text for the screen; the nearest codes if there is none with this name.
pub fn text(name: &str) -> Result<String, Vec<&'static str>> {
    let all = all_codes();
    let Some(code) = all.iter().find(|code| code.name == name) else {
        let names = || all.iter().map(|code| code.name);
        let near = closest(name, names());
        let parts = names().filter(|known| known.contains(name) && !name.is_empty());
        return Err(near.into_iter().chain(parts).collect());
    };
    let mut text = format!("{}\n\n{}.\n", code.name, sentence(code.meaning));
    if let Some(page) = pages().get(code.name) {
        text.push_str(&format!(
            "\n{}\n\nBad:\n{}\n\nGood:\n{}\n",
            page.why,
            indented(page.bad),
            indented(page.good)
        ));
    }
    if codes::TYPED.contains(code) {
        text.push_str(&format!(
            "\nA project can raise or lower it, in crossdock.yaml:\n    check:\n      {}: {{ severity: warning, reason: \"why this is right here\" }}\n",
            code.name
        ));
    }
    Ok(text)
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// A meaning as a sentence without its full stop.
pub(super) fn sentence(meaning: &str) -> String {
    let mut letters = meaning.trim_end_matches('.').chars();
    let first = letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>());
    first.unwrap_or_default() + letters.as_str()
}

/// The texts of all pages, by what they are about.
const TEXTS: [&str; 4] = [
    include_str!("explain/files.md"),
    include_str!("explain/flows.md"),
    include_str!("explain/parts.md"),
    include_str!("explain/types.md"),
];

/// The pages, by the names of their codes.
pub fn pages() -> &'static BTreeMap<&'static str, Page> {
    static ALL: OnceLock<BTreeMap<&'static str, Page>> = OnceLock::new();
    ALL.get_or_init(|| {
        let sections = TEXTS.iter().flat_map(|text| {
            let text = text.trim_start_matches("## ");
            text.split("\n## ")
        });
        sections.filter_map(page).collect()
    })
}

/// A section: the code, why it matters, a block of what is wrong and one of what is right.
fn page(section: &'static str) -> Option<(&'static str, Page)> {
    let (name, rest) = section.split_once('\n')?;
    let (why, rest) = rest.split_once("\n```text bad\n")?;
    let (bad, rest) = rest.split_once("\n```\n```text good\n")?;
    let (good, _) = rest.split_once("\n```")?;
    Some((name, Page { why, bad, good }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_every_page_a_code_and_near_names_are_found() {
        let codes: Vec<&str> = all_codes().iter().map(|code| code.name).collect();
        let paged: Vec<&str> = pages().keys().copied().collect();
        assert_eq!(codes, paged);
        let sections: usize = TEXTS.iter().map(|text| text.matches("## ").count()).sum();
        assert_eq!(
            sections,
            paged.len(),
            "a code has two pages, or a page is cut"
        );
        for code in codes::TYPED {
            assert!(text(code.name).unwrap().contains("check:"), "{code}");
        }
        assert!(text("yaml-tab").unwrap().contains("tab"));
        assert_eq!(text("never-equl").unwrap_err(), ["never-equal"]);
        assert!(text("mismatch").unwrap_err().contains(&"type-mismatch"));
    }
}
