//! Power loss: one run is traced; at hundreds of moments of it a disk is made that may be what is left, and an engine goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::Line;
use super::dice::Dice;
use super::disk::{Disk, Names, Syncs};
use super::site::{Erp, Site, lines, now_ns, number};
use super::trace::{self, Entry, What};
use crate::support::shim::Shim;

/// How often the engine is stopped and started in the run that is traced.
const SESSIONS: usize = 3;
/// How many bursts of orders a session has; between them the engine moves its log into the database.
const BURSTS: usize = 3;
/// How many orders a burst has.
const ORDERS: usize = 12;
/// How many rows a dropped file has.
const ROWS: usize = 20;
/// How many disks are tried at the same time.
const LANES: usize = 2;

/// What happened while the disk was watched.
struct Recording {
    disk: Disk,
    erp: Erp,
    /// When each order was acknowledged.
    acknowledged: BTreeMap<usize, u64>,
    /// When each file was dropped, with its rows.
    dropped: Vec<(u64, Vec<String>)>,
    /// The ERP's journal.
    journal: Vec<Value>,
    began_ns: u64,
    ended_ns: u64,
}

/// Cuts the power so often. `syncs` is honest but for tests of the test.
pub fn loses_power(erp: Erp, cuts: usize, seed: u64, syncs: Syncs) -> Result<Line, String> {
    let recording = record(erp)?;
    let moments = recording.moments(cuts, &mut Dice::of(seed));
    let (next, line) = (AtomicUsize::new(0), Mutex::new(Line::default()));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::SeqCst);
                    let Some(moment) = moments.get(nth) else {
                        return;
                    };
                    let mut dice = Dice::of(seed ^ (nth as u64 + 1));
                    let found = recording.goes_on(*moment, syncs, &mut dice);
                    let mut line = line.lock().unwrap();
                    match found {
                        Ok(found) => line.add(found),
                        Err(error) => line.wrong.push(error),
                    }
                }
            });
        }
    });
    let mut line = line.into_inner().unwrap();
    line.notes.push(format!(
        "{} changes and syncs were traced; the power went {} times",
        recording.disk.entries().len(),
        moments.len()
    ));
    Ok(line)
}

/// Runs the real engine under load on a watched disk: first starts, idle moments, clean stops.
fn record(erp: Erp) -> Result<Recording, String> {
    let site = Site::new(erp);
    let shim = Shim::under(&site.root());
    let mut disk = Disk::of(&site.root());
    let (_erp_process, url) = site.start_erp();
    let (mut acknowledged, mut dropped, mut others) = (BTreeMap::new(), Vec::new(), Vec::new());
    let began_ns = now_ns();
    for session in 0..SESSIONS {
        let mut engine = site.start_engine(&url, &shim.environment(true));
        site.until_ready(&mut engine)?;
        for burst in 0..BURSTS {
            let nth = session * BURSTS + burst;
            let rows: Vec<String> = (0..ROWS)
                .map(|row| format!("S-{nth}-{row},{row}"))
                .collect();
            let name = format!("stock-{nth}.csv");
            let at_ns = now_ns();
            let (content, inode) = site.drop_file(&name, &rows);
            others.push(Entry {
                began_ns: at_ns,
                ended_ns: at_ns,
                inode,
                what: What::Arrival(site.root().join("inbox").join(name), content),
            });
            dropped.push((at_ns, rows));
            let orders = (nth * ORDERS..(nth + 1) * ORDERS).collect();
            acknowledged.extend(site.send(&orders)?.0);
            std::thread::sleep(Duration::from_millis(400));
        }
        site.at_rest(0)?;
        let code = engine.terminate();
        if code != Some(0) {
            return Err(format!(
                "the engine ended with {code:?} when it was stopped"
            ));
        }
    }
    let ended_ns = now_ns();
    disk.trace(trace::read(&shim.trace()), others);
    let syncs = disk
        .entries()
        .iter()
        .filter(|entry| matches!(entry.what, What::Sync(_)));
    if syncs.count() < SESSIONS * BURSTS {
        return Err("hardly any sync was traced: the shim does not see the store".to_owned());
    }
    Ok(Recording {
        disk,
        erp,
        acknowledged,
        dropped,
        journal: lines(&site.erp_journal()),
        began_ns,
        ended_ns,
    })
}

impl Recording {
    /// When the power goes: right after acknowledgements and bookings, around changes of the disk, and at any time.
    fn moments(&self, many: usize, dice: &mut Dice) -> Vec<u64> {
        let acknowledged: Vec<u64> = self.acknowledged.values().copied().collect();
        let booked: Vec<u64> = self
            .journal
            .iter()
            .filter(|line| line["applied"].is_object())
            .filter_map(|line| line["at_us"].as_u64())
            .map(|at_us| at_us * 1000 + 1000)
            .collect();
        let entries = self.disk.entries();
        let rare: Vec<&Entry> = entries
            .iter()
            .filter(|entry| !matches!(entry.what, What::Write(..) | What::Open(..)))
            .collect();
        let mut moment = |nth: usize| match nth % 5 {
            0 => *dice.one_of(&acknowledged),
            1 => *dice.one_of(&booked),
            2 => {
                let entry = *dice.one_of(&rare);
                *dice.one_of(&[entry.began_ns, entry.ended_ns, entry.ended_ns + 1])
            }
            3 => dice.one_of(entries).ended_ns,
            _ => self.began_ns + dice.below(self.ended_ns - self.began_ns),
        };
        (0..many).map(&mut moment).collect()
    }

