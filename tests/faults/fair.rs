//! Fairness: one flow's time from the webhook to its target, alone and beside another flow's trouble, in the same run and in turn. The
//! stand-ins and the clock are here; the engine is not asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossdock::demo::books;

use super::backing::Backing;
use super::rig::play;
use super::{Line, Scale, Setting};
use crate::support::Sandbox;

/// By how much trouble elsewhere may slow a flow: its p95, of that without the trouble.
const SLOWER_MOST: f64 = 1.20;
/// What comes on top at small scale, where other tests share the two cores: only a flow that stands behind the trouble is found there, and
/// it stands for `SLOW`. The promise is tested by the full scale, without this.
const NOISE: Duration = Duration::from_secs(1);
/// How long the slow system takes.
const SLOW: Duration = Duration::from_secs(5);
/// Live messages a second.
const RATE: u64 = 100;
/// Messages a second for the slow system: six times what it takes, with 16 requests at once.
const SLOW_RATE: u64 = 20;
/// How many connections send at the same time.
const SENDERS: u64 = 16;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

const LIVE: &str = "flow: live
source: { webhook: { path: /live, verify: none } }
keys: { order: n }
sinks:
  shop: { http: { system: shop, post: /live } }
";

/// A system that takes five seconds for everything gets six times what it takes, and another flow does not feel it.
pub fn slow_neighbour(setting: &Setting) -> Result<Line, String> {
    let (shop, slow) = (Target::start()?, Target::start()?);
    let sandbox = project(&setting.backing()?, &shop)?;
    sandbox.file(
        "systems/slow.yaml",
        &system("slow", slow.address, "timeout: 30s"),
    );
    let flow = LIVE.replace("live", "neighbour").replace("shop", "slow");
    sandbox.file("flows/neighbour.yaml", &flow);
    let running = sandbox.start();
    let (to_live, to_slow) = (
        Street::new(sandbox.address(), "/live", RATE),
        Street::new(sandbox.address(), "/neighbour", SLOW_RATE),
    );
    let lasts = Duration::from_secs(setting.scale.of(2, 8, 20));
    to_live.send(Duration::from_secs(1))?;
    let (mut alone, mut beside, mut waited) = (Vec::new(), Vec::new(), 0);
    for _ in 0..setting.scale.of(1, 6, 20) {
        alone.push(to_live.p95(&shop, lasts)?);
        slow.takes(SLOW);
        let since = to_slow.sent().len();
        beside.push(std::thread::scope(|scope| {
            // The trouble is there before it is looked at, and goes on meanwhile.
            let trouble = scope.spawn(|| to_slow.send(Duration::from_secs(2) + lasts));
            std::thread::sleep(Duration::from_secs(2));
            let found = to_live.p95(&shop, lasts);
            trouble.join().map_err(|_| "a sender broke".to_owned())??;
            found
        })?);
        waited = waited.max(to_slow.sent().len().saturating_sub(slow.effects().len()));
        slow.takes(Duration::ZERO);
        slow.until(&to_slow)?;
        if to_slow.sent().len() == since {
            return Err("the neighbour sent nothing".to_owned());
        }
    }
    drop(running);
    let mut line = judge(setting, &mut alone, &mut beside);
    line.count_all(&to_live, &shop);
    line.count_all(&to_slow, &slow);
    line.faults = slow.harm.load(Ordering::Relaxed);
    line.notes
        .push(format!("{waited} messages for the slow system waited"));
    Ok(line)
}

