//! Weight normalisation in state dicts: `g v / norm(v)`, in the older and the newer names.

use gatewise::cell::LstmCell;
use gatewise::nn::Config;
use gatewise::weights::Weights;
use gatewise::{Device, Result};
use ndarray::{Array2, ArrayD, IxDyn, arr0, arr1, arr2, arr3};

/// Weights with the factors of `net.w` under the older or the newer names.
fn factors(newer: bool, g: ArrayD<f32>, v: ArrayD<f32>) -> Weights {
    let names = if newer {
        ["net.parametrizations.w.original0", "net.parametrizations.w.original1"]
    } else {
        ["net.w_g", "net.w_v"]
    };
    let mut weights = Weights::new();
    for (name, array) in names.into_iter().zip([g, v]) {
        weights.insert(name, array).expect("a new name");
    }
    weights
}

fn product(g: ArrayD<f32>, v: ArrayD<f32>) -> Result<ArrayD<f32>> {
    let [older, newer] = [false, true].map(|newer| factors(newer, g.clone(), v.clone()));
    assert!(older.contains("net.w") && newer.contains("net.w") && !older.contains("w") && !newer.contains("net.v"));
    let products = [older.get::<IxDyn>("net.w"), newer.get("net.w")];
    assert_eq!(products[0].is_ok(), products[1].is_ok());
    let [older, newer] = products;
    let bits = |array: &Result<ArrayD<f32>>| {
        array.as_ref().map(|array| (array.shape().to_vec(), array.mapv(f32::to_bits))).ok()
    };
    assert_eq!(bits(&older), bits(&newer));
    older
}

#[test]
fn the_shape_of_g_says_over_what_the_norms_go() {
    // Rows of norms 5 and 13, columns of norms 3, 4 and so on: no two ways agree.
    let v = arr2(&[[3.0, 4.0, 0.0], [5.0, 0.0, -12.0]]).into_dyn();
    let right = |rows: [[f32; 3]; 2]| arr2(&rows).into_dyn();
    let close = |found: &ArrayD<f32>, right: &ArrayD<f32>| {
        assert_eq!(found.shape(), right.shape());
        found.iter().zip(right).for_each(|(found, right)| assert!((found - right).abs() < 1e-6, "{found} for {right}"));
    };
    let by_rows = product(arr2(&[[10.0], [-26.0]]).into_dyn(), v.clone()).expect("rows");
    close(&by_rows, &right([[6.0, 8.0, 0.0], [-10.0, 0.0, 24.0]]));
    let columns = product(arr2(&[[1.0, 2.0, 3.0]]).into_dyn(), v.clone()).expect("columns");
    let first = 34.0_f32.sqrt();
    close(&columns, &right([[3.0 / first, 2.0, 0.0], [5.0 / first, 0.0, -3.0]]));
    let all = product(arr0(2.0).into_dyn(), v).expect("all");
    let norm = 194.0_f32.sqrt();
    close(&all, &right([[6.0 / norm, 8.0 / norm, 0.0], [10.0 / norm, 0.0, -24.0 / norm]]));
    // One norm per element of a bias leaves its sign.
    let bias = product(arr1(&[2.0, 3.0]).into_dyn(), arr1(&[-0.5, 7.0]).into_dyn()).expect("a bias");
    assert_eq!(bias, arr1(&[-2.0, 3.0]).into_dyn());
    // A convolution: the norm of a row goes over the other two axes.
    let v = arr3(&[[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [1.0, 0.0]]]).into_dyn();
    let convolution = product(arr3(&[[[5.0]], [[2.0]]]).into_dyn(), v).expect("a convolution");
    assert_eq!(convolution, arr3(&[[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [2.0, 0.0]]]).into_dyn());
    // Squares that are too small or too large for f32.
    let tiny =
        product(arr2(&[[1.0], [1.0]]).into_dyn(), arr2(&[[3e-30, 4e-30], [3e30, 4e30]]).into_dyn()).expect("tiny");
    close(&tiny, &arr2(&[[0.6, 0.8], [0.6, 0.8]]).into_dyn());
    // NaN stays NaN, in its row.
    let nan = product(arr2(&[[1.0], [1.0]]).into_dyn(), arr2(&[[f32::NAN, 1.0], [0.0, 2.0]]).into_dyn()).expect("NaN");
    assert!(nan[[0, 0]].is_nan() && nan[[0, 1]].is_nan());
    assert_eq!((nan[[1, 0]], nan[[1, 1]]), (0.0, 1.0));
}

