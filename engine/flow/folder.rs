//! The files of a project: which there are, and their text. It knows their folders, not what they mean.
#![allow(
    clippy::disallowed_methods,
    reason = "a plan is made from the project's files and opens no others"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codes;
use super::memory::Memory;
use super::workspace::Texts;
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span};

/// How many files a project may have.
pub(crate) const FILES_MAX: usize = 10_000;
/// How many bytes a YAML file or a JSON Schema may have.
pub(crate) const TEXT_BYTES_MAX: u64 = 1 << 20;
/// How many bytes a cross-reference table may have.
pub(crate) const TABLE_BYTES_MAX: u64 = 16 << 20;
/// How deep folders may nest.
const DEPTH_MAX: usize = 16;

/// The files of a project, by what they are for; each list in the order of their paths.
#[derive(Default)]
pub(crate) struct Folder {
    /// Where they are.
    pub(crate) root: PathBuf,
    /// What relative paths of sources and sinks are relative to: the same, but in tests.
    pub(crate) work: PathBuf,
    /// `crossdock.yaml`.
    pub(crate) settings: Option<Arc<File>>,
    /// `flows/**/*.yaml`, without tests and fragments.
    pub(crate) flows: Vec<Arc<File>>,
    /// `flows/fragments/*.yaml`.
    pub(crate) fragments: Vec<Arc<File>>,
    /// `mappings/**/*.yaml`.
    pub(crate) mappings: Vec<Arc<File>>,
    /// `mappings/**/*.jmespath`.
    pub(crate) expressions: Vec<Arc<File>>,
    /// `schemas/**/*.json`.
    pub(crate) schemas: Vec<Arc<File>>,
    /// `systems/*.yaml`.
    pub(crate) systems: Vec<Arc<File>>,
    /// `processes/*.yaml`.
    pub(crate) processes: Vec<Arc<File>>,
    /// `tables/*.csv`.
    pub(crate) tables: Vec<Arc<File>>,
    /// The paths of files that exist and could not be read.
    pub(crate) unread: Vec<String>,
}

impl Folder {
    /// The folders of a project.
    pub(crate) const TOPS: [&'static str; 6] = [
        "flows",
        "mappings",
        "schemas",
        "systems",
        "processes",
        "tables",
    ];

    /// Reads the project in `root`, with these texts instead of those on the disk. What cannot be read becomes findings.
    pub(super) fn read(
        root: &Path,
        texts: &Texts,
        memory: Option<&Memory>,
        findings: &mut Findings,
    ) -> Folder {
        let mut reader = Reader {
            root,
            texts,
            memory,
            findings,
            count: 0,
            folder: Folder {
                root: root.to_owned(),
                work: root.to_owned(),
                ..Folder::default()
            },
            held: None,
        };
        if let Err(error) = fs::read_dir(root) {
            let message = format!("the project's folder cannot be read: {error}");
            let help = "name a folder that holds flows/, mappings/, schemas/ and systems/";
            reader.report(codes::UNREADABLE, ".", message, help);
            return reader.folder;
        }
        for wrong in ["crossdock.yml", "crossdock.json", "crossdock.toml"] {
            if root.join(wrong).is_file() {
                reader.ignored(
                    wrong,
                    "the project's settings are read from `crossdock.yaml` only",
                );
            }
        }
        if texts.contains_key("crossdock.yaml") || root.join("crossdock.yaml").exists() {
            reader.folder.settings = reader.file("crossdock.yaml", TEXT_BYTES_MAX);
        }
        for top in Folder::TOPS {
            if root.join(top).is_dir() {
                reader.walk(top, top, 0);
            }
            reader.unsaved(top);
        }
        reader.folder
    }

