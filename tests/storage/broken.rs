//! A disk that is full, or whose syncs fail, under a working engine.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crossdock::demo::engine::free_address;

use super::Line;
use super::dice::Dice;
use super::disk::{Disk, Names, Syncs};
use super::power::judge;
use super::site::{Erp, Process, Site};
use super::trace;
use crate::faults::Setting;
use crate::support::shim::Shim;

/// Within this time after there is space again the engine accepts by itself.
const RESUMES_WITHIN: Duration = Duration::from_secs(10);
/// Every so many milliseconds somebody tries an order while the disk is full.
const TRIES_EVERY: Duration = Duration::from_millis(100);

/// A site, its ERP and its engine, on a disk that can be broken.
struct Stage {
    site: Site,
    shim: Shim,
    engine: Process,
    _erp: Process,
}

impl Stage {
    fn set() -> Result<Stage, String> {
        let site = Site::new(Erp::Keys);
        let shim = Shim::under(&site.root());
        let (erp, url) = site.start_erp();
        let mut engine = site.start_engine(&url, &shim.environment(false));
        site.until_ready(&mut engine)?;
        Ok(Stage {
            site,
            shim,
            engine,
            _erp: erp,
        })
    }
}

/// The disk fills up under load, and is freed: intake is refused, the engine lives and looks can be had, and it goes on by itself.
pub fn full(setting: &Setting) -> Result<Line, String> {
    let rounds = setting.scale.of(1, 5, 50) as usize;
    let mut stage = Stage::set()?;
    let (mut orders, mut rows, mut wrong) = (BTreeSet::new(), Vec::new(), Vec::new());
    let (mut again, mut refused_most) = (0, 0);
    for round in 0..rounds {
        let before: BTreeSet<usize> = (round * 1000..round * 1000 + 40).collect();
        again += stage.site.send(&before)?.1;
        orders.extend(before);
        stage.shim.fill();
        let (mut refused, mut nth) = (0, 0);
        let began = Instant::now();
        while refused < 10 {
            let order = round * 1000 + 40 + nth % 200;
            nth += 1;
            orders.insert(order);
            match stage.site.ask("POST", "/orders", &super::site::body(order)) {
                Some((200, _)) => {}
                Some((503, answer)) if answer.to_lowercase().contains("retry-after:") => {
                    refused += 1;
                    again += 1;
                    std::thread::sleep(TRIES_EVERY);
                }
                other => {
                    let said = other.map(|(_, answer)| answer);
                    wrong.push(format!("on a full disk a sender is told {said:?}"));
                    break;
                }
            }
            if began.elapsed() > Duration::from_secs(60) {
                return Err("the disk is full and nobody is refused".to_owned());
            }
        }
        refused_most += refused;
        if !stage.engine.runs() {
            return Err(format!(
                "the engine ended on a full disk:\n{}",
                stage.engine.log()
            ));
        }
        if !stage.site.flaws().is_empty() {
            wrong.push("the store cannot be looked at while the disk is full".to_owned());
        }
        stage.shim.free();
        let freed = Instant::now();
        while stage.site.send_one(round * 1000) != Some(200) {
            if freed.elapsed() > RESUMES_WITHIN {
                return Err(format!(
                    "it does not accept {RESUMES_WITHIN:?} after there is space:\n{}",
                    stage.engine.log()
                ));
            }
            std::thread::sleep(TRIES_EVERY);
        }
        // Writes that are cut short, too: whoever writes must look.
        stage.shim.cut_writes(20 * (round as u32 + 1), "");
        let name = format!("stock-{round}.csv");
        let stock: Vec<String> = (0..20)
            .map(|row| format!("S-{round}-{row},{row}"))
            .collect();
        stage.site.drop_file(&name, &stock);
        rows.extend(stock);
        again += stage.site.send(&orders)?.1;
    }
    stage.site.at_rest(orders.len() as i64)?;
    let line = judge(&stage.site, orders.iter(), rows.iter())?;
    wrong.extend(line.wrong.clone());
    Ok(Line {
        redelivered: again,
        faults: refused_most,
        wrong,
        ..line
    })
}

/// Syncs of the log fail, once or for good: nobody is told that an order is safe, the engine ends and says so, and a new one on a sound
/// disk goes on from what the first sync had made sure.
pub fn syncs_fail(setting: &Setting) -> Result<Line, String> {
    let mut line = Line::default();
    for round in 0..setting.scale.of(1, 10, 100) {
        for count in [1, 1_000_000] {
            let mut dice = Dice::of(setting.seed ^ (round * 2 + u64::from(count % 2)));
            let found = sync_fails(count, &mut dice)
                .map_err(|error| format!("{count} syncs fail: {error}"))?;
            line.add(found);
        }
    }
    Ok(line)
}