    /// What the ERP knows when our power goes: what it has booked by then, and, as chance has it, what was on its way.
    fn erp_at(&self, at_ns: u64, dice: &mut Dice, to: &Path) -> u64 {
        let mut under_way = BTreeSet::new();
        let mut file = std::fs::File::create(to).unwrap();
        let mut booked = 0;
        for line in &self.journal {
            let before = line["at_us"].as_u64().unwrap_or_default() * 1000 <= at_ns;
            let number = line["seq"].as_u64();
            if before && line["request"].is_object() && dice.chance(0.5) {
                under_way.insert(number);
            }
            if before || (line["applied"].is_object() && under_way.contains(&number)) {
                booked += u64::from(line["applied"].is_object());
                writeln!(file, "{line}").unwrap();
            }
        }
        booked
    }

    /// An engine goes on from what is left; the senders send what was not acknowledged. What is found in the end.
    fn goes_on(&self, at_ns: u64, syncs: Syncs, dice: &mut Dice) -> Result<Line, String> {
        let names = *dice.one_of(&[Names::ByFolder, Names::ByFile]);
        let found = self.resumes(at_ns, names, syncs, dice);
        let place = format!(
            "power lost {} us after the start, names {names:?}",
            (at_ns - self.began_ns) / 1000
        );
        let mut line = found.map_err(|error| format!("{place}: {error}"))?;
        for wrong in &mut line.wrong {
            *wrong = format!("{place}: {wrong}");
        }
        Ok(line)
    }

    fn resumes(
        &self,
        at_ns: u64,
        names: Names,
        syncs: Syncs,
        dice: &mut Dice,
    ) -> Result<Line, String> {
        let site = Site::bare(self.erp);
        self.disk.cut(at_ns, names, syncs, dice, &site.root());
        site.settle_in();
        self.erp_at(at_ns, dice, &site.erp_journal());
        let (_erp_process, url) = site.start_erp();
        let mut engine = site.start_engine(&url, &[]);
        site.until_ready(&mut engine)?;
        let sure: BTreeSet<usize> = self.acknowledged_by(at_ns).collect();
        let rest: BTreeSet<usize> = self
            .acknowledged
            .keys()
            .copied()
            .filter(|order| !sure.contains(order))
            .collect();
        site.send(&rest)?;
        site.at_rest(rest.len() as i64)?;
        let dropped = self.dropped.iter().filter(|(ns, _)| *ns <= at_ns);
        let rows = dropped.flat_map(|(_, rows)| rows);
        let line = judge(&site, self.acknowledged.keys(), rows)?;
        Ok(Line {
            redelivered: rest.len() as u64,
            faults: 1,
            ..line
        })
    }

    fn acknowledged_by(&self, at_ns: u64) -> impl Iterator<Item = usize> {
        let by = self
            .acknowledged
            .iter()
            .filter(move |(_, at)| **at <= at_ns);
        by.map(|(order, _)| *order)
    }
}

/// What became of these orders and rows of files: each is to be at its targets once.
pub fn judge<'a>(
    site: &Site,
    orders: impl Iterator<Item = &'a usize>,
    rows: impl Iterator<Item = &'a String>,
) -> Result<Line, String> {
    let mut line = Line {
        wrong: site.flaws(),
        ..Line::default()
    };
    let (booked, listed) = (
        site.booked(),
        site.listed("outbox/audit.jsonl", "order_number")?,
    );
    let waiting = site.waiting()?;
    if site.erp() == Erp::Keys && !waiting.is_empty() {
        line.wrong.push(format!("{waiting:?} wait for a person"));
    }
    for order in orders {
        let number = number(*order);
        let asked = waiting.contains(&number);
        line.count(&number, booked.get(&number), asked);
        line.count(&number, listed.get(&number), false);
    }
    let stock = site.listed("outbox/stock.jsonl", "sku")?;
    for row in rows {
        let sku = row.split(',').next().unwrap();
        line.count(sku, stock.get(sku), false);
    }
    Ok(line)
}

impl Line {
    /// One message at one target: once, or not at all while a person is asked.
    fn count(&mut self, what: &str, times: Option<&u64>, asked: bool) {
        self.sent += 1;
        let times = times.copied().unwrap_or(0);
        self.delivered += times.min(1);
        if times == 0 && !asked {
            self.lost += 1;
            self.wrong.push(format!("{what} is lost"));
        }
        if times > 1 {
            self.doubled += 1;
            self.wrong.push(format!("{what} is there {times} times"));
        }
    }
}
