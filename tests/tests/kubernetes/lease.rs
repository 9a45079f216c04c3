//! Leases between programs that know nothing of each other but what the API server has.

use std::time::Duration;

use microagent_lease::{Keeper, LeaseError, Terms};
use microagent_tests::cluster::Cluster;
use tokio_util::sync::CancellationToken;

/// Short, so that a test need not wait long for a silent holder. A busy machine may not renew in time: nothing here asserts that it does.
const DURATION: Duration = Duration::from_secs(6);

fn terms(holder: &str) -> Terms {
    Terms { name: "one".to_owned(), holder: holder.to_owned(), duration: DURATION, renew: Duration::from_secs(1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_takes_it_and_the_next_one_waits_for_its_end() {
    let Some(cluster) = Cluster::shared("one_of_many_takes_it_and_the_next_one_waits_for_its_end") else { return };
    let namespace = cluster.namespace();
    let client = cluster.client().await;
    let keeper = |holder: &str| Keeper::new(client.clone(), &namespace, terms(holder));

    // All at once: the API server lets one write pass, and the others see that it renews.
    let (mut first, mut second) = (keeper("a"), keeper("b"));
    let stop = CancellationToken::new();
    let run = |taken: Result<(), LeaseError>, keeper: Keeper| match taken {
        Ok(()) => (None, Some((keeper.held(), tokio::spawn(keeper.run(stop.clone()))))),
        Err(error) => (Some(error), None),
    };
    let race = tokio::join!(
        async {
            let taken = first.take().await;
            run(taken, first)
        },
        async {
            let taken = second.take().await;
            run(taken, second)
        }
    );
    let (refused, mut winners): (Vec<_>, Vec<_>) = [race.0, race.1].into_iter().unzip();
    let refused: Vec<_> = refused.into_iter().flatten().collect();
    winners.retain(Option::is_some);
    assert!(matches!(&refused[..], [LeaseError::HeldByOther { .. }]), "{refused:?}");
    let (held, running) = winners.pop().flatten().expect("one has it");
    assert!(held.now());

    // Killed: what it held ends by itself, and then another has it.
    running.abort();
    let mut third = keeper("c");
    // What it was writing when it was killed may still come, and is then a sign of life.
    if third.take().await.is_err() {
        third.take().await.expect("a silent holder gives way");
    }
    assert!(!held.now() && third.held().now());

    // Given back: the next one has it at once.
    let held = third.held();
    third.release().await.expect("it is given back");
    assert!(!held.now());
    let mut fourth = keeper("d");
    fourth.take().await.expect("it is free");
    let lease = cluster.kubectl().in_namespace(&namespace).ok([
        "get",
        "lease",
        "one",
        "--output=jsonpath={.spec.holderIdentity} {.spec.leaseTransitions}",
    ]);
    assert_eq!(lease, "d 2", "it has changed hands twice since it was made");
}
