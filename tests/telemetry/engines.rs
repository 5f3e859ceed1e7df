//! An order's trace when one engine accepts it and another one delivers it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::faults::backing::{Backing, Services};
use crate::support::receiver::Receiver;
use crate::support::{Sandbox, eventually};

/// A span, and the engine that has exported it.
type Told = (String, Value);

fn engine(backing: &Backing, collector: &Receiver, web: &Receiver) -> Sandbox {
    let sandbox = backing.under(Sandbox::new()).unwrap();
    let path = sandbox.root().join("crossdock.yaml");
    let settings = std::fs::read_to_string(path).unwrap();
    let otlp = format!(
        "telemetry: {{ otlp: {{ endpoint: 'http://{}' }} }}\n",
        collector.address
    );
    sandbox.file("crossdock.yaml", &(settings + &otlp));
    sandbox.file(
        "systems/erp.yaml",
        &format!(
            "system: erp\nhttp: {{ base_url: 'http://{}' }}\n",
            web.address
        ),
    );
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders
source: { webhook: { path: /orders, verify: none } }
sinks:
  erp: { http: { system: erp, post: /orders, idempotency_key: number } }
",
    );
    sandbox
}

/// All spans so far, by trace.
fn traces(collector: &Receiver) -> BTreeMap<String, Vec<Told>> {
    let mut traces: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for (_, body) in collector.taken() {
        let body: Value = serde_json::from_str(&body).unwrap();
        let resource = &body["resourceSpans"][0];
        let attributes = resource["resource"]["attributes"].as_array().unwrap();
        let instance = attributes
            .iter()
            .find(|attribute| attribute["key"] == "service.instance.id")
            .unwrap()["value"]["stringValue"]
            .as_str()
            .unwrap();
        for span in resource["scopeSpans"][0]["spans"].as_array().unwrap() {
            let trace = span["traceId"].as_str().unwrap().to_owned();
            let told = (instance.to_owned(), span.clone());
            traces.entry(trace).or_default().push(told);
        }
    }
    traces
}

#[test]
fn one_trace_leads_over_two_engines() {
    let services = Services::shared().unwrap_or_else(|error| panic!("{error}"));
    let backing = Backing::on(services);
    let (web, collector) = (Receiver::web(), Receiver::web());
    web.answers_orders(201);
    let engines = [(); 2].map(|()| engine(&backing, &collector, &web));
    let running = engines.each_ref().map(Sandbox::start);
    let mut sent = 0;
    let trace = eventually(
        "an order accepted by one and delivered by the other",
        || {
            sent += 1;
            let sender = format!("00-{sent:032x}-00f067aa0ba902b7-01");
            let headers = [
                ("content-type", "application/json"),
                ("traceparent", &sender),
            ];
            let body = format!("{{\"number\": \"{sent}\"}}");
            let reply = engines[0].send("POST", "/orders", &headers, body.as_bytes());
            assert_eq!(reply.unwrap().status, 200);
            let whole =
                |trace: &Vec<Told>| trace.iter().any(|(_, span)| span["name"] == "POST erp");
            let over_two = |trace: &Vec<Told>| trace.iter().any(|(who, _)| *who != trace[0].0);
            let mut traces = traces(&collector).into_values();
            traces.find(|trace| trace.len() >= 3 && whole(trace) && over_two(trace))
        },
    );
    let named = |name: &str| {
        let found = trace.iter().find(|(_, span)| span["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {trace:#?}"))
    };
    let (accepted, processed) = (named("POST /orders"), named("process orders/erp"));
    let call = named("POST erp");
    assert_eq!(accepted.1["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(processed.1["parentSpanId"], accepted.1["spanId"]);
    assert_eq!(call.1["parentSpanId"], processed.1["spanId"]);
    assert!(accepted.0 != call.0 && processed.0 == call.0, "{trace:#?}");
    let books = engines[0].books_at_rest(sent);
    assert_eq!(books["all"]["delivered"], sent, "{books}");
    drop(running);
}
