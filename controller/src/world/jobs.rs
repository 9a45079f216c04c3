//! Long work that workspaces share: pulls, builds, kernel installs. The same work is done once however many want it, a
//! bounded number at a time, and is cancelled when nobody wants it any longer.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use microagent_base::{Progress, progress::Step};
use tokio::sync::{Semaphore, mpsc};
use tracing::Instrument as _;

use crate::{
    Key,
    memory::Fault,
    metrics::{
        StageMeter,
        label::{JobKind, JobState},
    },
    observed::Work,
};

/// How often those who wait for a job are told of its progress. People read it, so a second is often enough.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Which work. Equal names are the same work.
pub(super) type Name = String;

/// The result of a job, and how long it took.
#[derive(Clone, Debug)]
pub(super) struct Done<T> {
    pub(super) value: T,
    pub(super) took: Duration,
}

/// A job that is under way, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSight {
    /// What it does.
    pub kind: JobKind,
    /// Whether it has begun.
    pub state: JobState,
    /// How many workspaces want it.
    pub wanted_by: usize,
    /// How far it is: `pulling web: 12.0 of 48.3 MiB`. Empty at the very beginning.
    pub progress: String,
}

/// All jobs of one kind.
pub(super) struct Jobs<T> {
    kind: JobKind,
    meter: StageMeter,
    inner: Arc<Mutex<HashMap<Name, Job<T>>>>,
    slots: Arc<Semaphore>,
    wake: mpsc::UnboundedSender<Key>,
}

struct Job<T> {
    state: State<T>,
    wanted_by: BTreeSet<Key>,
}

enum State<T> {
    Running(Arc<Watched>),
    Ended(Result<Done<T>, Fault>),
}

