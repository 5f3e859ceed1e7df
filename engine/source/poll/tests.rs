//! Promises of the poll source, against a system that pages, fails and forgets.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::*;
use crate::component::Library;
use crate::diagnostic::{File, Findings};
use crate::net::listener::{Listener, Receive, Received, Registration, Reply};
use crate::source::fake::{self, Fake};
use crate::world::World;
use crate::yaml::shape::Formats;

/// Answers in order, then with the last answer; remembers what was asked.
struct Shop {
    answers: Mutex<VecDeque<Reply>>,
    asked: Mutex<Vec<String>>,
}

impl Receive for Shop {
    fn receive(&self, request: Received) -> Pending<'_, Reply> {
        self.asked.lock().unwrap().push(request.uri.to_string());
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 {
            answers.pop_front()
        } else {
            answers.front().cloned()
        };
        Box::pin(std::future::ready(answer.expect("there is an answer")))
    }

    fn body_max(&self) -> usize {
        0
    }
}

struct Site {
    listener: Listener,
    shop: Arc<Shop>,
    library: Library,
    fake: Arc<Fake>,
    _registration: Registration,
}

struct AnyFormat;

impl Formats for AnyFormat {
    fn check(&self, _: &str, _: &crate::yaml::Node, _: &Arc<File>, _: &mut Findings) {}
}

async fn site(answers: Vec<Reply>) -> Site {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let shop = Arc::new(Shop {
        answers: Mutex::new(answers.into()),
        asked: Mutex::default(),
    });
    let registration = listener.register(Method::GET, "/api/orders", shop.clone());
    let text = format!(
        "system: shop\nhttp: {{ base_url: 'http://{}/api' }}\n",
        listener.local_addr()
    );
    let (file, mut findings) = (File::new("systems/shop.yaml", text), Findings::new());
    let node = crate::yaml::parse(&file, &mut findings).unwrap();
    let system = System::parse(&file, &node, &AnyFormat, &mut findings);
    let mut library = Library::default();
    library.systems.insert(
        "shop".to_owned(),
        Arc::new(system.expect("the system is well")),
    );
    Site {
        listener,
        shop,
        library,
        fake: Fake::new(),
        _registration: registration,
    }
}

fn page(items: impl IntoIterator<Item = &'static str>, rest: &str) -> Reply {
    let items: Vec<_> = items.into_iter().collect();
    let body = format!("{{\"orders\":[{}]{rest}}}", items.join(","));
    Reply::json(StatusCode::OK, Bytes::from(body))
}

fn linked(reply: Reply, link: &str) -> Reply {
    reply.with_header(
        HeaderName::from_static("link"),
        HeaderValue::from_str(link).unwrap(),
    )
}

impl Site {
    /// Runs until something holds, stops within a second, and gives how it ended.
    async fn run(
        &self,
        config: &str,
        what: &str,
        holds: impl Fn(&fake::State) -> bool,
    ) -> Result<(), Failure> {
        let (ready, findings) = fake::build(&format!("poll: {config}"), &self.library);
        let Some(Ready::Runs(source)) = ready else {
            panic!("{findings:?}")
        };
        let cx = fake::intake(&self.fake, World::real(), Path::new("."), &self.listener);
        let mut running = tokio::spawn(source.run(cx.clone()));
        tokio::select! {
            ended = &mut running => return ended.unwrap(),
            () = self.fake.until(what, holds) => {}
        }
        cx.stop.cancel();
        tokio::time::timeout(Duration::from_secs(1), running)
            .await
            .unwrap()
            .unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.shop.asked.lock().unwrap().clone()
    }
}

const PLAIN: &str = "{ system: shop, get: /orders, items: orders, every: 20ms }";

#[tokio::test]
async fn every_round_brings_all_where_there_is_no_cursor() {
    let site = site(vec![page(["{\"id\":1,\"price\":1.50}"], "")]).await;
    site.run(PLAIN, "two rounds", |state| state.stored.len() >= 2)
        .await
        .unwrap();
    assert_eq!(site.fake.bodies()[1], "{\"id\":1,\"price\":1.50}");
    assert_eq!(site.asked()[0], "/api/orders");
}