    /// The project that these files are, each with its path below the project's folder and its bytes; nothing is read from the disk.
    pub(crate) fn of(files: BTreeMap<String, Vec<u8>>, findings: &mut Findings) -> Folder {
        let texts = Texts::new();
        let mut reader = Reader {
            root: Path::new(""),
            texts: &texts,
            memory: None,
            findings,
            count: 0,
            folder: Folder::default(),
            held: Some(files),
        };
        let held = reader.held.iter().flat_map(BTreeMap::keys);
        let paths: Vec<String> = held.cloned().collect();
        for path in paths {
            if path == "crossdock.yaml" {
                reader.folder.settings = reader.file(&path, TEXT_BYTES_MAX);
                continue;
            }
            let depth = path.matches('/').count().saturating_sub(1);
            let hidden = path.split('/').any(|part| part.starts_with('.'));
            if let Some((top, _)) = path.split_once('/')
                && Folder::TOPS.contains(&top)
                && !path.starts_with("schemas/crossdock/")
                && !hidden
            {
                reader.take(top, &path, depth);
            }
        }
        reader.folder
    }

    /// How many files were read.
    pub(crate) fn len(&self) -> usize {
        self.all().count()
    }

    /// All files that were read.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<File>> {
        let lists = [
            &self.flows,
            &self.fragments,
            &self.mappings,
            &self.expressions,
            &self.schemas,
            &self.systems,
            &self.processes,
            &self.tables,
        ];
        self.settings.iter().chain(lists.into_iter().flatten())
    }
}

