//! What a plan may be changed to: the choices that a measurement can decide.

use std::fmt;

use super::limits::{AdapterClass, Limits};
use super::{Method, Plan, PlanKind, Problem, Tile};
use crate::error::Result;

/// The part of a plan that does not follow from the problem: any choice computes the same, up to the order of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How the steps become dispatches.
    pub kind: PlanKind,
    /// How the input projection is tiled.
    pub project: Tile,
    /// How a step is tiled.
    pub step: Tile,
}

/// Candidates of one problem at the most.
const MOST: usize = 24;

impl Tile {
    /// Whether there is such a tile on a device.
    fn fits(&self, limits: &Limits) -> bool {
        let powers = self.rows.is_power_of_two() && self.units.is_power_of_two() && self.slices.is_power_of_two();
        let invocations = self.units * self.slices <= limits.workgroup_invocations.min(256);
        let method = match self.method {
            Method::Rows => self.rows <= 8 && self.units >= 8 && (self.slices == 1 || self.rows <= self.slices),
            Method::Lanes => {
                let lanes = limits.subgroup_most.max(8);
                limits.subgroup >= 8 && self.slices == 1 && self.rows <= 16 && self.units.is_multiple_of(lanes)
            }
        };
        powers && invocations && method && self.workgroup_bytes() <= limits.workgroup_bytes
    }

    /// Tiles for a product of `rows` rows: those whose rows are not mostly padding.
    fn variants(limits: &Limits, rows: usize, slices: &[usize]) -> Vec<Self> {
        let mut tiles = Vec::new();
        for method in [Method::Rows, Method::Lanes] {
            for tall in [1, 2, 4, 8, 16].into_iter().filter(|tall| *tall == 1 || *tall < 2 * rows) {
                for units in [8, 16, 32, 64] {
                    let of = |&slices: &usize| Self { method, rows: tall, units, slices };
                    tiles.extend(slices.iter().map(of).filter(|tile| tile.fits(limits)));
                }
            }
        }
        tiles
    }
}

impl Plan {
    /// What the plan has chosen.
    pub fn choice(&self) -> Choice {
        Choice { kind: self.kind, project: self.project, step: self.step }
    }

    /// The same call by another choice.
    ///
    /// # Errors
    /// As [`Plan::new`] where the kind cannot run the problem; a tile that does not fit the device is left as it was, and so is
    /// a plan whose workgroups must not wait for each other.
    pub fn with_choice(self, choice: &Choice, limits: &Limits) -> Result<Self> {
        if choice.kind == PlanKind::Wide && self.kind != PlanKind::Wide && !limits.together_unasked {
            return Ok(self);
        }
        let plan = if self.kind == choice.kind { self } else { Self::new(self.problem, limits, Some(choice.kind))? };
        Ok(plan.with_tiles(choice, limits).unwrap_or(plan))
    }

    /// The same with other tiles, as far as there are such; `None` where it would be beyond the device then.
    fn with_tiles(&self, choice: &Choice, limits: &Limits) -> Option<Self> {
        let mut plan = self.clone();
        if choice.project.fits(limits) && choice.project.slices == 1 {
            plan.project = choice.project;
        }
        if choice.step.fits(limits) {
            plan.step = choice.step;
        }
        plan.check(limits).is_ok().then_some(plan)
    }

