//! Whatever is done to the folders, in whatever order, with a look at any moment: what runs is what the folders say, nothing
//! half written is taken, and nothing goes that could still be wanted.
//!
//! The scripts are the same at each run. `MICROAGENT_TEST_SEED` and `MICROAGENT_TEST_CASES` ask for others.

#![expect(clippy::unwrap_used, reason = "tests")]

mod files;
mod model;
mod player;
mod script;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::{
    model::LONG,
    player::{Player, Verdict},
    script::{Step, scripts},
};

/// Some ten seconds on a machine of two CPUs.
const CASES: u32 = 400;

#[test]
fn no_order_of_edits_looks_and_restarts_fools_the_store() {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    };
    let seed = number("MICROAGENT_TEST_SEED", 1);
    let cases = u32::try_from(number("MICROAGENT_TEST_CASES", CASES.into())).unwrap();
    println!("MICROAGENT_TEST_SEED={seed} MICROAGENT_TEST_CASES={cases}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(&scripts(), |script| play(&script).map_err(TestCaseError::fail));
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, script)) => {
            let steps: Vec<String> = script.iter().map(|step| format!("\n  {step:?}")).collect();
            panic!("{reason}{}", steps.concat());
        }
        Err(error) => panic!("{error}"),
    }
}

fn play(script: &[Step]) -> Verdict {
    let mut player = Player::new();
    for step in script {
        player.step(step)?;
    }
    // As it was left, and then mended: both times what runs is what the files say, and stays so.
    quiet(&mut player)?;
    if player.model.all_listed() {
        player.model.compare(&player.desired)?;
    }
    player.mend();
    quiet(&mut player)?;
    player.model.compare(&player.desired)?;
    for key in player.model.tombstones() {
        player.forget(&key)?;
    }
    quiet(&mut player)?;
    player.model.compare(&player.desired)
}

/// Until no look is asked for; a look long after changes nothing then.
fn quiet(player: &mut Player) -> Verdict {
    player.settle()?;
    let changed = player.after(LONG)?.changed;
    if !changed.is_empty() {
        return Err(format!("nobody asked for the look that changed {changed:?}"));
    }
    Ok(())
}
