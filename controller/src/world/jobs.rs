//! Long work that workspaces share: pulls, builds, kernel installs. The same work is done once however many want it, a
//! bounded number at a time, and is cancelled when nobody wants it any longer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use microagent_base::{Progress, progress::Step};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
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

/// How long what came of a job counts as of now. A thousand workspaces that appear together are to share one pull, though its end
/// comes before the last of them is looked at.
const RECENT: Duration = Duration::from_secs(1);

/// Which work. Equal names are the same work.
pub(super) type Name = String;

/// The leave to run. Work that begins other work beside itself shares it, so that both count as one.
pub(super) type Slot = Arc<OwnedSemaphorePermit>;

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

type Outcome<T> = Result<Done<T>, Fault>;

/// One piece of work, which may be done several times over: whoever comes after its end may want it done anew, and what it gave to
/// those before stays theirs until they have taken it.
struct Job<T> {
    running: Option<Run>,
    /// What came of it, for each who waited.
    ended: BTreeMap<Key, Arc<Outcome<T>>>,
    /// What came of it last, and when.
    last: Option<(Instant, Arc<Outcome<T>>)>,
}

struct Run {
    watched: Arc<Watched>,
    waiting: BTreeSet<Key>,
}

impl<T> Job<T> {
    fn is_wanted(&self) -> bool {
        let recent = |(at, _): &(Instant, _)| at.elapsed() < RECENT;
        self.running.is_some() || !self.ended.is_empty() || self.last.as_ref().is_some_and(recent)
    }
}

