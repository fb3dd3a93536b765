//! `quipu-sim`: runs many seeds on all cores, or one with its trace; `cargo xtask simulate` builds and starts it.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use quipu_sim::{Options, Outcome, Sabotage, run};

/// Simulates whole clusters in virtual time and judges what their users saw.
#[derive(Parser)]
#[command(name = "cargo xtask simulate", bin_name = "cargo xtask simulate")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Run this seed alone; with --seeds, begin with it.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every step of the one seed.
    #[arg(long)]
    trace: bool,
    /// Break a promise on purpose: the run has to fail.
    #[arg(long)]
    sabotage: Option<Sabotage>,
    /// People only write and read.
    #[arg(long)]
    plain: bool,
    /// Inboxes keep everything, and nobody watches who is here.
    #[arg(long)]
    keep_all: bool,
    /// Threads; the default is one a core.
    #[arg(long)]
    threads: Option<usize>,
}

/// What all threads share.
struct Progress {
    next: AtomicU64,
    end: u64,
    done: AtomicU64,
    events: AtomicU64,
    violations: AtomicU64,
    failed: Mutex<Vec<Outcome>>,
    stop: AtomicBool,
}

/// Failed seeds that are printed.
const FAILED_MAX: usize = 10;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A seed alone is run alone.
    let alone =
        arguments.seed.is_some() && !std::env::args().any(|word| word.starts_with("--seeds"));
    let options = Options {
        sabotage: arguments.sabotage,
        text: false,
        plain: arguments.plain,
        keep_all: arguments.keep_all,
    };
    let first = arguments.seed.unwrap_or(1);
    let count = if alone { 1 } else { arguments.seeds };
    if arguments.trace {
        let options = Options {
            text: true,
            ..options
        };
        let outcome = run(first, options);
        return report(std::slice::from_ref(&outcome), 1, outcome.events, options);
    }
    let progress = Progress {
        next: AtomicU64::new(first),
        end: first.saturating_add(count),
        done: AtomicU64::new(0),
        events: AtomicU64::new(0),
        violations: AtomicU64::new(0),
        failed: Mutex::default(),
        stop: AtomicBool::new(false),
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(cores).max(1);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&progress, options));
        }
        scope.spawn(|| tell(&progress, count));
    });
    let failed = progress.failed.into_inner().unwrap_or_default();
    let done = progress.done.into_inner();
    report(&failed, done, progress.events.into_inner(), options)
}

fn work(progress: &Progress, options: Options) {
    loop {
        let seed = progress.next.fetch_add(1, Ordering::Relaxed);
        if seed >= progress.end || progress.stop.load(Ordering::Relaxed) {
            return;
        }
        let outcome = run(seed, options);
        progress.events.fetch_add(outcome.events, Ordering::Relaxed);
        progress.done.fetch_add(1, Ordering::Relaxed);
        if outcome.violations.is_empty() {
            continue;
        }
        let violations = outcome.violations.len() as u64;
        progress.violations.fetch_add(violations, Ordering::Relaxed);
        if let Ok(mut failed) = progress.failed.lock() {
            failed.push(outcome);
            // Of a sabotage one sighting is enough.
            if failed.len() >= FAILED_MAX || options.sabotage.is_some() {
                progress.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Says now and then how far it is.
fn tell(progress: &Progress, count: u64) {
    let mut said = Instant::now();
    while progress.done.load(Ordering::Relaxed) < count && !progress.stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
        if said.elapsed() >= Duration::from_secs(10) {
            said = Instant::now();
            let done = progress.done.load(Ordering::Relaxed);
            let violations = progress.violations.load(Ordering::Relaxed);
            println!("{done} of {count} seeds, {violations} violations");
        }
    }
}

fn report(failed: &[Outcome], seeds: u64, events: u64, options: Options) -> ExitCode {
    let mut violations = 0;
    for outcome in failed {
        violations += outcome.violations.len();
        for violation in &outcome.violations {
            println!("seed {}: {violation}", outcome.seed);
        }
        if !outcome.violations.is_empty() {
            let mut with = options
                .sabotage
                .and_then(|sabotage| clap::ValueEnum::to_possible_value(&sabotage))
                .map(|value| format!(" --sabotage {}", value.get_name()))
                .unwrap_or_default();
            if options.plain {
                with.push_str(" --plain");
            }
            if options.keep_all {
                with.push_str(" --keep-all");
            }
            println!(
                "seed {}: replay it with `cargo xtask simulate --seed {} --trace{with}`",
                outcome.seed, outcome.seed
            );
        }
    }
    if seeds == 1
        && let [outcome] = failed
    {
        println!("trace hash {:016x}", outcome.trace);
    }
    println!("simulate: seeds={seeds} events={events} violations={violations}");
    if violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
