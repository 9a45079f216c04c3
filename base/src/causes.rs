//! An error with all that is behind it, as one line: the outermost alone often says little.

use std::error::Error;

/// The error and its causes, from the outermost on. A cause that the text names already is not named again.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn each_cause_is_told_once() {
        let root = Layer("no route", None);
        let inner = Layer("connect: no route", Some(Box::new(root)));
        assert_eq!(causes(&Layer("request failed", Some(Box::new(inner)))), "request failed: connect: no route");
        assert_eq!(causes(&Layer("alone", None)), "alone");
    }
}
