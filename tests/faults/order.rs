//! Order under `kill -9`: messages of a key take effect one after another, and of shuffled states the newest stays.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossdock::demo::dice::Dice;
use crossdock::demo::journal::read_lines;

use super::backing::{Backing, Services};
use super::cluster::aside;
use super::rig::{Options, Rig, play, points};
use super::{Line, Setting};

/// Ten groups of customers, by the last digit of their number: enough that many orders of one group are on their way at the same time.
const GROUPS: usize = 10;

/// The reference project with `order_by` in both flows is killed under load: within a group no order overtakes another.
pub fn kept(setting: &Setting) -> Result<Line, String> {
    play(kept_by(setting, None))
}

/// The same by three engines that share the work: whichever dies, the others keep the order.
pub fn kept_by_three(setting: &Setting) -> Result<Line, String> {
    play(async {
        let services = aside(Services::start)?;
        kept_by(setting, Some(Backing::on(&services))).await
    })
}

async fn kept_by(setting: &Setting, three_on: Option<Backing>) -> Result<Line, String> {
    let mut rig = Rig::set(Options {
        fault: "slow=0.05:50ms,fail=0.03,throttle=0.01,drop-after-apply=0.01".to_owned(),
        engines: if three_on.is_some() { 3 } else { 1 },
        backing: three_on,
        ..Options::orders(setting.scale.of(400, 6_000, 40_000), setting)
    })
    .await?;
    // What waits for a person lets the others pass: the oracle looks at what is booked.
    let order_by = "order_by: { key: group, on_exception: pass }\nonce: ";
    for (path, keys, group) in [
        (
            "flows/storefront-orders.yaml",
            "keys: { order: name }",
            "not_null(note_attributes[?name == 'account_number'].value | [0], 'none') | substring(@, `-1`)",
        ),
        (
            "flows/order-booking.yaml",
            "keys: { order: orderNumber, customer: customer.code }",
            "substring(customer.code, `-1`)",
        ),
    ] {
        let grouped = keys.replace(" }", &format!(", group: \"{group}\" }}"));
        rig.edit(path, keys, &grouped)?;
        rig.edit(path, "once: ", order_by)?;
    }
    rig.start_engines().await?;
    rig.send();
    let mut kills = 0;
    let mut dice = Dice::of(setting.seed, 44);
    for point in points(setting.scale.of(4, 100, 600), setting.seed) {
        while rig.part_sent() < point {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let nth = dice.below(rig.options.engines as u64) as usize;
        let engine = rig.engines().nth(nth).ok_or("there is no such engine")?;
        engine.kill().await?;
        engine.start().await?;
        kills += 1;
    }
    rig.rest().await?;
    let mut line = rig.line(kills).await?;
    let (pairs, overtaken) = overtaken(&rig)?;
    line.notes.push(format!(
        "{kills} kills; {pairs} orders had one of their group before them"
    ));
    if pairs < rig.options.orders / 2 {
        line.wrong
            .push("too few orders had one before them: this proves nothing".to_owned());
    }
    line.wrong.extend(overtaken.into_iter().take(5));
    Ok(line)
}

/// How many orders had one of their group before them, and those that overtook it: an order that was first sent when another of its group was
/// already acknowledged must be booked after it. Both journals are outside of the engine.
fn overtaken(rig: &Rig) -> Result<(u64, Vec<String>), String> {
    let booked: HashMap<String, usize> = read_lines(&rig.erp_journal())?
        .iter()
        .filter_map(|line| line["applied"]["order_number"].as_str().map(str::to_owned))
        .enumerate()
        .map(|(at, number)| (number, at))
        .collect();
    let mut groups: HashMap<String, String> = HashMap::new();
    let mut times: BTreeMap<String, Vec<(u64, u64, usize, String)>> = BTreeMap::new();
    let mut seen: HashMap<String, (u64, u64)> = HashMap::new();
    for line in read_lines(&rig.sent_journal(0))? {
        if let Some(number) = line["order"]["number"].as_str() {
            let customer = line["order"]["customer"].as_str().unwrap_or_default();
            let group = customer.chars().last().unwrap_or('?').to_string();
            groups.insert(number.to_owned(), group);
        }
        let answer = &line["answer"];
        if let (Some(number), Some(sent), Some(told)) = (
            answer["number"].as_str(),
            answer["first_sent_us"].as_u64(),
            line["at_us"].as_u64(),
        ) {
            let known = seen.entry(number.to_owned()).or_insert((sent, told));
            *known = (known.0.min(sent), known.1.min(told));
        }
    }
    for (number, (sent, told)) in seen {
        if let (Some(at), Some(group)) = (booked.get(&number), groups.get(&number)) {
            let of = times.entry(group.clone()).or_default();
            of.push((sent, told, *at, number));
        }
    }
    let (mut pairs, mut wrong) = (0, Vec::new());
    for (group, orders) in &times {
        for (sent, _, at, number) in orders {
            let before = orders.iter().filter(|(_, told, ..)| told < sent);
            let Some(last) = before.max_by_key(|(_, _, at, _)| *at) else {
                continue;
            };
            pairs += 1;
            if last.2 > *at {
                wrong.push(format!(
                    "group {group}: {number} was sent when {} was acknowledged, and is booked before it",
                    last.3
                ));
            }
        }
    }
    if times.len() < GROUPS {
        wrong.push(format!("only {} groups", times.len()));
    }
    Ok((pairs, wrong))
}

/// What a shop has on its shelves, and how often it was told something old.
#[derive(Default)]
struct Shelves {
    last: HashMap<String, u64>,
    applied: u64,
    stale: Vec<String>,
    refused: u64,
}

/// Stock levels come shuffled in a window of 50, twice, and some a day late, while the engine is killed: the last level of every SKU is right,
/// and nothing old is ever written over something newer.
pub fn shuffled(setting: &Setting) -> Result<Line, String> {
    let skus = setting.scale.of(20, 100, 200);
    let each = setting.scale.of(40, 100, 500);
    let shelves = Arc::new(Mutex::new(Shelves::default()));
    let shop = listen(&shelves, setting.seed)?;
    let sandbox = setting.sandbox()?;
    sandbox.file(
        "systems/shop.yaml",
        &format!("system: shop\nhttp: {{ base_url: \"http://{shop}\" }}\ntimeout: 5s\n"),
    );
    sandbox.file(
        "flows/stock.yaml",
        "flow: stock
source: { webhook: { path: /stock, verify: none } }
keys: { sku: sku }
steps:
  - id: latest
    newest: { key: sku, version: at }
sinks:
  shop:
    http: { system: shop, put: \"/stock/{{sku}}\", upsert: true }
    retry: { attempts: 40, first: 20ms, factor: 2, most: 200ms }
",
    );
    let queue = updates(skus, each, setting.seed);
    let sent = queue.len() as u64;
    let kills = setting.scale.of(3, 30, 200);
    let address = sandbox.address();
    let next = Arc::new(AtomicU64::new(0));
    let resent = Arc::new(AtomicU64::new(0));
    let mut running = sandbox.start();
    let queue = Arc::new(queue);
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let (queue, next, resent) = (queue.clone(), next.clone(), resent.clone());
            std::thread::spawn(move || {
                while let Some(body) = queue.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    while !post(address, body) {
                        resent.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            })
        })
        .collect();
    for nth in 1..=kills {
        while next.load(Ordering::Relaxed) < sent * nth / (kills + 1) {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(running);
        running = sandbox.start();
    }
    for sender in senders {
        sender.join().map_err(|_| "a sender broke".to_owned())?;
    }
    let books = sandbox.books_at_rest(0);
    drop(running);
    let shelves = shelves.lock().map_err(|error| error.to_string())?;
    let of = |name: &str| books["all"][name].as_u64().unwrap_or_default();
    let lost = (0..skus).filter(|sku| shelves.last.get(&format!("S{sku}")) != Some(&each));
    let mut line = Line {
        sent,
        delivered: shelves.applied,
        redelivered: resent.load(Ordering::Relaxed) + shelves.refused,
        faults: kills + shelves.refused,
        lost: lost.count() as u64,
        ..Line::default()
    };
    line.wrong.extend(shelves.stale.iter().take(5).cloned());
    if of("filtered") == 0 || of("filtered") + of("delivered") != of("accepted") {
        line.wrong.push(format!("the books: {books}"));
    }
    line.notes.push(format!(
        "{kills} kills; {} of {} updates were too late or repeated, and are counted as filtered",
        of("filtered"),
        of("accepted")
    ));
    Ok(line)
}

/// The levels of all SKUs, `each` of a SKU, shuffled within 50; a tenth comes twice, and the first tenth once more at the end, a day late.
fn updates(skus: u64, each: u64, seed: u64) -> Vec<String> {
    let mut dice = Dice::of(seed, 77);
    let second = |n: u64| {
        format!(
            "2026-11-{:02}T{:02}:{:02}:00Z",
            1 + n / 1440,
            n / 60 % 24,
            n % 60
        )
    };
    let body = |sku: u64, n: u64| format!(r#"{{"sku":"S{sku}","at":"{}","level":{n}}}"#, second(n));
    let mut all: Vec<String> = (1..=each)
        .flat_map(|n| (0..skus).map(move |sku| (sku, n)))
        .map(|(sku, n)| body(sku, n))
        .collect();
    let late: Vec<String> = all.iter().take(all.len() / 10).cloned().collect();
    let twice: Vec<String> = all.iter().step_by(10).cloned().collect();
    for (at, repeat) in twice.into_iter().enumerate() {
        all.insert((at * 11 + 3).min(all.len()), repeat);
    }
    for at in 0..all.len() {
        let window = 50.min(all.len() - at) as u64;
        all.swap(at, at + dice.below(window) as usize);
    }
    all.extend(late);
    all
}

/// A shop that takes levels. It refuses some, and is slow with others after it has written them down.
fn listen(shelves: &Arc<Mutex<Shelves>>, seed: u64) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let shelves = shelves.clone();
    std::thread::spawn(move || {
        for (nth, stream) in listener.incoming().flatten().enumerate() {
            let shelves = shelves.clone();
            std::thread::spawn(move || serve(stream, &shelves, Dice::of(seed, nth as u64)));
        }
    });
    Ok(address)
}

fn serve(stream: TcpStream, shelves: &Mutex<Shelves>, mut dice: Dice) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let (mut line, mut length) = (String::new(), 0);
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
        let update: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let good = dice.fraction() > 0.1;
        {
            let mut shelves = shelves.lock().ok()?;
            if good {
                shelves.take(update["sku"].as_str()?, update["level"].as_u64()?);
            } else {
                shelves.refused += 1;
            }
        }
        if dice.fraction() < 0.05 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = if good { "204 No Content" } else { "503 Busy" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

impl Shelves {
    fn take(&mut self, sku: &str, level: u64) {
        self.applied += 1;
        let before = self.last.insert(sku.to_owned(), level).unwrap_or(0);
        if before > level {
            self.stale
                .push(format!("{sku}: {level} was written over {before}"));
        }
    }
}

/// Whether the engine took it.
fn post(address: SocketAddr, body: &str) -> bool {
    let answer = || -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        let head = format!(
            "POST /stock HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    answer().is_some_and(|answer| answer.starts_with("HTTP/1.1 2"))
}
