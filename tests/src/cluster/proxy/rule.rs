//! Which request something goes wrong with, and what.

use std::time::Duration;

use super::Asked;

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection is cut before all of it was read; nothing is done.
    CutRequest,
    /// It is carried out, and the connection cut before the answer.
    LostReply,
    /// It is carried out, and the connection cut in the middle of the answer; of a watch, in the middle of its first event.
    CutAnswer,
    /// It is carried out, and answered this much later.
    Delay(Duration),
    /// Nothing is done, and the answer is a failure with this code, this message, and this many seconds to wait, where they are not none.
    Refuse(u16, &'static str, Option<u32>),
    /// A watch is taken, and its only event is an error of this code.
    ErrorEvent(u16),
    /// A request is taken, the answer begins, and no more of it ever comes.
    Silent,
    /// Nothing is done, and this is the answer: a listing, or the events of a watch, which then ends.
    Say(String),
    /// Nothing is done, and nothing is answered.
    Hold,
    /// It is carried out, and nothing is answered.
    HoldReply,
}

/// A fault, and when it happens.
#[derive(Debug, Clone)]
pub struct Rule {
    verb: &'static str,
    resource: &'static str,
    name: Option<String>,
    after: usize,
    times: usize,
    fault: Fault,
    except: &'static [&'static str],
    until: Option<(&'static str, &'static str)>,
}

impl Rule {
    /// With each request of this verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`) for this resource (`workspaces`,
    /// `workspaces/status`); an empty text stands for any.
    #[must_use]
    pub fn on(verb: &'static str, resource: &'static str, fault: Fault) -> Self {
        Self { verb, resource, name: None, after: 0, times: usize::MAX, fault, except: &[], until: None }
    }

    /// Only with those for the object of this name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Not with those for these resources.
    #[must_use]
    pub fn except(self, resources: &'static [&'static str]) -> Self {
        Self { except: resources, ..self }
    }

    /// Not with the first `count` of them.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        Self { after: count, ..self }
    }

    /// With so many of them only.
    #[must_use]
    pub fn times(self, count: usize) -> Self {
        Self { times: count, ..self }
    }

    /// Only until there is a request of this verb for this resource.
    #[must_use]
    pub fn until(self, verb: &'static str, resource: &'static str) -> Self {
        Self { until: Some((verb, resource)), ..self }
    }

    /// What goes wrong with this request. Each that fits is counted.
    pub(super) fn take(&mut self, asked: &Asked) -> Option<Fault> {
        if self.until.is_some_and(|(verb, resource)| asked.is(verb, resource)) {
            self.times = 0;
        }
        let fits = asked.is(self.verb, self.resource)
            && self.name.as_ref().is_none_or(|name| *name == asked.name)
            && !self.except.contains(&asked.resource.as_str());
        if !fits || self.times == 0 {
            return None;
        }
        if self.after > 0 {
            self.after -= 1;
            return None;
        }
        self.times -= 1;
        Some(self.fault.clone())
    }
}
