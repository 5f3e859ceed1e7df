//! A stand-in ERP with a process of its own: customers, sales orders, and a journal that tells afterwards what was asked and what was booked. It shares no state with the engine.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::answer::{Answer, HangUp, answer, broken_off, problem};
use super::dice::Dice;
use super::faults::{After, Before, Fate, Faults, STALE_FOR};
use super::journal::{Journal, now_us};
use super::orders::{customer, hex};
use super::sales::{Facts, Sale, Sales, order_facts, read_sales};

/// The largest request that the ERP takes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a request hangs that is never answered; then the connection is closed.
const HANG: Duration = Duration::from_secs(120);
/// How long requests in the making may take to end when the ERP stops.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// What the ERP asks of those whom it throttles.
const RETRY_AFTER_S: &str = "1";

/// What the ERP offers against booking twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Honours idempotency keys, and answers probes.
    #[default]
    Keys,
    /// Ignores idempotency keys, and answers probes.
    Probe,
    /// Ignores idempotency keys, and answers no probe.
    Neither,
}

/// A stand-in ERP: journals every request before it applies it, and misbehaves on demand.
#[derive(Clone, Debug, clap::Args)]
pub struct ErpArgs {
    /// Where to listen; port 0 takes a free one. The address is the first line on standard output.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The journal; what it says was booked is booked at the start.
    #[arg(long)]
    pub journal: PathBuf,
    /// What the ERP offers against booking twice.
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Faults and their shares, such as `slow=0.05:200ms,fail=0.02,drop-after-apply=0.01`.
    #[arg(long, default_value = "")]
    pub fault: Faults,
    /// Where chance starts.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The bearer token that callers must show; none is asked for without it. A caller can put `@` and its name behind it.
    #[arg(long, env = "ERP_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// End when standard input closes, so that the ERP does not outlive its parent.
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// Runs the stand-in until Ctrl-C, or until standard input closes where that is asked for. Writes its address to `out` first.
pub async fn erp(args: &ErpArgs, out: &mut (dyn Write + Send)) -> Result<(), String> {
    let erp = Arc::new(Erp::open(args)?);
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    writeln!(out, "{address}")
        .and_then(|()| out.flush())
        .map_err(|error| error.to_string())?;
    let until_stdin_closes = args.until_stdin_closes;
    let stop = async move {
        if until_stdin_closes {
            let mut rest = Vec::new();
            // Closed and broken both mean that the parent is gone.
            drop(tokio::io::stdin().read_to_end(&mut rest).await);
        } else {
            drop(tokio::signal::ctrl_c().await);
        }
    };
    serve(erp, listener, stop).await;
    Ok(())
}

/// Answers every connection until `stop` resolves; then ends them all.
pub(crate) async fn serve(erp: Arc<Erp>, listener: TcpListener, stop: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                // A connection that failed before it began is the caller's to try again.
                let Ok((stream, _)) = accepted else { continue };
                drop(stream.set_nodelay(true));
                let erp = Arc::clone(&erp);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let erp = Arc::clone(&erp);
                        async move { erp.finish(request).await }
                    });
                    // A dropped or broken connection is part of the play.
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        }
    }
    connections.shutdown().await;
    erp.work.close();
    // What still hangs by design ends with the process.
    drop(tokio::time::timeout(STOP_WITHIN, erp.work.wait()).await);
}

/// The stand-in: what was booked, and the journal that says so.
pub(crate) struct Erp {
    mode: Mode,
    faults: Faults,
    seed: u64,
    token: Option<String>,
    journal: Journal,
    books: Mutex<Sales>,
    requests: AtomicU64,
    work: TaskTracker,
}

/// One request, read whole.
struct Asked {
    seq: u64,
    method: Method,
    path: String,
    query: String,
    idempotency_key: Option<String>,
    authorization: Option<String>,
    body: Bytes,
    sha256: String,
}

impl Erp {
    /// A stand-in that goes on where its journal ends.
    pub(crate) fn open(args: &ErpArgs) -> Result<Erp, String> {
        let (books, requests) = if args.journal.exists() {
            read_sales(&args.journal)?
        } else {
            (Sales::default(), 0)
        };
        let journal = Journal::open(&args.journal)
            .map_err(|error| format!("{}: {error}", args.journal.display()))?;
        Ok(Erp {
            mode: args.mode,
            faults: args.fault.clone(),
            seed: args.seed,
            token: args.token.clone(),
            journal,
            books: Mutex::new(books),
            requests: AtomicU64::new(requests),
            work: TaskTracker::new(),
        })
    }

