use std::time::{Duration, Instant};

use ndarray::{Array, Array2, Dimension, IxDyn, array};
use ndarray_npy::{WritableElement, WriteNpyExt};

use super::*;

/// A file with any header: of version 1 if the header fits, otherwise of version 2.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let length = header.len();
    let (version, length) = match u16::try_from(length) {
        Ok(length) => ([1, 0], length.to_le_bytes().to_vec()),
        Err(_) => ([2, 0], u32::try_from(length).unwrap().to_le_bytes().to_vec()),
    };
    [MAGIC, &version, &length, header.as_bytes(), data].concat()
}

fn header(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
}

/// An array as another implementation writes it.
fn written<T: WritableElement, D: Dimension>(array: &Array<T, D>) -> Vec<u8> {
    let mut bytes = Vec::new();
    array.write_npy(&mut bytes).unwrap();
    bytes
}

#[track_caller]
fn refused(bytes: &[u8], words: &str) {
    let begin = Instant::now();
    let error = read_bytes("X", "x.npy", bytes).unwrap_err();
    let text = error.to_string();
    assert!(begin.elapsed() < Duration::from_secs(1), "{text}");
    assert!(text.starts_with("x.npy: X: ") && text.contains(words), "{text}");
    assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
}

#[track_caller]
fn ints(bytes: &[u8]) -> ArrayD<i64> {
    match read_bytes("X", "x.npy", bytes) {
        Ok(Input::Int(array)) => array,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn floats(bytes: &[u8]) -> ArrayD<f32> {
    match read_bytes("X", "x.npy", bytes) {
        Ok(Input::Float(array)) => array,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_type_is_read_as_another_implementation_writes_it() {
    let whole = array![[1_i64, 2, 3], [4, 5, 6]].into_dyn();
    assert_eq!(ints(&written(&whole)), whole);
    assert_eq!(ints(&written(&whole.mapv(|x| x as i32))), whole);
    assert_eq!(ints(&written(&whole.mapv(|x| x as i16))), whole);
    assert_eq!(ints(&written(&whole.mapv(|x| x as i8))), whole);
    assert_eq!(ints(&written(&whole.mapv(|x| x as u32))), whole);
    assert_eq!(ints(&written(&whole.mapv(|x| x as u16))), whole);
    assert_eq!(ints(&written(&whole.mapv(|x| x as u8))), whole);
    assert_eq!(ints(&written(&array![i64::MIN, -1, i64::MAX])), array![i64::MIN, -1, i64::MAX].into_dyn());
    let float = whole.mapv(|x| x as f32 / 7.0);
    assert_eq!(floats(&written(&float)), float);
    assert_eq!(floats(&written(&whole.mapv(|x| x as f64 / 7.0))), whole.mapv(|x| (x as f64 / 7.0) as f32));
    let Ok(Input::Bool(bools)) = read_bytes("X", "x.npy", &written(&array![true, false])) else { panic!() };
    assert_eq!(bools, array![true, false].into_dyn());
}

#[test]
fn orders_of_axes_and_bytes_are_kept() {
    let rows = Array2::from_shape_fn((3, 5), |(i, j)| (5 * i + j) as f32);
    let columns = rows.t().as_standard_layout().into_owned().reversed_axes();
    assert!(!columns.is_standard_layout());
    assert_eq!(floats(&written(&columns)), rows.clone().into_dyn());
    let big: Vec<u8> = rows.iter().flat_map(|x| x.to_be_bytes()).collect();
    assert_eq!(floats(&file(&header(">f4", "(3, 5)"), &big)), rows.into_dyn());
    assert_eq!(ints(&file(&header(">i2", "(2,)"), &[1, 2, 0xff, 0xfe])), array![258_i64, -2].into_dyn());
}

#[test]
fn every_number_of_axes_and_more_than_a_block_are_read() {
    assert_eq!(floats(&file(&header("<f4", "()"), &1.5_f32.to_le_bytes())).ndim(), 0);
    assert_eq!(floats(&file(&header("<f4", "(0, 7)"), &[])).shape(), [0, 7]);
    let long = Array::from_shape_fn(IxDyn(&[3, BLOCK / 4 + 1]), |at| (at[0] + 3 * at[1]) as f32);
    assert_eq!(floats(&written(&long)), long);
    let keys = "{\"shape\":(2,),'fortran_order':False,  'descr':'|u1'}";
    assert_eq!(ints(&file(keys, &[7, 8])), array![7_i64, 8].into_dyn());
}

#[test]
fn nested_brackets_are_refused_at_once_at_any_depth() {
    for depth in [1, 12, 30, 900, 30_000] {
        refused(&file(&("[".repeat(depth) + &"]".repeat(depth)), &[]), "expected '{', found [");
        let shape = header("<f4", &("(".repeat(depth) + &")".repeat(depth)));
        if depth > 1 {
            refused(&file(&shape, &[]), "expected an extent in decimal digits");
        }
        let descr = format!("{{'descr': {}", "[".repeat(depth));
        refused(&file(&descr, &[]), "expected an element type in quotes");
    }
    refused(&file(&"{1:".repeat(20_000), &[]), "expected a key in quotes");
}

#[test]
fn sizes_are_checked_before_memory_is_taken() {
    let few = [0; 20];
    for (shape, words) in [
        ("(99999999999,)", "cut short"),
        ("(0xfffffffffff,)", "expected ',', found xfff"),
        ("(1e3,)", "expected ',', found e3"),
        ("(-1,)", "expected an extent in decimal digits"),
        ("(+1,)", "expected an extent in decimal digits"),
        ("(1_0,)", "expected ',', found _0"),
        ("(3)", "expected ',', found )"),
        ("5", "expected '(', found 5"),
        ("(4294967296,4294967296,4294967296)", "at most"),
        ("(0,18446744073709551615)", "at most"),
        ("(18446744073709551616,)", "expected an extent in decimal digits"),
        ("(4,)", "expected 16 bytes of data, found 20"),
        ("(6,)", "cut short"),
    ] {
        refused(&file(&header("<f4", shape), &few), words);
    }
    refused(&file(&header("<f4", &format!("({})", "1,".repeat(65))), &few), "at most 64 axes");
    let late = format!("{{'descr': '<f4', 'fortran_order': False, {}'shape': (9,), }}", " ".repeat(70_000));
    refused(&file(&late, &few), "at most a header of 65536 bytes");
    refused(&[MAGIC, &[2, 0], &u32::MAX.to_le_bytes()].concat(), "at most a header of 65536 bytes");
    refused(&[MAGIC, &[1, 0, 100, 0], b"{'descr'"].concat(), "cut short");
}

#[test]
fn every_key_stands_there_once_and_no_other() {
    let shapes = "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), 'shape': (9999,), }";
    refused(&file(shapes, &[0; 20]), "expected the key 'shape' once, found 'shape' twice");
    refused(&file("{'descr': '<f4', 'shape': (5,), }", &[0; 20]), "expected the key 'fortran_order'");
    refused(&file("{'descr': '<f4', 'fortran_order': 0, 'shape': (5,)}", &[0; 20]), "expected True or False");
    refused(&file("{'x': '<f4'}", &[]), "alone, found 'x'");
    refused(&file(&(header("<f4", "(5,)") + "more"), &[0; 20]), "expected the end of the header");
    refused(&file("{'descr': '<f4'", &[]), "expected '}', found the end of the header");
}

#[test]
fn other_files_versions_and_types_are_refused() {
    refused(b"", "found an empty file");
    refused(b"\x93NUM", "found a file of 4 bytes");
    refused(b"not an array", "found other bytes");
    refused(b"\x93NUMPY\x04\0\0\0\0\0", "found version 4.0");
    for kind in ["|O", "<f2", "<c8", "<U3", "<u8", "|f4", "f4", "", "é", "<f4\u{1b}[2J"] {
        refused(&file(&header(kind, "(5,)"), &[0; 20]), "found elements of type '");
    }
    refused(&file(&header("|b1", "(2,)"), &[0, 2]), "expected booleans of 0 and 1, found 2");
}

#[test]
fn no_damaged_file_panics() {
    let whole = written(&array![[1.5_f32, 2.5], [3.5, 4.5]]);
    for (at, bit) in (0..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << bit;
        drop(read_bytes("X", "x.npy", &damaged));
        drop(read_bytes("X", "x.npy", &whole[..at]).unwrap_err());
    }
}

#[test]
fn an_array_is_written_as_another_implementation_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("y.npy");
    for shape in [&[][..], &[3], &[2, 0, 5], &[2, 3, 4], &[1; 40]] {
        let array = Array::from_shape_fn(IxDyn(shape), |at| at.slice().iter().sum::<usize>() as i64 - 2);
        write(&path, &Output::Int { element_type: ElementType::Int64, values: array.clone() }).unwrap();
        assert_eq!(ndarray_npy::read_npy::<_, ArrayD<i64>>(&path).unwrap(), array);
        assert_eq!((std::fs::read(&path).unwrap().len() - 8 * array.len()) % 64, 0);
        write(&path, &Output::Int { element_type: ElementType::Int8, values: array.clone() }).unwrap();
        assert_eq!(ndarray_npy::read_npy::<_, ArrayD<i8>>(&path).unwrap().mapv(i64::from), array);
        assert_eq!(ints(&std::fs::read(&path).unwrap()), array);
    }
    let far = array![1_i64 << 40].into_dyn();
    write(&path, &Output::Int { element_type: ElementType::Int32, values: far.clone() }).unwrap();
    assert_eq!(ints(&std::fs::read(&path).unwrap()), far);
}