/// Tens of thousands of messages wait for their next attempt, and live traffic does not feel it: one store with them, one without.
pub fn waiting_retries(setting: &Setting) -> Result<Line, String> {
    let many = setting.scale.of(500, 50_000, 150_000);
    let (shop, broken) = (Target::start()?, Target::start()?);
    broken.refuses();
    let site = |waiting: u64| -> Result<Site, String> {
        let backing = setting.backing()?;
        let sandbox = project(&backing, &shop)?;
        let rules = "timeout: 30s\ncircuit: never\nfailures: { \"503\": unavailable }";
        sandbox.file(
            "systems/broken.yaml",
            &system("broken", broken.address, rules),
        );
        sandbox.file(
            "flows/stuck.yaml",
            &format!(
                "flow: stuck
source: {{ generate: {{ count: {waiting}, body: {{ n: \"{{{{@n}}}}\" }} }} }}
sinks:
  broken:
    http: {{ system: broken, post: /stuck }}
    retry: {{ attempts: 50, first: 24h, factor: 1, most: 24h }}
"
            ),
        );
        Ok(Site { sandbox, backing })
    };
    let (empty, full) = (site(1)?, site(many)?);
    let began = Instant::now();
    for (site, expect) in [(&empty, 1), (&full, many)] {
        let running = site.sandbox.start();
        while site.waiting()? < expect {
            if began.elapsed() > PATIENCE {
                return Err(format!("{} of {many} wait", site.waiting()?));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        running.terminate();
    }
    let filled = began.elapsed();
    let streets = [&empty, &full].map(|site| Street::new(site.sandbox.address(), "/live", RATE));
    streets[1].counts_from(1 << 32);
    let lasts = Duration::from_secs(setting.scale.of(2, 8, 20));
    let mut found = [Vec::new(), Vec::new()];
    for round in 0..setting.scale.of(1, 6, 20) as usize {
        // The one that is first in one round is second in the next.
        for nth in [round % 2, 1 - round % 2] {
            let running = [&empty, &full][nth].sandbox.start();
            streets[nth].send(Duration::from_secs(2))?;
            found[nth].push(streets[nth].p95(&shop, lasts)?);
            running.terminate();
        }
    }
    let [mut alone, mut beside] = found;
    let mut line = judge(setting, &mut alone, &mut beside);
    for street in &streets {
        line.count_all(street, &shop);
    }
    line.faults = broken.harm.load(Ordering::Relaxed);
    let still = full.waiting()?;
    line.notes.push(format!(
        "{many} waited for their next attempt after {} s; {still} of them do now",
        filled.as_secs()
    ));
    if still < many {
        line.wrong.push(format!("{still} of {many} wait"));
    }
    Ok(line)
}

/// What the p95s say: the middle one of those alone against the middle one of those beside the trouble.
fn judge(setting: &Setting, alone: &mut [Duration], beside: &mut [Duration]) -> Line {
    let mut line = Line::default();
    let shown = |all: &[Duration]| {
        let each = all.iter().map(|p95| format!("{:.1}", ms(*p95)));
        each.collect::<Vec<_>>().join(" ")
    };
    line.notes.push(format!(
        "p95 in ms, round by round: alone {}, beside the trouble {}",
        shown(alone),
        shown(beside)
    ));
    let middle = |all: &mut [Duration]| {
        all.sort_unstable();
        (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2
    };
    let (alone, beside) = (middle(alone), middle(beside));
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    line.notes.push(format!(
        "p95 alone {:.1} ms, beside the trouble {:.1} ms: ratio {ratio:.2}",
        ms(alone),
        ms(beside)
    ));
    let noise = match setting.scale {
        Scale::Small => NOISE,
        Scale::Full | Scale::Long => Duration::ZERO,
    };
    if beside > alone.mul_f64(SLOWER_MOST) + noise {
        line.wrong
            .push(format!("the ratio is {ratio:.2}, of at most {SLOWER_MOST}"));
    }
    line
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

impl Line {
    /// What was sent here is at its target, once.
    fn count_all(&mut self, street: &Street, target: &Target) {
        let effects = target.effects();
        for n in street.sent().keys() {
            let times = effects.get(n).map_or(0, |(times, _)| *times);
            self.sent += 1;
            self.delivered += u64::from(times > 0);
            self.lost += u64::from(times == 0);
            self.doubled += u64::from(times > 1);
        }
    }
}

/// A project, and what stands behind it where that is not a file.
struct Site {
    sandbox: Sandbox,
    backing: Option<Backing>,
}

/// A project with the live flow.
fn project(backing: &Option<Backing>, shop: &Target) -> Result<Sandbox, String> {
    let sandbox = match backing {
        Some(backing) => backing.under(Sandbox::new())?,
        None => Sandbox::new(),
    };
    sandbox.file(
        "systems/shop.yaml",
        &system("shop", shop.address, "timeout: 5s"),
    );
    sandbox.file("flows/live.yaml", LIVE);
    Ok(sandbox)
}

fn system(name: &str, address: SocketAddr, more: &str) -> String {
    format!("system: {name}\nhttp: {{ base_url: \"http://{address}\" }}\n{more}\n")
}

impl Site {
    /// How many messages wait for a time, by the store.
    fn waiting(&self) -> Result<u64, String> {
        play(async {
            let reader = match &self.backing {
                Some(backing) => backing.books()?,
                None => books::open(self.sandbox.root())?,
            };
            let counts = reader.hop_counts().await;
            let counts = counts.map_err(|failure| failure.to_string())?;
            Ok(counts.iter().map(|count| count.waiting).sum())
        })
    }
}

/// Numbered messages to one path at a steady rate, whatever the answers take.
struct Street {
    address: SocketAddr,
    path: &'static str,
    rate: u64,
    next: AtomicU64,
    /// When each was due to be sent.
    sent: Mutex<HashMap<u64, Instant>>,
}

impl Street {
    fn new(address: SocketAddr, path: &'static str, rate: u64) -> Street {
        Street {
            address,
            path,
            rate,
            next: AtomicU64::new(0),
            sent: Mutex::default(),
        }
    }

    fn counts_from(&self, first: u64) {
        self.next.store(first, Ordering::Relaxed);
    }

    fn sent(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends for so long. All of it is accepted when this returns.
    fn send(&self, lasts: Duration) -> Result<(), String> {
        let count = self.rate * lasts.as_millis() as u64 / 1_000;
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let began = Instant::now();
        let send = |nth: u64| -> Result<(), String> {
            let stream = TcpStream::connect(self.address).map_err(|error| error.to_string())?;
            stream
                .set_nodelay(true)
                .map_err(|error| error.to_string())?;
            let reader = stream.try_clone().map_err(|error| error.to_string())?;
            let mut line = (BufReader::new(reader), stream);
            for n in (nth..count).step_by(SENDERS as usize) {
                let due = began + Duration::from_micros(1_000_000 * n / self.rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // From when it was due: what waits behind a slow answer counts as slow, too.
                self.sent().insert(first + n, due);
                post(&mut line, self.path, first + n)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..SENDERS)
                .map(|nth| scope.spawn(move || send(nth)))
                .collect();
            let mut ended = all.into_iter().map(|sender| sender.join());
            ended.try_for_each(|ended| ended.map_err(|_| "a sender broke".to_owned())?)
        })
    }

    /// Sends for so long, and gives the time that 95 of 100 did not exceed from when they were due until they were at the target.
    fn p95(&self, target: &Target, lasts: Duration) -> Result<Duration, String> {
        let first = self.next.load(Ordering::Relaxed);
        self.send(lasts)?;
        target.until(self)?;
        let effects = target.effects();
        let mut times: Vec<Duration> = self
            .sent()
            .iter()
            .filter(|(n, _)| **n >= first)
            .map(|(n, due)| effects[n].1.saturating_duration_since(*due))
            .collect();
        times.sort_unstable();
        let p95 = times.get(times.len() * 95 / 100);
        p95.copied().ok_or_else(|| "nothing was sent".to_owned())
    }
}

/// Sends one message and reads the answer.
fn post(
    (reader, stream): &mut (BufReader<TcpStream>, TcpStream),
    path: &str,
    n: u64,
) -> Result<(), String> {
    let body = format!(r#"{{"n":{n}}}"#);
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream
        .write_all(request.as_bytes())
        .map_err(|error| error.to_string())?;
    match read(reader) {
        Some((first, _)) if first.starts_with("HTTP/1.1 2") => Ok(()),
        Some((first, body)) => Err(format!("{path}: {first}{}", String::from_utf8_lossy(&body))),
        None => Err(format!("{path}: no answer")),
    }
}

/// The first line and the body of a request or an answer.
fn read(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    (!first.is_empty()).then_some((first, body))
}

/// A target that notes what comes and when.
struct Target {
    address: SocketAddr,
    shared: Arc<Shelf>,
}

#[derive(Default)]
struct Shelf {
    /// How often each message took effect, and when it first did.
    effects: Mutex<HashMap<u64, (u64, Instant)>>,
    /// How long an answer takes.
    takes_ms: AtomicU64,
    /// Whether it says no to everything: 1.
    refuses: AtomicU64,
    /// How many answers were slow, or a no.
    harm: AtomicU64,
}

impl std::ops::Deref for Target {
    type Target = Shelf;

    fn deref(&self) -> &Shelf {
        &self.shared
    }
}

impl Target {
    fn start() -> Result<Target, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let shared = Arc::new(Shelf::default());
        let shelf = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shelf = shelf.clone();
                std::thread::spawn(move || shelf.serve(stream));
            }
        });
        Ok(Target { address, shared })
    }
}

impl Shelf {
    fn takes(&self, long: Duration) {
        self.takes_ms
            .store(long.as_millis() as u64, Ordering::Relaxed);
    }

    fn refuses(&self) {
        self.refuses.store(1, Ordering::Relaxed);
    }

    fn effects(&self) -> MutexGuard<'_, HashMap<u64, (u64, Instant)>> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all that was sent is here.
    fn until(&self, street: &Street) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let missing = {
                let effects = self.effects();
                let sent = street.sent();
                sent.keys().filter(|n| !effects.contains_key(n)).count()
            };
            if missing == 0 {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{}: {missing} did not arrive", street.path));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut stream = stream;
        loop {
            let (_, body) = read(&mut reader)?;
            let takes = Duration::from_millis(self.takes_ms.load(Ordering::Relaxed));
            let refuses = self.refuses.load(Ordering::Relaxed) == 1;
            if refuses || !takes.is_zero() {
                self.harm.fetch_add(1, Ordering::Relaxed);
            }
            if !refuses {
                let message: serde_json::Value = serde_json::from_slice(&body).ok()?;
                let n = message["n"].as_u64()?;
                let now = Instant::now();
                self.effects().entry(n).or_insert((0, now)).0 += 1;
            }
            std::thread::sleep(takes);
            let status = if refuses {
                "503 Busy"
            } else {
                "204 No Content"
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).ok()?;
        }
    }
}
