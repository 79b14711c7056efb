//! The kernels' machine code: no loop of a product touches the stack, for every instruction set that this machine's compiler
//! knows. A tile with more sums and operands than registers would spill them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The targets whose kernels are compiled if their standard library is installed, with their instruction sets.
const TARGETS: [(&str, &[&str]); 2] = [
    ("x86_64-unknown-linux-gnu", &["Avx512", "Avx2", "Portable"]),
    // Every 64-bit ARM has NEON, so nothing runs the portable set there.
    ("aarch64-unknown-linux-gnu", &["Neon"]),
];
/// The kernels whose tiles are functions of their own, and the least number of their tiles per instruction set.
const KERNELS: [(&str, usize); 4] = [("11TileProduct", 20), ("14DotTileProduct", 2), ("9OuterTile", 2), ("6Chains", 1)];
/// The beginnings of multiplying instructions.
const MULTIPLIES: [&str; 10] =
    ["vfmadd", "vpdpbusd", "vpmaddwd", "pmaddwd", "mulps", "pmulhw", "pmullw", "fmla", "fmul", "smlal"];

fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// The target's folder in the compiler's own folder.
fn installed(target: &str) -> bool {
    let output = rustc().args(["--print", "sysroot"]).output().expect("rustc runs");
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim());
    sysroot.join("lib/rustlib").join(target).join("lib").is_dir()
}

/// The assembly of the kernels as a release build compiles them.
fn assembly(target: &str) -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{target}.s"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine_code/kernels.rs");
    let output = rustc()
        .args(["--edition", "2024", "--crate-type", "lib", "--crate-name", "kernels", "--emit", "asm"])
        .args(["-C", "opt-level=3", "-C", "symbol-mangling-version=v0", "--target", target, "-o"])
        .args([&file, &source])
        .output()
        .expect("rustc runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(file).expect("assembly")
}

/// The instructions of every function, by its symbol; labels stand among them.
fn functions(assembly: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut functions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = None;
    for line in assembly.lines() {
        let text = line.trim();
        match text.strip_suffix(':') {
            Some(symbol) if !symbol.starts_with('.') => current = Some(symbol),
            _ if text.starts_with('.') && !text.ends_with(':') => {}
            _ => current.into_iter().for_each(|name| functions.entry(name).or_default().push(text)),
        }
    }
    functions
}

/// The innermost loops: from a label to the jump back to it.
fn loops<'a>(code: &'a [&'a str]) -> Vec<&'a [&'a str]> {
    let label = |name: &str| code.iter().position(|line| line.strip_suffix(':') == Some(name));
    let jump = |(at, line): (usize, &&str)| {
        let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        let operation = words.next()?;
        let jumps = operation.starts_with('j')
            || operation == "b"
            || operation.starts_with("b.")
            || operation.contains("bz")
            || operation.contains("bnz");
        let start = words.next_back().filter(|_| jumps).and_then(label)?;
        (start < at).then_some((start, at))
    };
    let all: Vec<(usize, usize)> = code.iter().enumerate().filter_map(jump).collect();
    let inner = |&&(start, end): &&(usize, usize)| {
        !all.iter().any(|&other| other != (start, end) && start <= other.0 && other.1 <= end)
    };
    all.iter().filter(inner).map(|&(start, end)| &code[start..=end]).collect()
}

fn multiplies(line: &str) -> bool {
    MULTIPLIES.iter().any(|operation| line.starts_with(operation))
}

/// Whether an instruction reads or writes the stack.
fn on_stack(line: &str) -> bool {
    line.contains("(%rsp") || line.contains("[sp")
}

#[test]
fn no_loop_of_a_product_touches_the_stack() {
    let mut compiled = 0;
    for (target, sets) in TARGETS.into_iter().filter(|(target, _)| installed(target)) {
        let assembly = assembly(target);
        let functions = functions(&assembly);
        for set in sets {
            for (kernel, least) in KERNELS {
                // ARM's multiply-add overwrites its summand, which all chains of the peak rate share: they copy it.
                if *set == "Neon" && kernel == "6Chains" {
                    continue;
                }
                let mut tiles = 0;
                for (symbol, code) in functions.iter().filter(|(name, _)| name.contains(set) && name.contains(kernel)) {
                    let loops: Vec<_> =
                        loops(code).into_iter().filter(|body| body.iter().any(|l| multiplies(l))).collect();
                    tiles += usize::from(!loops.is_empty());
                    for body in loops {
                        let spills: Vec<_> = body.iter().filter(|line| on_stack(line)).collect();
                        assert!(spills.is_empty(), "{target}: {symbol}\nspills {spills:?} in\n{}", body.join("\n"));
                    }
                }
                assert!(tiles >= least, "{target}: {tiles} tiles of {kernel} with {set} have a loop");
            }
        }
        compiled += 1;
    }
    assert!(compiled > 0, "none of the targets is installed");
}