fn sync_fails(count: u32, dice: &mut Dice) -> Result<Line, String> {
    let site = Site::new(Erp::Keys);
    let shim = Shim::under(&site.root());
    let mut disk = Disk::of(&site.root());
    let (erp, url) = site.start_erp();
    let mut engine = site.start_engine(&url, &shim.environment(true));
    site.until_ready(&mut engine)?;
    let all: BTreeSet<usize> = (0..60).collect();
    let mut safe: BTreeSet<usize> = (0..20).collect();
    site.send(&safe)?;
    shim.fail_syncs(count, "-wal");
    let mut wrong = Vec::new();
    let mut refused = 0;
    for order in 20..60 {
        match site.send_one(order) {
            Some(200) if refused > 0 => {
                wrong.push(format!("{order} was acknowledged after a sync had failed"));
            }
            Some(200) => {
                safe.insert(order);
            }
            _ => refused += 1,
        }
    }
    let code = engine.ended(Duration::from_secs(10));
    if code != Some(74) {
        wrong.push(format!("the engine ended with {code:?}, not with 74"));
    }
    if !engine.log().contains("could not be synced") {
        wrong.push(format!("it does not say what is wrong:\n{}", engine.log()));
    }
    drop(erp);
    disk.trace(trace::read(&shim.trace()), Vec::new());
    // The power goes, too: what the failed sync was about may be gone for good.
    let left = Site::bare(Erp::Keys);
    let names = *dice.one_of(&[Names::ByFolder, Names::ByFile]);
    disk.cut(
        super::site::now_ns(),
        names,
        Syncs::Honest,
        dice,
        &left.root(),
    );
    left.settle_in();
    std::fs::copy(site.erp_journal(), left.erp_journal()).map_err(|error| error.to_string())?;
    let (_erp, url) = left.start_erp();
    let mut engine = left.start_engine(&url, &[]);
    left.until_ready(&mut engine)?;
    let rest: BTreeSet<usize> = all.difference(&safe).copied().collect();
    left.send(&rest)?;
    left.at_rest(rest.len() as i64)?;
    let line = judge(&left, all.iter(), std::iter::empty())?;
    wrong.extend(line.wrong.clone());
    Ok(Line {
        redelivered: rest.len() as u64,
        faults: 1,
        wrong,
        ..line
    })
}

/// There is little space left: nothing new is accepted, what is in flight is finished, and with space it goes on by itself.
pub fn low(setting: &Setting) -> Result<Line, String> {
    let many = setting.scale.of(30, 300, 3_000) as usize;
    let site = Site::new(Erp::Keys);
    let shim = Shim::under(&site.root());
    let place = free_address()?;
    let mut engine = site.start_engine(&format!("http://{place}"), &shim.environment(false));
    site.until_ready(&mut engine)?;
    // Nobody is at home at the ERP yet, so these are in flight when space runs out.
    let first: BTreeSet<usize> = (0..many).collect();
    let mut again = site.send(&first)?.1;
    shim.says_free(1_000_000);
    let mut wrong = Vec::new();
    until("nothing is accepted", || {
        site.status("GET", "/healthz/ready", "") == Some(503)
    })?;
    for order in many..many + 5 {
        match site.ask("POST", "/orders", &super::site::body(order)) {
            Some((503, answer)) if answer.to_lowercase().contains("retry-after:") => again += 1,
            other => wrong.push(format!("with little space a sender is told {other:?}")),
        }
    }
    let (_erp, _) = site.start_erp_at(place);
    until("what is in flight is finished", || {
        site.booked().len() == many
    })?;
    if site.status("GET", "/healthz/ready", "") != Some(503) {
        wrong.push("it was ready with little space".to_owned());
    }
    shim.free();
    let freed = Instant::now();
    let second: BTreeSet<usize> = (many..2 * many).collect();
    again += site.send(&second)?.1;
    let resumed = freed.elapsed();
    if resumed > RESUMES_WITHIN {
        wrong.push(format!("it accepted again after {resumed:?}"));
    }
    let orders: BTreeSet<usize> = (0..2 * many).collect();
    site.at_rest(orders.len() as i64)?;
    let line = judge(&site, orders.iter(), std::iter::empty())?;
    wrong.extend(line.wrong.clone());
    Ok(Line {
        redelivered: again,
        faults: 1,
        wrong,
        ..line
    })
}

/// The engine has no more file handles, because somebody holds many connections: slow, and nothing lost.
pub fn no_handles(setting: &Setting) -> Result<Line, String> {
    let many = setting.scale.of(40, 400, 4_000) as usize;
    let site = Site::new(Erp::Keys);
    let (_erp, url) = site.start_erp();
    let mut engine = site.start_with_files(&url, 64);
    site.until_ready(&mut engine)?;
    let orders: BTreeSet<usize> = (0..many).collect();
    let half: BTreeSet<usize> = (0..many / 2).collect();
    let mut again = site.send(&half)?.1;
    let held: Vec<_> = (0..200)
        .filter_map(|_| {
            std::net::TcpStream::connect_timeout(&site.address(), Duration::from_secs(1)).ok()
        })
        .collect();
    let faults = held.len() as u64;
    let free = std::thread::scope(|scope| {
        let sending = scope.spawn(|| site.send(&orders));
        std::thread::sleep(Duration::from_secs(2));
        drop(held);
        sending.join().unwrap()
    });
    again += free?.1;
    let rows: Vec<String> = (0..20).map(|row| format!("S-{row},{row}")).collect();
    site.drop_file("stock-0.csv", &rows);
    site.at_rest(orders.len() as i64)?;
    let mut line = judge(&site, orders.iter(), rows.iter())?;
    if !engine.runs() {
        line.wrong.push(format!(
            "the engine ended without handles:\n{}",
            engine.log()
        ));
    }
    Ok(Line {
        redelivered: again + half.len() as u64,
        faults,
        ..line
    })
}

/// Waits for something, but not for ever.
pub fn until(what: &str, holds: impl Fn() -> bool) -> Result<(), String> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("{what}: not within 30 s"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
