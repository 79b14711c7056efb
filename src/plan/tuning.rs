//! The choices of a plan that a measurement can decide.

use std::fmt;

use super::limits::{AdapterClass, Limits};
use super::{Method, Plan, PlanKind, Problem, Schedule, Tile};
use crate::error::Result;

/// The part of a plan that does not follow from the problem: all choices compute the same, up to the order of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How the steps become dispatches.
    pub kind: PlanKind,
    /// How the input projection is tiled.
    pub(crate) project: Tile,
    /// How a step is tiled; `None` if a step is no dispatch of its own.
    pub(crate) step: Option<Tile>,
}

/// Largest number of candidates for one problem.
const MOST: usize = 24;

impl Tile {
    /// Whether the kernels and the device can run this tile.
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

    /// Tiles for a product of `rows` rows, without those whose rows are mostly padding.
    fn variants(limits: &Limits, rows: usize, slices: &[usize]) -> Vec<Self> {
        let mut tiles = Vec::new();
        for method in [Method::Rows, Method::Lanes] {
            for tile_rows in [1, 2, 4, 8, 16].into_iter().filter(|tile| *tile == 1 || *tile < 2 * rows) {
                for units in [8, 16, 32, 64] {
                    let of = |&slices: &usize| Self { method, rows: tile_rows, units, slices };
                    tiles.extend(slices.iter().map(of).filter(|tile| tile.fits(limits)));
                }
            }
        }
        tiles
    }
}

impl Plan {
    /// The choice that this plan has made.
    pub fn choice(&self) -> Choice {
        Choice { kind: self.kind(), project: self.project.tile, step: self.schedule.step().map(|tiles| tiles.tile) }
    }

    /// Plans the same call by another choice. A tile that does not fit the device is ignored, and so is a cooperative scan on a
    /// device whose limits do not allow one by default.
    ///
    /// # Errors
    /// As [`Plan::new`] if the kind cannot run the problem.
    pub(crate) fn with_choice(self, choice: &Choice, limits: &Limits) -> Result<Self> {
        if choice.kind == PlanKind::CooperativeScan && self.kind() != choice.kind && !limits.cooperative_by_default {
            return Ok(self);
        }
        let plan = if self.kind() == choice.kind { self } else { Self::new(self.problem, limits, Some(choice.kind))? };
        Ok(plan.with_tiles(choice, limits).unwrap_or(plan))
    }

    /// This plan with the tiles of a choice that fit; `None` if that plan would exceed the device.
    fn with_tiles(&self, choice: &Choice, limits: &Limits) -> Option<Self> {
        let mut plan = self.clone();
        if choice.project.fits(limits) && choice.project.slices == 1 {
            plan.project.tile = choice.project;
        }
        if let Some(step) = choice.step.filter(|step| step.fits(limits))
            && let Schedule::Steps(tiles) | Schedule::Wave(tiles) = &mut plan.schedule
        {
            tiles.tile = step;
        }
        plan.check(limits).is_ok().then_some(plan)
    }

    /// At most 24 choices that are worth measuring for a problem: first the one that [`Plan::new`] makes, then the others, in the
    /// order of the times that the model expects.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) fn candidates(problem: &Problem, limits: &Limits, kind: Option<PlanKind>) -> Result<Vec<Choice>> {
        let first = Self::new(problem.clone(), limits, kind)?;
        let kinds = PlanKind::ALL.into_iter().filter(|other| match kind {
            Some(kind) => kind == *other,
            // A cooperative scan is a candidate only if the caller allows workgroups to wait for each other.
            None => *other != PlanKind::CooperativeScan || limits.cooperative_by_default,
        });
        let plans: Vec<Self> = kinds.filter_map(|kind| Self::new(problem.clone(), limits, Some(kind)).ok()).collect();
        // The default plan of every kind comes before all variants.
        let mut others: Vec<(bool, f64, Choice)> = Vec::new();
        for plan in plans {
            // If cooperative matrices compute a product, no tile does.
            let steps = match plan.schedule.step() {
                Some(tiles) if tiles.matrices.is_none() => Tile::variants(limits, problem.batch, &[1, 2, 4, 8, 16, 32]),
                _ => Vec::new(),
            };
            let projects = match plan.project.matrices {
                Some(_) => Vec::new(),
                None => Tile::variants(limits, problem.time * problem.batch, &[1]),
            };
            let own = plan.choice();
            // The two tiles hardly affect each other: each is varied with the other at its default.
            let varied = steps.into_iter().map(|step| Choice { step: Some(step), ..own });
            let varied = varied.chain(projects.into_iter().map(|project| Choice { project, ..own }));
            let varied = varied.filter(|choice| *choice != own);
            let varied = varied.filter_map(|choice| Some((choice, plan.with_tiles(&choice, limits)?)));
            let varied = std::iter::once((own, plan.clone())).chain(varied);
            for (choice, varied) in varied.filter(|(choice, _)| *choice != first.choice()) {
                others.push((choice != own, varied.cost(limits), choice));
            }
        }
        others.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let others = others.into_iter().map(|(.., choice)| choice);
        Ok(std::iter::once(first.choice()).chain(others).take(MOST).collect())
    }

    /// The time that a model expects of a plan, in arbitrary units: bytes moved, weighted by the idle share of the device and the number of
    /// dispatches.
    fn cost(&self, limits: &Limits) -> f64 {
        let wanted = match limits.class {
            AdapterClass::Hardware => 128.0 * 256.0,
            AdapterClass::Software => 16.0 * 8.0,
        };
        let p = self.problem();
        let z = if self.kind() == PlanKind::Wave { p.layers } else { p.cells.len() };
        // A scan is rated as if each of its steps were a dispatch.
        let step = self.choice().step.unwrap_or_else(|| Tile::of_step(limits, p.batch, p.hidden, z, p.out()));
        let idle = |tile: &Tile, rows: usize| {
            let busy = tile.workgroups(rows, p.hidden, z) * tile.units * tile.slices;
            f64::max(1.0, wanted / busy as f64)
        };
        let step = idle(&step, p.batch);
        let project = idle(&self.project.tile, p.time * p.batch) / p.time.max(1) as f64;
        self.bytes() as f64 * (step + project) * self.dispatches().max(1) as f64
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: projection {}", self.kind, self.project)?;
        self.step.map_or(Ok(()), |step| write!(f, ", step {step}"))
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
                // The same call gives the same candidates.
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
        choice.step = choice.step.map(|step| super::Tile { units: 64, slices: 64, ..step });
        choice.project.method = super::Method::Lanes;
        assert_eq!(plan.clone().with_choice(&choice, &limits).expect("fits"), plan);
    }
}
