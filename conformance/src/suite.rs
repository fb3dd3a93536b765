//! Runs the cases against one gateway, one after the other, while a witness pair keeps chatting.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::cases;
use crate::raw::Dialer;
use crate::session::{Session, register};
use crate::witness::Witness;

/// The name under which the witness is judged, like a case.
pub const WITNESS: &str = "witness/others-unharmed";
/// How long one case may take.
const CASE_PATIENCE: Duration = Duration::from_secs(60);

/// What a case is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// Connects to the gateway under test.
    pub dialer: Dialer,
    /// Tells the names of one run from those of another, so that a gateway with old accounts can be tested again.
    run: u32,
    /// Tells the names of one case from those of another.
    case: u32,
}

/// The number of the next user of this process.
static USERS: AtomicU32 = AtomicU32::new(0);

impl Context {
    /// A context for things outside of any case.
    pub fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            run: rand::random(),
            case: 0,
        }
    }

    /// The same with a socket of its own.
    pub fn elsewhere(&self) -> anyhow::Result<Self> {
        Ok(Self {
            dialer: self.dialer.another()?,
            ..self.clone()
        })
    }

    /// A name that nobody has.
    pub fn fresh_name(&self) -> String {
        let user = USERS.fetch_add(1, Ordering::Relaxed);
        format!("c{:08x}-{}-{user}", self.run, self.case)
    }

    /// A new account, connected.
    pub async fn user(&self) -> anyhow::Result<Session> {
        Session::open(&self.dialer, &register(&self.fresh_name())).await
    }

    /// Two new accounts with their direct conversation open.
    pub async fn pair(
        &self,
    ) -> anyhow::Result<(Session, Session, quipu_protocol::id::ConversationId)> {
        let (mut a, b) = (self.user().await?, self.user().await?);
        let conversation = a.open_direct(&b.welcome.user).await?;
        Ok((a, b, conversation))
    }
}

/// A running case.
pub type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// How the gateway under test is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As its operator likes; its limits are far above what a case does.
    Any,
    /// With the small limits that conformance/small-limits.toml sets, which some cases need and most would trip over.
    SmallLimits,
}

/// One requirement and how to check it.
#[derive(Clone, Copy)]
pub struct Case {
    /// `area/what-is-asked`; the key in `expected.toml`.
    pub name: &'static str,
    /// The rules of SPEC.md that it checks.
    pub rules: &'static [&'static str],
    /// The gateway that it needs.
    pub profile: Profile,
    /// The check.
    pub run: fn(Context) -> Running,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// How a case ended.
#[derive(Debug)]
pub struct Outcome {
    /// The case.
    pub name: &'static str,
    /// Its rules.
    pub rules: &'static [&'static str],
    /// `Err` says what was seen instead.
    pub result: Result<(), String>,
    /// How long it took.
    pub took: Duration,
}

/// Runs every case for which `wanted` holds, and judges the witness last.
pub async fn run(
    dialer: &Dialer,
    wanted: impl Fn(&Case) -> bool,
    mut each: impl FnMut(&Outcome),
) -> anyhow::Result<Vec<Outcome>> {
    let context = Context::new(dialer.clone());
    let began = Instant::now();
    let witness = Witness::start(&context).await?;
    let mut outcomes = Vec::new();
    for (number, case) in (1..).zip(cases::all()) {
        if !wanted(case) {
            continue;
        }
        let context = Context {
            case: number,
            ..context.clone()
        };
        let outcome = run_case(case, context).await;
        each(&outcome);
        outcomes.push(outcome);
    }
    let judged = Outcome {
        name: WITNESS,
        rules: &[],
        result: witness.stop().await.map(drop).map_err(|e| format!("{e:#}")),
        took: began.elapsed(),
    };
    each(&judged);
    outcomes.push(judged);
    Ok(outcomes)
}

async fn run_case(case: &Case, context: Context) -> Outcome {
    let began = Instant::now();
    // A task of its own: a case that panics fails, and the others still run.
    let mut task = tokio::spawn((case.run)(context));
    let result = match tokio::time::timeout(CASE_PATIENCE, &mut task).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(anyhow!("the case itself failed: {panic}")),
        Err(_) => {
            task.abort();
            Err(anyhow!("not done after {} s", CASE_PATIENCE.as_secs()))
        }
    };
    Outcome {
        name: case.name,
        rules: case.rules,
        result: result.map_err(|error| format!("{error:#}")),
        took: began.elapsed(),
    }
}
