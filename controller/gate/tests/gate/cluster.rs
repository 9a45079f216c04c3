//! The API server, played.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::{BoxFuture, ready};
use microagent_gate::{Access, Decision, ReviewError, Reviews, User};

/// Knows the tokens `jane-token` and `joe-token`. Jane may do everything; others may do what they are granted.
#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) ca: Mutex<Option<String>>,
    pub(crate) fault: Mutex<Option<fn() -> ReviewError>>,
    pub(crate) granted: Mutex<Vec<User>>,
    pub(crate) asked: Mutex<Vec<(User, Access)>>,
    pub(crate) tokens: AtomicUsize,
    pub(crate) reads: AtomicUsize,
}

impl Cluster {
    fn answer<T: Send + 'static>(&self, value: T) -> BoxFuture<'_, Result<T, ReviewError>> {
        let fault = *self.fault.lock().unwrap();
        Box::pin(ready(fault.map_or(Ok(value), |fault| Err(fault()))))
    }
}

pub(crate) fn user(name: &str) -> User {
    let extra = BTreeMap::from([("scopes".to_owned(), vec!["all".to_owned()])]);
    let groups = vec!["devs".to_owned(), "system:authenticated".to_owned()];
    User { name: name.to_owned(), uid: Some(format!("uid-{name}")), groups, extra }
}

impl Reviews for Cluster {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, ReviewError>> {
        self.tokens.fetch_add(1, Ordering::Relaxed);
        self.answer(token.strip_suffix("-token").filter(|name| ["jane", "joe"].contains(name)).map(user))
    }

    fn authorise<'a>(&'a self, user: &'a User, access: &'a Access) -> BoxFuture<'a, Result<Decision, ReviewError>> {
        self.asked.lock().unwrap().push((user.clone(), access.clone()));
        let allowed = user.name == "jane" || self.granted.lock().unwrap().contains(user);
        self.answer(if allowed { Decision::Allowed } else { Decision::Denied("no role".to_owned()) })
    }

    fn client_ca(&self) -> BoxFuture<'_, Result<Option<String>, ReviewError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.answer(self.ca.lock().unwrap().clone())
    }
}
