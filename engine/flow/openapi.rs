//! The OpenAPI document of a project's APIs: what callers read. It is made from the plans and says nothing of who the clients are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::plan::{Plan, Project};
use crate::component::api::Api;
use crate::schema::bundle::part_name;
use crate::source::Ready;

/// Where the parts of the document are.
const SCHEMAS: &str = "#/components/schemas/";
const RESPONSES: &str = "#/components/responses/";
/// Headers that say nothing where OpenAPI lists parameters.
const UNLISTED: [&str; 3] = ["accept", "content-type", "authorization"];

/// The APIs of a project, each with its flow, by path and method.
pub fn apis(project: &Project) -> Vec<(&Plan, &Api)> {
    let plans = project.plans.values();
    let mut apis: Vec<(&Plan, &Api)> = plans
        .filter_map(|plan| match &plan.source {
            Ready::Runs(source) => Some((&**plan, source.api()?)),
            Ready::Flow => None,
        })
        .collect();
    apis.sort_by_key(|(_, api)| (api.path.clone(), api.method));
    apis
}

/// The document, OpenAPI 3.1.
pub fn document(project: &Project) -> Value {
    let apis = apis(project);
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (plan, api) in &apis {
        let operations = paths.entry(&api.path).or_default();
        operations.insert(api.method.to_ascii_lowercase(), operation(plan, api));
    }
    let contracts = apis.iter().filter_map(|(plan, _)| plan.accepts.as_ref());
    let contracts = contracts.map(|accepts| accepts.name.to_string());
    let mut schemas = project.library.schemas.parts(contracts, SCHEMAS);
    schemas.insert("crossdock.accepted".to_owned(), accepted());
    schemas.insert("crossdock.problem".to_owned(), problem());
    let settings = &project.settings.apis;
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": settings.title.as_deref().unwrap_or("APIs"),
            "version": project.revision,
            "description": "Accepted means durable: a call is answered with 202 only once its message is on disk."
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses(),
            "headers": headers(),
            "securitySchemes": {
                "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
                "bearer": { "type": "http", "scheme": "bearer", "description": "A key, or a token (JWT) of an issuer that is trusted here." }
            }
        }
    });
    if let Some(server) = &settings.server {
        document["servers"] = json!([{ "url": server }]);
    }
    document
}

fn operation(plan: &Plan, api: &Api) -> Value {
    let mut answers = Map::new();
    let header = |name: &str| json!({ "$ref": format!("#/components/headers/{name}") });
    let mut told =
        json!({ "RateLimit": header("RateLimit"), "RateLimit-Policy": header("RateLimit-Policy") });
    if let Some(leaving) = &api.deprecated {
        told["Deprecation"] = header("Deprecation");
        if leaving.sunset_ms.is_some() {
            told["Sunset"] = header("Sunset");
        }
    }
    answers.insert(
        "202".to_owned(),
        json!({
            "description": "The message is durable, or was before.",
            "headers": told,
            "content": { "application/json": { "schema": { "$ref": format!("{SCHEMAS}crossdock.accepted") } } }
        }),
    );
    for (status, _) in PROBLEMS {
        if status != "401" || api.clients.is_some() {
            let answer = json!({ "$ref": format!("{RESPONSES}{status}") });
            answers.insert(status.to_owned(), answer);
        }
    }
    let mut parameters = vec![json!({
        "name": "Idempotency-Key", "in": "header", "required": false,
        "description": "A repeat with the same key has no second effect.",
        "schema": { "type": "string", "minLength": 1, "maxLength": 255 }
    })];
    let kept = api.headers.iter();
    let kept = kept.filter(|name| !UNLISTED.contains(&name.as_str()) && *name != "idempotency-key");
    parameters.extend(kept.map(|name| {
        json!({ "name": name, "in": "header", "required": false, "schema": { "type": "string" } })
    }));
    let mut operation = json!({
        "operationId": plan.flow,
        "tags": [api.version],
        "parameters": parameters,
        "security": match api.clients {
            Some(_) => json!([{ "key": [] }, { "bearer": [] }]),
            None => json!([]),
        },
        "responses": answers,
    });
    if !plan.description.is_empty() {
        operation["summary"] = json!(plan.description);
    }
    if let Some(accepts) = &plan.accepts {
        let schema = format!("{SCHEMAS}{}", part_name(&accepts.name));
        let content = json!({ "application/json": { "schema": { "$ref": schema } } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    if let Some(leaving) = &api.deprecated {
        operation["deprecated"] = json!(true);
        operation["x-deprecated-since"] = json!(day(leaving.since_ms));
        operation["x-sunset"] = json!(leaving.sunset_ms.map(day));
        if let Some(link) = &leaving.link {
            operation["externalDocs"] = json!({ "url": link });
        }
    }
    operation
}

/// The day of a time in milliseconds since 1970, such as `2026-12-31`.
pub fn day(ms: i64) -> String {
    let at = Timestamp::from_millisecond(ms).unwrap_or_default();
    at.strftime("%Y-%m-%d").to_string()
}

/// The problems that a caller may be told, by status.
const PROBLEMS: [(&str, &str); 8] = [
    ("400", "The body is no JSON, or a header cannot be."),
    ("401", "No credential that counts here."),
    ("408", "The body did not come in time."),
    ("413", "The body is too large."),
    (
        "415",
        "The body is of a kind, or packed in a way, that is not known.",
    ),
    ("422", "The body breaks the contract: `errors` says where."),
    (
        "429",
        "Called too often, or the engine is full: see `Retry-After`.",
    ),
    (
        "503",
        "Nothing can be taken at the moment: see `Retry-After`.",
    ),
];

fn responses() -> Value {
    let content = json!({ "application/problem+json": { "schema": { "$ref": format!("{SCHEMAS}crossdock.problem") } } });
    let answers = PROBLEMS.iter().map(|(status, description)| {
        let mut answer = json!({ "description": description, "content": content });
        if ["429", "503"].contains(status) {
            answer["headers"] =
                json!({ "Retry-After": { "$ref": "#/components/headers/Retry-After" } });
        }
        ((*status).to_owned(), answer)
    });
    Value::Object(answers.collect())
}

fn headers() -> Value {
    let text =
        |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    json!({
        "RateLimit": text("How many calls are left, and in how many seconds they are all there again: `\"default\";r=99;t=60`."),
        "RateLimit-Policy": text("How many calls a window of how many seconds takes: `\"default\";q=100;w=60`."),
        "Deprecation": text("Since when this should no longer be used (RFC 9745)."),
        "Sunset": text("From when on this may be gone (RFC 8594)."),
        "Retry-After": { "description": "In how many seconds to call again.", "schema": { "type": "integer", "minimum": 1 } }
    })
}

fn accepted() -> Value {
    json!({
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": { "enum": ["accepted", "duplicate"] },
            "id": { "type": "string", "description": "What the message is called here, for questions about it. Of a duplicate the first answer said it." }
        }
    })
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "A problem, RFC 9457.",
        "required": ["type", "title", "status"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "errors": { "type": "array", "items": {
                "type": "object",
                "required": ["detail"],
                "properties": {
                    "pointer": { "type": "string", "description": "Where in the body: a JSON Pointer as a fragment." },
                    "detail": { "type": "string" }
                }
            } }
        }
    })
}
