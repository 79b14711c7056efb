//! Makes kernels that run a part of their grid: the whole grid would keep the GPU busy too long, or has too many workgroups for one
//! dispatch.
//!
//! The WGSL does not change. The module's entry point becomes a function. A new entry point calls it with the workgroup's number in the
//! whole grid, which it computes from words behind the fields of the kernel's uniform.

use naga::{
    AddressSpace, BinaryOperator, Binding, Block, BuiltIn, EntryPoint, Expression, Function, GlobalVariable, Handle,
    Literal, Module, Range, Scalar, Span, Statement, StructMember, Type, TypeInner,
};

/// The name among a kernel's constants that asks for a variant that runs parts. It is no identifier of WGSL, so no `override` has it.
pub(in crate::gpu) const PART: &str = "@part";

/// The words behind the kernel's own fields in the uniform of a part.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub(in crate::gpu) struct PartDims {
    /// The first workgroup of the part.
    pub(in crate::gpu) first: [u32; 3],
    /// Workgroups of the whole grid.
    pub(in crate::gpu) whole: [u32; 3],
}

/// Names of the fields of [`PartDims`] in the module.
const FIELDS: [&str; 6] = ["first_x", "first_y", "first_z", "whole_x", "whole_y", "whole_z"];

/// Returns the module with an entry point that runs a part of the kernel's grid, and the offset in bytes of [`PartDims`] in its uniform.
/// Returns `None` if the kernel has no uniform.
pub(in crate::gpu) fn of_part(mut module: Module, name: &str) -> Option<(Module, u32)> {
    let uniform = module.global_variables.iter().find(|(_, variable)| variable.space == AddressSpace::Uniform);
    let (dims, ty) = uniform.map(|(handle, variable)| (handle, variable.ty))?;
    let (fields, place) = extend(&mut module, ty)?;
    let at = module.entry_points.iter().position(|entry| entry.name == name)?;
    let EntryPoint { function: outer, workgroup_size, .. } = &mut module.entry_points[at];
    let workgroup_size = *workgroup_size;
    let mut inner = std::mem::take(outer);
    let arguments = inner.arguments.clone();
    inner.arguments.iter_mut().for_each(|argument| argument.binding = None);
    inner.name = Some(format!("{name}_of_part"));
    let inner = module.functions.append(inner, Span::default());
    let mut caller = Caller { function: Function { arguments, ..Function::default() }, dims, fields };
    caller.call(inner, workgroup_size);
    module.entry_points[at].function = caller.function;
    Some((module, place))
}

/// Appends the fields of [`PartDims`] to a struct. Returns how many fields it had, and the offset in bytes of the new ones.
fn extend(module: &mut Module, handle: Handle<Type>) -> Option<(u32, u32)> {
    // A type may refer only to types before it. The struct has fields of the type `u32`, so `u32` comes before it.
    let (word, _) = module.types.iter().find(|(_, ty)| ty.inner == TypeInner::Scalar(Scalar::U32))?;
    let Type { name, inner: TypeInner::Struct { mut members, .. } } = module.types[handle].clone() else {
        return None;
    };
    let fields = u32::try_from(members.len()).ok()?;
    // WGSL itself would place a field there: right behind the last one.
    let last = members.last()?;
    let place = last.offset + module.types[last.ty].inner.size(module.to_ctx());
    members.extend((0..).zip(FIELDS).map(|(at, name): (u32, _)| StructMember {
        name: Some(name.to_owned()),
        ty: word,
        binding: None,
        offset: place + 4 * at,
    }));
    let span = (place + size_of::<PartDims>() as u32).next_multiple_of(16);
    module.types.replace(handle, Type { name, inner: TypeInner::Struct { members, span } });
    Some((fields, place))
}

/// The new entry point, which calls the kernel's former one.
struct Caller {
    function: Function,
    dims: Handle<GlobalVariable>,
    /// Number of the kernel's own fields in the uniform.
    fields: u32,
}

impl Caller {
    fn push(&mut self, expression: Expression) -> Handle<Expression> {
        self.function.expressions.append(expression, Span::default())
    }

