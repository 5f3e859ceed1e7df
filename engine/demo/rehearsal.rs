//! The stand-ins and the oracle against each other, with engines that are good or bad in known ways: proof that the demo can fail. No part of the program.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::client::Client;
use super::erp::{Erp, ErpArgs, Mode, serve};
use super::orders::{Kind, Plan, customer};
use super::recount::{Explained, Recount, recount};
use super::storefront::{self, Progress, Settings, sign};

const SECRET: &str = "rehearsal";

/// How the engine of a rehearsal works.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    /// Books every order once; refuses every seventh request first.
    Good,
    /// Books duplicates again.
    Forgetful,
    /// Acknowledges every tenth good order without booking it.
    Careless,
    /// Books another total.
    Miscounting,
}

/// A few lines that behave like an engine, without being one.
struct Engine {
    habit: Habit,
    seen: Mutex<HashSet<String>>,
    explained: Mutex<Explained>,
    erp: Mutex<Client>,
    requests: AtomicU64,
}

impl Engine {
    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let signature = request
            .headers()
            .get("x-shopify-hmac-sha256")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let status = if signature != sign(SECRET, &body).unwrap() {
            StatusCode::UNAUTHORIZED
        } else if self.requests.fetch_add(1, Ordering::Relaxed) % 7 == 6 {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            self.take(&serde_json::from_slice(&body).unwrap()).await;
            StatusCode::OK
        };
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = status;
        Ok(answer)
    }

    async fn take(&self, order: &Value) {
        let number = order["name"].as_str().unwrap().to_owned();
        let again = !self.seen.lock().await.insert(number.clone());
        if order["test"] == json!(true) || (again && self.habit != Habit::Forgetful) {
            return;
        }
        let code = order["note_attributes"][0]["value"].as_str().unwrap();
        let whole = order["currency"].is_string()
            && order["total_price_set"].is_object()
            && order["line_items"].as_array().is_some_and(|lines| {
                lines.iter().all(|line| line["quantity"].is_u64()) && !lines.is_empty()
            });
        let known = customer(code);
        let mut explained = self.explained.lock().await;
        let Some(known) = known.filter(|_| whole) else {
            explained.waiting.insert(number);
            return;
        };
        let total = order["total_price_set"]["shop_money"]["amount"]
            .as_str()
            .unwrap();
        if known["on_hold"] == json!(true) || total.parse::<f64>().unwrap() > 10_000.0 {
            *explained.reviewed.entry(number).or_default() = 1;
            return;
        }
        drop(explained);
        if self.habit == Habit::Careless && number.ends_with('5') {
            return;
        }
        let total = if self.habit == Habit::Miscounting {
            "1.00"
        } else {
            total
        };
        let sales_order = json!({"order_number": number, "customer_number": code, "total": total, "lines": order["line_items"]});
        let request = Request::post("/sales-orders")
            .body(Full::from(sales_order.to_string()))
            .unwrap();
        self.erp.lock().await.send(request).await.unwrap();
    }
}

/// Sends `orders` orders through an engine of this habit, and recounts.
async fn rehearse(habit: Habit, orders: u64, folder: &Path) -> (Plan, Recount, Arc<Progress>) {
    let (sent, journal) = (folder.join("sent.jsonl"), folder.join("erp.jsonl"));
    let erp_args = ErpArgs {
        listen: loopback(),
        journal: journal.clone(),
        mode: Mode::Probe,
        fault: "".parse().unwrap(),
        seed: 1,
        token: None,
        until_stdin_closes: false,
    };
    let (erp_listener, listener) = (
        TcpListener::bind(loopback()).await.unwrap(),
        TcpListener::bind(loopback()).await.unwrap(),
    );
    let engine = Arc::new(Engine {
        habit,
        seen: Mutex::default(),
        explained: Mutex::default(),
        erp: Mutex::new(Client::new(
            erp_listener.local_addr().unwrap(),
            Duration::from_secs(5),
        )),
        requests: AtomicU64::new(0),
    });
    let settings = Settings {
        addresses: vec![listener.local_addr().unwrap()],
        secret: SECRET.to_owned(),
        concurrency: 8,
        rate: 0,
        give_up_after: Duration::from_secs(60),
        journal: sent.clone(),
        seed: 1,
        copy: 0,
    };
    let erp = tokio::spawn(serve(
        Arc::new(Erp::open(&erp_args).unwrap()),
        erp_listener,
        std::future::pending(),
    ));
    let served = tokio::spawn(listen(Arc::clone(&engine), listener));
    let plan = Plan::new(orders, 1);
    let progress = Arc::new(Progress::default());
    storefront::send(&plan, &settings, Arc::clone(&progress))
        .await
        .unwrap();
    erp.abort();
    served.abort();
    let explained = engine.explained.lock().await.clone();
    (
        plan,
        recount(&sent, &journal, &explained).unwrap(),
        progress,
    )
}

