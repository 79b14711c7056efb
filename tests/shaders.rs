//! Every shader as text, without an adapter: it validates for the least that WebGPU asks for, and keeps the conventions of
//! `shaders/README.md`.
#![cfg(feature = "gpu")]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use gatewise::cell::Activation;
use gatewise::gpu::KERNELS;
use gatewise::plan::Matrices;
use naga::back::{pipeline_constants::process_overrides, spv};
use naga::valid::{Capabilities, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, Statement, StorageAccess};

fn shaders() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders")
}

fn module(source: &str, name: &str) -> Module {
    naga::front::wgsl::parse_str(source).unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(source)))
}

/// Kernels that pass values between the lanes of a subgroup, and run only where an adapter has them.
const WITH_SUBGROUPS: [&str; 5] =
    ["project_lanes", "recurrent_step_lanes", "recurrent_step_grad_lanes", "scan_lanes", "matmul_strided_lanes"];

/// Kernels that multiply by cooperative matrices, with the features that each needs.
const WITH_MATRICES: [(&str, Matrices, Capabilities); 4] = [
    ("project_matrix_half", Matrices::Half, Capabilities::SHADER_FLOAT16),
    ("project_matrix_float", Matrices::Float, Capabilities::empty()),
    ("recurrent_step_matrix_half", Matrices::Half, Capabilities::SHADER_FLOAT16),
    ("recurrent_step_matrix_float", Matrices::Float, Capabilities::empty()),
];

/// A validator with only the features that a kernel may ask for.
fn validator(kernel: &str) -> Validator {
    // `unpack2x16float`, which every WebGPU device has.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let matrices = WITH_MATRICES.iter().find(|(name, ..)| *name == kernel);
    if let Some((.., more)) = matrices {
        capabilities |= Capabilities::COOPERATIVE_MATRIX | *more;
    }
    let subgroups = matrices.is_some() || WITH_SUBGROUPS.contains(&kernel);
    if subgroups {
        capabilities |= Capabilities::SUBGROUP;
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    validator
}

#[test]
fn every_kernel_validates_with_the_capabilities_it_may_ask_for() {
    for kernel in KERNELS {
        let module = module(kernel.source, kernel.name);
        let result = validator(kernel.name).validate(&module);
        assert!(
            result.is_ok(),
            "{}: {}",
            kernel.name,
            result.err().map_or_else(String::new, |e| e.emit_to_string(kernel.source))
        );
    }
}

/// No adapter of the machines that run these tests has matrices, so this looks at the SPIR-V that a driver would get.
#[test]
fn kernels_of_matrices_become_code_for_matrices() {
    const MULTIPLY: u16 = 4459; // OpCooperativeMatrixMulAddKHR
    const STORE: u16 = 4458; // OpCooperativeMatrixStoreKHR
    for ((name, matrices, _), sides) in WITH_MATRICES.into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 2)]) {
        let kernel = KERNELS.iter().find(|kernel| kernel.name == name).expect("in the table");
        let module = module(kernel.source, name);
        let info = validator(name).validate(&module).expect("valid");
        let entry = (ShaderStage::Compute, name);
        let values = [("PRODUCTS".to_owned(), sides as f64)].into_iter().collect();
        let (module, info) = process_overrides(&module, &info, Some(entry), &values).expect("defaults");
        let options = spv::Options { lang_version: (1, 6), ..spv::Options::default() };
        let words = spv::write_vec(&module, &info, &options, None).expect("SPIR-V");
        let count = |opcode: u16| {
            let (mut at, mut count) = (5, 0);
            while at < words.len() {
                count += usize::from(words[at] & 0xffff == u32::from(opcode));
                at += (words[at] >> 16) as usize;
            }
            count
        };
        // In functions of one multiplication and one store each, which drivers copy to where they are called.
        assert_eq!((count(MULTIPLY), count(STORE)), (1, 1), "{name}");

        let memory = module.global_variables.iter().filter(|(_, variable)| variable.space == AddressSpace::WorkGroup);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).expect("types of known sizes");
        let bytes: u32 = memory.map(|(_, variable)| layouter[variable.ty].size).sum();
        assert_eq!(u64::from(bytes), matrices.workgroup_bytes(sides), "{name}: what the plan counts on");
        assert!(bytes <= 16 << 10, "{name}: the least that WebGPU grants");
    }
}

