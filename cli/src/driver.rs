//! The reconcile loop inside this process, for commands that need it while no controller is up.

use std::{future::pending, time::Duration};

use microagent_controller::{ControllerError, Options, Paths};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Result};

/// How often to look whether a controller that was up is gone. Nothing tells of the end of a process that is not a child.
const RELOOK: Duration = Duration::from_secs(1);

/// Sees to it that a controller is up: one that is there already, or else this process.
pub(crate) struct Driver {
    shutdown: CancellationToken,
    task: Option<JoinHandle<Result<()>>>,
}

impl Driver {
    /// Starts to see to it. When the controller that is up ends, this process takes over: two `run`s at once share the loop
    /// of the first, and the second must not be left alone.
    pub(crate) fn start(paths: &Paths) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(drive(paths.clone(), shutdown.clone()));
        Self { shutdown, task: Some(task) }
    }

    /// Ends only when there can be no controller, with the reason.
    pub(crate) async fn failed(&mut self) -> Failure {
        let ended = match &mut self.task {
            Some(task) => task.await,
            None => pending().await,
        };
        self.task = None;
        match ended {
            Ok(Ok(())) => Failure::new("the reconcile loop ended before its work was done"),
            Ok(Err(failure)) => failure,
            Err(e) => Failure::new(format!("the reconcile loop broke off: {e}")),
        }
    }

    /// Ends the loop in this process, if it is here. Machines go on running.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

async fn drive(paths: Paths, shutdown: CancellationToken) -> Result<()> {
    loop {
        let options = Options::new(paths.clone());
        match microagent_controller::run(options, shutdown.clone()).await {
            Ok(()) => return Ok(()),
            Err(ControllerError::Locked { .. }) => {
                let gone = async {
                    while microagent_controller::running(&paths).is_some() {
                        tokio::time::sleep(RELOOK).await;
                    }
                };
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = gone => {}
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
}
