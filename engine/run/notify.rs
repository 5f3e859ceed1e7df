//! Tells people of new issues, of systems that go down and of sources that fail: one notice a cause, not one a message. What is to be told is in
//! the store; each address has a cursor there, so that a notice is sent at least once, and an address that is down stops nobody.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use super::{Shared, lead};
use crate::failure::{Class, Failure};
use crate::flow::notify::{Mail, Notify, Webhook};
use crate::net::http::{Client, Deadline, Options, Outgoing};
use crate::net::mail::{Letter, Server, mailbox};
use crate::store::commit::Commit;
use crate::store::notices::{Notice, NoticeChange, NoticeKind, Told};

/// How many notices one message holds at most: those that wait are told together.
const TOGETHER_MAX: usize = 50;
/// How often an address looks for notices.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The first and the longest pause after a try that failed, in milliseconds.
const PAUSE_MS: (i64, i64) = (2_000, 600_000);
/// A notice is given up when so many tries in a row have failed and it is as old as `GIVEN_UP_AFTER_MS`.
const ATTEMPTS_MAX: u32 = 80;
/// How old a notice is before it may be given up, in milliseconds.
const GIVEN_UP_AFTER_MS: i64 = 12 * 3_600_000;
/// How much of an answer is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How much of a notice's sentence is sent.
const SENTENCE_CHARS_MAX: usize = 500;

/// An address, and the name under which the store keeps how far it has been told. The name is its kind and its number among that kind, so that
/// a URL that was wrong, or is a secret that changes, can be mended without losing what waits.
struct Teller {
    shared: Arc<Shared>,
    address: String,
    notify: Notify,
}

fn tellers(shared: &Arc<Shared>) -> Vec<Teller> {
    let (mut webhooks, mut mails) = (0, 0);
    let project = shared.live.now().project.clone();
    let notify = &project.settings.notify;
    let each = notify.iter().map(|notify| {
        let (kind, count) = match notify {
            Notify::Webhook(_) => ("webhook", &mut webhooks),
            Notify::Mail(_) => ("mail", &mut mails),
        };
        *count += 1;
        Teller {
            shared: shared.clone(),
            address: format!("{kind} {count}"),
            notify: notify.clone(),
        }
    });
    each.collect()
}

/// Notes where new addresses begin: what was before them is not told. Others try at once what waits. Called before anything moves.
pub(super) async fn begin(shared: &Arc<Shared>) -> Result<(), Failure> {
    for teller in tellers(shared) {
        let told = match shared.store.told(&teller.address).await? {
            Some(told) => Told {
                attempts: 0,
                next_at_ms: 0,
                ..told
            },
            None => Told {
                notice: shared.store.newest_notice().await?,
                ..Told::default()
            },
        };
        teller.note(told).await?;
    }
    Ok(())
}

/// Starts one teller for each address.
pub(super) fn start(shared: &Arc<Shared>, stages: &TaskTracker) {
    for teller in tellers(shared) {
        let name = format!("notices:{}", teller.address);
        let teller = Arc::new(teller);
        stages.spawn(lead::only(shared.clone(), name, move || {
            let teller = teller.clone();
            async move { teller.run().await }
        }));
    }
}

/// A source has failed several times in a row: that is noted, to be told.
pub(super) async fn source_fails(shared: &Shared, flow: &Arc<str>, failure: &Failure) {
    let commit = Commit {
        notices: vec![NoticeChange::SourceFails(flow.clone(), failure.to_string())],
        ..Commit::default()
    };
    if let Err(failure) = shared.commit(commit).await
        && !shared.store.has_said(&failure)
    {
        tracing::error!(%failure, "a notice could not be kept");
    }
}