impl<T: Clone + Send + 'static> Jobs<T> {
    /// No jobs yet. At most as many run at once as `slots` has permits; `wake` is told the keys whose job moved.
    pub(super) fn new(
        kind: JobKind,
        meter: StageMeter,
        slots: Arc<Semaphore>,
        wake: mpsc::UnboundedSender<Key>,
    ) -> Self {
        Self { kind, meter, inner: Arc::default(), slots, wake }
    }

    /// The jobs that are under way.
    pub(super) fn under_way(&self) -> Vec<JobSight> {
        let sight = |job: &Job<T>| {
            let State::Running(watched) = &job.state else { return None };
            let (state, progress) = match watched.look::<()>() {
                Work::Running { message } => (JobState::Running, message),
                _ => (JobState::Queued, String::new()),
            };
            Some(JobSight { kind: self.kind, state, wanted_by: job.wanted_by.len(), progress })
        };
        self.lock().values().filter_map(sight).collect()
    }

    /// How a job stands that `key` wants. What others had done, without `key` wanting it, is not there for it.
    pub(super) fn look(&self, name: &str, key: &Key) -> Work<Done<T>> {
        match self.lock().get(name).filter(|job| job.wanted_by.contains(key)).map(|job| &job.state) {
            None => Work::Absent,
            Some(State::Running(watched)) => watched.look(),
            Some(State::Ended(Ok(done))) => Work::Ready(done.clone()),
            Some(State::Ended(Err(fault))) => Work::Failed(fault.clone()),
        }
    }

    /// Begins the job, or joins it when it runs. A job that ended is begun anew.
    pub(super) fn begin<F, R>(&self, name: &str, key: &Key, work: F)
    where
        F: FnOnce(Arc<dyn Progress>) -> R + Send + 'static,
        R: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let mut jobs = self.lock();
        if let Some(Job { state: State::Running(_), wanted_by }) = jobs.get_mut(name) {
            wanted_by.insert(key.clone());
            return;
        }
        let watched = Arc::new(Watched::new(name.to_owned(), Arc::downgrade(&self.inner) as _, self.wake.clone()));
        let job = Job { state: State::Running(watched.clone()), wanted_by: BTreeSet::from([key.clone()]) };
        jobs.insert(name.to_owned(), job);
        drop(jobs);
        let (inner, slots, wake, name) = (self.inner.clone(), self.slots.clone(), self.wake.clone(), name.to_owned());
        // Taken here where one is free, so that work that need not wait is never seen waiting.
        let free = slots.clone().try_acquire_owned().ok();
        watched.begun.store(free.is_some(), Ordering::Relaxed);
        let meter = self.meter.clone();
        let job = async move {
            let _slot = match free {
                Some(slot) => Some(slot),
                None => slots.acquire_owned().await.ok(),
            };
            let started = Instant::now();
            watched.begun.store(true, Ordering::Relaxed);
            let wanted = watched.clone();
            let outcome = if watched.cancelled() { Err(cancelled()) } else { work(watched).await };
            let outcome = outcome.map(|value| Done { value, took: started.elapsed() });
            match &outcome {
                Ok(done) => meter.ended(done.took),
                // That it was given up is no failure.
                Err(_) if wanted.cancelled() => {}
                Err(_) => meter.failed(),
            }
            let mut jobs = inner.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = match jobs.get_mut(&name) {
                // Nobody waits for it: the next who wants it begins it anew.
                Some(job) if job.wanted_by.is_empty() => {
                    jobs.remove(&name);
                    BTreeSet::new()
                }
                Some(job) => {
                    job.state = State::Ended(outcome);
                    job.wanted_by.clone()
                }
                None => BTreeSet::new(),
            };
            drop(jobs);
            for key in waiting {
                let _ = wake.send(key);
            }
        };
        // What it logs belongs to the pass that began it.
        tokio::spawn(job.in_current_span());
    }

    /// `key` wants none of these jobs any longer. Work that nobody wants is cancelled.
    pub(super) fn release(&self, key: &Key) {
        self.lock().retain(|_, job| {
            if !job.wanted_by.remove(key) || !job.wanted_by.is_empty() {
                return true;
            }
            match &job.state {
                State::Running(watched) => {
                    watched.cancel.store(true, Ordering::Relaxed);
                    true
                }
                State::Ended(_) => false,
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Job<T>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cancelled() -> Fault {
    Fault { code: "Cancelled".to_owned(), message: "nobody wanted it any longer".to_owned(), retryable: true }
}

/// Who waits for a job, whatever kind of job it is.
trait Waiting: Send + Sync {
    fn keys(&self, name: &str) -> Vec<Key>;
}

impl<T: Send> Waiting for Mutex<HashMap<Name, Job<T>>> {
    fn keys(&self, name: &str) -> Vec<Key> {
        let jobs = self.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.get(name).map(|job| job.wanted_by.iter().cloned().collect()).unwrap_or_default()
    }
}

/// The progress of a running job.
struct Watched {
    name: Name,
    waiting: std::sync::Weak<dyn Waiting>,
    wake: mpsc::UnboundedSender<Key>,
    begun: AtomicBool,
    cancel: AtomicBool,
    last: Mutex<(Option<Step>, Option<Instant>)>,
}

impl Watched {
    fn new(name: Name, waiting: std::sync::Weak<dyn Waiting>, wake: mpsc::UnboundedSender<Key>) -> Self {
        Self {
            name,
            waiting,
            wake,
            begun: AtomicBool::new(false),
            cancel: AtomicBool::new(false),
            last: Mutex::default(),
        }
    }

    fn look<T>(&self) -> Work<T> {
        if !self.begun.load(Ordering::Relaxed) {
            return Work::Queued;
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Work::Running { message: last.0.as_ref().map(describe).unwrap_or_default() }
    }
}

impl Progress for Watched {
    fn step(&self, step: Step) {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.1.is_none_or(|told| now.duration_since(told) >= PROGRESS_INTERVAL);
        last.0 = Some(step);
        if !due {
            return;
        }
        last.1 = Some(now);
        drop(last);
        for key in self.waiting.upgrade().map(|w| w.keys(&self.name)).unwrap_or_default() {
            let _ = self.wake.send(key);
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// A step in words: `pulling alpine: 12.0 of 48.3 MiB`.
fn describe(step: &Step) -> String {
    #[allow(clippy::cast_precision_loss)] // shown with one decimal
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    match step.total {
        Some(total) => format!("{}: {:.1} of {:.1} MiB", step.what, mib(step.done), mib(total)),
        None if step.done > 0 => format!("{}: {:.1} MiB", step.what, mib(step.done)),
        None => step.what.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        memory::Stage,
        metrics::{Metrics, Sample},
    };

    fn jobs() -> (Jobs<u32>, mpsc::UnboundedReceiver<Key>) {
        jobs_measured_by(&Metrics::new())
    }

    fn jobs_measured_by(metrics: &Metrics) -> (Jobs<u32>, mpsc::UnboundedReceiver<Key>) {
        let (wake, woken) = mpsc::unbounded_channel();
        (Jobs::new(JobKind::Pull, metrics.stage(Stage::Image), Arc::new(Semaphore::new(1)), wake), woken)
    }

    #[tokio::test]
    async fn two_who_want_the_same_work_share_one_run_of_it() {
        let (jobs, mut woken) = jobs();
        let (a, b) = (Key::new("default", "a"), Key::new("default", "b"));
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        jobs.begin("pull", &a, |_| async move {
            let _ = wait.await;
            Ok(1)
        });
        jobs.begin("pull", &b, |_| async { Ok(2) });
        go.send(()).unwrap();
        assert_eq!([woken.recv().await, woken.recv().await], [Some(a), Some(b)]);
        assert_eq!(jobs.look("pull", &Key::new("default", "b")).ready().map(|d| d.value), Some(1));
    }

    #[tokio::test]
    async fn what_is_under_way_is_told_and_its_end_is_measured() {
        let metrics = Metrics::new();
        let (jobs, mut woken) = jobs_measured_by(&metrics);
        let key = Key::new("default", "a");
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        jobs.begin("well", &key, |_| async move {
            let _ = wait.await;
            Ok(1)
        });
        let fault = Fault { code: "ImageNotFound".to_owned(), message: String::new(), retryable: true };
        jobs.begin("badly", &key, |_| async { Err(fault) });
        let mut states: Vec<_> = jobs.under_way().iter().map(|job| (job.state, job.wanted_by)).collect();
        states.sort_by_key(|(state, _)| *state as usize);
        assert_eq!(states, [(JobState::Queued, 1), (JobState::Running, 1)]);
        go.send(()).unwrap();
        assert_eq!([woken.recv().await, woken.recv().await], [Some(key.clone()), Some(key.clone())]);
        assert!(jobs.under_way().is_empty());

        // One that is given up has not failed.
        let (begun, is_begun) = tokio::sync::oneshot::channel::<()>();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        jobs.begin("given up", &key, |_| async move {
            let _ = begun.send(());
            let _ = wait.await;
            Err(cancelled())
        });
        is_begun.await.unwrap();
        jobs.release(&key);
        go.send(()).unwrap();
        while !jobs.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let text = metrics.render(&Sample { queue: crate::queue::Counts::default(), jobs: Vec::new() });
        for line in [
            "microagent_stage_duration_seconds_count{stage=\"image\"} 1\n",
            "microagent_stage_failures_total{stage=\"image\"} 1\n",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }

    #[tokio::test]
    async fn work_that_nobody_wants_is_cancelled_and_leaves_no_trace() {
        let (jobs, _woken) = jobs();
        let a = Key::new("default", "a");
        let (told, hear) = tokio::sync::oneshot::channel();
        let (begun, is_begun) = tokio::sync::oneshot::channel::<()>();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        jobs.begin("pull", &a, |progress| async move {
            let _ = begun.send(());
            let _ = wait.await;
            let _ = told.send(progress.cancelled());
            Ok(1)
        });
        is_begun.await.unwrap();
        jobs.release(&a);
        go.send(()).unwrap();
        assert!(hear.await.unwrap());
        while !jobs.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn progress_reads_well() {
        let step = Step { what: "pulling web".to_owned(), done: 1 << 20, total: Some(3 << 20) };
        assert_eq!(describe(&step), "pulling web: 1.0 of 3.0 MiB");
    }
}
