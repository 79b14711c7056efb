//! The parameters a cell needs, and their layout.

use ndarray::{Array, Array1, Array2, ArrayD, ArrayViewD, Ix1, Ix2};

use super::Cell;
use crate::error::{Result, check_shape};
use crate::memory;

/// Name and shape of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParameterSpec {
    /// PyTorch's name without layer suffix, for example `weight_ih`.
    pub name: &'static str,
    /// Its shape; rows are stacked gate by gate in the order of [`Cell::gates`].
    pub shape: Vec<usize>,
}

impl Cell {
    /// The parameters of one layer and direction, in PyTorch's names and layout, for `input` features and `hidden` units
    /// (`O` is [`Cell::output_size`], `G` the number of gates):
    ///
    /// | name | shape | when |
    /// | --- | --- | --- |
    /// | `weight_ih` | `[G hidden, input]` | always; the lectures' `U` |
    /// | `weight_hh` | `[G hidden, O]` | always; the lectures' `W` |
    /// | `bias_ih`, `bias_hh` | `[G hidden]` | with bias |
    /// | `weight_hr` | `[O, hidden]` | with projection |
    /// | `peephole` | `[3, hidden]`, rows `i`, `f`, `o` | with peephole |
    pub fn parameters(&self, input: usize, hidden: usize) -> Vec<ParameterSpec> {
        let rows = self.gates().len() * hidden;
        let out = self.output_size(hidden);
        let mut specs = vec![
            ParameterSpec { name: "weight_ih", shape: vec![rows, input] },
            ParameterSpec { name: "weight_hh", shape: vec![rows, out] },
        ];
        if self.bias() {
            specs.push(ParameterSpec { name: "bias_ih", shape: vec![rows] });
            specs.push(ParameterSpec { name: "bias_hh", shape: vec![rows] });
        }
        if self.projection().is_some() {
            specs.push(ParameterSpec { name: "weight_hr", shape: vec![out, hidden] });
        }
        if self.peephole() {
            specs.push(ParameterSpec { name: "peephole", shape: vec![3, hidden] });
        }
        specs
    }
}

/// The parameters of one layer and direction on the host; shapes and order as [`Cell::parameters`] says.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters<F = f32> {
    /// Weights on `x`, `[G hidden, input]`.
    pub weight_ih: Array2<F>,
    /// Weights on `h`, `[G hidden, O]`.
    pub weight_hh: Array2<F>,
    /// Bias of the product with `x`, `[G hidden]`.
    pub bias_ih: Option<Array1<F>>,
    /// Bias of the product with `h`, `[G hidden]`. In a GRU that resets after the matmul, the reset gate also scales
    /// the candidate's part.
    pub bias_hh: Option<Array1<F>>,
    /// Projection of the hidden state, `[O, hidden]`.
    pub weight_hr: Option<Array2<F>>,
    /// Peephole weights, `[3, hidden]`, rows `i`, `f`, `o`.
    pub peephole: Option<Array2<F>>,
}

impl<F: Copy + Default> Parameters<F> {
    /// Collects the parameters that the cell asks for, one by one.
    ///
    /// # Errors
    /// Errors of `fetch`; [`Error::Shape`](crate::Error::Shape) if it returns another shape than it was asked for.
    pub fn collect(
        cell: &Cell,
        input: usize,
        hidden: usize,
        mut fetch: impl FnMut(&ParameterSpec) -> Result<ArrayD<F>>,
    ) -> Result<Self> {
        let specs = cell.parameters(input, hidden);
        let mut get = |name: &str| {
            let spec = specs.iter().find(|spec| spec.name == name)?;
            Some(fetch(spec).and_then(|array| {
                check_shape("parameters", spec.name, &spec.shape, array.shape())?;
                Ok(array)
            }))
        };
        Ok(Self {
            weight_ih: matrix(get("weight_ih"))?.unwrap_or_default(),
            weight_hh: matrix(get("weight_hh"))?.unwrap_or_default(),
            bias_ih: vector(get("bias_ih"))?,
            bias_hh: vector(get("bias_hh"))?,
            weight_hr: matrix(get("weight_hr"))?,
            peephole: matrix(get("peephole"))?,
        })
    }
}

impl<F: Copy> Parameters<F> {
    /// Checks presence and shape of every parameter against the cell's description.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for the first parameter that is missing (shape `[]`), superfluous (expected `[]`)
    /// or of another shape.
    pub fn check(&self, cell: &Cell, input: usize, hidden: usize) -> Result<()> {
        let specs = cell.parameters(input, hidden);
        let named = self.named();
        for spec in &specs {
            let found = named.iter().find(|(name, _)| *name == spec.name).map_or(&[][..], |(_, array)| array.shape());
            check_shape("parameters", spec.name, &spec.shape, found)?;
        }
        match named.iter().find(|(name, _)| specs.iter().all(|spec| spec.name != *name)) {
            Some((name, array)) => check_shape("parameters", name, &[], array.shape()),
            None => Ok(()),
        }
    }

