//! Journals of the stand-ins: JSON lines that are on disk before anything is done about them. The engine has no part in them and never reads them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::oneshot;

/// At most this many lines share one fsync.
const LINES_A_SYNC_MAX: usize = 1024;

type Line = (String, oneshot::Sender<io::Result<()>>);

/// A file of JSON lines with one writer thread. Lines that come while a sync runs share the next one.
pub(crate) struct Journal {
    lines: Option<mpsc::Sender<Line>>,
    writer: Option<JoinHandle<()>>,
}

/// Resolves when the line, and with it every line submitted before it, is on disk.
pub(crate) struct Synced(oneshot::Receiver<io::Result<()>>);

impl Synced {
    /// Waits for the disk.
    pub(crate) async fn wait(self) -> io::Result<()> {
        match self.0.await {
            Ok(result) => result,
            Err(_) => Err(io::Error::other("the journal's writer has stopped")),
        }
    }
}

impl Journal {
    /// Opens the journal for appending, creates it if it is not there, and cuts a last line that was never finished.
    pub(crate) fn open(path: &Path) -> io::Result<Journal> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        cut_unfinished_line(&mut file)?;
        let (lines, inbox) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_lines(&mut file, &inbox))?;
        Ok(Journal {
            lines: Some(lines),
            writer: Some(writer),
        })
    }

    /// Takes a line in order; wait for the answer before acting on it.
    pub(crate) fn submit(&self, line: &Value) -> Synced {
        let (done, synced) = oneshot::channel();
        if let Some(lines) = &self.lines
            && let Err(mpsc::SendError((_, done))) = lines.send((line.to_string(), done))
        {
            // A receiver that is gone has nobody left to tell.
            drop(done.send(Err(io::Error::other("the journal's writer has stopped"))));
        }
        Synced(synced)
    }

    /// Writes a line and waits until it is on disk.
    pub(crate) async fn append(&self, line: &Value) -> io::Result<()> {
        self.submit(line).wait().await
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has failed every wait already.
            drop(writer.join());
        }
    }
}

/// Every whole line of a journal, parsed; a last line that was never finished is not one.
pub fn read_lines(path: &Path) -> Result<Vec<Value>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = Vec::new();
    for (index, line) in whole.lines().enumerate() {
        let value = serde_json::from_str(line).map_err(|error| {
            format!(
                "{}:{}: not a journal line: {error}",
                path.display(),
                index + 1
            )
        })?;
        lines.push(value);
    }
    Ok(lines)
}

/// The time in microseconds since 1970.
pub fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

fn write_lines(file: &mut File, inbox: &mpsc::Receiver<Line>) {
    while let Ok(first) = inbox.recv() {
        let mut batch = vec![first];
        while batch.len() < LINES_A_SYNC_MAX {
            match inbox.try_recv() {
                Ok(line) => batch.push(line),
                Err(_) => break,
            }
        }
        let mut text = String::new();
        for (line, _) in &batch {
            text.push_str(line);
            text.push('\n');
        }
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_data());
        for (_, done) in batch {
            let answer = written
                .as_ref()
                .copied()
                .map_err(|error| io::Error::new(error.kind(), error.to_string()));
            // Whoever no longer waits does not need the answer.
            drop(done.send(answer));
        }
    }
}

fn cut_unfinished_line(file: &mut File) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    file.set_len(whole as u64)?;
    file.seek(SeekFrom::End(0))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn lines_are_in_the_file_once_appended_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.jsonl");
        let journal = Journal::open(&path).unwrap();
        let waits: Vec<Synced> = (0..500).map(|n| journal.submit(&json!({"n": n}))).collect();
        for wait in waits {
            wait.wait().await.unwrap();
        }
        let numbers: Vec<u64> = read_lines(&path)
            .unwrap()
            .iter()
            .map(|line| line["n"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_unfinished_last_line_is_cut_before_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.jsonl");
        std::fs::write(&path, "{\"n\":1}\n{\"n\":").unwrap();
        assert_eq!(read_lines(&path).unwrap().len(), 1);
        Journal::open(&path)
            .unwrap()
            .append(&json!({"n": 2}))
            .await
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"n\":1}\n{\"n\":2}\n"
        );
    }
}
