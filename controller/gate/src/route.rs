//! What a request asks for: its method, path and query, read once and in full.

use std::fmt;

use hyper::{Method, Uri};
use jiff::Timestamp;
use microagent_crds::name::{check_name, check_namespace};

use crate::{answer::Refusal, review::Access};

/// The version of the gate's own interface, the first part of every path.
pub const VERSION: &str = "v1alpha1";

/// What a connection becomes by an `exec` or a `cp`: the name of the protocol in the header `Upgrade`.
pub const UPGRADE: &str = "microagent-guest";

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ask: Ask,
}

/// What is asked of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Log(LogOptions),
    Session(Session),
}

/// What a connection to the guest is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// A command.
    Exec,
    /// Files, in or out.
    Copy,
}

/// Which part of which log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    /// Go on with what is written from now on.
    pub(crate) follow: bool,
    /// Only so many of the lines that are there.
    pub(crate) tail: Option<usize>,
    /// Nothing that was written before, in the form that sorts as text.
    pub(crate) since: Option<String>,
    /// The serial console in place of the workload's output.
    pub(crate) console: bool,
}

impl Route {
    /// Reads a request line.
    pub(crate) fn read(method: &Method, uri: &Uri) -> Result<Self, Refusal> {
        let parts: Vec<&str> = uri.path().split('/').collect();
        let ["", VERSION, "namespaces", namespace, "workspaces", name, what @ ("log" | "exec" | "cp")] = parts[..]
        else {
            return Err(Refusal::not_found(format!(
                "there is nothing at this path: the gate has /{VERSION}/namespaces/NAMESPACE/workspaces/NAME/log, …/exec and …/cp"
            )));
        };
        check_namespace(namespace).map_err(|must| Refusal::bad_request(format!("the namespace {must}")))?;
        check_name(name).map_err(|must| Refusal::bad_request(format!("the workspace's name {must}")))?;
        let wanted = if what == "log" { Method::GET } else { Method::POST };
        if *method != wanted {
            return Err(Refusal::method_not_allowed(format!("{what} is asked for with {wanted}")));
        }
        let query = uri.query().unwrap_or_default();
        let ask = match what {
            "log" => Ask::Log(LogOptions::read(query)?),
            _ if !query.is_empty() => {
                return Err(Refusal::bad_request(format!("{what} has no query: what to do is the first frame")));
            }
            "exec" => Ask::Session(Session::Exec),
            _ => Ask::Session(Session::Copy),
        };
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), ask })
    }

    /// What the user needs the right to.
    pub(crate) fn access(&self) -> Access {
        let (verb, subresource) = match self.ask {
            Ask::Log(_) => ("get", "log"),
            // Who may run commands may copy files with them: there is no right of its own.
            Ask::Session(_) => ("create", "exec"),
        };
        Access { verb, subresource, namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "workspace {} in namespace {}", self.name, self.namespace)
    }
}

impl LogOptions {
    fn read(query: &str) -> Result<Self, Refusal> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                return Err(Refusal::bad_request(format!("the query has {name:?} twice")));
            }
            match &*name {
                "follow" => options.follow = flag(&name, &value)?,
                "console" => options.console = flag(&name, &value)?,
                "tail" => {
                    let count = value.parse();
                    options.tail =
                        Some(count.map_err(|_| Refusal::bad_request(format!("tail={value:?}: a number is needed")))?);
                }
                "since" => options.since = Some(since(&value)?),
                _ => {
                    return Err(Refusal::bad_request(format!(
                        "the query has {name:?}: a log knows follow, tail, since and console"
                    )));
                }
            }
            seen.push(name);
        }
        if options.console && options.since.is_some() {
            return Err(Refusal::bad_request("since cannot be used with console: the console's lines have no times"));
        }
        Ok(options)
    }
}

fn flag(name: &str, value: &str) -> Result<bool, Refusal> {
    value.parse().map_err(|_| Refusal::bad_request(format!("{name}={value:?}: true or false is needed")))
}

fn since(value: &str) -> Result<String, Refusal> {
    let time: Timestamp =
        value.parse().map_err(|_| Refusal::bad_request(format!("since={value:?}: a time as of RFC 3339 is needed")))?;
    Ok(format!("{time:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &Method, uri: &str) -> Result<Route, String> {
        Route::read(method, &uri.parse().unwrap())
            .map_err(|refusal| format!("{} {}", refusal.code.as_u16(), refusal.message))
    }

    const LOG: &str = "/v1alpha1/namespaces/team/workspaces/web/log";

    #[test]
    fn a_log_is_asked_for_in_parts_and_needs_get() {
        let route = read(&Method::GET, LOG).unwrap();
        assert_eq!(route.ask, Ask::Log(LogOptions::default()));
        let access = route.access();
        assert_eq!((access.verb, access.subresource), ("get", "log"));
        assert_eq!((access.namespace.as_str(), access.name.as_str()), ("team", "web"));
        let route = read(&Method::GET, &format!("{LOG}?follow=true&tail=5&since=2026-11-22T11:00:00%2B01:00")).unwrap();
        let since = Some("2026-11-22T10:00:00.000000000Z".to_owned());
        assert_eq!(route.ask, Ask::Log(LogOptions { follow: true, tail: Some(5), since, console: false }));
    }

    #[test]
    fn a_command_and_a_copy_need_create() {
        for (what, session) in [("exec", Session::Exec), ("cp", Session::Copy)] {
            let route = read(&Method::POST, &format!("/v1alpha1/namespaces/team/workspaces/web/{what}")).unwrap();
            assert_eq!(route.ask, Ask::Session(session));
            assert_eq!((route.access().verb, route.access().subresource), ("create", "exec"));
        }
    }

    #[test]
    fn whatever_is_not_known_is_refused() {
        for (method, uri, code) in [
            (Method::GET, "/".to_owned(), 404),
            (Method::GET, "/v1alpha1/namespaces/team/workspaces/web".to_owned(), 404),
            (Method::GET, format!("{LOG}/"), 404),
            (Method::GET, LOG.replace("v1alpha1", "v2"), 404),
            (Method::GET, LOG.replace("web", "../web"), 404),
            (Method::GET, LOG.replace("web", ".."), 400),
            (Method::GET, LOG.replace("web", "we%62"), 400),
            (Method::GET, LOG.replace("team", "Team"), 400),
            (Method::POST, LOG.to_owned(), 405),
            (Method::GET, LOG.replace("/log", "/exec"), 405),
            (Method::POST, LOG.replace("/log", "/exec?tty=true"), 400),
            (Method::GET, LOG.replace("/log", "/cp"), 405),
            (Method::POST, LOG.replace("/log", "/cp?path=/etc"), 400),
            (Method::GET, format!("{LOG}?tail=-1"), 400),
            (Method::GET, format!("{LOG}?tail=1&tail=2"), 400),
            (Method::GET, format!("{LOG}?follow=yes"), 400),
            (Method::GET, format!("{LOG}?since=yesterday"), 400),
            (Method::GET, format!("{LOG}?console=true&since=2026-11-22T10:00:00Z"), 400),
            (Method::GET, format!("{LOG}?previous=true"), 400),
        ] {
            let refused = read(&method, &uri).unwrap_err();
            assert!(refused.starts_with(&code.to_string()), "{method} {uri}: {refused}");
        }
    }
}
