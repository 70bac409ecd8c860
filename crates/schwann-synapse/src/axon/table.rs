//! Routes that come and go while an axon serves.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use crate::route::Route;

/// Routes beside those that were [attached](crate::axon::AxonBuilder::attach), changed while the axon serves. Cheap to clone; clones
/// are one table.
///
/// Callers of its routes pass the same steps. Whether they are verified is the axon's to say: a route here that says otherwise
/// ([`Route::verify`], [`Route::verify_with`], [`Route::bound`]) is not served. A route that was attached goes before one of the same
/// name. In metrics all of them have the label `(table)`, because their names may be many.
#[derive(Clone, Default)]
pub struct RouteTable(Arc<RwLock<HashMap<String, Arc<Route>>>>);

impl RouteTable {
    /// A table without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves these from now on, and no others. Calls under way go on. Of two with one name the last is served.
    pub fn set(&self, routes: impl IntoIterator<Item = Route>) {
        let fit = |route: &Route| {
            route.verify.is_none() && route.bound.is_none() && route.verify_with.is_none()
        };
        let routes = routes.into_iter().filter(fit);
        let table = routes.map(|route| (route.name().to_owned(), Arc::new(route))).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// Whether there is a route of this name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Route>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(table.keys()).finish()
    }
}
