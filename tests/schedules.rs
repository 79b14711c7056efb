//! Every kind of plan computes what the specification says: for every cell and weight type, for sizes around the edges of
//! workgroups and tiles, and for sequences that a low loop cap cuts into chunks of time. Narrow weights move the numbers no
//! further than they may.
#![cfg(feature = "gpu")]

#[path = "schedules/chunks.rs"]
mod chunks;
mod common;
#[path = "schedules/rounding.rs"]
mod rounding;
#[path = "schedules/table.rs"]
mod table;

use common::case::{Arrays, Case, Outcome, forward, outcome};
use gatewise::Device;
use gatewise::plan::{Plan, PlanKind};

/// A call by a kind of plan that the configuration of the stack asks for.
#[track_caller]
fn run(device: &Device, kind: PlanKind, case: &Case, arrays: &Arrays<f32>) -> (Plan, Outcome<f32>) {
    let stack = case.config().plan(kind).build(device, arrays.parameters.clone()).expect("a legal configuration");
    let plan = stack.plan(case.time, case.batch).expect("a kind that runs the cell");
    assert_eq!(plan.kind(), kind, "{plan}");
    let mut state = case.state(&stack, arrays);
    let y = forward(&stack, &arrays.x, &mut state, &case.sequence());
    (plan, outcome(y, &state))
}

/// Compares the outcome of a call with the specification, whose weights are rounded as the stack's are.
#[track_caller]
fn matches<'a>((plan, got): &'a (Plan, Outcome<f32>), case: &Case, arrays: &Arrays<f32>) -> &'a Plan {
    let (expected, tolerance) = case.expectation(arrays).expect("a tame cell");
    let distance = got.distance(&expected);
    assert!(distance <= tolerance, "off by {distance}, at most {tolerance}\n{plan}\n{case:#?}");
    plan
}

/// Runs a call, which must agree with the specification, and again for the same bits.
#[track_caller]
fn agrees(device: &Device, kind: PlanKind, case: &Case, arrays: &Arrays<f32>) -> Plan {
    let first = run(device, kind, case, arrays);
    matches(&first, case, arrays);
    let (plan, again) = run(device, kind, case, arrays);
    assert_eq!(again.bits(), first.1.bits(), "another run has other bits\n{plan}");
    plan
}
