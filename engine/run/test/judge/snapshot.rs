//! All that came of a test, in a file beside it: compared, or written anew.

use super::super::Setting;
use super::Judging;
use crate::body::Body;
use crate::world::disk;

/// How many characters the name of a snapshot has at most.
const NAME_MAX: usize = 80;
/// How large a snapshot may be.
const BYTES_MAX: u64 = 64 << 20;

impl Judging<'_> {
    /// Compares with the snapshot, or writes it. Gives whether it was written.
    pub(super) fn snapshot(&mut self, setting: &Setting) -> bool {
        let path = self
            .case
            .file
            .snapshots()
            .join(format!("{}.json", file_name(self.case.name())));
        let is =
            serde_json::to_string_pretty(&self.outcome.to_json(false)).unwrap_or_default() + "\n";
        let known = disk::read(&path, BYTES_MAX).ok();
        if setting.update {
            if known.as_deref() == Some(is.as_bytes()) {
                return false;
            }
            let folder = path.parent().map_or(Ok(()), disk::make_folder);
            let written = folder.and_then(|()| disk::write_atomic(&path, is.as_bytes()));
            if let Err(failure) = written {
                self.miss(&["snapshot"], failure.message, Vec::new());
                return false;
            }
            return true;
        }
        let Some(known) = known else {
            let message = format!(
                "there is no snapshot {}; `crossdock test --update` writes it",
                path.display()
            );
            self.miss(&["snapshot"], message, Vec::new());
            return false;
        };
        let (expected, is) = (Body::new(known), Body::new(is));
        let mut found = Vec::new();
        match (expected.document(), is.document(), self.node(&["snapshot"])) {
            (Ok(expected), Ok(is), Some(node)) => {
                self.comparing.equal(node, expected, is, "", &mut found);
            }
            _ => self.miss(
                &["snapshot"],
                format!("the snapshot {} cannot be read", path.display()),
                Vec::new(),
            ),
        }
        if !found.is_empty() {
            let message = format!(
                "it is not as in {}; if it should be, `crossdock test --update` writes it anew",
                path.display()
            );
            let found = found
                .iter()
                .map(|one| format!("{}: {}", one.path, one.words))
                .collect();
            self.miss(&["snapshot"], message, found);
        }
        false
    }
}

/// A name that every file system takes.
fn file_name(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c.is_ascii_alphanumeric() {
            true => out.push(c.to_ascii_lowercase()),
            false if out.ends_with('-') || out.is_empty() => {}
            false => out.push('-'),
        }
        if out.len() >= NAME_MAX {
            break;
        }
    }
    out.trim_end_matches('-').to_owned()
}
