//! SIGKILL at any moment, two hundred times, while everything is edited, removed and made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    time::{Duration, Instant, SystemTime},
};

use microagent_tests::host::Host;
use serde_json::{Value, json};

use crate::until;

/// How often the controller is killed, unless `KILLS` says otherwise.
const KILLS: usize = 200;
/// The longest life of a controller: within it a pass or a hundred are done, and a start or an end is under way.
const LIFE_MS: u64 = 400;
/// Workspaces that are edited, removed and made again. Beside them stand those that nobody touches.
const TOUCHED: usize = 14;
const UNTOUCHED: [&str; 6] = ["u-always", "u-halted", "u-once", "u-once-failed", "u-on-failure", "u-restarts"];

/// A xorshift: the same moves for the same seed.
struct Dice(u64);

impl Dice {
    /// The seed is `SEED`, or one that no run had before; it is printed with a failed test.
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_micros());
        let seed = env::var("SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::try_from(now).unwrap_or(1)) | 1;
        println!("SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of[index].clone()
    }
}

fn spec_of_untouched(name: &str) -> Value {
    match name {
        "u-halted" => json!({ "runPolicy": "Halted" }),
        "u-once" => json!({ "runPolicy": "Once", "command": ["exit", "0", "300"] }),
        "u-once-failed" => json!({ "runPolicy": "Once", "command": ["exit", "3", "300"] }),
        "u-on-failure" => json!({ "runPolicy": "OnFailure", "command": ["exit", "0", "300"] }),
        "u-restarts" => json!({ "runPolicy": "Always", "command": ["exit", "1", "1000"] }),
        _ => json!({}),
    }
}

/// A spec that a machine is made of or not, and that ends or does not.
fn any_spec(dice: &mut Dice) -> Value {
    let policy = dice.pick(&["Always", "OnFailure", "Once", "Halted"]);
    let command =
        dice.pick(&[json!(["stay"]), json!(["stay"]), json!(["exit", "0", "150"]), json!(["exit", "1", "150"])]);
    let turn = dice.below(3).to_string();
    json!({ "runPolicy": policy, "command": command, "env": [{ "name": "TURN", "value": turn }] })
}

/// One thing that a person or a pipeline does in the folder.
fn meddle(host: &Host, dice: &mut Dice, wanted: &mut BTreeMap<String, Value>) {
    let name = format!("t-{:02}", dice.below(TOUCHED as u64));
    let file = format!("{name}.yaml");
    if dice.below(4) == 0 && wanted.remove(&name).is_some() {
        fs::remove_file(host.folder().join(file)).expect("its manifest");
        return;
    }
    let spec = any_spec(dice);
    host.drop_file(&file, &host.fake_manifest(&name, &spec));
    wanted.insert(name, spec);
}

