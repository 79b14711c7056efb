//! Removes the code that a kernel's `override`s exclude, before a driver sees the kernel.
//!
//! naga resolves `override`s but keeps the branches that depend on them. A driver removes these only after it has copied every function
//! into its callers, many times for a function that ends in a `switch` over twelve activations. So this file follows constants through
//! arguments, structs and results of functions, and takes every branch that they decide.

use std::collections::HashMap;

use naga::compact::{KeepUnused, compact};
use naga::{
    Arena, BinaryOperator, Block, Expression, Function, Handle, Literal, LocalVariable, Module, Span, Statement,
    SwitchCase, SwitchValue, UnaryOperator,
};

/// Returns the module with every branch resolved that constants decide. It computes the same results.
pub(in crate::gpu) fn specialized(module: &Module) -> Module {
    let mut special = module.clone();
    let mut specializer = Specializer { module, functions: Arena::new(), known: HashMap::new() };
    for entry in &mut special.entry_points {
        specializer.body(&mut entry.function, &[]);
    }
    special.functions = specializer.functions;
    compact(&mut special, KeepUnused::No);
    special
}

/// The known part of a value: a scalar, or some components of a struct or vector.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Known {
    Bool(bool),
    U32(u32),
    Parts(Vec<Option<Known>>),
}

impl Known {
    fn of(literal: Literal) -> Option<Self> {
        match literal {
            Literal::Bool(value) => Some(Self::Bool(value)),
            Literal::U32(value) => Some(Self::U32(value)),
            _ => None,
        }
    }

    fn literal(&self) -> Option<Literal> {
        match *self {
            Self::Bool(value) => Some(Literal::Bool(value)),
            Self::U32(value) => Some(Literal::U32(value)),
            Self::Parts(_) => None,
        }
    }
}

/// A function specialised for known arguments, and its result if that is known and the function has no other effect.
type Special = (Handle<Function>, Option<Known>);

struct Specializer<'a> {
    module: &'a Module,
    functions: Arena<Function>,
    known: HashMap<(Handle<Function>, Vec<Option<Known>>), Special>,
}

/// The known values within a function.
#[derive(Default)]
struct Facts {
    /// Arguments and results of calls.
    values: HashMap<Handle<Expression>, Known>,
    /// Variables that naga makes for `&&` and `||`. Each is stored twice, once in either branch of one `if`.
    locals: HashMap<Handle<LocalVariable>, Known>,
}

