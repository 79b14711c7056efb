//! Any bytes as an ONNX model: refused with an error, or read and, where its inputs are small, run.
#![no_main]

use gatewise::Device;
use gatewise::onnx::{ElementType, Extent, Input, OnnxModel, OnnxOptions, ValueInfo};
use libfuzzer_sys::fuzz_target;
use ndarray::{ArrayD, IxDyn};

/// Bytes that values between nodes may take.
const MEMORY: u64 = 16 << 20;
/// Elements of an input.
const SMALL: usize = 1 << 12;

/// Numbers for an input: free axes have two or three of them.
fn input(info: &ValueInfo) -> Option<Input> {
    let extent = |(axis, extent): (usize, &Extent)| match extent {
        Extent::Fixed(n) => *n,
        Extent::Named(name) => 2 + name.len() % 2,
        Extent::Free => 2 + axis % 2,
    };
    let shape: Vec<usize> = info.shape.as_deref().unwrap_or(&[]).iter().enumerate().map(extent).collect();
    shape.iter().try_fold(1_usize, |all, &n| all.checked_mul(n)).filter(|&all| all <= SMALL)?;
    let shape = IxDyn(&shape);
    Some(match info.element_type {
        ElementType::Bool => ArrayD::from_elem(shape, true).into(),
        ElementType::Float | ElementType::Float16 | ElementType::Bfloat16 | ElementType::Double => {
            ArrayD::from_elem(shape, 0.5_f32).into()
        }
        _ => ArrayD::from_elem(shape, 1_i64).into(),
    })
}

fuzz_target!(|bytes: &[u8]| {
    let options = OnnxOptions::default().memory_limit(MEMORY);
    let model = match OnnxModel::from_bytes("fuzz", bytes, &options) {
        Ok(model) => model,
        Err(error) => return drop(error.to_string()),
    };
    let texts = model.warnings().iter().map(ToString::to_string);
    drop(texts.chain(model.check().iter().map(ToString::to_string)).collect::<Vec<_>>());
    let inputs: Option<Vec<(String, Input)>> =
        model.inputs().map(|info| Some((info.name.clone(), input(info)?))).collect();
    let Some(inputs) = inputs else { return };
    let inputs: Vec<(&str, Input)> = inputs.iter().map(|(name, input)| (name.as_str(), input.clone())).collect();
    match model.to(&Device::Cpu).and_then(|model| model.run(&inputs)) {
        Ok(outputs) => outputs.iter().for_each(|(_, output)| drop(output.shape().to_vec())),
        Err(error) => drop(error.to_string()),
    }
});
