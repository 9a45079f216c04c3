use super::*;
use crate::{arch::Arch, package::fixture::FakeApt};
use microagent_base::Silent;

const RELEASE: &str = "6.1.0-56-cloud-amd64";

fn wanted() -> Wanted<'static> {
    Wanted { name: None, version: None, pin: None, arch: Arch::X86_64 }
}

fn fetch(fake: &FakeApt, dir: &Path, wanted: &Wanted<'_>) -> Result<Fetched> {
    Apt::at(fake.programs(), &dir.join("state")).fetch(wanted, &dir.join("packages"), &Silent)
}

#[test]
fn the_meta_package_leads_to_the_kernel_that_is_downloaded() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeApt::new(&dir.path().join("fake"), RELEASE, b"content");
    let fetched = fetch(&fake, dir.path(), &wanted()).unwrap();
    assert_eq!(fetched.ids.len(), 1);
    assert_eq!(fetched.ids[0].name, format!("linux-image-{RELEASE}"));
    assert_eq!(fs::read(&fetched.files[0]).unwrap(), b"content");
    assert!(!fake.was_updated());
}

#[test]
fn empty_package_lists_are_fetched_into_a_private_place() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeApt::new(&dir.path().join("fake"), RELEASE, b"content");
    fake.empty_system_lists();
    fetch(&fake, dir.path(), &wanted()).unwrap();
    assert!(fake.was_updated());
}

#[test]
fn a_version_that_is_nowhere_and_a_name_that_is_no_name_are_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeApt::new(&dir.path().join("fake"), RELEASE, b"content");
    for odd in [
        Wanted { pin: Some("5.10"), ..wanted() },
        Wanted { name: Some("--option"), ..wanted() },
        Wanted { name: Some("linux-image-other"), ..wanted() },
    ] {
        let error = fetch(&fake, dir.path(), &odd).unwrap_err();
        assert_eq!(error.category(), "KernelNotFound");
    }
    assert_eq!(fetch(&fake, dir.path(), &Wanted { pin: Some("6.1"), ..wanted() }).unwrap().ids.len(), 1);
}

#[test]
fn a_failure_of_apt_shows_its_last_lines() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeApt::new(&dir.path().join("fake"), RELEASE, b"content");
    fake.break_all();
    let message = fetch(&fake, dir.path(), &wanted()).unwrap_err().to_string();
    assert!(message.contains("E: the mirror is on fire") && message.contains("apt-get update"), "{message}");
}

#[test]
fn progress_lines_are_read() {
    assert_eq!(download_percent("dlstatus:1:45.25:Retrieving file 1 of 1"), Some(45.25));
    assert_eq!(download_percent("Get:1 somewhere"), None);
    assert_eq!(download_percent("dlstatus:1:NaN:x"), None);
}
