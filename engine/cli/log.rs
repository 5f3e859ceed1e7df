//! The log of an engine: one line for each thing that happened, for people or as JSON. What stands in it may come from outside, so nothing in a
//! line can make another line or move a cursor; and what is said again and again is said once, with its number.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event as Happening, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use crate::failure::Class;
use crate::world::env::machine;
use crate::world::{World, process};

/// How many bytes of a field are written.
const FIELD_BYTES_MAX: usize = 4 << 10;
/// For how long warnings and errors that are the same are counted instead of written.
const WINDOW_MS: i64 = 10_000;
/// How many different ones are remembered at a time; those beyond are written each.
const REMEMBERED_MAX: usize = 1_000;
/// How often it is looked whether a window is over.
const LOOK: Duration = Duration::from_secs(1);
/// What is logged where nobody says so.
const FILTER_DEFAULT: &str = "warn,crossdock=info,lapin=off";

/// The form of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

/// The log. When it goes, what was only counted is written.
pub(super) struct Log {
    lines: Lines,
    stop: Sender<()>,
    keeper: Option<JoinHandle<()>>,
}

/// Where lines come in.
#[derive(Clone)]
struct Lines(Arc<Inner>);

struct Inner {
    form: Form,
    world: World,
    /// What every line says: of which engine it is.
    instance: String,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    /// What was said within the window, by what it says.
    said: HashMap<String, Said>,
}

/// A warning or an error that was said.
struct Said {
    since_ms: i64,
    /// How often it came after it was written.
    again: u64,
    line: Line,
}

/// What one line says.
#[derive(Clone)]
struct Line {
    level: Level,
    name: String,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Log {
    /// From now on the process logs to standard error, as the environment asks: `CROSSDOCK_LOG` filters, `CROSSDOCK_LOG_FORMAT=json` makes JSON.
    pub(super) fn to_stderr(world: &World) -> Log {
        let filter = world.env.get("CROSSDOCK_LOG");
        let filter = filter.unwrap_or_else(|| FILTER_DEFAULT.to_owned());
        let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
        let json = world.env.get("CROSSDOCK_LOG_FORMAT");
        let form = match json.as_deref() {
            Some("json") => Form::Json,
            _ => Form::Text,
        };
        let lines = Lines::new(form, world, Box::new(std::io::stderr()));
        let log = Log::of(lines.clone());
        // A process that has a log already keeps it.
        Registry::default().with(filter).with(lines).try_init().ok();
        log
    }

    fn of(lines: Lines) -> Log {
        let (stop, stopped) = mpsc::channel();
        let kept = lines.clone();
        let keep = move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                kept.close_windows(WINDOW_MS);
            }
        };
        let keeper = std::thread::Builder::new().name("log".to_owned());
        Log {
            lines,
            stop,
            keeper: keeper.spawn(keep).ok(),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop.send(()).ok();
        if let Some(keeper) = self.keeper.take() {
            keeper.join().ok();
        }
        self.lines.close_windows(0);
    }
}

