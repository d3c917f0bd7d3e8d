//! What was measured of the cost of tracing, as the report shows it.

use super::keep::Keeper;
use crate::{
    overhead::{
        cost::Cost,
        meter::{Meter, Sums},
    },
    report::overhead::{Budget, Calibration, FunctionCost, Overhead, Spent},
    traced::catalog::Catalog,
};

/// The report's part.
pub(super) fn overhead(
    meter: &Meter,
    catalog: &Catalog,
    keeper: Option<&Keeper>,
    budget: Option<Budget>,
) -> Overhead {
    let calibration = meter.costs().ok().map(|costs| Calibration {
        emulated_ns: costs.emulated_ns,
        single_stepped_ns: costs.single_stepped_ns,
        return_ns: costs.return_ns,
    });
    let unknown = meter.costs().err().map(String::as_str).or(meter.untimed());
    Overhead {
        calibration,
        unknown: unknown.map(str::to_owned),
        interval: spent(&meter.interval, calibration.is_some()),
        run: spent(&meter.run, calibration.is_some()),
        functions: functions(meter, catalog, keeper),
        budget,
    }
}

fn spent(sums: &Sums, known: bool) -> Spent {
    let tracer_ns = sums.tracer_cpu_ns as f64;
    Spent {
        target_share: sums.share().filter(|_| known),
        traps: sums.cost.traps,
        trap_s: sums.cost.trap_ns / 1e9,
        run_s: sums.cost.run_ns / 1e9,
        target_cpu_s: sums.target_cpu_ns as f64 / 1e9,
        tracer_cpu_s: tracer_ns / 1e9,
        tracer_share: tracer_ns / sums.elapsed_ns.max(1) as f64,
    }
}

fn functions(meter: &Meter, catalog: &Catalog, keeper: Option<&Keeper>) -> Vec<FunctionCost> {
    let mut functions: Vec<FunctionCost> = meter
        .run
        .functions
        .iter()
        .filter_map(|(&number, (hits, cost))| {
            let slot = catalog.slots.get(number)?;
            Some(FunctionCost {
                object: catalog.name(slot.object),
                function: slot.function.clone(),
                entries: hits.entries,
                returns: hits.returns,
                cost_s: Cost::ns(cost) / 1e9,
                seen_share: keeper.map_or(1.0, |keeper| keeper.coverage.run.share(number)),
                paused: keeper.is_some_and(|keeper| keeper.is_paused(number)),
            })
        })
        .collect();
    functions.sort_by(|a, b| {
        let by_name = (&a.object, &a.function).cmp(&(&b.object, &b.function));
        b.cost_s.total_cmp(&a.cost_s).then(by_name)
    });
    functions
}
