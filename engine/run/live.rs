//! The project that runs now. A reload puts another one in its place; whoever needs both of two things asks once.

use std::sync::{Arc, PoisonError, RwLock};

use super::intake::Limits;
use crate::flow::plan::Project;

/// The project that runs now.
pub(super) struct Live(RwLock<Arc<Current>>);

/// A project, and what follows from it for all flows together.
pub(super) struct Current {
    /// The project.
    pub(super) project: Arc<Project>,
    /// How many messages flows may have in flight.
    pub(super) limits: Limits,
}

impl Live {
    pub(super) fn new(project: Arc<Project>) -> Live {
        Live(RwLock::new(Arc::new(Current::of(project))))
    }

    /// What runs now.
    pub(super) fn now(&self) -> Arc<Current> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Another project runs from now on.
    pub(super) fn put(&self, project: Arc<Project>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Current::of(project));
    }
}

impl Current {
    fn of(project: Arc<Project>) -> Current {
        Current {
            limits: Limits::of(&project),
            project,
        }
    }
}
