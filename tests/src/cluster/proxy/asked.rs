//! One request, in the words of RBAC.

use std::fmt;

use hyper::{Method, Uri};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`.
    pub verb: &'static str,
    /// `workspaces`, `workspaces/status`; the path where it is no resource.
    pub resource: String,
    /// The object's name; empty where none is named.
    pub name: String,
    /// The code of the answer; none while there is none, or when the connection was cut before it.
    pub code: Option<u16>,
}

impl Asked {
    pub(super) fn new(method: &Method, uri: &Uri) -> Self {
        let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let inner = match parts.as_slice() {
            ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
            _ => &[],
        };
        let inner = match inner {
            ["namespaces", _, resource, rest @ ..] => [&[*resource], rest].concat(),
            all => all.to_vec(),
        };
        let (resource, name) = match inner.as_slice() {
            [resource] => ((*resource).to_owned(), ""),
            [resource, name] => ((*resource).to_owned(), *name),
            [resource, name, subresource, ..] => (format!("{resource}/{subresource}"), *name),
            [] => (uri.path().to_owned(), ""),
        };
        let is_watch = uri.query().is_some_and(|query| query.split('&').any(|one| one == "watch=true"));
        let verb = match method.as_str() {
            "GET" if is_watch => "watch",
            "GET" if name.is_empty() => "list",
            "GET" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "other",
        };
        Self { verb, resource, name: name.to_owned(), code: None }
    }

    /// Whether it is this verb of this resource; an empty text stands for any.
    #[must_use]
    pub fn is(&self, verb: &str, resource: &str) -> bool {
        (verb.is_empty() || self.verb == verb) && (resource.is_empty() || self.resource == resource)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {:?}", self.verb, self.resource, self.name, self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_in_the_words_of_rbac() {
        for (method, path, expected) in [
            (Method::GET, "/apis/microagent.dev/v1alpha1/workspaces?fieldSelector=a", ("list", "workspaces", "")),
            (Method::GET, "/apis/microagent.dev/v1alpha1/workspaces?&watch=true", ("watch", "workspaces", "")),
            (Method::GET, "/apis/g/v1/namespaces/n/workspaces/a", ("get", "workspaces", "a")),
            (Method::PATCH, "/apis/g/v1/namespaces/n/workspaces/a/status?", ("patch", "workspaces/status", "a")),
            (Method::GET, "/api/v1/namespaces/kube-system", ("get", "namespaces", "kube-system")),
            (Method::POST, "/apis/g/v1/namespaces/n/events", ("create", "events", "")),
            (Method::GET, "/version", ("list", "/version", "")),
        ] {
            let asked = Asked::new(&method, &path.parse().unwrap());
            assert_eq!((asked.verb, asked.resource.as_str(), asked.name.as_str()), expected, "{path}");
        }
    }
}
