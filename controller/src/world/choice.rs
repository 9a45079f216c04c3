//! Which backend runs a machine. Pure: what is wanted and what the supervisors say in, a backend and the reason out.

use microagent_crds::{Acceleration, Backend, WorkspaceSpec};
use microagent_kernel::Kernel;
use microagent_supervisor_protocol::{Accelerator, Capabilities};

use super::kernel::not_by_firecracker;

/// What a machine asks of its backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) backend: Backend,
    pub(super) acceleration: Acceleration,
    pub(super) vcpus: u32,
    /// Why Firecracker cannot boot its kernel.
    pub(super) not_by_firecracker: Option<&'static str>,
}

impl Wanted {
    /// By the smallest machine that does not care.
    pub(super) const ANY: Self =
        Self { backend: Backend::Auto, acceleration: Acceleration::Preferred, vcpus: 1, not_by_firecracker: None };

    pub(super) fn of(spec: &WorkspaceSpec, kernel: &Kernel) -> Self {
        Self {
            backend: spec.backend,
            acceleration: spec.acceleration,
            vcpus: u32::from(spec.resources.cpus.vcpus()),
            not_by_firecracker: not_by_firecracker(kernel),
        }
    }

    /// The backends that come into question, the best first.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self.backend {
            Backend::Auto if cfg!(target_os = "macos") => &["AppleVf", "Qemu"],
            Backend::Auto => &["Firecracker", "Qemu"],
            Backend::Firecracker => &["Firecracker"],
            Backend::Qemu => &["Qemu"],
            Backend::AppleVf => &["AppleVf"],
        }
    }
}

/// A backend that comes into question: its name, and what its supervisor says, or why it says nothing.
pub(super) type Candidate<'a> = (&'static str, Result<&'a Capabilities, &'a str>);