impl Teller {
    async fn run(&self) {
        let (shared, address) = (&self.shared, self.address.as_str());
        loop {
            // Whoever stops in the middle tells it again at the next start.
            let told = tokio::select! {
                () = shared.stop.cancelled() => return,
                told = self.tell() => told,
            };
            if let Err(failure) = told
                && !shared.store.has_said(&failure)
            {
                tracing::error!(%failure, address, "notices could not be read or noted");
            }
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = shared.world.clock.sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// One look: what waits is sent, and how far the address has been told is noted.
    async fn tell(&self) -> Result<(), Failure> {
        let (store, address) = (&self.shared.store, self.address.as_str());
        let now_ms = self.shared.world.clock.now_ms();
        let told = store.told(address).await?.unwrap_or_default();
        if waits(now_ms, told) {
            return Ok(());
        }
        let notices = store.notices(told.notice, TOGETHER_MAX).await?;
        let Some(last) = notices.last() else {
            return Ok(());
        };
        let Err(failure) = send(&self.notify, &notices).await else {
            let over = Told {
                notice: last.id,
                ..Told::default()
            };
            return self.note(over).await;
        };
        let next = after_failure(now_ms, told, &notices);
        let attempts = next.attempts;
        if next.notice == told.notice {
            tracing::warn!(%failure, address, attempts, "a notice could not be sent; it is tried again");
        } else {
            tracing::error!(%failure, address, attempts, "notices are given up; see `crossdock exceptions --issues`");
        }
        self.note(next).await
    }

    async fn note(&self, told: Told) -> Result<(), Failure> {
        let commit = Commit {
            notices: vec![NoticeChange::Told(self.address.clone(), told)],
            ..Commit::default()
        };
        self.shared.commit(commit).await.map(drop)
    }
}

/// Whether it is too early for the next try. A time that is further away than any pause is one of a clock that was set.
fn waits(now_ms: i64, told: Told) -> bool {
    now_ms < told.next_at_ms && told.next_at_ms - now_ms <= PAUSE_MS.1
}

/// How an address stands after one more try has failed: with a longer pause, and without what is given up.
fn after_failure(now_ms: i64, told: Told, notices: &[Notice]) -> Told {
    let attempts = told.attempts.saturating_add(1);
    let pause_ms = PAUSE_MS.0 << (attempts - 1).min(16);
    let old = |notice: &&Notice| notice.at_ms <= now_ms - GIVEN_UP_AFTER_MS;
    let given_up = notices
        .iter()
        .take_while(old)
        .last()
        .filter(|_| attempts >= ATTEMPTS_MAX);
    Told {
        notice: given_up.map_or(told.notice, |notice| notice.id),
        attempts,
        next_at_ms: now_ms + pause_ms.min(PAUSE_MS.1),
    }
}

async fn send(notify: &Notify, notices: &[Notice]) -> Result<(), Failure> {
    match notify {
        Notify::Webhook(webhook) => post(webhook, notices).await,
        Notify::Mail(mail) => write(mail, notices).await,
    }
}

async fn post(webhook: &Webhook, notices: &[Notice]) -> Result<(), Failure> {
    let body = json!({
        "text": text(notices),
        "notices": notices.iter().map(as_json).collect::<Value>(),
    });
    let url = webhook
        .url
        .parse()
        .map_err(|error| Failure::config(format!("the webhook's URL: {error}")))?;
    let client = Client::new(Options {
        authorities: None,
        identity: None,
        trust_any: false,
        proxy: None,
        gzip: false,
        user_agent: format!("crossdock/{}", env!("CARGO_PKG_VERSION")),
        connect: TIMEOUT,
    })
    .map_err(Failure::config)?;
    let outgoing = Outgoing {
        method: Method::POST,
        url,
        headers: headers(webhook)?,
        body: Some(Bytes::from(body.to_string())),
    };
    let deadline = Deadline::after(TIMEOUT);
    let answer = client
        .exchange(outgoing, ANSWER_BYTES_MAX, deadline)
        .await
        .map_err(|trouble| Failure::new(Class::Unavailable, trouble.message))?;
    if (200..300).contains(&answer.status) {
        return Ok(());
    }
    let why = format!("the webhook answered {}", answer.status);
    Err(Failure::new(Class::Unavailable, why))
}

fn headers(webhook: &Webhook) -> Result<HeaderMap, Failure> {
    let wrong = |name: &str| Failure::config(format!("the webhook's `{name}` cannot be sent"));
    let mut headers = HeaderMap::new();
    for (name, value) in &webhook.headers {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(name))?;
        let value = HeaderValue::from_str(value).map_err(|_| wrong(name))?;
        headers.insert(parsed, value);
    }
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    if let Some(token) = &webhook.token {
        let bearer = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
        headers.insert(header::AUTHORIZATION, bearer.map_err(|_| wrong("token"))?);
    }
    Ok(headers)
}

async fn write(mail: &Mail, notices: &[Notice]) -> Result<(), Failure> {
    let server = Server::parse(&mail.smtp).map_err(Failure::config)?;
    let to = mail.to.iter().map(|to| mailbox(to));
    let last = notices
        .last()
        .map_or((0, 0), |notice| (notice.id, notice.at_ms));
    let letter = Letter {
        id: format!("crossdock.{}.{}", last.0, last.1),
        from: mailbox(&mail.from).map_err(Failure::config)?,
        to: to.collect::<Result<_, _>>().map_err(Failure::config)?,
        subject: subject(notices),
        text: text(notices),
    };
    let password = mail.password.as_ref().map(|password| password.reveal());
    let login = mail.user.as_deref().zip(password);
    server
        .send(login, letter, TIMEOUT)
        .await
        .map_err(|why| Failure::new(Class::Unavailable, format!("the mail server: {why}")))
}

/// One paragraph for each notice. Ids, keys and counts; never a body.
fn text(notices: &[Notice]) -> String {
    notices.iter().map(paragraph).collect()
}

fn paragraph(notice: &Notice) -> String {
    let (what, sentence, look) = (what(notice), sentence(notice), look(notice));
    if notice.kind != NoticeKind::Issue {
        return format!("{what}: {sentence}\n  {look}\n");
    }
    let class = notice.cause.as_ref().map_or("", |(_, class)| class.name());
    let keys = match keys(notice) {
        Value::Object(keys) if !keys.is_empty() => format!(", the first has {}", pairs(&keys)),
        _ => String::new(),
    };
    let waiting = match notice.open {
        1 => "1 waits".to_owned(),
        many => format!("{many} wait"),
    };
    format!("{what}: {class}: {sentence} ({waiting}{keys})\n  {look}\n")
}

/// What a notice is about, in few words.
fn what(notice: &Notice) -> String {
    match (notice.kind, &notice.cause) {
        (NoticeKind::Issue, Some((step, _))) => {
            format!("new issue in {} at {step}", notice.flow)
        }
        (NoticeKind::Issue, None) => format!("new issue in {}", notice.flow),
        (NoticeKind::Source, _) => format!("the source of {} fails", notice.flow),
        (NoticeKind::System, _) => format!("the system {} takes no calls", notice.subject),
    }
}

/// Where more is shown: a command, or the log.
fn look(notice: &Notice) -> String {
    match (notice.kind, notice.exception) {
        (NoticeKind::Issue, Some(id)) => format!("crossdock exceptions show {}", id.0),
        (NoticeKind::Issue, None) => "crossdock exceptions --issues".to_owned(),
        (NoticeKind::Source, _) => "the log of the engine says more".to_owned(),
        (NoticeKind::System, _) => "crossdock systems".to_owned(),
    }
}

/// The notice's sentence on one line, cut where it is long.
fn sentence(notice: &Notice) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut letters = notice.message.chars().map(plain);
    let mut sentence: String = letters.by_ref().take(SENTENCE_CHARS_MAX).collect();
    if letters.next().is_some() {
        sentence.push_str("..");
    }
    sentence
}

