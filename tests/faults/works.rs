//! Work in every form that the engine takes it: webhooks, files, a feed that is polled, a schedule. And what tests ask the source code.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::failpoints::Work;
use super::rig::{Options, Other, Rig};

/// Orders of one file, of one page of the feed, and of one round of webhooks.
const AT_ONCE: u64 = 4;
/// Webhooks come in rounds of so many orders: every kind is among them.
const ORDERS_A_ROUND: u64 = 100;
/// A new round of work begins when the last one has had this time.
const ROUND: Duration = Duration::from_millis(1_500);
/// So long a changed project is given to be loaded before it is changed again: each change is one more revision that every start must load.
const CHANGED_WITHIN: Duration = Duration::from_secs(10);

/// A rig whose project takes orders in every way.
pub struct Works {
    /// The rig.
    pub rig: Rig,
    files: u64,
    changes: u32,
    changed: Option<Instant>,
    rotated: u64,
    feed: Arc<AtomicU64>,
    fed: Option<Instant>,
}

impl Works {
    /// Sets the rig up with a feed and a schedule beside the storefront and the folder. The engine is not started yet.
    pub async fn set(options: Options) -> Result<Works, String> {
        let mut rig = Rig::set(options).await?;
        let feed = Arc::new(AtomicU64::new(0));
        let address = serve_feed(feed.clone()).await?;
        rig.engine.set("FEED_URL", format!("http://{address}"));
        rig.add("systems/feed.yaml", "system: feed\nowner: tests\ndescription: Orders to be polled.\nhttp: { base_url: \"${env:FEED_URL}\" }\n")?;
        rig.add("flows/feed.yaml", FEED)?;
        rig.edit(
            "crossdock.yaml",
            "[storefront, field-sales]",
            "[storefront, field-sales, feed]",
        )?;
        rig.add("flows/clock.yaml", "flow: clock\ndescription: Ticks.\nowner: tests\nsource:\n  schedule: { cron: \"* * * * *\" }\nsinks:\n  nowhere: { discard: {} }\n")?;
        rig.edit(
            "flows/fieldsales-orders.yaml",
            "archive: inbox/field-sales/done",
            "settle: 50ms\n    every: 100ms\n    archive: inbox/field-sales/done",
        )?;
        Ok(Works {
            rig,
            files: 0,
            changes: 0,
            changed: None,
            rotated: 0,
            feed,
            fed: None,
        })
    }

    /// Sees to it that there is work of this kind.
    pub async fn feed(&mut self, work: Work) -> Result<(), String> {
        if self.fed.is_some_and(|at| at.elapsed() < ROUND) {
            return Ok(());
        }
        self.fed = Some(Instant::now());
        match work {
            Work::Keys | Work::Probe | Work::Neither | Work::Rotate => {
                self.rig.send_more(ORDERS_A_ROUND)
            }
            Work::Files => self.drop_file()?,
            Work::Feed => {
                let first = self.feed.load(Ordering::SeqCst);
                for nth in first..first + AT_ONCE {
                    self.rig.note_other("feed", &fed_order(nth))?;
                }
                self.feed.store(first + AT_ONCE, Ordering::SeqCst);
            }
            Work::Reload => {
                self.rig.send_more(ORDERS_A_ROUND);
                if self.changed.is_none_or(|at| at.elapsed() >= CHANGED_WITHIN) {
                    self.change_flows()?;
                    self.changed = Some(Instant::now());
                }
            }
            Work::Start | Work::Stop | Work::Clock => {}
        }
        Ok(())
    }

    /// What has been fed so far counts no more: the next question for work gives some at once.
    pub fn hungry(&mut self) {
        self.fed = None;
        self.changed = None;
    }