#[tokio::test]
async fn numbered_pages_go_on_until_one_is_not_full() {
    let site = site(vec![
        page(["1", "2"], ""),
        page(["3", "4"], ""),
        page(["5"], ""),
        page([], ""),
    ])
    .await;
    let config = "{ system: shop, get: '/orders?a=b', items: orders, every: 10m, paging: { page: { param: page, size_param: n, size: 2 } } }";
    site.run(config, "all items", |state| state.stored.len() == 5)
        .await
        .unwrap();
    assert_eq!(
        site.asked(),
        [
            "/api/orders?a=b&page=1&n=2",
            "/api/orders?a=b&page=2&n=2",
            "/api/orders?a=b&page=3&n=2"
        ]
    );
    assert_eq!(site.fake.state().batches, [2, 2, 1], "a page is one commit");
}

#[tokio::test]
async fn tokens_and_links_are_followed() {
    let by_token = site(vec![
        page(["1"], ",\"next\":\"a b\""),
        page(["2"], ",\"next\":\"\""),
    ])
    .await;
    let config = "{ system: shop, get: /orders, items: orders, every: 10m, paging: { cursor: { next: next, param: after } } }";
    by_token
        .run(config, "both pages", |state| state.stored.len() == 2)
        .await
        .unwrap();
    assert_eq!(by_token.asked(), ["/api/orders", "/api/orders?after=a%20b"]);
    let by_link = site(vec![
        linked(page(["1"], ""), "</api/orders?p=2>; rel=\"next\""),
        linked(page(["2"], ""), "<?p=3>; rel=next"),
        page(["3"], ""),
    ])
    .await;
    let config = "{ system: shop, get: /orders, items: orders, every: 10m, paging: { link: {} } }";
    by_link
        .run(config, "all pages", |state| state.stored.len() == 3)
        .await
        .unwrap();
    assert_eq!(
        by_link.asked(),
        ["/api/orders", "/api/orders?p=2", "/api/orders?p=3"]
    );
    let elsewhere = site(vec![linked(
        page(["1"], ""),
        "<http://169.254.169.254/secret>; rel=\"next\"",
    )])
    .await;
    let failure = elsewhere.run(config, "never", |_| false).await.unwrap_err();
    assert!(failure.message.contains("elsewhere"), "{failure}");
}

const CURSOR_CONFIG: &str =
    "{ system: shop, get: '/orders?since={{@cursor}}', items: orders, every: 20ms,
    cursor: { value: at, start: '2026-01-01T00:00:00Z', overlap: 10m } }";

#[tokio::test]
async fn a_cursor_moves_with_its_messages_and_overlaps() {
    let site = site(vec![
        page(
            [
                "{\"at\":\"2026-02-01T02:00:00+02:00\"}",
                "{\"at\":\"2026-01-31T23:30:00Z\"}",
                "{\"at\":\"2099-01-01T00:00:00Z\"}",
            ],
            "",
        ),
        page([], ""),
    ])
    .await;
    site.run(CURSOR_CONFIG, "the first round", |state| {
        state.stored.len() == 3
    })
    .await
    .unwrap();
    site.run(CURSOR_CONFIG, "another round", |_| site.asked().len() >= 3)
        .await
        .unwrap();
    assert_eq!(
        site.asked()[0],
        "/api/orders?since=2026-01-01T00%3A00%3A00Z"
    );
    assert_eq!(
        site.asked().last().unwrap(),
        "/api/orders?since=2026-01-31T23%3A50%3A00Z"
    );
    assert_eq!(
        site.fake.state().batches.len(),
        1,
        "a round without news commits nothing"
    );
    let (ready, _) = fake::build(&format!("poll: {CURSOR_CONFIG}"), &site.library);
    assert!(matches!(ready, Some(Ready::Runs(source)) if source.overlaps()));
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_round_goes_on_with_the_next_page() {
    let config = "{ system: shop, get: '/orders?since={{@cursor}}', items: orders, every: 10m,
        paging: { page: { param: page, size: 1 } }, cursor: { value: n, start: '0' } }";
    let site = site(vec![
        page(["{\"n\":10}"], ""),
        page(["{\"n\":9}"], ""),
        page([], ""),
    ])
    .await;
    let down = Failure::new(Class::Unavailable, "down");
    site.fake.state().failing = std::iter::once(None)
        .chain(std::iter::repeat_n(Some(down), 100))
        .collect();
    site.run(config, "the first page", |_| site.asked().len() == 2)
        .await
        .unwrap();
    assert_eq!(site.fake.bodies(), ["{\"n\":10}"]);
    site.fake.state().failing.clear();
    site.shop
        .answers
        .lock()
        .unwrap()
        .push_front(page(["{\"n\":9}"], ""));
    site.run(config, "the end of the round", |state| {
        state
            .cursors
            .values()
            .any(|cursor| !cursor.contains("next"))
    })
    .await
    .unwrap();
    assert_eq!(site.fake.bodies(), ["{\"n\":10}", "{\"n\":9}"]);
    let pages: Vec<String> = ["1", "2", "2", "3"]
        .map(|page| format!("/api/orders?since=0&page={page}"))
        .into();
    assert_eq!(site.asked(), pages, "the round keeps its beginning");
    assert!(
        site.fake.state().cursors["poll"].contains("\"since\":\"10\""),
        "numbers are compared as numbers"
    );
}

