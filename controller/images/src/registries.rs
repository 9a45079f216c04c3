//! How this host reaches registries: mirrors, and which are spoken to without encryption or by a certificate of their own.
//!
//! The words are those of `registries.conf` (containers-image, `containers-registries.conf(5)`, version 2): a prefix
//! says which images a rule is for, the longest one wins, and the place of a mirror is put in place of the prefix.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;

use crate::{
    Error, PullOptions, Result,
    fetch::blocking,
    registry::{Registry, RegistryReference},
};

/// Most rules of a host, and most mirrors of a rule. A pull tries all mirrors of one rule, one after the other.
const MAX_RULES: usize = 256;
const MAX_MIRRORS: usize = 16;

/// The rules of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "File")]
pub struct Registries {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    registries: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// `host[:port]`, with or without the beginning of a repository.
    prefix: String,
    #[serde(default)]
    insecure: bool,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    mirrors: Vec<Mirror>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mirror {
    /// What stands in place of the prefix.
    location: String,
    #[serde(default)]
    insecure: bool,
    ca_file: Option<PathBuf>,
}

impl TryFrom<File> for Registries {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        let rules = file.registries;
        if rules.len() > MAX_RULES {
            return Err(format!("it has {} registries; at most {MAX_RULES} are read", rules.len()));
        }
        for (at, rule) in rules.iter().enumerate() {
            check_place("prefix", &rule.prefix)?;
            check_ca(rule.ca_file.as_deref(), rule.insecure, &rule.prefix)?;
            if rules[..at].iter().any(|other| other.prefix == rule.prefix) {
                return Err(format!("the prefix {:?} stands twice", rule.prefix));
            }
            if rule.mirrors.len() > MAX_MIRRORS {
                return Err(format!("{} has more than {MAX_MIRRORS} mirrors", rule.prefix));
            }
            for mirror in &rule.mirrors {
                check_place("location", &mirror.location)?;
                check_ca(mirror.ca_file.as_deref(), mirror.insecure, &mirror.location)?;
            }
        }
        Ok(Self { rules })
    }
}

/// A place is `host[:port][/path]`, written as it stands in references.
fn check_place(what: &str, place: &str) -> Result<(), String> {
    // With an owner, which Docker Hub would else be given one.
    let name = format!("{place}/owner/image");
    match name.parse::<RegistryReference>() {
        Ok(read) if format!("{}/{}", read.registry(), read.repository()) == name => Ok(()),
        Ok(_) => Err(format!("the {what} {place:?} is no registry; write host[:port][/path], such as docker.io")),
        Err(why) => Err(format!("the {what} {place:?} is not valid: {why}")),
    }
}

fn check_ca(ca: Option<&Path>, insecure: bool, place: &str) -> Result<(), String> {
    match ca {
        Some(_) if insecure => Err(format!("{place} has a caFile and is insecure: without encryption there is none")),
        Some(ca) if !ca.is_absolute() => Err(format!("the caFile of {place} is to be an absolute path")),
        _ => Ok(()),
    }
}

/// A place to ask for an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    reference: RegistryReference,
    pub(crate) insecure: bool,
    pub(crate) ca_file: Option<PathBuf>,
}

impl Registries {
    /// Where to ask, in order: the mirrors, and the registry itself.
    fn places(&self, reference: &RegistryReference) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        if let Some((rule, rest)) = self.rule(&full_name(reference)) {
            for mirror in &rule.mirrors {
                let place = format!("{}{rest}", mirror.location);
                // A prefix may be a whole repository. A bare host would then be read as one of Docker Hub.
                if !place.contains('/') {
                    let why = "the mirror of a whole repository is to be a repository too".to_owned();
                    return Err(Error::InvalidReference { reference: place, why });
                }
                places.push(Place {
                    reference: place.parse().map_err(|why| Error::InvalidReference { reference: place, why })?,
                    insecure: mirror.insecure,
                    ca_file: mirror.ca_file.clone(),
                });
            }
        }
        places.push(self.itself(reference));
        Ok(places)
    }

    /// The registry itself, with no regard to its mirrors: where images are pushed to.
    pub(crate) fn itself(&self, reference: &RegistryReference) -> Place {
        let rule = self.rule(&full_name(reference)).map(|(rule, _)| rule);
        Place {
            reference: reference.clone(),
            insecure: rule.is_some_and(|rule| rule.insecure),
            ca_file: rule.and_then(|rule| rule.ca_file.clone()),
        }
    }

    /// The rule of the longest prefix, and what of the name stands behind that.
    fn rule(&self, name: &str) -> Option<(&Rule, String)> {
        let rest = |rule: &Rule| {
            name.strip_prefix(&rule.prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(str::to_owned)
        };
        let found = self.rules.iter().filter_map(|rule| Some((rule, rest(rule)?)));
        found.max_by_key(|(rule, _)| rule.prefix.len())
    }
}