/// Whether the object is as its spec wants it, for good.
fn is_settled(object: &Value, spec: &Value) -> bool {
    let status = &object["status"];
    let is = |kind: &str| {
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    let stays = spec["command"].is_null() || spec["command"][0] == "stay";
    let fails = spec["command"][1] == "1" || spec["command"][1] == "3";
    let policy = spec["runPolicy"].as_str().unwrap_or("Always");
    status["observedGeneration"] == object["metadata"]["generation"]
        && match (policy, stays) {
            ("Halted", _) => is("Ready") && status["phase"] == "Halted",
            // One whose spec was changed under its machine runs on in the old one, and says so.
            (_, true) => is("Running"),
            ("Once", false) => {
                matches!(status["phase"].as_str(), Some("Failed" | "Succeeded")) || is("RestartRequired")
            }
            ("OnFailure", false) if !fails => status["phase"] == "Succeeded" || is("RestartRequired"),
            // It ends and is started again, for ever.
            _ => true,
        }
}

#[test]
fn two_hundred_kills_lose_double_and_leak_nothing() {
    let mut dice = Dice::new();
    let kills = env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let mut host = Host::with_fake_machines();
    let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
    for name in UNTOUCHED {
        let spec = spec_of_untouched(name);
        host.drop_file(&format!("{name}.yaml"), &host.fake_manifest(name, &spec));
        wanted.insert(name.to_owned(), spec);
    }
    let mut first: BTreeMap<String, Value> = BTreeMap::new();
    for _ in 0..kills {
        host.start_controller();
        let end = Instant::now() + Duration::from_millis(dice.below(LIFE_MS));
        while Instant::now() < end {
            meddle(&host, &mut dice, &mut wanted);
            // Not a wait for anything: the time between two moves of a person.
            std::thread::sleep(Duration::from_millis(dice.below(60)));
        }
        host.kill_controller();
        for name in UNTOUCHED {
            if let Some(metadata) = metadata(&host, name) {
                let known = first.entry(name.to_owned()).or_insert_with(|| metadata.clone());
                assert_eq!(*known, metadata, "{name} is as it was made");
            }
        }
    }
    // Undisturbed from here on.
    host.start_controller();
    until("the folder's workspaces are those of the host", || {
        names(&host.state().join("workspaces/default")) == wanted.keys().cloned().collect()
            && names(&host.state().join("status/default")) == wanted.keys().cloned().collect()
    });
    for (name, spec) in &wanted {
        until(&format!("{name} is as {spec} wants it: {:#}", host.object(name)["status"]), || {
            is_settled(&host.object(name), spec)
        });
    }
    for name in UNTOUCHED {
        let known = first.entry(name.to_owned()).or_insert_with(|| metadata(&host, name).expect("an object"));
        assert_eq!(metadata(&host, name).as_ref(), Some(&*known), "{name} is as it was made");
    }
    assert_one_machine_each(&host, &wanted);
    assert_no_boot_twice(&host);
    assert_eq!(boots(&host, "u-halted"), 0);
    for name in ["u-once", "u-once-failed", "u-on-failure", "u-always"] {
        assert_eq!(boots(&host, name), 1, "{name} is started once, whatever happens");
    }
    // What is being written at this moment is none of it.
    until("what was cut short is swept", || host.half_made().is_empty());
    println!("{kills} kills, {} boots", host.fake().boots().len());
    assert!(host.fake().boots().len() > UNTOUCHED.len(), "the run was too quiet to tell anything");
    // Everything goes, and nothing stays.
    for name in wanted.keys() {
        fs::remove_file(host.folder().join(format!("{name}.yaml"))).expect("its manifest");
    }
    until("all are gone", || names(&host.state().join("workspaces/default")).is_empty());
    let uids: BTreeSet<String> = host.fake().boots().into_iter().map(|boot| boot.uid).collect();
    let left: Vec<String> = uids.iter().flat_map(|uid| host.processes(uid)).collect();
    assert_eq!(left, Vec::<String>::new(), "no process is left");
    assert_eq!(host.machines(), Vec::<String>::new(), "no machine's directory is left");
    host.kill_controller();
    assert_eq!(host.half_made(), Vec::<std::path::PathBuf>::new(), "nothing half-made is left");
}

/// What a workspace that nobody touches keeps.
fn metadata(host: &Host, name: &str) -> Option<Value> {
    let path = host.state().join("workspaces/default").join(format!("{name}.json"));
    let record: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(json!([record["uid"], record["generation"], record["createdAt"]]))
}

/// The workspaces with a file in this directory.
fn names(dir: &std::path::Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned)).collect()
}

fn boots(host: &Host, name: &str) -> usize {
    let uid = host.object(name)["metadata"]["uid"].clone();
    host.fake().boots().iter().filter(|boot| uid == boot.uid.as_str()).count()
}

/// Every machine that was ever started is either the one of its workspace or gone.
fn assert_one_machine_each(host: &Host, wanted: &BTreeMap<String, Value>) {
    let uid = |name: &String| host.object(name)["metadata"]["uid"].as_str().unwrap_or("").to_owned();
    let live: BTreeMap<String, &String> = wanted.keys().map(|name| (uid(name), name)).collect();
    assert_eq!(live.len(), wanted.len(), "each has a UID of its own");
    let booted: BTreeSet<String> = host.fake().boots().into_iter().map(|boot| boot.uid).collect();
    for uid in booted {
        let machines = host.processes(&uid);
        let Some(name) = live.get(&uid) else {
            assert_eq!(machines, Vec::<String>::new(), "a workspace that is gone has a machine");
            continue;
        };
        let spec = &wanted[*name];
        if spec["runPolicy"] == "Halted" {
            assert_eq!(machines, Vec::<String>::new(), "{name} is halted");
        } else if spec["command"].is_null() || spec["command"][0] == "stay" {
            assert_eq!(machines.len(), 1, "{name} runs once: {machines:?}");
        } else {
            assert!(machines.len() <= 1, "{name} runs at most once: {machines:?}");
        }
    }
    let directories: BTreeSet<String> = host.machines().into_iter().collect();
    let strange: Vec<_> = directories.iter().filter(|uid| !live.contains_key(*uid)).collect();
    assert!(strange.is_empty(), "directories of nobody: {strange:?}");
}

fn assert_no_boot_twice(host: &Host) {
    let mut seen = BTreeSet::new();
    for boot in host.fake().boots() {
        assert!(seen.insert(boot.boot_id.clone()), "boot {} of {} was started twice", boot.boot_id, boot.uid);
    }
}
