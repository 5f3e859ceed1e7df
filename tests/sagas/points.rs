//! `kill -9` of the program at each request of a saga, before and after the systems have applied it: whatever the order comes to, it comes
//! to it whole. A line in the list of `faults`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossdock::demo::books;
use crossdock::demo::engine::{Engine, free_address};
use crossdock::store::reader::Reader;

use super::systems::{Play, Systems, When};
use super::{EVERYTHING, FLOW, Scene, post};
use crate::faults::backing::Backing;
use crate::faults::{Line, Setting};

/// What an order comes to when nothing is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// It is booked and handed over.
    Done,
    /// The ERP refuses it: all is undone.
    Refused,
    /// It is booked, and the carrier refuses the hand-over: nothing is undone.
    Late,
}

impl Course {
    fn plays(self) -> Vec<(When, Play)> {
        match self {
            Course::Done => Vec::new(),
            Course::Refused => vec![(When::Has("POST /orders"), Play::Says(422))],
            Course::Late => vec![(When::Has("hand-over"), Play::Says(422))],
        }
    }

    fn requests(self) -> usize {
        match self {
            Course::Done | Course::Late => 4,
            Course::Refused => 5,
        }
    }

    /// What stands when it is over, if the engine was killed at this request.
    fn stands(self, killed_at: usize) -> &'static [&'static str] {
        match self {
            Course::Done => &EVERYTHING,
            Course::Late => &["labels", "orders", "reservations"],
            // The booking was on its way, and the "no" to its repeat says nothing about the first one: a person looks.
            Course::Refused if killed_at == 2 => &["labels", "reservations"],
            Course::Refused => &[],
        }
    }
}

/// A course, the request at which the engine is killed, and whether that is before or after it is applied.
type Point = (Course, usize, Play);

fn all() -> Vec<Point> {
    let mut points = Vec::new();
    for course in [Course::Done, Course::Refused, Course::Late] {
        for request in 0..course.requests() {
            points.push((course, request, Play::Freeze));
            let refuses = (course == Course::Refused && request == 2)
                || (course == Course::Late && request == 3);
            if !refuses {
                points.push((course, request, Play::ApplyAndFreeze));
            }
        }
    }
    points
}

/// A crash inside a saga at each of its points.
pub fn crash_points(setting: &Setting) -> Result<Line, String> {
    let points = all();
    let times = setting.scale.of(1, 5, 50);
    let mut chosen: Vec<Point> = (0..times).flat_map(|_| points.iter().copied()).collect();
    if times == 1 {
        // A share of them, another one for another seed.
        let offset = (setting.seed % 3) as usize;
        chosen = chosen.into_iter().skip(offset).step_by(3).collect();
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?
        .block_on(play(&chosen, setting.backing()?))
}

async fn play(points: &[Point], backing: Option<Backing>) -> Result<Line, String> {
    let flow = FLOW.replace(
        "/void\", upsert: true",
        "/void\", upsert: true, done_on: [not_found]",
    );
    let scene = Scene::new(&flow);
    scene.file(
        "crossdock.yaml",
        "listen: \"${env:CROSSDOCK_LISTEN}\"\ndefaults: { retry: { attempts: 3, first: 10ms, most: 20ms } }\n",
    );
    let mut engine = Engine::new(
        PathBuf::from(env!("CARGO_BIN_EXE_crossdock")),
        scene.folder.path(),
        free_address()?,
        Vec::new(),
    );
    if let Some(backing) = &backing {
        backing.settle(scene.folder.path())?;
        // Engines that share a store wait for the lease of a dead one's call, which is as long as the call may take.
        let path = scene.folder.path().join("systems/all.yaml");
        let system = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        scene.file(
            "systems/all.yaml",
            &system.replace("timeout: 20s", "timeout: 5s"),
        );
        for (name, value) in backing.environment() {
            engine.set(name, value);
        }
    }
    engine.start().await?;
    let store = match &backing {
        Some(backing) => backing.books()?,
        None => books::open(scene.folder.path())?,
    };
    let mut line = Line::default();
    for (number, point) in points.iter().enumerate() {
        let key = format!("P-{number}");
        one(&scene, &store, &mut engine, &key, point, &mut line).await?;
        line.sent += 1;
        line.faults += 1;
    }
    line.doubled = scene.systems.doubled() as u64;
    let needed: usize = points.iter().map(|(course, ..)| course.requests()).sum();
    line.redelivered = scene.systems.lines().len().saturating_sub(needed) as u64;
    let tally = books::read(&store).await?;
    if !tally.balances() {
        line.wrong.push("the books do not balance".to_owned());
    }
    line.lost = line
        .sent
        .abs_diff(tally.sum(|counts| counts.accepted) as u64);
    engine.kill().await?;
    Ok(line)
}

/// One order, a kill in the middle of it, and what it came to.
async fn one(
    scene: &Scene,
    store: &Reader,
    engine: &mut Engine,
    key: &str,
    (course, request, freeze): &Point,
    line: &mut Line,
) -> Result<(), String> {
    let what = format!("{key}: {course:?}, killed at request {request}, {freeze:?}");
    let begun = scene.systems.lines().len();
    let mut plays = vec![(When::Nth(begun + request), *freeze)];
    plays.extend(course.plays());
    scene.systems.play(&plays);
    let address = engine.address();
    let body = format!(r#"{{"n":"{key}"}}"#);
    tokio::task::spawn_blocking(move || post(address, &body))
        .await
        .map_err(|error| error.to_string())?;
    let systems: Arc<Systems> = scene.systems.clone();
    let froze = tokio::task::spawn_blocking(move || systems.froze(Duration::from_secs(20)));
    if !froze.await.map_err(|error| error.to_string())? {
        return Err(format!(
            "{what}: it never came to that request\n{}",
            engine.log_end()
        ));
    }
    engine.kill().await?;
    scene.systems.play(&course.plays());
    engine.start().await?;
    let began = Instant::now();
    while !books::read(store).await?.is_quiet() {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!(
                "{what}: it does not come to an end\n{}",
                engine.log_end()
            ));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stands = scene.systems.standing_of(key);
    if stands == course.stands(*request) {
        line.delivered += u64::from(!stands.is_empty());
    } else {
        line.wrong
            .push(format!("{what}: {stands:?} is left standing"));
    }
    Ok(())
}