impl Specializer<'_> {
    /// Specialises a function for these arguments. A called function is appended before its caller, as naga requires.
    fn function(&mut self, function: Handle<Function>, arguments: Vec<Option<Known>>) -> Special {
        let key = (function, arguments);
        if let Some(special) = self.known.get(&key) {
            return special.clone();
        }
        let mut special = self.module.functions[function].clone();
        let facts = self.body(&mut special, &key.1);
        let result = match special.body.split_last() {
            Some((&Statement::Return { value: Some(value) }, before)) if before.iter().all(|s| idle(&special, s)) => {
                self.value(&special, &facts, value)
            }
            _ => None,
        };
        let special = (self.functions.append(special, Span::default()), result);
        self.known.insert(key, special.clone());
        special
    }

    fn body(&mut self, function: &mut Function, arguments: &[Option<Known>]) -> Facts {
        let mut facts = Facts::default();
        for (handle, expression) in function.expressions.iter_mut() {
            if let Expression::FunctionArgument(index) = *expression
                && let Some(Some(known)) = arguments.get(index as usize)
            {
                if let Some(literal) = known.literal() {
                    *expression = Expression::Literal(literal);
                }
                facts.values.insert(handle, known.clone());
            }
        }
        // Names would keep expressions that nothing else uses any more.
        function.named_expressions.clear();
        let body = std::mem::take(&mut function.body);
        function.body = self.block(function, &mut facts, body);
        facts
    }

    fn block(&mut self, function: &mut Function, facts: &mut Facts, block: Block) -> Block {
        let mut kept = Block::with_capacity(block.len());
        for (statement, span) in block.span_into_iter() {
            match statement {
                Statement::Block(inner) => {
                    let inner = self.block(function, facts, inner);
                    kept.extend_block(inner);
                }
                Statement::If { condition, accept, reject } => match self.value(function, facts, condition) {
                    Some(Known::Bool(taken)) => {
                        let taken = self.block(function, facts, if taken { accept } else { reject });
                        self.learn(function, facts, &taken);
                        kept.extend_block(taken);
                    }
                    _ => {
                        let accept = self.block(function, facts, accept);
                        let reject = self.block(function, facts, reject);
                        kept.push(Statement::If { condition, accept, reject }, span);
                    }
                },
                Statement::Switch { selector, cases } => {
                    let taken = match self.value(function, facts, selector) {
                        Some(Known::U32(value)) => taken(&cases, value),
                        _ => None,
                    };
                    if let Some(taken) = taken {
                        let taken = self.block(function, facts, taken);
                        kept.extend_block(taken);
                    } else {
                        let case =
                            |case: SwitchCase| SwitchCase { body: self.block(function, facts, case.body), ..case };
                        let cases = cases.into_iter().map(case).collect();
                        kept.push(Statement::Switch { selector, cases }, span);
                    }
                }
                Statement::Loop { body, continuing, break_if } => {
                    let body = self.block(function, facts, body);
                    let continuing = self.block(function, facts, continuing);
                    kept.push(Statement::Loop { body, continuing, break_if }, span);
                }
                Statement::Call { function: called, arguments, result } => {
                    let values = arguments.iter().map(|&argument| self.value(function, facts, argument)).collect();
                    let (called, known) = self.function(called, values);
                    if let (Some(result), Some(known)) = (result, known) {
                        if let Some(literal) = known.literal() {
                            function.expressions[result] = Expression::Literal(literal);
                            facts.values.insert(result, known);
                            continue;
                        }
                        facts.values.insert(result, known);
                    }
                    if let Some(result) = result {
                        function.expressions[result] = Expression::CallResult(called);
                    }
                    kept.push(Statement::Call { function: called, arguments, result }, span);
                }
                other => kept.push(other, span),
            }
            // Statements behind a statement that leaves the block are never reached, and naga refuses them.
            if matches!(
                kept.last(),
                Some(Statement::Return { .. } | Statement::Break | Statement::Continue | Statement::Kill)
            ) {
                break;
            }
        }
        kept
    }

    /// Notes the value that the taken branch stores in a variable of `&&` or `||`.
    fn learn(&self, function: &Function, facts: &mut Facts, taken: &Block) {
        if let Some(&Statement::Store { pointer, value }) = taken.last()
            && let Expression::LocalVariable(local) = function.expressions[pointer]
            && function.local_variables[local].name.is_none()
            && function.local_variables[local].init.is_none()
            && let Some(known) = self.value(function, facts, value)
        {
            facts.locals.insert(local, known);
        }
    }

    fn value(&self, function: &Function, facts: &Facts, expression: Handle<Expression>) -> Option<Known> {
        if let Some(known) = facts.values.get(&expression) {
            return Some(known.clone());
        }
        let value = |expression| self.value(function, facts, expression);
        match function.expressions[expression] {
            Expression::Literal(literal) => Known::of(literal),
            Expression::Constant(constant) => {
                match self.module.global_expressions[self.module.constants[constant].init] {
                    Expression::Literal(literal) => Known::of(literal),
                    _ => None,
                }
            }
            Expression::Compose { ref components, .. } => {
                let parts: Vec<_> = components.iter().map(|&component| value(component)).collect();
                parts.iter().any(Option::is_some).then_some(Known::Parts(parts))
            }
            Expression::AccessIndex { base, index } => match value(base)? {
                Known::Parts(parts) => parts.get(index as usize)?.clone(),
                _ => None,
            },
            Expression::Load { pointer } => match function.expressions[pointer] {
                Expression::LocalVariable(local) => facts.locals.get(&local).cloned(),
                _ => None,
            },
            Expression::Unary { op: UnaryOperator::LogicalNot, expr } => match value(expr)? {
                Known::Bool(value) => Some(Known::Bool(!value)),
                _ => None,
            },
            Expression::Binary { op, left, right } => binary(op, value(left)?, value(right)?),
            Expression::Select { condition, accept, reject } => match value(condition)? {
                Known::Bool(chosen) => value(if chosen { accept } else { reject }),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Whether the statement has no effect outside the function.
fn idle(function: &Function, statement: &Statement) -> bool {
    match *statement {
        Statement::Emit(_) => true,
        Statement::Store { pointer, .. } => matches!(function.expressions[pointer], Expression::LocalVariable(_)),
        _ => false,
    }
}

fn binary(op: BinaryOperator, left: Known, right: Known) -> Option<Known> {
    match (left, right) {
        (Known::U32(a), Known::U32(b)) => Some(match op {
            BinaryOperator::Equal => Known::Bool(a == b),
            BinaryOperator::NotEqual => Known::Bool(a != b),
            BinaryOperator::Less => Known::Bool(a < b),
            BinaryOperator::LessEqual => Known::Bool(a <= b),
            BinaryOperator::Greater => Known::Bool(a > b),
            BinaryOperator::GreaterEqual => Known::Bool(a >= b),
            BinaryOperator::And => Known::U32(a & b),
            BinaryOperator::Add => Known::U32(a.wrapping_add(b)),
            BinaryOperator::Multiply => Known::U32(a.wrapping_mul(b)),
            BinaryOperator::Divide => Known::U32(a.checked_div(b)?),
            _ => return None,
        }),
        (Known::Bool(a), Known::Bool(b)) => Some(Known::Bool(match op {
            BinaryOperator::Equal => a == b,
            BinaryOperator::NotEqual => a != b,
            BinaryOperator::And => a & b,
            BinaryOperator::InclusiveOr => a | b,
            _ => return None,
        })),
        _ => None,
    }
}

/// The statements that a `switch` runs for a value; `None` if a `break` may leave them.
fn taken(cases: &[SwitchCase], value: u32) -> Option<Block> {
    let case = |value: SwitchValue| cases.iter().position(|case| case.value == value);
    let first = case(SwitchValue::U32(value)).or_else(|| case(SwitchValue::Default))?;
    let mut taken = Block::new();
    for case in &cases[first..] {
        if breaks(&case.body) {
            return None;
        }
        taken.extend_block(case.body.clone());
        if !case.fall_through {
            break;
        }
    }
    Some(taken)
}

/// Whether the block holds a `break` that leaves the statement around it.
fn breaks(block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::Break => true,
        Statement::Block(inner) => breaks(inner),
        Statement::If { accept, reject, .. } => breaks(accept) || breaks(reject),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use naga::back::pipeline_constants::process_overrides;
    use naga::valid::{ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
    use naga::{Block, Module, ShaderStage, Statement};

    use super::specialized;
    use crate::gpu::kept::kernel::KERNELS;
    use crate::gpu::kept::reflection::CAPABILITIES;

    fn validator() -> Validator {
        let mut validator = Validator::new(ValidationFlags::all(), CAPABILITIES);
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
        validator
    }

    fn special(text: &str, entry: &str, constants: &[(&str, f64)]) -> Module {
        let module = naga::front::wgsl::parse_str(text).expect("valid WGSL");
        let info = validator().validate(&module).expect("valid");
        let values = constants.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        let entry = Some((ShaderStage::Compute, entry));
        let (module, _) = process_overrides(&module, &info, entry, &values).expect("known overrides");
        specialized(&module)
    }

    fn statements(block: &Block) -> usize {
        let within = |statement: &Statement| match statement {
            Statement::Block(inner) => statements(inner),
            Statement::If { accept, reject, .. } => 1 + statements(accept) + statements(reject),
            Statement::Loop { body, continuing, .. } => 1 + statements(body) + statements(continuing),
            Statement::Switch { cases, .. } => 1 + cases.iter().map(|case| statements(&case.body)).sum::<usize>(),
            Statement::Emit(_) => 0,
            _ => 1,
        };
        block.iter().map(within).sum()
    }

    #[test]
    fn what_constants_decide_is_decided() {
        const TEXT: &str = "
            override KIND: u32 = 0u;
            override EXTRA: bool = false;
            struct Shape { first: u32, gates: u32 }
            @group(0) @binding(0) var<storage, read_write> y: array<f32>;
            fn never(x: f32) -> f32 { return x * 3.0; }
            fn step(m: Shape) -> u32 { if m.gates == 1u { return 16u; } return 4u; }
            fn act(code: u32, x: f32) -> f32 {
                switch code {
                    case 1u, 2u: { return x + 1.0; }
                    case 3u: { return never(x); }
                    default: { return x; }
                }
            }
            @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                var x = y[id.x];
                if EXTRA && id.x > 2u { x = never(x); }
                for (var k = 0u; k < step(Shape(id.x, KIND + 1u)); k++) {
                    if KIND == 7u { break; }
                    x = act(KIND, x);
                }
                y[id.x] = x;
            }";
        let sizes = [(0.0, 0.0), (1.0, 0.0), (3.0, 0.0), (3.0, 1.0)].map(|(kind, extra)| {
            let module = special(TEXT, "main", &[("KIND", kind), ("EXTRA", extra)]);
            validator().validate(&module).expect("still valid");
            let names: Vec<&str> = module.functions.iter().filter_map(|(_, f)| f.name.as_deref()).collect();
            (names.contains(&"never"), names.contains(&"step"), statements(&module.entry_points[0].function.body))
        });
        // A function whose result is known is not called.
        assert_eq!(
            sizes.map(|(never, step, _)| (never, step)),
            [(false, false), (false, false), (true, false), (true, false)]
        );
        assert!(sizes[2].2 < sizes[3].2, "{sizes:?}");
        // The loop is left before it has done anything.
        let left = special(TEXT, "main", &[("KIND", 7.0)]);
        validator().validate(&left).expect("nothing stands behind a break");
        assert!(left.functions.iter().all(|(_, f)| f.name.as_deref() != Some("act")));
    }

    #[test]
    fn every_kernel_stays_valid_and_grows_no_larger() {
        for kernel in KERNELS {
            let whole = naga::front::wgsl::parse_str(kernel.source).expect("valid WGSL");
            let module = special(kernel.source, kernel.name, &[]);
            validator().validate(&module).unwrap_or_else(|error| panic!("{}: {error:?}", kernel.name));
            let [before, after] = [&whole, &module].map(|module| statements(&module.entry_points[0].function.body));
            assert!(after > 0 && after <= before, "{}: {after} of {before}", kernel.name);
        }
    }

    #[test]
    fn other_cells_leave_a_step() {
        let step = KERNELS.iter().find(|kernel| kernel.name == "recurrent_step").expect("in the table");
        for (cell, own) in [(0.0, "candidate"), (1.0, "lstm_update"), (2.0, "gru_update")] {
            let module = special(step.source, step.name, &[("CELL", cell)]);
            let has = |name: &str| module.functions.iter().any(|(_, f)| f.name.as_deref() == Some(name));
            assert!(has(own), "{own}");
            let others = ["lstm_update", "gru_update"].into_iter().filter(|&other| other != own);
            assert_eq!(others.filter(|other| has(other)).count(), 0, "{own}");
        }
    }
}