fn full_name(reference: &RegistryReference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// The places that one pull asks, each with its own login. A mirror that failed once is not asked again.
pub(crate) struct Sources {
    all: Vec<Registry>,
    failures: Mutex<Vec<Option<String>>>,
}

impl Sources {
    /// Finds the places and the logins for them; asks nobody yet.
    pub(crate) async fn of(reference: &RegistryReference, options: &PullOptions) -> Result<Self> {
        let PullOptions { credentials, insecure, registries, patience, .. } = options;
        let mut all = Vec::new();
        for place in registries.places(reference)? {
            let (credentials, patience) = (credentials.clone(), *patience);
            let Place { reference, insecure: plain, ca_file } = place;
            let plain = plain || insecure.iter().any(|name| name == reference.registry());
            // Reads files and may run a program.
            let registry = blocking(move || {
                let found = credentials.find(reference.registry(), reference.repository())?;
                Registry::new(&reference, plain, ca_file.as_deref(), patience, found)
            });
            all.push(registry.await?);
        }
        let failures = Mutex::new(all.iter().map(|_| None).collect());
        Ok(Self { all, failures })
    }

    /// The first place that is worth asking. There is always one.
    pub(crate) fn first(&self) -> usize {
        self.usable(0)
    }

    fn usable(&self, at: usize) -> usize {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.all.len().saturating_sub(1);
        (at..last).find(|at| failures.get(*at).is_some_and(Option::is_none)).unwrap_or(last)
    }

    pub(crate) fn get(&self, at: usize) -> &Registry {
        &self.all[at]
    }

    /// Where to ask after a place failed; gives the error back, with what failed before, where nobody is left or where it
    /// is not the registry's.
    pub(crate) fn after(&self, at: usize, error: Error) -> Result<usize> {
        if !error.is_of_registry() {
            return Err(error);
        }
        let last = self.all.len().saturating_sub(1);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if at < last {
            tracing::warn!(mirror = self.all[at].name(), %error, "a mirror does not serve");
            if let Some(failure) = failures.get_mut(at) {
                failure.get_or_insert_with(|| format!("{}: {error}", self.all[at].name()));
            }
            drop(failures);
            return Ok(self.usable(at + 1));
        }
        let mirrors: Vec<String> = failures.iter().flatten().cloned().collect();
        if mirrors.is_empty() {
            return Err(error);
        }
        Err(Error::AfterMirrors { source: Box::new(error), mirrors: mirrors.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(file: Value) -> Result<Registries, String> {
        serde_json::from_value(file).map_err(|e: serde_json::Error| e.to_string())
    }

    fn places(registries: &Registries, reference: &str) -> Vec<(String, bool)> {
        let places = registries.places(&reference.parse().unwrap()).unwrap();
        places
            .iter()
            .map(|p| (format!("{}/{}", p.reference.registry(), p.reference.repository()), p.insecure))
            .collect()
    }

    #[test]
    fn mirrors_of_the_longest_prefix_come_before_the_registry() {
        let registries = read(json!({"registries": [
            {"prefix": "docker.io", "mirrors": [
                {"location": "m.example:5000/hub"}, {"location": "10.0.0.1:80", "insecure": true},
            ]},
            {"prefix": "docker.io/library/special", "insecure": true},
            {"prefix": "r.example", "caFile": "/ca.pem"},
        ]}))
        .unwrap();
        let expect = |places: &[(&str, bool)]| places.iter().map(|(p, i)| ((*p).to_owned(), *i)).collect::<Vec<_>>();
        assert_eq!(
            places(&registries, "alpine"),
            expect(&[
                ("m.example:5000/hub/library/alpine", false),
                ("10.0.0.1:80/library/alpine", true),
                ("docker.io/library/alpine", false)
            ])
        );
        assert_eq!(places(&registries, "special"), expect(&[("docker.io/library/special", true)]));
        assert_eq!(places(&registries, "specialty").len(), 3);
        let bare = json!({"registries": [{"prefix": "r.example/a", "mirrors": [{"location": "m.example"}]}]});
        let bare = read(bare).unwrap();
        assert!(bare.places(&"r.example/a:v1".parse().unwrap()).is_err());
        assert_eq!(places(&bare, "r.example/a/b").first(), Some(&("m.example/b".to_owned(), false)));
        assert_eq!(places(&registries, "other.example/x"), expect(&[("other.example/x", false)]));
        let own = registries.places(&"r.example/x".parse().unwrap()).unwrap();
        assert_eq!(own[0].ca_file.as_deref(), Some(Path::new("/ca.pem")));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let rule = |rule: Value| json!({"registries": [rule]});
        for (file, why) in [
            (json!({}), "registries"),
            (json!({"registries": [], "unqualifiedSearch": []}), "unqualifiedSearch"),
            (rule(json!({"prefix": "r.example", "blocked": true})), "blocked"),
            (rule(json!({"prefix": "https://r.example"})), "prefix"),
            (rule(json!({"prefix": "library"})), "no registry"),
            (rule(json!({"prefix": "index.docker.io"})), "no registry"),
            (rule(json!({"prefix": "r.example/"})), "prefix"),
            (rule(json!({"prefix": "r.example", "mirrors": [{"location": "m.example/../x"}]})), "location"),
            (rule(json!({"prefix": "r.example", "mirrors": [{"location": "m.example", "caFile": "ca"}]})), "absolute"),
            (rule(json!({"prefix": "r.example", "insecure": true, "caFile": "/ca"})), "insecure"),
            (rule(json!({"prefix": "r.example", "mirrors": vec![json!({"location": "m.example"}); 17]})), "mirrors"),
            (json!({"registries": [{"prefix": "r.example"}, {"prefix": "r.example"}]}), "twice"),
            (json!({"registries": vec![json!({"prefix": "r.example"}); 257]}), "257"),
        ] {
            let error = read(file.clone()).unwrap_err();
            assert!(error.contains(why), "{file}: {error}");
        }
    }
}
