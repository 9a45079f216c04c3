//! The stand-in against Firecracker's own API description, where that is at hand.

use microagent_tests::firecracker::{Description, MachineHost, RESOURCES};

fn description(test: &str) -> Option<Description> {
    let Some(path) = Description::path() else {
        eprintln!("skipped: {test}: Firecracker's API description is not at hand; MICROAGENT_FIRECRACKER_API names it");
        return None;
    };
    Some(Description::read(&path).unwrap())
}

#[test]
fn everything_that_the_stand_in_knows_is_in_the_description() {
    let Some(description) = description("everything_that_the_stand_in_knows_is_in_the_description") else { return };
    for resource in RESOURCES {
        let known = description.fields(resource.method, resource.path);
        assert!(!known.is_empty(), "{} {}", resource.method, resource.path);
        for field in resource.field_names() {
            assert!(known.iter().any(|known| known == field), "{} {}: {field}", resource.method, resource.path);
        }
    }
}

#[test]
fn every_request_of_a_whole_life_is_right_by_the_description() {
    let Some(description) = description("every_request_of_a_whole_life_is_right_by_the_description") else { return };
    let host = MachineHost::new("echo").running();
    host.pause().unwrap();
    host.resume().unwrap();
    host.halt(5).unwrap();
    let asked = host.asked();
    assert!(asked.len() > 10);
    for asked in asked {
        description.check_request(&asked.method, &asked.path, &asked.body).unwrap();
        assert!(asked.status < 300, "{asked:?}");
    }
}

#[test]
fn the_description_refuses_what_is_not_in_it() {
    let Some(description) = description("the_description_refuses_what_is_not_in_it") else { return };
    let check = |path: &str, body| description.check_request("PUT", path, &body);
    assert!(check("/boot-source", serde_json::json!({ "kernel_image_path": "/k" })).is_ok());
    for (path, body) in [
        ("/boot-source", serde_json::json!({})),
        ("/boot-source", serde_json::json!({ "kernel_image_path": "/k", "kernel": "/k" })),
        ("/machine-config", serde_json::json!({ "vcpu_count": 33, "mem_size_mib": 1 })),
        ("/actions", serde_json::json!({ "action_type": "Dance" })),
        ("/nowhere", serde_json::json!({})),
    ] {
        assert!(check(path, body.clone()).is_err(), "{path} {body}");
    }
}
