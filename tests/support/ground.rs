//! The folder below a sandbox, and the secrets of its tests: when the folder goes, none of them may be in any file that the program has
//! written there, nor in anything that it has said to a test.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A secret this short would be found by chance.
const SECRET_MIN: usize = 8;
/// How variables are named whose value is a secret.
const SECRET_NAMES: [&str; 4] = ["SECRET", "TOKEN", "KEY", "PASSWORD"];

/// A temporary folder that is searched for secrets before it goes.
pub struct Ground {
    folder: tempfile::TempDir,
    secrets: RefCell<BTreeSet<String>>,
    /// What the tests have written themselves.
    written: RefCell<BTreeSet<PathBuf>>,
}

impl Ground {
    pub fn new() -> Ground {
        Ground {
            folder: tempfile::tempdir().unwrap(),
            secrets: RefCell::default(),
            written: RefCell::default(),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// This is in the environment of the program: a secret if its name says so, or as the password of a URL.
    pub fn variable(&self, name: &str, value: &str) {
        let password = || {
            let (_, rest) = value.split_once("://")?;
            let (user, _) = rest.split_once('@')?;
            Some(user.split_once(':')?.1)
        };
        let named = SECRET_NAMES.iter().any(|end| name.ends_with(end));
        let secret = if named { Some(value) } else { password() };
        if let Some(secret) = secret.filter(|secret| secret.len() >= SECRET_MIN) {
            self.secrets.borrow_mut().insert(secret.to_owned());
        }
    }

    /// A test has written this file.
    pub fn wrote(&self, path: &Path) {
        self.written.borrow_mut().insert(path.to_owned());
    }

    /// Fails if there is a secret in what the program has said.
    pub fn heard(&self, said: &[u8], by: &str) {
        for secret in self.secrets.borrow().iter() {
            for form in forms(secret) {
                assert!(!holds(said, form.as_bytes()), "{by} tells a secret: {form}");
            }
        }
    }

    fn search(&self, folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.search(&path),
                Ok(kind) if kind.is_file() && !self.written.borrow().contains(&path) => {
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    self.heard(&bytes, &path.display().to_string());
                }
                _ => {}
            }
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.secrets.borrow().is_empty() {
            self.search(self.folder.path());
        }
    }
}

/// A secret as it stands, and as headers and bodies carry it.
fn forms(secret: &str) -> [String; 3] {
    let hex = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let coded = STANDARD.encode(secret);
    [
        secret.to_owned(),
        coded.trim_end_matches('=').to_owned(),
        hex,
    ]
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    let first = part[0];
    let mut windows = bytes.windows(part.len());
    windows.any(|window| window[0] == first && window == part)
}

#[test]
fn a_secret_is_found_wherever_the_program_has_left_it() {
    let left = |write: &dyn Fn(&Ground)| {
        let ground = Ground::new();
        ground.variable("ERP_PASSWORD", "correct horse");
        ground.variable("URL", "postgres://shop:battery-staple@127.0.0.1/shop");
        write(&ground);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(ground))).is_err()
    };
    let file = |ground: &Ground, text: &str| {
        let path = ground.path().join("below/store.db");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    for text in [
        "a correct horse",
        "battery-staple",
        "Basic Y29ycmVjdCBob3JzZQ==",
    ] {
        assert!(left(&|ground| drop(file(ground, text))), "{text}");
        assert!(!left(&|ground| ground.wrote(&file(ground, text))), "{text}");
    }
    assert!(!left(&|ground| drop(file(ground, "shop, no horse"))));
    let ground = Ground::new();
    ground.variable("HOOK_TOKEN", "let-me-in");
    let heard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ground.heard(b"refused: let-me-in", "the log")
    }));
    assert!(heard.is_err());
}