/// The backend for the machine, and why it is not one that comes before it. One that runs the machine on the CPU comes before all that
/// translate.
///
/// # Errors
/// Why there is none: each candidate's reason.
pub(super) fn choose(wanted: Wanted, candidates: &[Candidate<'_>]) -> Result<(&'static str, Option<String>), String> {
    // What keeps each from being taken at once.
    let mut reasons = Vec::new();
    let mut translator = None;
    for (name, said) in candidates {
        let why = match said.map_err(str::to_owned).and_then(|capabilities| suits(wanted, name, capabilities)) {
            Ok(Suits::Natively) => return Ok((name, reason(wanted, name, &reasons))),
            Ok(Suits::Translated(why)) => {
                translator = translator.or(Some(*name));
                why
            }
            Err(why) => why,
        };
        reasons.push((*name, why));
    }
    match translator {
        Some(name) => Ok((name, reason(wanted, name, &reasons))),
        None => Err(told(&reasons)),
    }
}

enum Suits {
    Natively,
    Translated(String),
}

fn suits(wanted: Wanted, name: &str, capabilities: &Capabilities) -> Result<Suits, String> {
    let why = || capabilities.accelerator_reason.clone();
    if capabilities.accelerators.is_empty() {
        return Err(why().unwrap_or_else(|| "it can start no machine here".to_owned()));
    }
    if let Some(why) = wanted.not_by_firecracker.filter(|_| name == "Firecracker") {
        return Err(format!("it cannot boot this kernel: {why}; choose another one in spec.kernel"));
    }
    if wanted.vcpus > capabilities.max_vcpus {
        return Err(format!("it gives at most {} CPUs", capabilities.max_vcpus));
    }
    if capabilities.accelerators.iter().any(|accelerator| *accelerator != Accelerator::Tcg) {
        return Ok(Suits::Natively);
    }
    let why = why().unwrap_or_else(|| "the host's CPU cannot run it".to_owned());
    match wanted.acceleration {
        Acceleration::Preferred => Ok(Suits::Translated(why)),
        Acceleration::Required => Err(format!("it can only translate, which `acceleration: Required` forbids: {why}")),
    }
}

/// Nothing has to be said where the first choice, or the only one, is taken. Why one translates is told of the machine itself.
fn reason(wanted: Wanted, chosen: &str, reasons: &[(&str, String)]) -> Option<String> {
    let others: Vec<_> = reasons.iter().filter(|(name, _)| *name != chosen).cloned().collect();
    let said = wanted.backend == Backend::Auto && !others.is_empty();
    said.then(|| format!("Auto takes {chosen}; {}", told(&others)))
}

fn told(reasons: &[(&str, String)]) -> String {
    reasons.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use microagent_supervisor_protocol::Features;

    fn can(accelerators: &[Accelerator], max_vcpus: u32) -> Capabilities {
        Capabilities {
            backend: String::new(),
            version: "1".to_owned(),
            vmm: None,
            verbs: Vec::new(),
            accelerators: accelerators.to_vec(),
            accelerator_reason: Some("no /dev/kvm".to_owned()).filter(|_| !accelerators.contains(&Accelerator::Kvm)),
            kernel_format: None,
            max_vcpus,
            features: Features::default(),
        }
    }

    fn auto(
        firecracker: Result<&Capabilities, &str>,
        qemu: &Capabilities,
        wanted: Wanted,
    ) -> Result<(String, String), String> {
        let told = choose(wanted, &[("Firecracker", firecracker), ("Qemu", Ok(qemu))]);
        told.map(|(name, why)| (name.to_owned(), why.unwrap_or_default()))
    }

    #[test]
    fn the_first_that_runs_on_the_cpu_is_taken_and_told_when_it_is_not_the_first_of_all() {
        use Accelerator::{Kvm, Tcg};
        let (native, both) = (can(&[Kvm], 32), can(&[Kvm, Tcg], 255));
        let taken = |name: &str, why: &str| Ok((name.to_owned(), why.to_owned()));
        assert_eq!(auto(Ok(&native), &both, Wanted::ANY), taken("Firecracker", ""));
        let many = Wanted { vcpus: 33, ..Wanted::ANY };
        let why = "Auto takes Qemu; Firecracker: it gives at most 32 CPUs";
        assert_eq!(auto(Ok(&native), &both, many), taken("Qemu", why));
        let why = "Auto takes Qemu; Firecracker: not installed";
        assert_eq!(auto(Err("not installed"), &both, Wanted::ANY), taken("Qemu", why));
        assert_eq!(auto(Err("not installed"), &can(&[Tcg], 255), Wanted::ANY), taken("Qemu", why));
        let old = Wanted { not_by_firecracker: Some("it is old"), ..Wanted::ANY };
        let why =
            "Auto takes Qemu; Firecracker: it cannot boot this kernel: it is old; choose another one in spec.kernel";
        assert_eq!(auto(Ok(&native), &both, old), taken("Qemu", why));
        // A translator that comes first gives way to a CPU that comes later.
        assert_eq!(
            auto(Ok(&can(&[Tcg], 32)), &both, Wanted::ANY),
            taken("Qemu", "Auto takes Qemu; Firecracker: no /dev/kvm")
        );
    }

    #[test]
    fn where_acceleration_is_required_a_translator_is_never_taken() {
        let required = Wanted { acceleration: Acceleration::Required, ..Wanted::ANY };
        let told = auto(Err("not installed"), &can(&[Accelerator::Tcg], 255), required).unwrap_err();
        assert_eq!(
            told,
            "Firecracker: not installed; Qemu: it can only translate, which `acceleration: Required` forbids: no /dev/kvm"
        );
        let native = can(&[Accelerator::Kvm, Accelerator::Tcg], 255);
        assert_eq!(auto(Err("not installed"), &native, required).unwrap().0, "Qemu");
    }

    #[test]
    fn one_that_was_asked_for_by_name_is_taken_without_a_word_or_not_at_all() {
        let wanted = Wanted { backend: Backend::Qemu, ..Wanted::ANY };
        let translates = can(&[Accelerator::Tcg], 255);
        assert_eq!(choose(wanted, &[("Qemu", Ok(&translates))]), Ok(("Qemu", None)));
        assert_eq!(choose(wanted, &[("Qemu", Ok(&can(&[], 255)))]), Err("Qemu: no /dev/kvm".to_owned()));
    }
}