    /// Answers in a task of its own: like a real ERP, it goes on with what it was asked when the caller hangs up.
    async fn finish(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, HangUp> {
        let erp = Arc::clone(&self);
        let asked = self.work.spawn(async move { erp.answer(request).await });
        asked.await.unwrap_or(Err(HangUp))
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, HangUp> {
        if request.uri().path() == "/status" {
            // For the demo's progress line only; not part of the ERP's work, so not in its journal.
            let booked = self.books().count;
            return Ok(answer(
                StatusCode::OK,
                &json!({"booked": booked, "requests": self.requests.load(Ordering::Relaxed)}),
            ));
        }
        let seq = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let Ok(asked) = read_request(seq, request).await else {
            return Ok(problem(
                StatusCode::BAD_REQUEST,
                "the body is too large or was cut off",
            ));
        };
        let order = serde_json::from_slice::<Value>(&asked.body).ok();
        let caller = caller(self.token.as_deref(), asked.authorization.as_deref());
        self.note(json!({"seq": seq, "at_us": now_us(), "request": {
            "method": asked.method.as_str(),
            "by": caller.as_deref().filter(|name| !name.is_empty()),
            "path": if asked.query.is_empty() { asked.path.clone() } else { format!("{}?{}", asked.path, asked.query) },
            "idempotency_key": asked.idempotency_key,
            "order_number": order.as_ref().and_then(|order| order["order_number"].as_str()),
            "sha256": asked.sha256,
            "body": String::from_utf8_lossy(&asked.body),
        }}))
        .await?;
        if caller.is_none() {
            return Ok(problem(StatusCode::UNAUTHORIZED, "show the bearer token"));
        }
        let fate = self.faults.fate(Dice::of(self.seed, seq));
        if !fate.wait.is_zero() {
            self.note_fault(seq, Some("slow")).await?;
            tokio::time::sleep(fate.wait).await;
        }
        self.note_fault(seq, fate.before.name()).await?;
        match fate.before {
            Before::Fail => {
                return Ok(problem(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the ERP is not available",
                ));
            }
            Before::Throttle => {
                let mut slow_down = problem(StatusCode::TOO_MANY_REQUESTS, "too many requests");
                slow_down.headers_mut().insert(
                    http::header::RETRY_AFTER,
                    http::HeaderValue::from_static(RETRY_AFTER_S),
                );
                return Ok(slow_down);
            }
            Before::Error => {
                return Ok(problem(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "something went wrong",
                ));
            }
            Before::Conflict => {
                return Ok(problem(
                    StatusCode::CONFLICT,
                    "somebody else works on this order",
                ));
            }
            Before::Nothing => {}
        }
        self.dispatch(asked, order, fate).await
    }

    async fn dispatch(
        &self,
        asked: Asked,
        order: Option<Value>,
        fate: Fate,
    ) -> Result<Answer, HangUp> {
        let customer_code = asked.path.strip_prefix("/customers/").map(percent_decode);
        match (asked.method.as_str(), asked.path.as_str(), customer_code) {
            ("GET", _, Some(code)) => Ok(match customer(&code) {
                Some(found) => answer(StatusCode::OK, &found),
                None => problem(
                    StatusCode::NOT_FOUND,
                    &format!("there is no customer {code}"),
                ),
            }),
            ("GET", "/sales-orders", _) if self.mode == Mode::Neither => Ok(problem(
                StatusCode::NOT_IMPLEMENTED,
                "sales orders cannot be searched",
            )),
            ("GET", "/sales-orders", _) => {
                self.note_fault(asked.seq, fate.stale.then_some("stale"))
                    .await?;
                Ok(self.search(&asked.query, fate.stale))
            }
            ("POST", "/sales-orders", _) => match order
                .as_ref()
                .map_or(Err("the body is not JSON"), order_facts)
            {
                Ok(facts) => self.book(asked, facts, fate).await,
                Err(wrong) => Ok(problem(StatusCode::UNPROCESSABLE_ENTITY, wrong)),
            },
            _ => Ok(problem(StatusCode::NOT_FOUND, "there is nothing here")),
        }
    }

    fn search(&self, query: &str, stale: bool) -> Answer {
        let Some(wanted) = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("ref="))
            .map(percent_decode)
        else {
            return problem(StatusCode::BAD_REQUEST, "ask with ?ref=NUMBER");
        };
        let books = self.books();
        let items: Vec<Value> = books
            .by_order
            .get(&wanted)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter(|sale| !stale || sale.booked.elapsed() > STALE_FOR)
            .map(Sale::body)
            .collect();
        answer(StatusCode::OK, &json!({"items": items}))
    }

    async fn book(&self, asked: Asked, facts: Facts, fate: Fate) -> Result<Answer, HangUp> {
        let seq = asked.seq;
        // Under the lock: what is booked, in which order, and the journal's lines in that order.
        let (status, sale, synced) = {
            let mut books = self.books();
            let earlier = match (self.mode, &asked.idempotency_key) {
                (Mode::Keys, Some(key)) => books.by_key.get(key).cloned(),
                _ => None,
            };
            if let Some(sale) = earlier {
                if sale.sha256 != asked.sha256 {
                    return Ok(problem(
                        StatusCode::UNPROCESSABLE_ENTITY,
                        "the idempotency key was used for another request",
                    ));
                }
                let line = json!({"seq": asked.seq, "at_us": now_us(), "repeated": {"number": sale.number, "order_number": sale.order_number}});
                (StatusCode::OK, sale, self.journal.submit(&line))
            } else {
                let sale = Sale {
                    number: format!("SO-{:06}", books.count + 1),
                    order_number: facts.order_number,
                    idempotency_key: asked.idempotency_key,
                    sha256: asked.sha256,
                    booked: Instant::now(),
                };
                let line = json!({"seq": asked.seq, "at_us": now_us(), "applied": {
                    "number": sale.number,
                    "order_number": sale.order_number,
                    "customer_number": facts.customer_number,
                    "total": facts.total,
                    "lines": facts.lines,
                    "idempotency_key": sale.idempotency_key,
                    "sha256": sale.sha256,
                }});
                let synced = self.journal.submit(&line);
                books.add(sale.clone());
                (StatusCode::CREATED, sale, synced)
            }
        };
        synced.wait().await.map_err(|_| HangUp)?;
        self.note_fault(seq, fate.after.name()).await?;
        match fate.after {
            After::Nothing => Ok(answer(status, &sale.body())),
            After::Fail => Ok(problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "something went wrong",
            )),
            After::Drop => Err(HangUp),
            After::Hang => {
                tokio::time::sleep(HANG).await;
                Err(HangUp)
            }
            After::Reset => Ok(broken_off(status, &sale.body())),
        }
    }