impl Lines {
    fn new(form: Form, world: &World, out: Box<dyn Write + Send>) -> Lines {
        Lines(Arc::new(Inner {
            form,
            world: world.clone(),
            instance: format!("{}:{}", machine(), std::process::id()),
            state: Mutex::new(State {
                out,
                said: HashMap::new(),
            }),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line, or counts it if it says what was said a moment ago.
    fn take(&self, line: Line) {
        let now_ms = self.0.world.clock.now_ms();
        let mut state = self.state();
        if line.level > Level::WARN {
            return self.write(&mut state, &line, now_ms, None);
        }
        let key = line.key();
        if let Some(said) = state.said.get_mut(&key) {
            if now_ms - said.since_ms < WINDOW_MS && now_ms >= said.since_ms {
                said.again += 1;
                return;
            }
            if let Some(over) = state.said.remove(&key) {
                self.sum_up(&mut state, &over, now_ms);
            }
        }
        self.write(&mut state, &line, now_ms, None);
        if state.said.len() < REMEMBERED_MAX {
            let said = Said {
                since_ms: now_ms,
                again: 0,
                line,
            };
            state.said.insert(key, said);
        }
    }

    /// Writes what was counted in windows that are so old.
    fn close_windows(&self, age_ms: i64) {
        let now_ms = self.0.world.clock.now_ms();
        let mut state = self.state();
        let old = |said: &Said| now_ms - said.since_ms >= age_ms || now_ms < said.since_ms;
        let (over, rest) = std::mem::take(&mut state.said)
            .into_iter()
            .partition::<HashMap<_, _>, _>(|(_, said)| old(said));
        state.said = rest;
        let mut over: Vec<Said> = over.into_values().collect();
        over.sort_by_key(|said| said.since_ms);
        for said in over {
            self.sum_up(&mut state, &said, now_ms);
        }
    }

    fn sum_up(&self, state: &mut State, said: &Said, now_ms: i64) {
        if said.again > 0 {
            let seconds = (now_ms - said.since_ms).max(0) / 1_000;
            let many = (said.again + 1, seconds);
            self.write(state, &said.line, now_ms, Some(many));
        }
    }

    /// One line. What cannot be written is nobody's loss but the reader's: the engine goes on.
    fn write(&self, state: &mut State, line: &Line, now_ms: i64, many: Option<(u64, i64)>) {
        let text = match self.0.form {
            Form::Text => line.text(now_ms, many),
            Form::Json => line.json(now_ms, many, &self.0.instance),
        };
        state.out.write_all(text.as_bytes()).ok();
        state.out.flush().ok();
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, happening: &Happening<'_>, _: Context<'_, S>) {
        let metadata = happening.metadata();
        let level = *metadata.level();
        let counted = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG];
        let nth = counted.iter().position(|known| *known == level);
        process::logged(nth.unwrap_or(counted.len()));
        let mut line = Line {
            level,
            name: name_of(metadata.name(), metadata.target()),
            message: String::new(),
            fields: Vec::new(),
        };
        happening.record(&mut line);
        self.take(line);
    }
}

/// A name that stays: the one that the code gives, or that of the part of the program.
fn name_of(name: &str, target: &str) -> String {
    if !name.contains(' ') {
        return name.to_owned();
    }
    let part = target.strip_prefix("crossdock::").unwrap_or(target);
    part.replace("::", ".")
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }
}

impl Line {
    fn put(&mut self, name: &'static str, value: &str) {
        let value = harmless(value);
        match name {
            "message" => self.message = value,
            "failure" => {
                let class = value
                    .split_once(": ")
                    .and_then(|(class, _)| Class::from_name(class));
                if let Some(class) = class {
                    self.fields.push(("error_class", class.name().to_owned()));
                }
                self.fields.push((name, value));
            }
            _ => self.fields.push((name, value)),
        }
    }

    /// What makes it the same as another one.
    fn key(&self) -> String {
        let mut key = format!("{} {} {}", self.level, self.name, self.message);
        for (name, value) in &self.fields {
            // Writing to a string does not fail.
            write!(key, "\n{name}={value}").ok();
        }
        key
    }

    /// For people: further lines of a message are indented, so that none of them looks like a line of its own.
    fn text(&self, now_ms: i64, many: Option<(u64, i64)>) -> String {
        let mut text = format!(
            "{} {:>5} {}",
            time(now_ms),
            self.level.as_str(),
            self.message
        );
        for (name, value) in &self.fields {
            if *name != "error_class" {
                write!(text, " {name}={value}").ok();
            }
        }
        if let Some((many, seconds)) = many {
            write!(text, " (x{many} in {seconds} s)").ok();
        }
        let mut text = text.replace('\n', "\n    ");
        text.push('\n');
        text
    }

    fn json(&self, now_ms: i64, many: Option<(u64, i64)>, instance: &str) -> String {
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| drop(line.insert(name.to_owned(), value));
        put("timestamp", time(now_ms).into());
        put("level", self.level.as_str().to_ascii_lowercase().into());
        put("event", self.name.clone().into());
        let message = match many {
            Some((many, seconds)) => format!("{} (x{many} in {seconds} s)", self.message),
            None => self.message.clone(),
        };
        put("message", message.into());
        put("service", "crossdock".into());
        put("version", env!("CARGO_PKG_VERSION").into());
        put("instance", instance.into());
        for (name, value) in &self.fields {
            put(name, value.clone().into());
        }
        if let Some((many, _)) = many {
            put("repeated", many.into());
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        text
    }
}

/// The same without what moves cursors, hides or turns text around, and not longer than a field may be. Line ends and tabs stay.
fn harmless(value: &str) -> String {
    let mut out = String::with_capacity(value.len().min(FIELD_BYTES_MAX));
    for (at, c) in value.char_indices() {
        if out.len() >= FIELD_BYTES_MAX {
            write!(out, ".. ({} more bytes)", value.len() - at).ok();
            break;
        }
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() || is_invisible(c) => {
                write!(out, "{}", c.escape_unicode()).ok();
            }
            c => out.push(c),
        }
    }
    out
}

/// Characters that are not seen, or that change the direction of those that are.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Milliseconds since 1970 as RFC 3339, in UTC.
fn time(at_ms: i64) -> String {
    let at = Timestamp::from_millisecond(at_ms).unwrap_or_default();
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;
    use crate::world::clock::ManualClock;

    #[derive(Clone, Default)]
    struct Shown(Arc<Mutex<Vec<u8>>>);

    impl Write for Shown {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What a log of this form shows of what is said.
    fn shown(form: Form, say: impl FnOnce(&ManualClock, &Lines)) -> String {
        let clock = Arc::new(ManualClock::at(1_700_000_000_123));
        let world = World {
            clock: clock.clone(),
            ..World::real()
        };
        let out = Shown::default();
        let lines = Lines::new(form, &world, Box::new(out.clone()));
        let subscriber = Registry::default().with(lines.clone());
        tracing::subscriber::with_default(subscriber, || say(&clock, &lines));
        lines.close_windows(0);
        let bytes = out.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_of_json_has_its_fields() {
        let text = shown(Form::Json, |_, _| {
            let failure = Failure::validation("the body breaks `order`");
            tracing::error!(%failure, step = "erp", attempt = 3, "it failed");
        });
        let line: Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "timestamp": "2023-11-14T22:13:20.123Z", "level": "error", "event": "cli.log.tests", "message": "it failed",
            "service": "crossdock", "version": env!("CARGO_PKG_VERSION"), "instance": line["instance"],
            "error_class": "validation", "failure": "validation: the body breaks `order`", "step": "erp", "attempt": "3",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn names_that_the_code_gives_stay() {
        let text = shown(Form::Json, |_, _| {
            tracing::info!(name: "system.down", "erp is down");
        });
        assert!(text.contains("\"event\":\"system.down\""), "{text}");
    }

    #[test]
    fn hostile_content_makes_no_line_and_moves_no_cursor() {
        let hostile = "a\u{1b}[2J\u{1b}]0;x\u{7}b\r\n2026-11-22T00:00:00.000Z ERROR forged\u{202e}txt\u{200b}\u{9b}31m\0";
        for form in [Form::Text, Form::Json] {
            let text = shown(form, |_, _| {
                tracing::warn!(body = hostile, "{hostile}");
            });
            let bad = |c: char| (c.is_control() && c != '\n') || is_invisible(c);
            assert!(!text.contains(bad), "{text:?}");
            assert!(
                text.contains("\\u{202e}") || text.contains("\\\\u{202e}"),
                "{text}"
            );
            let lines = text.lines().filter(|line| !line.starts_with("    "));
            assert_eq!(lines.count(), 1, "{text}");
        }
        let text = shown(Form::Json, |_, _| tracing::warn!("{hostile}"));
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn long_fields_are_cut() {
        let long = "ä".repeat(100_000);
        let text = shown(Form::Json, |_, _| tracing::info!(body = long, "{long}"));
        assert!(text.len() < 3 * FIELD_BYTES_MAX, "{}", text.len());
        let line: Value = serde_json::from_str(&text).unwrap();
        assert!(
            line["body"]
                .as_str()
                .unwrap()
                .ends_with("(195904 more bytes)")
        );
    }

    #[test]
    fn a_warning_that_comes_again_and_again_is_written_once_with_its_number() {
        let text = shown(Form::Text, |clock, lines| {
            for nth in 0..412 {
                tracing::warn!("erp is slow");
                if nth % 200 == 0 {
                    tracing::warn!("shop is slow");
                    tracing::info!("a tick");
                }
            }
            clock.advance(Duration::from_millis(10_000));
            lines.close_windows(WINDOW_MS);
            tracing::warn!("erp is slow");
        });
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(count("erp is slow"), 3, "{text}");
        assert_eq!(count("erp is slow (x412 in 10 s)"), 1, "{text}");
        assert_eq!(count("shop is slow (x3 in 10 s)"), 1, "{text}");
        assert_eq!(count("a tick"), 3, "{text}");
    }
}