    /// Moves the files that are appended to away, as a rotation does; the engine must be at rest and not running.
    pub fn rotate(&mut self) -> Result<(), String> {
        let folder = self.rig.root().join("audit");
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.map_err(|error| error.to_string())?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("orders-") {
                self.rotated += 1;
                std::fs::rename(&path, folder.join(format!("rotated-{}", self.rotated)))
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Says something else in each flow: all have another revision then, and do the same.
    fn change_flows(&mut self) -> Result<(), String> {
        let wrong = |error: std::io::Error| error.to_string();
        self.changes += 1;
        let folder = self.rig.root().join("flows");
        for entry in std::fs::read_dir(&folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            let name = path.to_string_lossy();
            if !name.ends_with(".yaml") || name.ends_with(".test.yaml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(wrong)?;
            let kept = text
                .lines()
                .filter(|line| !line.starts_with("description:"));
            let mut text = kept.collect::<Vec<_>>().join("\n");
            text.push_str(&format!("\ndescription: changed {} times\n", self.changes));
            std::fs::write(&path, text).map_err(wrong)?;
        }
        Ok(())
    }

    fn drop_file(&mut self) -> Result<(), String> {
        let wrong = |error: std::io::Error| error.to_string();
        let folder = self.rig.root().join("inbox/field-sales");
        std::fs::create_dir_all(&folder).map_err(wrong)?;
        let mut text = HEADER.to_owned();
        for nth in 0..AT_ONCE {
            let number = format!("FS-{}", 1_000 + self.files * AT_ONCE + nth);
            let order = Other {
                number,
                customer: "C-1007".to_owned(),
                total: "37.50".to_owned(),
            };
            text += &ROW.replace("NUMBER", &order.number);
            self.rig.note_other("fieldsales-orders", &order)?;
        }
        let name = format!("orders-{}.csv", self.files);
        self.files += 1;
        std::fs::write(folder.join(format!(".{name}")), text).map_err(wrong)?;
        std::fs::rename(folder.join(format!(".{name}")), folder.join(name)).map_err(wrong)
    }
}

const HEADER: &str = "order_no;order_date;rep;account_no;account_name;po_number;ship_name;ship_street;ship_city;ship_postcode;ship_country;currency;sku_1;qty_1;unit_1;price_1;sku_2;qty_2;unit_2;price_2;sku_3;qty_3;unit_3;price_3;sku_4;qty_4;unit_4;price_4;sku_5;qty_5;unit_5;price_5;note\n";
const ROW: &str = "NUMBER;2026-11-20T16:40:00+01:00;J. Moreau;C-1007;Ateliers du Rhin;AR-5512;Ateliers du Rhin;12 rue du Port;Strasbourg;67000;France;EUR;BRG-6204-2RS;2;each;18.75;;;;;;;;;;;;;;;;;\n";

const FEED: &str = r#"flow: feed
description: Orders that are polled.
owner: tests
source:
  poll:
    system: feed
    get: "/feed/{{@cursor}}"
    items: items
    every: 200ms
    cursor: { value: externalId, start: "0" }
accepts: canonical/order.v1
keys: { order: orderNumber }
steps:
  - id: first
    dedupe: { key: orderNumber, keep: 1d }
sinks:
  booking: { flow: order-booking }
"#;

fn fed_order(nth: u64) -> Other {
    Other {
        number: format!("FD-{}", nth + 1),
        customer: "C-1042".to_owned(),
        total: "366.38".to_owned(),
    }
}

/// The order as the feed gives it.
fn canonical(nth: u64) -> Value {
    let order = fed_order(nth);
    let euros = |amount: &str| json!({"amount": amount, "currency": "EUR"});
    json!({
        "externalId": (nth + 1).to_string(), "orderNumber": order.number, "channel": "marketplace", "orderedAt": "2026-11-20T08:14:33Z",
        "currency": "EUR", "pricesIncludeTax": false, "customer": {"code": order.customer},
        "lineItems": [{"id": "1", "sku": "BRG-6204-2RS", "quantity": "1", "unit": "EA", "unitPrice": euros(&order.total), "totalPrice": euros(&order.total)}],
        "subTotalPrice": euros(&order.total), "totalPrice": euros(&order.total),
    })
}

/// A system that gives the orders behind a number, so many of them as there are now.
async fn serve_feed(count: Arc<AtomicU64>) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                continue;
            };
            let count = count.load(Ordering::SeqCst);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    let mut bytes = [0; 1024];
                    match stream.read(&mut bytes).await {
                        Ok(read) if read > 0 => head.extend_from_slice(&bytes[..read]),
                        _ => return,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let after: u64 = path
                    .rsplit('/')
                    .next()
                    .and_then(|number| number.parse().ok())
                    .unwrap_or(0);
                let items: Vec<Value> = (after..count)
                    .take(AT_ONCE as usize)
                    .map(canonical)
                    .collect();
                let body = json!({"items": items}).to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.ok();
            });
        }
    });
    Ok(address)
}

/// How the engine has ended, if it has.
pub fn has_ended(rig: &mut Rig) -> Option<ExitStatus> {
    rig.engine.ended()
}

/// The first arguments of all calls of these functions below `engine/`.
pub fn calls_in_source(module: &str, functions: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("engine")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for function in functions {
                    let call = format!("{module}{function}(\"");
                    let names = text
                        .split(&call)
                        .skip(1)
                        .filter_map(|rest| rest.split('"').next());
                    found.extend(names.map(str::to_owned));
                }
            }
        }
    }
    found
}