    /// What is worth measuring for a problem, at most some two dozen choices: first the one that [`Plan::new`] makes, then
    /// the others, those that the model expects to be fast before those that it does not.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn candidates(problem: &Problem, limits: &Limits, kind: Option<PlanKind>) -> Result<Vec<Choice>> {
        let first = Self::new(problem.clone(), limits, kind)?;
        let kinds = PlanKind::ALL.into_iter().filter(|other| match kind {
            Some(kind) => kind == *other,
            // Workgroups wait for each other only where the caller lets them.
            None => *other != PlanKind::Wide || limits.together_unasked,
        });
        let plans: Vec<Self> = kinds.filter_map(|kind| Self::new(problem.clone(), limits, Some(kind)).ok()).collect();
        // Every kind as it is comes before the variants of any.
        let mut others: Vec<(bool, f64, Choice)> = Vec::new();
        for plan in plans {
            // A scan takes no step by itself; where the adapter's own matrices compute a product, no tile does.
            let steps = match plan.step_matrices {
                None if plan.kind.takes_steps() => Tile::variants(limits, problem.batch, &[1, 2, 4, 8, 16, 32]),
                _ => Vec::new(),
            };
            let projects = match plan.project_matrices {
                Some(_) => Vec::new(),
                None => Tile::variants(limits, problem.time * problem.batch, &[1]),
            };
            let own = plan.choice();
            // Both tiles matter, but hardly to each other: each is varied beside the other's default.
            let varied = steps.into_iter().map(|step| Choice { step, ..own });
            let varied = varied.chain(projects.into_iter().map(|project| Choice { project, ..own }));
            let varied = varied.filter(|choice| *choice != own && plan.with_tiles(choice, limits).is_some());
            let varied = std::iter::once(own).chain(varied);
            for choice in varied.filter(|choice| *choice != first.choice()) {
                let cost = Self { project: choice.project, step: choice.step, ..plan.clone() }.cost(limits);
                others.push((choice != own, cost, choice));
            }
        }
        others.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let others = others.into_iter().map(|(.., choice)| choice);
        Ok(std::iter::once(first.choice()).chain(others).take(MOST).collect())
    }

    /// What the model expects a plan to take, in units of its own: the bytes moved, the more the less of the device is busy.
    fn cost(&self, limits: &Limits) -> f64 {
        let wanted = match limits.class {
            AdapterClass::Hardware => 128.0 * 256.0,
            AdapterClass::Software => 16.0 * 8.0,
        };
        let p = self.problem();
        let z = if self.kind == PlanKind::Wave { p.layers } else { p.cells.len() };
        let idle = |tile: &Tile, rows: usize| {
            let busy = tile.workgroups(rows, p.hidden, z) * tile.units * tile.slices;
            f64::max(1.0, wanted / busy as f64)
        };
        let step = idle(&self.step, p.batch);
        let project = idle(&self.project, p.time * p.batch) / p.time.max(1) as f64;
        self.bytes() as f64 * (step + project) * self.dispatches().max(1) as f64
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: projection {}, step {}", self.kind, self.project, self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::{AdapterClass, Limits, Plan, Problem};
    use crate::cell::{GruCell, LstmCell, WeightType};

    fn problem(batch: usize, layers: usize) -> Problem {
        Problem {
            cells: vec![if layers > 1 { GruCell::default().into() } else { LstmCell::default().into() }],
            input: 32,
            hidden: 48,
            layers,
            merged: false,
            weight_type: WeightType::F32,
            time: 20,
            batch,
        }
    }

    #[test]
    fn candidates_begin_with_the_plan_are_different_and_can_all_be_planned() {
        let software = Limits { class: AdapterClass::Software, subgroup: 8, subgroup_most: 8, ..Limits::portable() };
        for limits in [Limits::portable(), software] {
            for problem in [problem(1, 1), problem(5, 1), problem(64, 1), problem(2, 3)] {
                let candidates = Plan::candidates(&problem, &limits, None).expect("fits");
                let plan = Plan::new(problem.clone(), &limits, None).expect("fits");
                assert_eq!(candidates[0], plan.choice());
                assert!((5..=24).contains(&candidates.len()), "{}", candidates.len());
                for (at, choice) in candidates.iter().enumerate() {
                    assert!(!candidates[..at].contains(choice), "{choice} twice");
                    let changed = plan.clone().with_choice(choice, &limits).expect("fits");
                    assert_eq!(changed.choice(), *choice);
                    assert_eq!(changed.problem(), plan.problem());
                }
                // Nothing about it depends on the moment.
                assert_eq!(candidates, Plan::candidates(&problem, &limits, None).expect("fits"));
            }
        }
        let wave = Plan::candidates(&problem(2, 3), &Limits::portable(), None).expect("fits");
        assert!(wave.iter().any(|choice| choice.kind != wave[0].kind), "another kind is a candidate, too");
    }

    #[test]
    fn a_choice_of_another_device_leaves_what_does_not_fit() {
        let limits = Limits::portable();
        let plan = Plan::new(problem(5, 1), &limits, None).expect("fits");
        let mut choice = plan.choice();
        (choice.step.units, choice.step.slices) = (64, 64);
        choice.project.method = super::Method::Lanes;
        assert_eq!(plan.clone().with_choice(&choice, &limits).expect("fits"), plan);
    }
}
