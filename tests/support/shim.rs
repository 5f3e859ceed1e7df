//! The disk of a program under test, watched and broken: builds `shim.c` once and gives the environment that loads it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/shim.c");

/// A shim for programs that work below one folder.
pub struct Shim {
    own: tempfile::TempDir,
    under: PathBuf,
}

impl Shim {
    /// A shim that watches this folder.
    pub fn under(folder: &Path) -> Shim {
        let own = tempfile::tempdir().unwrap();
        std::fs::create_dir(own.path().join("switches")).unwrap();
        Shim {
            own,
            under: folder.canonicalize().unwrap(),
        }
    }

    /// What the program needs in its environment. With `traced` every change is written down.
    pub fn environment(&self, traced: bool) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut all = vec![
            ("LD_PRELOAD".to_owned(), text(library())),
            ("SHIM_UNDER".to_owned(), text(&self.under)),
            (
                "SHIM_SWITCHES".to_owned(),
                text(&self.own.path().join("switches")),
            ),
        ];
        if traced {
            all.push(("SHIM_TRACE".to_owned(), text(&self.trace())));
        }
        all
    }

    /// Where the trace is.
    pub fn trace(&self) -> PathBuf {
        self.own.path().join("trace")
    }

    /// The disk is full from now on: nothing can grow.
    pub fn fill(&self) {
        self.switch("full", "");
    }

    /// The disk says that so many bytes are free, whatever is true.
    pub fn says_free(&self, bytes: u64) {
        self.switch("space", &bytes.to_string());
    }

    /// There is space again.
    pub fn free(&self) {
        for name in ["full", "space"] {
            std::fs::remove_file(self.own.path().join("switches").join(name)).ok();
        }
    }

    /// So many of the next syncs of files whose path ends so fail with an IO error.
    pub fn fail_syncs(&self, count: u32, suffix: &str) {
        self.switch("sync-fails", &format!("{count} {suffix}"));
    }

    /// So many of the next writes to files whose path ends so are cut short.
    pub fn cut_writes(&self, count: u32, suffix: &str) {
        self.switch("short-write", &format!("{count} {suffix}"));
    }

    fn switch(&self, name: &str, content: &str) {
        // Whole or not there: the program looks at any moment.
        let half = self.own.path().join("half");
        std::fs::write(&half, content).unwrap();
        std::fs::rename(half, self.own.path().join("switches").join(name)).unwrap();
    }
}

/// The built shim. It needs a C compiler, as the build of the program does.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (built, half) = (
            folder.join("shim.so"),
            folder.join(format!("shim-{}.so", std::process::id())),
        );
        let built_by = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(&half)
            .args([SOURCE, "-ldl", "-lpthread"])
            .output()
            .expect("a C compiler is there: install `cc`, or name one in CC");
        assert!(
            built_by.status.success(),
            "{}",
            super::text(&built_by.stderr)
        );
        std::fs::rename(half, &built).unwrap();
        built
    })
}