fn keys(notice: &Notice) -> Value {
    let keys = notice.keys.as_deref();
    keys.and_then(|keys| serde_json::from_str(keys).ok())
        .unwrap_or(Value::Null)
}

fn pairs(keys: &serde_json::Map<String, Value>) -> String {
    let pairs: Vec<String> = keys
        .iter()
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={}", text.escape_debug()),
            other => format!("{name}={other}"),
        })
        .collect();
    pairs.join(" ")
}

fn subject(notices: &[Notice]) -> String {
    match notices {
        [one] => format!("Crossdock: {}", what(one)),
        many => format!("Crossdock: {} notices", many.len()),
    }
}

fn as_json(notice: &Notice) -> Value {
    let of_issue = notice.kind == NoticeKind::Issue;
    let flow = Some(&*notice.flow).filter(|flow| !flow.is_empty());
    json!({
        "id": notice.id,
        "at_ms": notice.at_ms,
        "kind": notice.kind.name(),
        "issue": of_issue.then_some(&notice.subject),
        "system": (notice.kind == NoticeKind::System).then_some(&notice.subject),
        "flow": flow,
        "step": notice.cause.as_ref().map(|(step, _)| step),
        "class": notice.cause.as_ref().map(|(_, class)| class.name()),
        "message": sentence(notice),
        "exception": notice.exception.map(|id| id.0),
        "open": of_issue.then_some(notice.open),
        "keys": keys(notice),
        "look": look(notice),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(id: i64, at_ms: i64) -> Notice {
        Notice {
            id,
            at_ms,
            kind: NoticeKind::Source,
            subject: "orders".to_owned(),
            flow: Arc::from("orders"),
            message: "the folder\nis gone".to_owned(),
            exception: None,
            cause: None,
            open: 0,
            keys: None,
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_only_what_is_old_is_given_up() {
        let day_ms = 86_400_000;
        let notices = [notice(1, 0), notice(2, 0), notice(3, day_ms)];
        let mut told = Told::default();
        let mut pauses = Vec::new();
        for _ in 1..ATTEMPTS_MAX {
            told = after_failure(day_ms, told, &notices);
            pauses.push(told.next_at_ms - day_ms);
        }
        assert_eq!(pauses[..3], [2_000, 4_000, 8_000]);
        assert_eq!(pauses.last(), Some(&600_000));
        assert_eq!(told.notice, 0, "it is tried on");
        told = after_failure(day_ms, told, &notices);
        assert_eq!(told.notice, 2, "what has come since is tried on");
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_silence_an_address() {
        let told = after_failure(5_000_000, Told::default(), &[notice(1, 0)]);
        assert!(waits(5_001_000, told));
        assert!(!waits(5_002_000, told));
        assert!(!waits(5_000_000 - 86_400_000, told));
    }

    #[test]
    fn a_sentence_is_one_line_and_bounded() {
        let mut notice = notice(1, 0);
        assert_eq!(
            text(std::slice::from_ref(&notice)),
            "the source of orders fails: the folder is gone\n  the log of the engine says more\n"
        );
        notice.message = "x".repeat(600);
        assert_eq!(sentence(&notice).len(), SENTENCE_CHARS_MAX + 2);
    }
}