/// The text of a file named by `${file:..}`, without the line end that editors leave; at most 64 KiB.
pub(crate) fn secret(root: &Path, path: &str) -> Result<String, String> {
    let (bytes, whole) = bytes(&root.join(path), 64 << 10).map_err(|error| error.to_string())?;
    if !whole {
        return Err("it has more than 64 KiB".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

struct Reader<'a> {
    root: &'a Path,
    texts: &'a Texts,
    memory: Option<&'a Memory>,
    findings: &'a mut Findings,
    count: usize,
    folder: Folder,
    /// The files, if they are not on the disk.
    held: Option<BTreeMap<String, Vec<u8>>>,
}

impl Reader<'_> {
    fn walk(&mut self, top: &str, below: &str, depth: usize) {
        let entries = match fs::read_dir(self.root.join(below)) {
            Ok(entries) => entries,
            Err(error) => {
                let message = format!("the folder cannot be read: {error}");
                return self.report(codes::UNREADABLE, below, message, "check its permissions");
            }
        };
        let mut names: Vec<(String, bool)> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                // A link to a folder is not followed: it may lead in a circle. Links to files are, as mounts have them.
                let folder = entry.file_type().ok()?.is_dir();
                Some((name, folder))
            })
            .filter(|(name, _)| !name.starts_with('.'))
            .collect();
        names.sort_unstable();
        for (name, folder) in names {
            let path = format!("{below}/{name}");
            if folder {
                if path != "schemas/crossdock" && depth < DEPTH_MAX {
                    self.walk(top, &path, depth + 1);
                }
            } else {
                self.take(top, &path, depth);
            }
        }
    }

    /// Takes the texts of files that are not on the disk yet.
    fn unsaved(&mut self, top: &str) {
        let texts = self.texts;
        for path in texts.keys() {
            let below = path
                .strip_prefix(top)
                .and_then(|rest| rest.strip_prefix('/'));
            let Some(below) = below.filter(|_| !self.root.join(path).exists()) else {
                continue;
            };
            let depth = below.matches('/').count();
            if !path.starts_with("schemas/crossdock/") && depth <= DEPTH_MAX {
                self.take(top, path, depth);
            }
        }
    }

    /// Reads a file if it is one of the project's.
    fn take(&mut self, top: &str, path: &str, depth: usize) {
        let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
        let wanted = match (top, extension) {
            ("flows", "yaml") => !path.ends_with(".test.yaml"),
            ("systems" | "processes" | "mappings", "yaml") => true,
            ("mappings", "jmespath") | ("schemas", "json") | ("tables", "csv") => true,
            (_, "yml") => {
                let help = format!("rename it to `{}.yaml`", path.trim_end_matches(".yml"));
                return self.ignored(path, &help);
            }
            ("flows" | "systems" | "mappings", "json") => {
                return self.ignored(path, "files of this folder are YAML and end with `.yaml`");
            }
            ("schemas", "yaml") => {
                return self.ignored(path, "schemas are JSON and end with `.json`");
            }
            _ => false,
        };
        if !wanted {
            return;
        }
        if depth > 0 && matches!(top, "systems" | "processes" | "tables") {
            let help = format!("move it to `{top}/` itself");
            return self.ignored(path, &help);
        }
        self.count += 1;
        if self.count > FILES_MAX {
            if self.count == FILES_MAX + 1 {
                let message = format!("the project has more than {FILES_MAX} files");
                let help = "split it into several projects";
                self.report(codes::TOO_MANY_FILES, path, message, help);
            }
            return;
        }
        let most = if top == "tables" {
            TABLE_BYTES_MAX
        } else {
            TEXT_BYTES_MAX
        };
        let Some(file) = self.file(path, most) else {
            self.folder.unread.push(path.to_owned());
            return;
        };
        let folder = &mut self.folder;
        match (top, extension) {
            ("flows", _) if path.starts_with("flows/fragments/") => folder.fragments.push(file),
            ("flows", _) => folder.flows.push(file),
            ("mappings", "jmespath") => folder.expressions.push(file),
            ("mappings", _) => folder.mappings.push(file),
            ("schemas", _) => folder.schemas.push(file),
            ("systems", _) => folder.systems.push(file),
            ("processes", _) => folder.processes.push(file),
            _ => folder.tables.push(file),
        }
    }

    fn file(&mut self, path: &str, most: u64) -> Option<Arc<File>> {
        let held = self.held.as_mut().map(|held| held.remove(path));
        let read = match (held, self.texts.get(path)) {
            (Some(held), _) => {
                let bytes = held.unwrap_or_default();
                let whole = bytes.len() as u64 <= most;
                Ok((bytes, whole))
            }
            (_, Some(text)) if text.len() as u64 > most => Ok((Vec::new(), false)),
            (_, Some(text)) => Ok((text.clone().into_bytes(), true)),
            _ => bytes(&self.root.join(path), most),
        };
        let (bytes, whole) = match read {
            Ok(read) => read,
            Err(error) => {
                let message = format!("the file cannot be read: {error}");
                self.report(codes::UNREADABLE, path, message, "check its permissions");
                return None;
            }
        };
        if !whole {
            let message = format!("the file has more than {most} bytes");
            let help = "split it into several files";
            self.report(codes::FILE_TOO_LARGE, path, message, help);
            return None;
        }
        match String::from_utf8(bytes) {
            Ok(text) => {
                let known = self
                    .memory
                    .and_then(|memory| memory.files.same(path, &text));
                Some(known.unwrap_or_else(|| File::new(path, text)))
            }
            Err(error) => {
                let start = error.utf8_error().valid_up_to();
                let byte = error.as_bytes().get(start).copied().unwrap_or_default();
                let file = File::new(path, String::from_utf8_lossy(error.as_bytes()));
                let span = Span::new(start, start + '\u{fffd}'.len_utf8());
                let message = format!(
                    "the file is not UTF-8 text: the byte 0x{byte:02X} does not belong here"
                );
                self.findings.push(
                    Diagnostic::error(codes::NOT_UTF8, Place { file, span }, message)
                        .help("save the file with the encoding UTF-8"),
                );
                None
            }
        }
    }

    fn ignored(&mut self, path: &str, help: &str) {
        let place = start(path);
        let message = "the file is not read";
        self.findings
            .push(Diagnostic::warning(codes::IGNORED_FILE, place, message).help(help));
    }

    fn report(&mut self, code: Code, path: &str, message: String, help: &str) {
        self.findings
            .push(Diagnostic::error(code, start(path), message).help(help));
    }
}

/// The beginning of a file that is not read.
fn start(path: &str) -> Place {
    Place {
        file: File::new(path, ""),
        span: Span::default(),
    }
}

/// At most `most` bytes of a file, and whether that is all of it.
fn bytes(path: &Path, most: u64) -> std::io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    // Asked before it is opened: opening a pipe would wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let file = fs::File::open(path)?;
    file.take(most + 1).read_to_end(&mut bytes)?;
    let whole = bytes.len() as u64 <= most;
    Ok((bytes, whole))
}