    fn call(&mut self, inner: Handle<Function>, workgroup_size: [u32; 3]) {
        let arguments = self.function.arguments.clone();
        let dims = self.push(Expression::GlobalVariable(self.dims));
        let sizes = workgroup_size.map(|size| self.push(Expression::Literal(Literal::U32(size))));
        let given: Vec<_> = (0..).zip(&arguments).map(|(at, _)| self.push(Expression::FunctionArgument(at))).collect();
        // Expressions before this one must not be emitted.
        let before = self.function.expressions.len();
        let handed: Vec<_> = arguments
            .iter()
            .zip(given)
            .map(|(argument, value)| match argument.binding {
                Some(Binding::BuiltIn(BuiltIn::WorkGroupId)) => {
                    let first = self.vector(dims, 0, argument.ty);
                    self.binary(BinaryOperator::Add, value, first)
                }
                Some(Binding::BuiltIn(BuiltIn::GlobalInvocationId)) => {
                    let first = self.vector(dims, 0, argument.ty);
                    let size = self.push(Expression::Compose { ty: argument.ty, components: sizes.to_vec() });
                    let first = self.binary(BinaryOperator::Multiply, first, size);
                    self.binary(BinaryOperator::Add, value, first)
                }
                Some(Binding::BuiltIn(BuiltIn::NumWorkGroups)) => self.vector(dims, 3, argument.ty),
                _ => value,
            })
            .collect();
        let mut body = Block::new();
        let computed: Vec<_> = self.function.expressions.iter().map(|(handle, _)| handle).skip(before).collect();
        if let [first, ..] = computed[..] {
            let last = computed[computed.len() - 1];
            body.push(Statement::Emit(Range::new_from_bounds(first, last)), Span::default());
        }
        body.push(Statement::Call { function: inner, arguments: handed, result: None }, Span::default());
        body.push(Statement::Return { value: None }, Span::default());
        self.function.body = body;
    }

    fn binary(
        &mut self,
        op: BinaryOperator,
        left: Handle<Expression>,
        right: Handle<Expression>,
    ) -> Handle<Expression> {
        self.push(Expression::Binary { op, left, right })
    }

    /// A vector of three fields of [`PartDims`], from its field `at` on.
    fn vector(&mut self, dims: Handle<Expression>, at: u32, ty: Handle<Type>) -> Handle<Expression> {
        let components = [0, 1, 2].map(|axis| {
            let pointer = self.push(Expression::AccessIndex { base: dims, index: self.fields + at + axis });
            self.push(Expression::Load { pointer })
        });
        self.push(Expression::Compose { ty, components: components.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use naga::valid::{ValidationFlags, Validator};

    use super::{PART, PartDims};
    use crate::gpu::kept::kernel::KERNELS;
    use crate::gpu::kept::reflection::{CAPABILITIES, Variant};

    /// Checks all kernels, because the grid of any kernel may be cut into parts.
    #[test]
    fn every_kernel_can_run_a_part_of_its_grid() {
        for kernel in KERNELS {
            let whole = Variant::of(kernel, &Vec::new()).expect(kernel.name);
            let part = Variant::of(kernel, &vec![(PART, 1)]).expect(kernel.name);
            assert_eq!(whole.dims.bytes, part.dims.bytes, "{}", kernel.name);
            assert_eq!(whole.dims.bound, whole.dims.bytes, "{}", kernel.name);
            // The part's words lie behind the fields, in the padding if there is any.
            assert!((0..16).contains(&(whole.dims.bytes - part.dims.place)), "{}", kernel.name);
            assert!(part.dims.bound >= part.dims.place + size_of::<PartDims>() as u64, "{}", kernel.name);
            assert_eq!(whole.entries.len(), part.entries.len(), "{}", kernel.name);
            let mut validator = Validator::new(ValidationFlags::all(), CAPABILITIES);
            validator
                .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
                .subgroup_operations(naga::valid::SubgroupOperationSet::all());
            if let Err(error) = validator.validate(&part.module) {
                panic!("{}: {error:?}", kernel.name);
            }
        }
    }
}