async fn listen(engine: Arc<Engine>, listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let engine = Arc::clone(&engine);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let engine = Arc::clone(&engine);
                async move { engine.answer(request).await }
            });
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn a_good_engine_is_found_good() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, counts, progress) = rehearse(Habit::Good, 400, folder.path()).await;
    assert!(counts.is_good(), "{counts:?}");
    assert_eq!(counts.sent, 400);
    assert_eq!(counts.acknowledged, 400);
    assert_eq!(counts.duplicates, 20);
    assert_eq!(counts.booked, plan.count(Kind::Good) as u64);
    assert_eq!(
        counts.waiting,
        (plan.count(Kind::BreaksContract) + plan.count(Kind::UnknownCustomer)) as u64
    );
    assert_eq!(
        counts.reviewed,
        (plan.count(Kind::OnHold) + plan.count(Kind::OverLimit)) as u64
    );
    assert!(progress.resent.load(Ordering::Relaxed) > 0);
    assert_eq!(progress.settled(), 420);
}

#[tokio::test]
async fn an_engine_that_books_duplicates_again_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let (_, counts, _) = rehearse(Habit::Forgetful, 400, folder.path()).await;
    assert!(!counts.doubled.is_empty());
    assert!(counts.lost.is_empty() && !counts.is_good());
}

#[tokio::test]
async fn an_engine_that_loses_orders_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let (_, counts, _) = rehearse(Habit::Careless, 400, folder.path()).await;
    assert!(counts.lost.len() > 20);
    assert!(counts.doubled.is_empty() && !counts.is_good());
}

#[tokio::test]
async fn an_engine_that_changes_amounts_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, counts, _) = rehearse(Habit::Miscounting, 100, folder.path()).await;
    assert_eq!(counts.mismatched.len(), plan.count(Kind::Good));
}

#[tokio::test]
async fn a_storefront_with_the_wrong_secret_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let engine = Arc::new(Engine {
        habit: Habit::Good,
        seen: Mutex::default(),
        explained: Mutex::default(),
        erp: Mutex::new(Client::new(address, Duration::from_secs(1))),
        requests: AtomicU64::new(0),
    });
    let served = tokio::spawn(listen(engine, listener));
    let journal = folder.path().join("sent.jsonl");
    let settings = Settings {
        addresses: vec![address],
        secret: "wrong".to_owned(),
        concurrency: 2,
        rate: 1_000,
        give_up_after: Duration::from_secs(5),
        journal: journal.clone(),
        seed: 1,
        copy: 0,
    };
    let progress = Arc::new(Progress::default());
    storefront::send(&Plan::new(10, 1), &settings, Arc::clone(&progress))
        .await
        .unwrap();
    served.abort();
    assert_eq!(progress.refused.load(Ordering::Relaxed), 10);
    let counts = recount(
        &journal,
        &folder.path().join("none.jsonl"),
        &Explained::default(),
    )
    .unwrap();
    assert_eq!((counts.refused, counts.lost.len()), (10, 0));
    assert!(!counts.is_good());
}

#[tokio::test]
async fn deliveries_that_nobody_answers_are_given_up_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let gone = TcpListener::bind(loopback())
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let settings = Settings {
        addresses: vec![gone],
        secret: SECRET.to_owned(),
        concurrency: 4,
        rate: 0,
        give_up_after: Duration::from_millis(300),
        journal: folder.path().join("sent.jsonl"),
        seed: 1,
        copy: 0,
    };
    let progress = Arc::new(Progress::default());
    storefront::send(&Plan::new(4, 1), &settings, Arc::clone(&progress))
        .await
        .unwrap();
    assert_eq!(progress.given_up.load(Ordering::Relaxed), 4);
}
