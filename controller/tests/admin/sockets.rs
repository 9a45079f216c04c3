//! Where the controller listens.

use std::{
    fs,
    net::TcpStream,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
};

use crate::controller::{Controller, get, until};

#[test]
fn the_usual_socket_is_private_replaces_a_dead_ones_and_goes_with_the_controller() {
    let mut controller = Controller::new();
    controller.start([]);
    assert_eq!(controller.get("/livez").0, 200);
    controller.kill();
    assert!(fs::symlink_metadata(controller.socket()).unwrap().file_type().is_socket(), "it was left behind");
    assert!(UnixStream::connect(controller.socket()).is_err());
    controller.start([]);
    assert_eq!(controller.get("/livez").0, 200);
    assert_eq!(fs::symlink_metadata(controller.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    controller.stop();
    assert!(fs::symlink_metadata(controller.socket()).is_err());
}

#[test]
fn a_loopback_address_tells_what_every_user_may_know() {
    let mut controller = Controller::new();
    let other = controller.dir().join("other.sock");
    controller.start(["--admin", "127.0.0.1:0", "--admin", &format!("unix:{}", other.display())]);
    let address = until("the port is told", || {
        let log = controller.log();
        let (_, rest) = log.split_once("the admin endpoint listens address=")?;
        rest.lines().next().map(str::to_owned)
    });
    assert_eq!(get(TcpStream::connect(&address).unwrap(), "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(get(TcpStream::connect(&address).unwrap(), "/metrics").0, 200);
    assert_eq!(get(TcpStream::connect(&address).unwrap(), "/debug/state").0, 403);
    let unix = until("the named socket listens", || UnixStream::connect(&other).ok());
    assert_eq!(get(unix, "/debug/state").0, 200);
    assert!(!controller.socket().exists(), "others were named");
    controller.stop();
    assert!(!other.exists());
}

#[test]
fn no_endpoint_is_had_by_asking_for_none() {
    let mut controller = Controller::new();
    controller.start(["--admin", "none"]);
    until("the controller is up", || controller.state().join("lock").exists().then_some(()));
    // Its folders are listed after it would have listened.
    until("the folders were listed", || controller.state().join("folders.json").exists().then_some(()));
    assert!(!controller.socket().exists());
    controller.stop();
}

#[test]
fn what_other_hosts_could_reach_is_refused_before_anything_starts() {
    let controller = Controller::new();
    for (address, why) in [
        ("0.0.0.0:9464", "must not be reachable from other hosts"),
        ("[::]:9464", "must not be reachable from other hosts"),
        ("example.com:80", "write unix:PATH, 127.0.0.1:PORT, [::1]:PORT or none"),
    ] {
        let output = controller.command().args(["--admin", address]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(why), "{address}: {told}");
    }
    assert!(!controller.state().exists());
}

#[test]
fn a_socket_that_is_asked_for_and_cannot_be_had_stops_the_start_and_nothing_else() {
    let controller = Controller::new();
    let precious = controller.dir().join("precious");
    fs::write(&precious, "mine").unwrap();
    let output = controller.command().args(["--admin", &format!("unix:{}", precious.display())]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("something that is no socket is there"), "{told}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
}