    /// The parameters by name, in the order of [`Cell::parameters`].
    pub fn named(&self) -> Vec<(&'static str, ArrayViewD<'_, F>)> {
        let mut named =
            vec![("weight_ih", self.weight_ih.view().into_dyn()), ("weight_hh", self.weight_hh.view().into_dyn())];
        named.extend(self.bias_ih.as_ref().map(|a| ("bias_ih", a.view().into_dyn())));
        named.extend(self.bias_hh.as_ref().map(|a| ("bias_hh", a.view().into_dyn())));
        named.extend(self.weight_hr.as_ref().map(|a| ("weight_hr", a.view().into_dyn())));
        named.extend(self.peephole.as_ref().map(|a| ("peephole", a.view().into_dyn())));
        named
    }

    /// Moves the parameters out by name, in the order of [`Cell::parameters`]. Their memory layout does not change.
    pub(crate) fn into_named(self) -> Vec<(&'static str, ArrayD<F>)> {
        let mut named = vec![("weight_ih", self.weight_ih.into_dyn()), ("weight_hh", self.weight_hh.into_dyn())];
        named.extend(self.bias_ih.map(|a| ("bias_ih", a.into_dyn())));
        named.extend(self.bias_hh.map(|a| ("bias_hh", a.into_dyn())));
        named.extend(self.weight_hr.map(|a| ("weight_hr", a.into_dyn())));
        named.extend(self.peephole.map(|a| ("peephole", a.into_dyn())));
        named
    }

    /// Like [`Parameters::map`], but returns an error if there is no memory.
    pub(crate) fn mapped<G>(&self, op: &'static str, mut f: impl FnMut(F) -> G) -> Result<Parameters<G>> {
        fn of<F: Copy, G, D: ndarray::Dimension>(
            op: &'static str,
            array: Option<&Array<F, D>>,
            f: &mut impl FnMut(F) -> G,
        ) -> Result<Option<Array<G, D>>> {
            array.map(|array| memory::mapped(op, array, f)).transpose()
        }
        Ok(Parameters {
            weight_ih: memory::mapped(op, &self.weight_ih, &mut f)?,
            weight_hh: memory::mapped(op, &self.weight_hh, &mut f)?,
            bias_ih: of(op, self.bias_ih.as_ref(), &mut f)?,
            bias_hh: of(op, self.bias_hh.as_ref(), &mut f)?,
            weight_hr: of(op, self.weight_hr.as_ref(), &mut f)?,
            peephole: of(op, self.peephole.as_ref(), &mut f)?,
        })
    }

    /// Converts the parameters to another number type.
    pub fn map<G>(&self, mut f: impl FnMut(F) -> G) -> Parameters<G> {
        Parameters {
            weight_ih: self.weight_ih.mapv(&mut f),
            weight_hh: self.weight_hh.mapv(&mut f),
            bias_ih: self.bias_ih.as_ref().map(|a| a.mapv(&mut f)),
            bias_hh: self.bias_hh.as_ref().map(|a| a.mapv(&mut f)),
            weight_hr: self.weight_hr.as_ref().map(|a| a.mapv(&mut f)),
            peephole: self.peephole.as_ref().map(|a| a.mapv(&mut f)),
        }
    }
}

impl<F: Copy + std::ops::AddAssign> Parameters<F> {
    /// Adds other parameters of the same shapes, for example the gradients of another call.
    pub fn add(&mut self, other: &Self) {
        fn of<F: Copy + std::ops::AddAssign, D: ndarray::Dimension>(to: &mut Array<F, D>, from: &Array<F, D>) {
            to.zip_mut_with(from, |to, &from| *to += from);
        }
        of(&mut self.weight_ih, &other.weight_ih);
        of(&mut self.weight_hh, &other.weight_hh);
        for (to, from) in [(&mut self.bias_ih, &other.bias_ih), (&mut self.bias_hh, &other.bias_hh)] {
            if let (Some(to), Some(from)) = (to, from) {
                of(to, from);
            }
        }
        for (to, from) in [(&mut self.weight_hr, &other.weight_hr), (&mut self.peephole, &other.peephole)] {
            if let (Some(to), Some(from)) = (to, from) {
                of(to, from);
            }
        }
    }
}

/// Gives an array its rank. [`Parameters::collect`] has compared the shapes.
fn matrix<F>(array: Option<Result<ArrayD<F>>>) -> Result<Option<Array2<F>>> {
    Ok(array.transpose()?.and_then(|array| array.into_dimensionality::<Ix2>().ok()))
}

fn vector<F>(array: Option<Result<ArrayD<F>>>) -> Result<Option<Array1<F>>> {
    Ok(array.transpose()?.and_then(|array| array.into_dimensionality::<Ix1>().ok()))
}