#[test]
fn a_kernel_is_a_file_an_entry_point_and_a_line_of_the_table_of_one_name() {
    let mut files = BTreeSet::new();
    for kernel in KERNELS {
        let own = kernel.files.last().expect("a file of its own");
        let stem = Path::new(own).file_stem().and_then(|stem| stem.to_str());
        assert_eq!(stem, Some(kernel.name), "{own}");
        let module = module(kernel.source, kernel.name);
        let entries: Vec<_> = module.entry_points.iter().map(|e| (e.name.as_str(), e.stage)).collect();
        assert_eq!(entries, [(kernel.name, ShaderStage::Compute)]);
        files.extend(kernel.files.iter().map(|file| (*file).to_owned()));
    }
    let mut on_disk = BTreeSet::new();
    for folder in fs::read_dir(shaders()).expect("the folder").map(|entry| entry.expect("an entry").path()) {
        if folder.is_dir() {
            for file in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
                on_disk.insert(file.strip_prefix(shaders()).expect("below it").display().to_string());
            }
        }
    }
    assert_eq!(files, on_disk, "every file belongs to a kernel");
}

/// The functions that a function calls.
fn callees(function: &naga::Function) -> Vec<naga::Handle<naga::Function>> {
    fn walk(block: &naga::Block, found: &mut Vec<naga::Handle<naga::Function>>) {
        for statement in block {
            match statement {
                Statement::Call { function, .. } => found.push(*function),
                Statement::Block(inner) => walk(inner, found),
                Statement::If { accept, reject, .. } => [accept, reject].iter().for_each(|inner| walk(inner, found)),
                Statement::Switch { cases, .. } => cases.iter().for_each(|case| walk(&case.body, found)),
                Statement::Loop { body, continuing, .. } => {
                    [body, continuing].iter().for_each(|inner| walk(inner, found));
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(&function.body, &mut found);
    found
}

/// The names of a module's functions that its entry points reach.
fn reached(module: &Module) -> BTreeSet<String> {
    let mut open: Vec<_> = module.entry_points.iter().flat_map(|entry| callees(&entry.function)).collect();
    let mut reached = BTreeSet::new();
    while let Some(function) = open.pop() {
        let function = &module.functions[function];
        if reached.insert(function.name.clone().unwrap_or_default()) {
            open.extend(callees(function));
        }
    }
    reached
}

#[test]
fn every_function_is_reached_from_an_entry_point() {
    // A fragment serves several kernels, each with some of its functions: by file, what any of them reaches.
    let mut used: HashMap<&str, BTreeSet<String>> = HashMap::new();
    for kernel in KERNELS {
        let names = reached(&module(kernel.source, kernel.name));
        kernel.files.iter().for_each(|file| used.entry(file).or_default().extend(names.iter().cloned()));
    }
    let mut idle = Vec::new();
    for (file, used) in used {
        let text = fs::read_to_string(shaders().join(file)).expect("the file");
        let mut entry = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn ").and_then(|line| line.split('(').next()) {
                if !entry && !used.contains(name) {
                    idle.push(format!("{file}: {name}"));
                }
                entry = false;
            }
            entry |= line.starts_with("@compute");
        }
    }
    assert!(idle.is_empty(), "no entry point calls {idle:?}");
    // The search itself: it enters every kind of block and skips functions that nothing calls.
    let nested = "fn a() {} fn b() { a(); } fn c() {} fn d() {} fn e() {}
        @compute @workgroup_size(1) fn main() { for (var i = 0; i < 3; i++) { switch i { case 1: { b(); } default: { if i > 1 { c(); } else { { d(); } } } } } }";
    let expected = ["a", "b", "c", "d"].map(str::to_owned);
    assert_eq!(reached(&module(nested, "nested")), BTreeSet::from(expected));
}

#[test]
fn bindings_count_up_from_the_uniform_and_fit_every_webgpu_device() {
    for kernel in KERNELS {
        let module = module(kernel.source, kernel.name);
        let mut bindings = Vec::new();
        for (_, variable) in module.global_variables.iter() {
            let Some(binding) = &variable.binding else { continue };
            assert_eq!(binding.group, 0, "{}", kernel.name);
            let name = variable.name.clone().unwrap_or_default();
            match variable.space {
                AddressSpace::Uniform => assert_eq!((binding.binding, name.as_str()), (0, "dims"), "{}", kernel.name),
                AddressSpace::Storage { access } => {
                    assert!(access.contains(StorageAccess::LOAD), "{}: {name}", kernel.name);
                }
                other => panic!("{}: {name} in {other:?}", kernel.name),
            }
            bindings.push(binding.binding);
            let line =
                kernel.source.lines().find(|line| line.contains(&format!("{name}:")) && line.contains("@binding"));
            let documented = line.is_some_and(|line| line.contains("//")) || name == "dims";
            assert!(documented, "{}: the shape of {name} stands behind its declaration", kernel.name);
        }
        bindings.sort_unstable();
        assert_eq!(bindings, (0..u32::try_from(bindings.len()).expect("few")).collect::<Vec<_>>(), "{}", kernel.name);
        assert!(bindings.len() <= 9, "{}: 8 storage buffers at the most", kernel.name);
    }
}

#[test]
fn drivers_transcendentals_are_called_through_their_guards_only() {
    for kernel in KERNELS {
        for file in kernel.files.iter().filter(|file| **file != "common/activation.wgsl") {
            let text = fs::read_to_string(shaders().join(file)).expect("the file");
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for call in ["tanh(", "exp(", "log(", "pow("] {
                    let raw = code
                        .match_indices(call)
                        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
                    assert!(!raw, "{file}:{}: {line}", number + 1);
                }
            }
        }
    }
}

#[test]
fn activation_codes_are_those_of_the_cell() {
    let text = fs::read_to_string(shaders().join("common/activation.wgsl")).expect("the file");
    for activation in Activation::ALL {
        let name = format!("{activation:?}");
        let name = name.split(' ').next().unwrap_or_default();
        let mut constant = String::new();
        for (at, letter) in name.char_indices() {
            if letter.is_uppercase() && at > 0 {
                constant.push('_');
            }
            constant.push(letter.to_ascii_uppercase());
        }
        let line = format!("const {constant}: u32 = {}u;", activation.code().0);
        assert!(text.contains(&line), "{line}");
    }
}

/// No counter ends a kernel's loops, and a driver may treat an endless loop as unreachable code.
#[test]
fn every_loop_counts_towards_its_bound() {
    // The steps that a counter may move by. None is 0: neither the constants nor the depth of a slice.
    const STEPS: [&str; 10] = [
        "#++",
        "# += 1.0",
        "# += 4u",
        "# += DEPTH",
        "# += SIDE",
        "# += WORKGROUP_SIZE",
        "# += UNITS * SLICES",
        "# += step_depth(m)",
        "# += max(8u, step_depth(m))",
        "# /= 2u",
    ];
    let files: BTreeSet<&str> = KERNELS.iter().flat_map(|kernel| kernel.files).copied().collect();
    let mut loops = 0;
    for file in files {
        let text = fs::read_to_string(shaders().join(file)).expect("the file");
        let code: String =
            text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
        for word in ["while", "loop", "continuing"] {
            let used = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|found| found == word);
            assert!(!used, "{file}: {word}; only `for` shows its bound at a glance");
        }
        for (at, _) in code.match_indices("for (") {
            let (header, rest) = code[at + 5..].split_once(") {").expect("a body");
            let [start, bound, step] = header.split("; ").collect::<Vec<_>>()[..] else {
                panic!("{file}: for ({header})")
            };
            let name = start.strip_prefix("var ").and_then(|start| start.split_once(" = ")).expect("a counter").0;
            let halves = step.ends_with("/= 2u") && bound == format!("{name} > 0u");
            assert!(halves || bound.starts_with(&format!("{name} < ")), "{file}: for ({header})");
            assert!(STEPS.iter().any(|known| known.replace('#', name) == step), "{file}: for ({header})");
            let mut depth = 1;
            let body: String = rest
                .chars()
                .take_while(|c| {
                    depth += i32::from(*c == '{') - i32::from(*c == '}');
                    depth > 0
                })
                .collect();
            for (at, _) in body.match_indices(name) {
                let alone = !body[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.');
                let after = body[at + name.len()..].trim_start();
                let changed = after.starts_with(['+', '-', '*', '/', '%']) && after[1..].starts_with(['=', '+', '-'])
                    || after.starts_with('=') && !after.starts_with("==");
                assert!(!(alone && changed), "{file}: {name} changes within for ({header})");
            }
            loops += 1;
        }
    }
    assert!(loops > 20, "{loops} loops");
}