#[test]
fn factors_that_make_no_weight_are_refused() {
    let refused = |weights: &Weights, words: &[&str]| {
        let error = weights.get::<IxDyn>("net.w").expect_err(words[0]).to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    };
    let v = || arr2(&[[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]]).into_dyn();
    for newer in [false, true] {
        let zero = factors(newer, Array2::ones((3, 1)).into_dyn(), v());
        refused(&zero, &["a norm above 0", "found 0 at 1 of axis 0"]);
        refused(&factors(newer, arr0(1.0).into_dyn(), Array2::zeros((2, 3)).into_dyn()), &["a norm above 0"]);
        for g in [vec![2, 1], vec![3, 2], vec![3], vec![1, 3], vec![3, 1, 1], vec![0, 1]] {
            let weights = factors(newer, ArrayD::ones(IxDyn(&g)), v());
            refused(&weights, &["one length per element of one axis", "[3, 2]", &format!("{g:?}")]);
        }
        // The weight itself beside its factors: which of the two counts is not in the file.
        let mut both = factors(newer, Array2::ones((3, 1)).into_dyn(), v());
        both.insert("net.w", Array2::<f32>::ones((3, 2))).expect("a new name");
        refused(&both, &["net.w: expected the tensor or its factors, found both"]);
        // A tensor of another shape has nothing to do with them.
        let mut apart = factors(newer, Array2::ones((3, 1)).into_dyn(), v());
        apart.insert("net.w", arr1(&[7.0_f32])).expect("a new name");
        assert_eq!(apart.get::<IxDyn>("net.w").expect("a vector"), arr1(&[7.0]).into_dyn());
    }
    let mut chained = factors(true, Array2::ones((3, 1)).into_dyn(), arr2(&[[1.0, 2.0]; 3]).into_dyn());
    chained.insert("net.parametrizations.w.1._u", arr1(&[1.0_f32])).expect("a new name");
    refused(&chained, &["net.parametrizations.w.1._u", "weight normalisation alone"]);
    // Half of a pair is no tensor.
    let mut half = Weights::new();
    half.insert("net.w_g", arr1(&[1.0_f32])).expect("a new name");
    assert!(!half.contains("net.w"));
    refused(&half, &["net.w: expected a tensor of this name, found only net.w_g"]);
}

/// An LSTM with one layer, whose weights are products where `normalised` says so.
fn lstm(normalised: &[&str], newer: bool) -> Weights {
    let mut weights = Weights::new();
    for (name, shape) in [
        ("weight_ih_l0", vec![12, 2]),
        ("weight_hh_l0", vec![12, 3]),
        ("bias_ih_l0", vec![12]),
        ("bias_hh_l0", vec![12]),
    ] {
        let array = ArrayD::from_elem(IxDyn(&shape), 0.5_f32);
        if !normalised.contains(&name) {
            weights.insert(name, array).expect("a new name");
            continue;
        }
        let mut lengths = shape.clone();
        lengths[1..].fill(1);
        let names = if newer {
            ["0", "1"].map(|at| format!("parametrizations.{name}.original{at}"))
        } else {
            ["g", "v"].map(|end| format!("{name}_{end}"))
        };
        for (name, array) in names.iter().zip([ArrayD::ones(IxDyn(&lengths)), array]) {
            weights.insert(name, array).expect("a new name");
        }
    }
    weights
}

#[test]
fn factors_count_as_tensors_of_the_stack() {
    for newer in [false, true] {
        for normalised in [&["weight_ih_l0"][..], &["weight_hh_l0", "bias_ih_l0"], &["weight_ih_l0", "weight_hh_l0"]] {
            let mut weights = lstm(normalised, newer);
            let config = Config::from_weights(&weights, "", LstmCell::default()).expect("a stack");
            assert_eq!(config, Config::new(LstmCell::default(), 2, 3));
            assert_eq!(weights.stacks(), [""]);
            weights.recurrent("", &config, &Device::Cpu).expect("a stack");
            // A factor that the configuration does not have is left over, like any other tensor.
            let left = if newer { "parametrizations.weight_hh_l1.original0" } else { "weight_hh_l1_g" };
            weights.insert(left, arr1(&[1.0_f32])).expect("a new name");
            for error in [
                weights.recurrent("", &config, &Device::Cpu).map(drop).expect_err("left over"),
                Config::from_shapes(&weights, "").map(drop).expect_err("left over"),
            ] {
                assert!(error.to_string().contains(left), "{error}");
            }
        }
    }
}

#[test]
fn rows_that_belong_to_no_cell_are_refused() {
    let with = |rows: usize, columns: usize| {
        let mut weights = Weights::new();
        weights.insert("weight_ih_l0", Array2::<f32>::ones((rows, 2))).expect("a new name");
        weights.insert("weight_hh_l0", Array2::<f32>::ones((rows, columns))).expect("a new name");
        Config::from_shapes(&weights, "").expect_err("no cell").to_string()
    };
    for (rows, columns) in [(6, 3), (15, 3), (7, 3), (0, 3), (3, 0), (0, 0)] {
        let error = with(rows, columns);
        let words = ["weight_hh_l0: expected 1 row per unit", &format!("shape [{rows}, {columns}]")];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}
