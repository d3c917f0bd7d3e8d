//! When probes are in and when they are out, so that their cost stays a share of the target's CPU time over the
//! long run. Pure: time comes in.
//!
//! It keeps an account: each step owes what tracing cost and is granted its share of the CPU time. Probes go out
//! when the account is overdrawn by more than a second's grant, and come back when as much has been saved. The
//! account is exact whatever the load does, so the average is the budget, and no forecast can be wrong.

/// Grant, in seconds, by which the account may be overdrawn before probes go out, and to which it is filled
/// before they come back. Probes that go in and out more often cost more than they show.
const SLACK_NS: f64 = 1e9;
/// Credit that a quiet time may leave behind, in the same unit.
const CREDIT: f64 = 2.0;
/// The shortest time that probes are in: what is seen in less says little.
const SHORTEST_IN_NS: u64 = 200_000_000;
/// How long frees are still watched after allocations no longer are.
const DRAIN_NS: u64 = 100_000_000;
/// The slack is that of a target that uses so many CPUs, also where it uses fewer.
const LEAST_CPUS: f64 = 0.01;
/// Time constant of the average of the CPUs that the target uses.
const RATE_TAU_NS: f64 = 2e9;
/// The load has fallen where the target uses less than this share of the CPUs that it used before.
const FALLEN: f64 = 0.1;
/// While the load has fallen, the debt is repaid at this share of the pace at which the load repaid it: or a
/// target that idles would stay unseen for good.
const FORGIVEN: f64 = 0.5;

/// Where the probes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All are in.
    In,
    /// Those of functions that allocate are out; blocks handed out before may still be seen to go.
    Drain,
    /// All that are to be paused are out.
    Out,
}

/// The account and the phase.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    budget: f64,
    phase: Phase,
    phase_ns: u64,
    /// Nanoseconds of cost beyond what was granted; below 0 there is credit.
    debt_ns: f64,
    /// CPUs that the target uses, averaged.
    rate: f64,
    /// The same when probes last went out.
    rate_before: f64,
    /// The debt then.
    debt_before_ns: f64,
}

impl Pacer {
    /// All are in. `budget` is a share of the target's CPU time.
    pub(super) const fn new(budget: f64) -> Self {
        Self {
            budget,
            phase: Phase::In,
            phase_ns: 0,
            debt_ns: 0.0,
            rate: -1.0,
            rate_before: 0.0,
            debt_before_ns: 0.0,
        }
    }

    /// See [`Phase`].
    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    /// Books a step.
    pub(super) fn book(&mut self, elapsed_ns: u64, target_cpu_ns: u64, cost_ns: f64) {
        if elapsed_ns == 0 {
            return;
        }
        self.phase_ns += elapsed_ns;
        let cpus = target_cpu_ns as f64 / elapsed_ns as f64;
        let new = 1.0 - (-(elapsed_ns as f64) / RATE_TAU_NS).exp();
        self.rate = if self.rate < 0.0 {
            cpus
        } else {
            self.rate + (cpus - self.rate) * new
        };
        self.debt_ns += cost_ns - self.budget * target_cpu_ns as f64;
        self.debt_ns = self.debt_ns.max(-CREDIT * self.slack_ns());
        let granted_before = self.budget * self.rate_before * elapsed_ns as f64;
        if self.phase == Phase::Out && self.debt_ns > 0.0 && self.has_fallen() {
            self.debt_ns = (self.debt_ns - FORGIVEN * granted_before).max(0.0);
        }
    }

    fn slack_ns(&self) -> f64 {
        self.budget * SLACK_NS * self.rate.max(LEAST_CPUS)
    }

    fn has_fallen(&self) -> bool {
        self.rate < FALLEN * self.rate_before
    }

    /// Whether probes must go out, and have been in for long enough.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.phase == Phase::In && self.phase_ns >= SHORTEST_IN_NS && self.debt_ns > self.slack_ns()
    }

    /// Whether they may come back.
    pub(super) fn is_repaid(&self) -> bool {
        let saved = self.debt_ns <= -0.9 * self.slack_ns();
        self.phase == Phase::Out && (saved || (self.has_fallen() && self.debt_ns <= 0.0))
    }

    /// Whether frees may go out too.
    pub(super) const fn is_drained(&self) -> bool {
        matches!(self.phase, Phase::Drain) && self.phase_ns >= DRAIN_NS
    }

    /// Whether the debt has grown by a second's grant while probes were out: too few are.
    pub(super) fn is_still_too_dear(&self) -> bool {
        self.phase == Phase::Out && self.debt_ns > self.debt_before_ns + self.slack_ns()
    }

    /// Begins a phase.
    pub(super) const fn go(&mut self, phase: Phase) {
        if matches!(self.phase, Phase::In) {
            self.rate_before = self.rate;
        }
        self.debt_before_ns = self.debt_ns;
        self.phase = phase;
        self.phase_ns = 0;
    }
}
