//! The OpenAPI document of the APIs that run, for whoever asks at `/openapi.json`, where the settings say so.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, StatusCode};

use super::Shared;
use crate::flow::openapi;
use crate::flow::plan::Project;
use crate::net::listener::{Receive, Received, Registration, Reply};
use crate::world::Pending;

/// Where it is served.
const PATH: &str = "/openapi.json";

/// The document, made once for each project that runs.
struct Offered {
    shared: Arc<Shared>,
    made: Mutex<Option<(Arc<Project>, Bytes)>>,
}

/// Serves the document as long as the registration lives.
pub(super) fn serve(shared: &Arc<Shared>) -> Registration {
    let offered = Offered {
        shared: shared.clone(),
        made: Mutex::default(),
    };
    let listener = &shared.listener;
    listener.register(Method::GET, PATH, Arc::new(offered))
}

impl Receive for Offered {
    fn receive(&self, _: Received) -> Pending<'_, Reply> {
        Box::pin(std::future::ready(self.reply()))
    }

    fn body_max(&self) -> usize {
        0
    }
}

impl Offered {
    fn reply(&self) -> Reply {
        let project = self.shared.live.now().project.clone();
        if !project.settings.apis.openapi {
            let why = "the document is not served here (`apis.openapi` in crossdock.yaml)";
            return Reply::problem(StatusCode::NOT_FOUND, why);
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let document = match &*made {
            Some((of, document)) if Arc::ptr_eq(of, &project) => document.clone(),
            _ => {
                let document = Bytes::from(openapi::document(&project).to_string());
                *made = Some((project.clone(), document.clone()));
                document
            }
        };
        Reply::json(StatusCode::OK, document)
    }
}
