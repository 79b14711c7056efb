//! Picking rows of a state, and joining the rows of several states.

use super::{Initial, OP, State};
use crate::error::{Error, Result};
use crate::ops::{self, Recorder};
use crate::tensor::Tensor;

impl State {
    /// Copies some rows of the batch to a new state, with both of their values, in the order of `rows`. A row may be
    /// named more than once. The state itself stays as it is; nothing is read back.
    ///
    /// # Errors
    /// [`Error::Value`] for a row that the state does not have; as [`Tensor::from_array`].
    ///
    /// # Examples
    /// The second of four streams has ended, and the others go on:
    /// ```
    /// use gatewise::{Device, nn::Gru};
    /// let gru = Gru::config(3, 4).random(&Device::auto(), 7)?;
    /// let state = gru.zero_state(4)?;
    /// assert_eq!(state.rows(&[0, 2, 3])?.batch(), 3);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn rows(&self, rows: &[usize]) -> Result<Self> {
        if let Some(&row) = rows.iter().find(|&&row| row >= self.batch()) {
            let found = format!("{row} of a state of {} rows", self.batch());
            return Err(Error::Value { op: OP, what: "rows", expected: "below the state's rows", found });
        }
        let mut recorder = self.device().recorder();
        let mut pick = |part: &Tensor| picked(&mut recorder, part, rows);
        let (h, s) = (pick(&self.h)?, self.s.as_ref().map(&mut pick).transpose()?);
        let initial = match &self.initial {
            Initial::Zero => Initial::Zero,
            Initial::Given { h, s } => Initial::Given { h: pick(h)?, s: s.as_ref().map(&mut pick).transpose()? },
        };
        recorder.submit()?;
        Ok(Self::new((h, s), initial))
    }

    /// Joins the rows of several states in a new state, with both of their values. The rows of the first state come
    /// first. Nothing is read back.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no state; [`Error::Shape`] if they are of different stacks;
    /// [`Error::DeviceMismatch`]; as [`Tensor::from_array`].
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, nn::{Gru, State}};
    /// let gru = Gru::config(3, 4).random(&Device::auto(), 7)?;
    /// let (running, new) = (gru.zero_state(3)?, gru.zero_state(1)?);
    /// assert_eq!(State::join(&[&running, &new])?.batch(), 4);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn join(states: &[&Self]) -> Result<Self> {
        let Some((first, others)) = states.split_first() else {
            let (expected, found) = ("at least one", "none".to_owned());
            return Err(Error::Value { op: OP, what: "states", expected, found });
        };
        let (mut h, mut s) = first.shapes();
        for other in others {
            h[1] = other.batch();
            s.iter_mut().for_each(|s| s[1] = other.batch());
            other.check(OP, first.device(), (h, s))?;
        }
        let mut recorder = first.device().recorder();
        let mut concat = |parts: Vec<Tensor>| ops::concat(&mut recorder, &parts.iter().collect::<Vec<_>>(), 1);
        let h = concat(states.iter().map(|state| state.h.clone()).collect())?;
        let s: Option<Vec<Tensor>> = states.iter().map(|state| state.s.clone()).collect();
        let s = s.map(&mut concat).transpose()?;
        let initial = if states.iter().all(|state| matches!(state.initial, Initial::Zero)) {
            Initial::Zero
        } else {
            let parts = states.iter().map(|state| state.initial_tensors()).collect::<Result<Vec<_>>>()?;
            let (h, s): (Vec<Tensor>, Vec<Option<Tensor>>) = parts.into_iter().unzip();
            let s: Option<Vec<Tensor>> = s.into_iter().collect();
            Initial::Given { h: concat(h)?, s: s.map(&mut concat).transpose()? }
        };
        recorder.submit()?;
        Ok(Self::new((h, s), initial))
    }

    /// The value that a reset returns to, zeros included.
    fn initial_tensors(&self) -> Result<(Tensor, Option<Tensor>)> {
        let zeros = |like: &Tensor| Tensor::zeros(like.device(), like.shape());
        match &self.initial {
            Initial::Zero => Ok((zeros(&self.h)?, self.s.as_ref().map(zeros).transpose()?)),
            Initial::Given { h, s } => Ok((h.clone(), s.clone())),
        }
    }
}

/// Records the choice of the same rows for every layer and direction of `[layers directions, B, W]`.
fn picked(recorder: &mut Recorder, part: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let &[outer, batch, width] = part.shape() else { return Ok(part.clone()) };
    let places: Vec<usize> = (0..outer).flat_map(|at| rows.iter().map(move |row| at * batch + row)).collect();
    let table = part.reshape(&[outer * batch, width])?;
    ops::gather_rows(recorder, &table, &places)?.reshape(&[outer, rows.len(), width])
}