#[tokio::test]
async fn a_forgotten_page_begins_the_round_anew() {
    let config = "{ system: shop, get: /orders, items: orders, every: 20ms, paging: { cursor: { next: next, param: after } } }";
    let site = site(vec![
        page(["1"], ",\"next\":\"a\""),
        Reply::problem(StatusCode::NOT_FOUND, "expired"),
        page(["1"], ",\"next\":\"b\""),
        page(["2"], ""),
    ])
    .await;
    site.run(config, "the last page", |state| state.stored.len() == 3)
        .await
        .unwrap();
    assert_eq!(site.fake.bodies(), ["1", "1", "2"]);
}

#[tokio::test]
async fn a_system_that_repeats_a_page_is_told_not_asked_forever() {
    let config = "{ system: shop, get: /orders, items: orders, every: 20ms, paging: { page: { param: page } } }";
    let site = site(vec![page(["1"], "")]).await;
    let failure = site.run(config, "never", |_| false).await.unwrap_err();
    assert!(failure.message.contains("the same page again"), "{failure}");
    assert_eq!(site.fake.bodies(), ["1"]);
}

#[tokio::test]
async fn failures_wait_as_the_system_asks_and_do_not_lose_their_place() {
    let busy =
        Reply::problem(StatusCode::TOO_MANY_REQUESTS, "slow down").with_retry_after_ms(2_000);
    let waiting = site(vec![busy, page(["1"], "")]).await;
    let began = Instant::now();
    waiting
        .run(PLAIN, "the item", |state| !state.stored.is_empty())
        .await
        .unwrap();
    assert!(
        began.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        began.elapsed()
    );
    let refused = site(vec![Reply::problem(StatusCode::UNAUTHORIZED, "no")]).await;
    let failure = refused.run(PLAIN, "never", |_| false).await.unwrap_err();
    assert_eq!(failure.class, Class::Auth);
    for (answer, says) in [
        ("[1]", "is null"),
        ("{\"orders\":7}", "are no list"),
        ("{\"ord", ""),
    ] {
        let odd = site(vec![Reply::json(StatusCode::OK, answer)]).await;
        let failure = odd.run(PLAIN, "never", |_| false).await.unwrap_err();
        assert!(failure.message.contains(says), "{failure}");
    }
}

#[tokio::test]
async fn mistakes_in_the_config_are_found() {
    let site = site(vec![page([], "")]).await;
    for (config, expect) in [
        (
            "{ system: shop, get: '/a?s={{@cursor}}' }",
            vec!["conflicting-settings 1:28"],
        ),
        (
            "{ system: shop, get: /a, cursor: { value: at, start: x } }",
            vec!["conflicting-settings 1:28"],
        ),
        (
            "{ system: shop, get: '/a/{{id}}' }",
            vec!["bad-template 1:28"],
        ),
        (
            "{ system: shop, get: /a, every: 0s }",
            vec!["bad-value 1:39"],
        ),
        (
            "{ system: shop, get: /a, paging: { page: { param: p, size_param: s } } }",
            vec!["conflicting-settings 1:72"],
        ),
        (
            "{ system: shop, get: '{{@cursor}}', cursor: { value: at, start: x, overlap: 1m } }",
            vec!["conflicting-settings 1:83"],
        ),
        ("{ system: none, get: /a }", vec!["unknown-system 1:17"]),
    ] {
        assert_eq!(
            fake::build(&format!("poll: {config}"), &site.library).1,
            expect,
            "{config}"
        );
    }
}
