//! A warehouse, a carrier and an ERP in one small HTTP server: they remember what stands, answer a known idempotency key with what they
//! answered first (also when that was undone since), and misbehave as a script says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What happens to a request instead of the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    /// This status, and nothing is applied.
    Says(u16),
    /// Nothing is applied and nothing is ever answered.
    Freeze,
    /// It is applied, and nothing is ever answered.
    ApplyAndFreeze,
    /// It is applied, and the connection is cut.
    ApplyAndCut,
    /// Nothing is applied, and the connection is cut after the request was read.
    Cut,
}

/// When a play is on.
#[derive(Clone, Debug)]
pub enum When {
    /// For requests whose line begins so, this many times.
    Line(&'static str, usize),
    /// For requests whose line has this in it.
    Has(&'static str),
    /// For the request with this number, from 0.
    Nth(usize),
}

#[derive(Default)]
struct Seen {
    /// The request lines, in order.
    lines: Vec<String>,
    /// What stands: `reservations/1` with the key under which it was made.
    standing: BTreeMap<String, String>,
    /// What was ever made under a key.
    keys: BTreeMap<String, String>,
    /// How often the same key made something.
    doubled: usize,
    made: usize,
    plays: Vec<(When, Play)>,
    frozen: usize,
}

/// The systems.
pub struct Systems {
    pub address: SocketAddr,
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Systems {
    pub fn start() -> Arc<Systems> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let systems = Arc::new(Systems {
            address: listener.local_addr().unwrap(),
            seen: Mutex::default(),
            changed: Condvar::new(),
        });
        let serving = Arc::downgrade(&systems);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(systems) = serving.upgrade() else {
                    return;
                };
                std::thread::spawn(move || systems.serve(stream));
            }
        });
        systems
    }

    /// From now on.
    pub fn play(&self, plays: &[(When, Play)]) {
        let mut seen = self.seen.lock().unwrap();
        seen.plays = plays.to_vec();
        seen.frozen = 0;
    }

    /// Waits until a request is frozen; says whether one was in time.
    pub fn froze(&self, within: Duration) -> bool {
        let seen = self.seen.lock().unwrap();
        let waited = self
            .changed
            .wait_timeout_while(seen, within, |seen| seen.frozen == 0);
        waited.unwrap().0.frozen > 0
    }

    /// What stands, without numbers, sorted.
    pub fn standing(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let names = seen.standing.keys();
        names
            .map(|name| name.split('/').next().unwrap().to_owned())
            .collect()
    }

    /// What stands that was made under this key, without numbers, sorted.
    pub fn standing_of(&self, key: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let names = seen.standing.iter().filter(|(_, by)| *by == key);
        names
            .map(|(name, _)| name.split('/').next().unwrap().to_owned())
            .collect()
    }

    /// The request lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().lines.clone()
    }

    /// How often the same thing was made twice.
    pub fn doubled(&self) -> usize {
        self.seen.lock().unwrap().doubled
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some((line, key)) = read(&stream) else {
            return;
        };
        let play = {
            let mut seen = self.seen.lock().unwrap();
            let number = seen.lines.len();
            seen.lines.push(line.clone());
            seen.play_of(number, &line)
        };
        let answer = match play {
            Some(Play::Freeze | Play::Cut) => None,
            Some(Play::Says(status)) => Some((status, "{}".to_owned())),
            None | Some(Play::ApplyAndFreeze | Play::ApplyAndCut) => {
                Some(self.seen.lock().unwrap().apply(&line, &key))
            }
        };
        match (play, answer) {
            (Some(Play::Freeze | Play::ApplyAndFreeze), _) => {
                self.seen.lock().unwrap().frozen += 1;
                self.changed.notify_all();
                // Held open until the client goes away.
                drop(stream.read(&mut [0; 1]));
            }
            (Some(Play::Cut | Play::ApplyAndCut), _) | (_, None) => {}
            (_, Some((status, body))) => {
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
                );
                drop(stream.write_all(format!("{head}{body}").as_bytes()));
            }
        }
    }
}

impl Seen {
    fn play_of(&mut self, number: usize, line: &str) -> Option<Play> {
        for (when, play) in &mut self.plays {
            match when {
                When::Nth(nth) if *nth == number => return Some(*play),
                When::Has(part) if line.contains(*part) => return Some(*play),
                When::Line(begin, left) if *left > 0 && line.starts_with(*begin) => {
                    *left -= 1;
                    return Some(*play);
                }
                _ => {}
            }
        }
        None
    }

    fn apply(&mut self, line: &str, key: &str) -> (u16, String) {
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let path = path.trim_start_matches('/');
        match (method, path.split('/').collect::<Vec<_>>().as_slice()) {
            ("POST", [kind]) => self.make(kind, key),
            ("POST", [kind, number, "void"]) => self.take_away(&format!("{kind}/{number}")),
            ("POST", [kind, number, "hand-over"]) => {
                let of = format!("hand-over/{kind}-{number}");
                let by = self.standing.get(&format!("{kind}/{number}")).cloned();
                self.standing.insert(of, by.unwrap_or_default());
                (200, "{}".to_owned())
            }
            ("DELETE", [_, _]) => self.take_away(path),
            ("PUT", [kind, number]) => {
                let name = format!("{kind}/{number}");
                self.standing.insert(name, key.to_owned());
                (200, format!("{{\"id\":\"{number}\"}}"))
            }
            _ => (404, "{}".to_owned()),
        }
    }

    fn make(&mut self, kind: &str, key: &str) -> (u16, String) {
        let known = format!("{kind} {key}");
        if let Some(id) = self.keys.get(&known).filter(|_| !key.is_empty()) {
            return (200, format!("{{\"id\":{id}}}"));
        }
        self.made += 1;
        let id = self.made.to_string();
        let twice = self
            .standing
            .iter()
            .any(|(name, by)| name.starts_with(&format!("{kind}/")) && by == key);
        self.doubled += usize::from(twice);
        self.standing.insert(format!("{kind}/{id}"), key.to_owned());
        self.keys.insert(known, id.clone());
        (201, format!("{{\"id\":{id}}}"))
    }

    fn take_away(&mut self, name: &str) -> (u16, String) {
        match self.standing.remove(name) {
            Some(_) => (200, "{}".to_owned()),
            None => (404, "{}".to_owned()),
        }
    }
}

/// The request line and the idempotency key; the body is read and forgotten.
fn read(stream: &TcpStream) -> Option<(String, String)> {
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut key, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut line).ok()?;
    if line.is_empty() {
        return None;
    }
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => key = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().ok()?,
            _ => {}
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    Some((line.trim().to_owned(), key))
}