    fn books(&self) -> MutexGuard<'_, Sales> {
        self.books
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What goes wrong on purpose is in the journal, so that a recount knows how often it did.
    async fn note_fault(&self, seq: u64, fault: Option<&str>) -> Result<(), HangUp> {
        match fault {
            Some(fault) => {
                self.note(json!({"seq": seq, "at_us": now_us(), "fault": fault}))
                    .await
            }
            None => Ok(()),
        }
    }

    /// Without its journal the stand-in answers nothing, for nothing may be done that the journal does not know of.
    async fn note(&self, line: Value) -> Result<(), HangUp> {
        self.journal.append(&line).await.map_err(|_| HangUp)
    }
}

/// The name of a caller who shows the token: empty if it gives none, `None` if it does not show the token.
fn caller(token: Option<&str>, authorization: Option<&str>) -> Option<String> {
    let Some(token) = token else {
        return Some(String::new());
    };
    let rest = authorization?
        .strip_prefix("Bearer ")?
        .strip_prefix(token)?;
    match rest.strip_prefix('@') {
        Some(name) => Some(name.to_owned()),
        None => rest.is_empty().then(String::new),
    }
}

async fn read_request(seq: u64, request: Request<Incoming>) -> Result<Asked, HangUp> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX)
        .collect()
        .await
        .map_err(|_| HangUp)?
        .to_bytes();
    let header = |name: &str| {
        head.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    Ok(Asked {
        seq,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        idempotency_key: header("idempotency-key"),
        authorization: header("authorization"),
        sha256: hex(&Sha256::digest(&body)),
        method: head.method,
        body,
    })
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes
            .get(at + 1..at + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http_body_util::Full;

    use super::super::client::Client;
    use super::super::journal::read_lines;
    use super::*;

    /// A stand-in in this process, and a connection to it.
    struct Stand {
        client: Client,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Stand {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    async fn stand(journal: &Path, mode: Mode, fault: &str) -> Stand {
        let args = ErpArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            journal: journal.to_owned(),
            mode,
            fault: fault.parse().unwrap(),
            seed: 1,
            token: Some("t".to_owned()),
            until_stdin_closes: false,
        };
        let listener = TcpListener::bind(args.listen).await.unwrap();
        let client = Client::new(listener.local_addr().unwrap(), Duration::from_secs(5));
        let erp = Arc::new(Erp::open(&args).unwrap());
        let task = tokio::spawn(async move { serve(erp, listener, std::future::pending()).await });
        Stand { client, task }
    }

    impl Stand {
        async fn ask(&mut self, path: &str) -> (u16, Value) {
            let request = Request::get(path)
                .header("authorization", "Bearer t")
                .body(Full::default())
                .unwrap();
            let (status, body) = self.client.send(request).await.unwrap();
            (status.as_u16(), serde_json::from_slice(&body).unwrap())
        }

        async fn post(
            &mut self,
            number: &str,
            key: Option<&str>,
            total: &str,
        ) -> Result<(u16, Value), String> {
            let body = json!({"order_number": number, "customer_number": "C-1000", "total": total, "lines": [{}]});
            let mut request = Request::post("/sales-orders").header("authorization", "Bearer t");
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            let (status, body) = self
                .client
                .send(request.body(Full::from(body.to_string())).unwrap())
                .await?;
            Ok((status.as_u16(), serde_json::from_slice(&body).unwrap()))
        }
    }

    fn applied(journal: &Path) -> usize {
        read_lines(journal)
            .unwrap()
            .iter()
            .filter(|line| line["applied"].is_object())
            .count()
    }

    #[tokio::test]
    async fn an_idempotency_key_books_once_and_answers_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("erp.jsonl");
        let mut erp = stand(&journal, Mode::Keys, "").await;
        let first = erp.post("#1", Some("#1"), "5.00").await.unwrap();
        assert_eq!(first.0, 201);
        let second = erp.post("#1", Some("#1"), "5.00").await.unwrap();
        assert_eq!(second, (200, first.1));
        assert_eq!(applied(&journal), 1);
        assert_eq!(erp.post("#1", Some("#1"), "6.00").await.unwrap().0, 422);
    }

    #[tokio::test]
    async fn without_a_key_that_counts_every_request_books() {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode, key) in [
            ("a", Mode::Keys, None),
            ("b", Mode::Probe, Some("#1")),
            ("c", Mode::Neither, Some("#1")),
        ] {
            let journal = folder.path().join(name);
            let mut erp = stand(&journal, mode, "").await;
            for _ in 0..2 {
                assert_eq!(erp.post("#1", key, "5.00").await.unwrap().0, 201);
            }
            assert_eq!(applied(&journal), 2, "{mode:?}");
        }
    }

    #[tokio::test]
    async fn probes_are_answered_where_the_mode_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut erp = stand(&folder.path().join("a"), Mode::Probe, "").await;
        assert_eq!(
            erp.ask("/sales-orders?ref=%231").await,
            (200, json!({"items": []}))
        );
        erp.post("#1", None, "5.00").await.unwrap();
        let (status, found) = erp.ask("/sales-orders?ref=%231").await;
        assert_eq!((status, found["items"].as_array().unwrap().len()), (200, 1));
        let mut silent = stand(&folder.path().join("b"), Mode::Neither, "").await;
        assert_eq!(silent.ask("/sales-orders?ref=%231").await.0, 501);
    }

    #[tokio::test]
    async fn customers_are_known_unknown_or_on_hold() {
        let folder = tempfile::tempdir().unwrap();
        let mut erp = stand(&folder.path().join("erp.jsonl"), Mode::Keys, "").await;
        assert_eq!(
            erp.ask("/customers/C-1042").await.1["on_hold"],
            json!(false)
        );
        assert_eq!(erp.ask("/customers/C-1049").await.1["on_hold"], json!(true));
        assert_eq!(erp.ask("/customers/C-7000").await.0, 404);
        let (status, _) = erp.client.get("/customers/C-1042").await.unwrap();
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn what_was_booked_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("erp.jsonl");
        let first = {
            let mut erp = stand(&journal, Mode::Keys, "").await;
            erp.post("#1", Some("k"), "5.00").await.unwrap()
        };
        let mut erp = stand(&journal, Mode::Keys, "").await;
        assert_eq!(
            erp.post("#1", Some("k"), "5.00").await.unwrap(),
            (200, first.1)
        );
        assert_eq!(
            erp.post("#2", Some("l"), "5.00").await.unwrap().1["number"],
            json!("SO-000002")
        );
        assert_eq!(applied(&journal), 2);
    }

    #[tokio::test]
    async fn faults_after_the_booking_leave_it_booked() {
        let folder = tempfile::tempdir().unwrap();
        for (name, fault, status) in [
            ("a", "error-after-apply=1", Some(500)),
            ("b", "drop-after-apply=1", None),
        ] {
            let journal = folder.path().join(name);
            let mut erp = stand(&journal, Mode::Keys, fault).await;
            assert_eq!(
                erp.post("#1", Some("k"), "5.00")
                    .await
                    .ok()
                    .map(|(status, _)| status),
                status
            );
            assert_eq!(applied(&journal), 1, "{fault}");
        }
    }

    #[tokio::test]
    async fn faults_before_the_booking_leave_nothing_but_the_request() {
        let folder = tempfile::tempdir().unwrap();
        for (name, fault, status) in [("a", "fail=1", 503), ("b", "throttle=1", 429)] {
            let journal = folder.path().join(name);
            let mut erp = stand(&journal, Mode::Keys, fault).await;
            assert_eq!(erp.post("#1", Some("k"), "5.00").await.unwrap().0, status);
            assert_eq!(applied(&journal), 0, "{fault}");
            let lines = read_lines(&journal).unwrap();
            assert_eq!(lines[0]["request"]["order_number"], json!("#1"));
            assert_eq!(lines[0]["request"]["idempotency_key"], json!("k"));
        }
    }
}