impl<T: Clone + Send + Sync + 'static> Jobs<T> {
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
            let run = job.running.as_ref()?;
            let (state, progress) = match run.watched.look::<()>() {
                Work::Running { message } => (JobState::Running, message),
                _ => (JobState::Queued, String::new()),
            };
            Some(JobSight { kind: self.kind, state, wanted_by: run.waiting.len(), progress })
        };
        self.lock().values().filter_map(sight).collect()
    }

    /// How a job stands that `key` wants. What others had done, without `key` wanting it, is not there for it.
    pub(super) fn look(&self, name: &str, key: &Key) -> Work<Done<T>> {
        let jobs = self.lock();
        let Some(job) = jobs.get(name) else { return Work::Absent };
        if let Some(run) = job.running.as_ref().filter(|run| run.waiting.contains(key)) {
            return run.watched.look();
        }
        match job.ended.get(key).map(|outcome| &**outcome) {
            None => Work::Absent,
            Some(Ok(done)) => Work::Ready(done.clone()),
            Some(Err(fault)) => Work::Failed(fault.clone()),
        }
    }

    /// What came of a job that ended well a moment ago, whoever wanted it.
    pub(super) fn recent(&self, name: &str) -> Option<Done<T>> {
        let jobs = self.lock();
        let (at, outcome) = jobs.get(name)?.last.as_ref()?;
        outcome.as_ref().as_ref().ok().filter(|_| at.elapsed() < RECENT).cloned()
    }

    /// Begins the job, or joins it when it runs. A job that ended is begun anew.
    pub(super) fn begin<F, R>(&self, name: &str, key: &Key, work: F)
    where
        F: FnOnce(Arc<dyn Progress>) -> R + Send + 'static,
        R: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        self.begin_within(name, key, None, |progress, _| {
            let work = work(progress);
            async { work.await.map(Some) }
        });
    }

    /// [`Jobs::begin`] of work that runs in the slot of other work, where there is one, or begins other work in its own.
    /// It may come to nothing: whoever wanted it then begins it anew.
    pub(super) fn begin_within<F, R>(&self, name: &str, key: &Key, slot: Option<Slot>, work: F)
    where
        F: FnOnce(Arc<dyn Progress>, Option<Slot>) -> R + Send + 'static,
        R: Future<Output = Result<Option<T>, Fault>> + Send + 'static,
    {
        let mut jobs = self.lock();
        let job =
            jobs.entry(name.to_owned()).or_insert_with(|| Job { running: None, ended: BTreeMap::new(), last: None });
        job.ended.remove(key);
        if let Some(run) = &mut job.running {
            run.waiting.insert(key.clone());
            return;
        }
        let watched = Arc::new(Watched::new(name.to_owned(), Arc::downgrade(&self.inner) as _, self.wake.clone()));
        job.running = Some(Run { watched: watched.clone(), waiting: BTreeSet::from([key.clone()]) });
        drop(jobs);
        let (inner, slots, wake, name) = (self.inner.clone(), self.slots.clone(), self.wake.clone(), name.to_owned());
        // Taken here where one is free, so that work that need not wait is never seen waiting.
        let free = slot.or_else(|| slots.clone().try_acquire_owned().ok().map(Arc::new));
        watched.begun.store(free.is_some(), Ordering::Relaxed);
        let meter = self.meter.clone();
        let job = async move {
            let slot = match free {
                Some(slot) => Some(slot),
                None => slots.acquire_owned().await.ok().map(Arc::new),
            };
            let started = Instant::now();
            watched.begun.store(true, Ordering::Relaxed);
            let result = if watched.cancelled() { Err(cancelled()) } else { work(watched.clone(), slot.clone()).await };
            drop(slot);
            // Who came after it was cancelled, or wanted what came to nothing, begins it anew.
            let given_up = matches!(result, Ok(None)) || result.is_err() && watched.cancelled();
            let outcome = result.and_then(|value| {
                let value = value.ok_or_else(cancelled)?;
                Ok(Done { value, took: started.elapsed() })
            });
            match &outcome {
                Ok(done) => meter.ended(done.took),
                // That it was given up is no failure.
                Err(_) if given_up => {}
                Err(_) => meter.failed(),
            }
            let mut jobs = inner.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(job) = jobs.get_mut(&name) else { return };
            let waiting = job.running.take().map(|run| run.waiting).unwrap_or_default();
            if waiting.is_empty() && job.ended.is_empty() {
                jobs.remove(&name);
            } else if !given_up {
                let outcome = Arc::new(outcome);
                job.ended.extend(waiting.iter().map(|key| (key.clone(), outcome.clone())));
                job.last = Some((Instant::now(), outcome));
            }
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
            job.ended.remove(key);
            if let Some(run) = &mut job.running
                && run.waiting.remove(key)
                && run.waiting.is_empty()
            {
                run.watched.cancel.store(true, Ordering::Relaxed);
            }
            job.is_wanted()
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

impl<T: Send + Sync> Waiting for Mutex<HashMap<Name, Job<T>>> {
    fn keys(&self, name: &str) -> Vec<Key> {
        let jobs = self.lock().unwrap_or_else(PoisonError::into_inner);
        let run = jobs.get(name).and_then(|job| job.running.as_ref());
        run.map(|run| run.waiting.iter().cloned().collect()).unwrap_or_default()
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
        while !jobs.under_way().is_empty() {
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
    async fn what_came_of_a_job_stays_for_those_who_waited_when_another_has_it_done_anew() {
        let (jobs, mut woken) = jobs();
        let (a, b) = (Key::new("default", "a"), Key::new("default", "b"));
        jobs.begin("pull", &a, |_| async { Ok(1) });
        assert_eq!(woken.recv().await.as_ref(), Some(&a));
        assert!(matches!(jobs.look("pull", &b), Work::Absent), "b has not asked for it");
        assert_eq!(jobs.recent("pull").map(|d| d.value), Some(1));
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        jobs.begin("pull", &b, |_| async move {
            let _ = wait.await;
            Ok(2)
        });
        assert_eq!(jobs.look("pull", &a).ready().map(|d| d.value), Some(1));
        go.send(()).unwrap();
        assert_eq!(woken.recv().await.as_ref(), Some(&b), "nobody else is woken");
        assert_eq!(jobs.look("pull", &b).ready().map(|d| d.value), Some(2));
        assert_eq!(jobs.look("pull", &a).ready().map(|d| d.value), Some(1));
    }

    #[tokio::test]
    async fn who_comes_to_work_that_was_given_up_begins_it_anew() {
        let (jobs, mut woken) = jobs();
        let (a, b) = (Key::new("default", "a"), Key::new("default", "b"));
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        jobs.begin("pull", &a, |_| async move {
            let _ = wait.await;
            Err(cancelled())
        });
        jobs.release(&a);
        jobs.begin("pull", &b, |_| async { Ok(2) });
        go.send(()).unwrap();
        assert_eq!(woken.recv().await.as_ref(), Some(&b));
        assert!(matches!(jobs.look("pull", &b), Work::Absent));
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

    #[tokio::test]
    async fn work_beside_other_work_shares_its_slot_and_may_come_to_nothing() {
        let (pulls, mut woken) = jobs();
        let builds = Arc::new(Jobs::<u32>::new(
            JobKind::Build,
            Metrics::new().stage(Stage::Rootfs),
            pulls.slots.clone(),
            pulls.wake.clone(),
        ));
        let a = Key::new("default", "a");
        for (gives, ready) in [(Some(7), true), (None, false)] {
            let (beside, key) = (builds.clone(), a.clone());
            let (go, wait) = tokio::sync::oneshot::channel::<()>();
            // There is one slot, and the work in it waits for the work beside it.
            pulls.begin_within("pull", &a, None, move |_, slot| async move {
                beside.begin_within("build", &key, slot, move |_, _| async move {
                    let _ = go.send(());
                    Ok(gives)
                });
                let _ = wait.await;
                Ok(Some(1))
            });
            assert_eq!([woken.recv().await.as_ref(), woken.recv().await.as_ref()], [Some(&a), Some(&a)]);
            assert_eq!(builds.look("build", &a).is_ready(), ready);
            assert!(ready || matches!(builds.look("build", &a), Work::Absent), "it is no failure");
        }
        assert_eq!(pulls.slots.available_permits(), 1);
    }

    #[test]
    fn progress_reads_well() {
        let step = Step { what: "pulling web".to_owned(), done: 1 << 20, total: Some(3 << 20) };
        assert_eq!(describe(&step), "pulling web: 1.0 of 3.0 MiB");
    }
}
