//! The report made by hand, with what a gate found in it.

use super::{MIB, report, text, types};
use crate::report::{gate::*, model::*, verdict::*};

/// With a gate that has failed in every way, and suppressions.
pub(crate) fn gated() -> Report {
    let mut report = report();
    report.last = true;
    let held = |sites, blocks, bytes, gpu: Vec<OmittedSpace>| Omitted {
        sites,
        blocks,
        bytes,
        gpu,
    };
    let suppressed = |pattern: &str, line, held, types| Suppressed {
        pattern: text(pattern),
        file: text("known.supp"),
        line,
        held,
        types,
    };
    let device = OmittedSpace {
        space: "device",
        sites: 1,
        blocks: 2,
        bytes: MIB,
    };
    report.suppressed = vec![
        suppressed("^cache_*", 1, held(1, 12, 2048, Vec::new()), 0),
        suppressed("unused", 2, Omitted::default(), 0),
        suppressed("libfoo", 3, held(1, 2, 1024, vec![device]), 3),
    ];
    report.survivors[0].verdict = Some(Verdict {
        class: Class::Growing,
        confidence: 0.99,
        slope_bytes_per_s: 8_192.0,
        slope_interval: [8_000.0, 8_400.0],
        bound_bytes: None,
        loss_bytes_per_h: 29_491_200,
        survival: Vec::new(),
        reason: text("every block still lives"),
        needs_s: None,
    });
    let failed = |condition: &str, memory, value, limit| Failed {
        condition: text(condition),
        memory,
        value,
        estimate: None,
        limit,
        sites: vec![0],
        more_sites: 0,
        types: Vec::new(),
    };
    report.types = Some(types());
    report.gate = Some(Gate {
        conditions: ["growing", "survivors>100", "bytes>1MiB"].map(text).to_vec(),
        failed: vec![
            failed("survivors>100", Some("host"), 1_235, 100),
            Failed {
                estimate: Some(48 * MIB),
                sites: Vec::new(),
                more_sites: 7,
                ..failed("bytes>1MiB", Some("device"), 40 * MIB, MIB)
            },
            Failed {
                types: vec![0, 1],
                ..failed("growing", None, 3, 0)
            },
        ],
        undecided: Some(Undecided {
            sites: 3,
            types: 1,
            needs_s: Some(40.0),
        }),
        unnamed_sites: 5,
    });
    report
}
