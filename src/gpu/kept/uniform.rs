//! Uniforms: structs of 32-bit words, compared field by field with what the WGSL declares.
//!
//! [`Recorder::dispatch`](crate::gpu::submit::recorder::Recorder::dispatch) takes only a [`Uniform`]. [`uniform!`] is the only way
//! to declare one. A pipeline compares it with the reflection of its WGSL before the first dispatch: if the two structs
//! differ, the call returns an error instead of wrong numbers.

use std::fmt;

use crate::error::{Error, Result};

/// The type of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gpu) enum Scalar {
    U32,
    I32,
    F32,
}

/// One 32-bit word of a uniform: its field (as the path from the outermost struct), its offset in bytes and its type. The
/// elements of arrays and vectors have the name of their field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gpu) struct Word {
    field: String,
    offset: usize,
    scalar: Scalar,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {:?} at {}", self.field, self.scalar, self.offset)
    }
}

/// A type that uniforms can be made of.
pub(in crate::gpu) trait Words {
    /// Appends the words of a value that lies at `offset` under the name `field`.
    fn words(field: &str, offset: usize, words: &mut Vec<Word>);
}

macro_rules! scalars {
    ($($ty:ty: $scalar:ident),*) => {$(
        impl Words for $ty {
            fn words(field: &str, offset: usize, words: &mut Vec<Word>) {
                words.push(Word { field: field.to_owned(), offset, scalar: Scalar::$scalar });
            }
        }
    )*};
}
scalars!(u32: U32, i32: I32, f32: F32);

impl<T: Words, const N: usize> Words for [T; N] {
    fn words(field: &str, offset: usize, words: &mut Vec<Word>) {
        for at in 0..N {
            T::words(field, offset + at * size_of::<T>(), words);
        }
    }
}

/// The uniform of a kernel: the twin of the WGSL struct of the same name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not declared with `uniform!`",
    note = "`uniform! {{ struct {Self} {{ .. }} }}` lets the pipeline compare it with the WGSL"
)]
pub(in crate::gpu) trait Uniform: Words + bytemuck::NoUninit {
    /// The name of both structs.
    const NAME: &'static str;
}

/// Joins a struct's field to the path that leads to it.
pub(in crate::gpu) fn path(parent: &str, field: &str) -> String {
    if parent.is_empty() { field.to_owned() } else { format!("{parent}.{field}") }
}

/// Declares the `#[repr(C)]` twin of a WGSL struct. A field called `unused` has no twin: it fills the struct up to the size
/// that its alignment asks for.
macro_rules! uniform {
    ($($(#[$doc:meta])* $vis:vis struct $name:ident {
        $($(#[$field_doc:meta])* $field_vis:vis $field:ident: $ty:ty),+ $(,)?
    })+) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name { $($(#[$field_doc])* $field_vis $field: $ty),+ }

        impl $crate::gpu::kept::uniform::Words for $name {
            fn words(field: &str, offset: usize, words: &mut Vec<$crate::gpu::kept::uniform::Word>) {
                $(
                    let name = $crate::gpu::kept::uniform::path(field, stringify!($field));
                    <$ty as $crate::gpu::kept::uniform::Words>::words(&name, offset + std::mem::offset_of!($name, $field), words);
                )+
            }
        }

        impl $crate::gpu::kept::uniform::Uniform for $name {
            const NAME: &'static str = stringify!($name);
        }
    )+};
}
pub(in crate::gpu) use uniform;

/// A uniform as a kernel's WGSL declares it.
#[derive(Debug, Default)]
pub(in crate::gpu) struct Declared {
    name: String,
    pub(in crate::gpu) bytes: u64,
    /// Bytes that are bound: the uniform's own, and [`PartDims`](super::part::PartDims) if the kernel runs parts of a grid.
    pub(in crate::gpu) bound: u64,
    /// The offset of [`PartDims`](super::part::PartDims) in bytes.
    pub(in crate::gpu) place: u64,
    words: Vec<Word>,
}

impl Declared {
    pub(in crate::gpu) fn of(module: &naga::Module, ty: naga::Handle<naga::Type>, bytes: u32) -> Self {
        let mut words = Vec::new();
        declared_words(module, ty, "", 0, &mut words);
        let name = module.types[ty].name.clone().unwrap_or_default();
        Self { name, bytes: u64::from(bytes), bound: u64::from(bytes), place: u64::from(bytes), words }
    }

    /// Returns an error if the Rust struct `D` differs from the kernel's.
    pub(in crate::gpu) fn check<D: Uniform>(&self, op: &'static str) -> Result<()> {
        let refused = |message: String| Err(Error::Gpu { op, message });
        if (self.name.as_str(), self.bytes) != (D::NAME, size_of::<D>() as u64) {
            let rust = format!("`{}` of {} bytes", D::NAME, size_of::<D>());
            return refused(format!("the uniform is {rust} in Rust, `{}` of {} bytes in WGSL", self.name, self.bytes));
        }
        let mut words = Vec::new();
        D::words("", 0, &mut words);
        words.retain(|word| word.field != "unused");
        let pairs = words.len().max(self.words.len());
        for (rust, wgsl) in (0..pairs).map(|at| (words.get(at), self.words.get(at))) {
            if rust != wgsl {
                let named = |word: Option<&Word>| word.map_or_else(|| "nothing".to_owned(), Word::to_string);
                return refused(format!("{}: {} in Rust, {} in WGSL", D::NAME, named(rust), named(wgsl)));
            }
        }
        Ok(())
    }
}

/// Appends the words of a WGSL type. A type that no uniform can hold is left out, so that the result differs from every Rust struct.
fn declared_words(
    module: &naga::Module,
    ty: naga::Handle<naga::Type>,
    field: &str,
    offset: usize,
    words: &mut Vec<Word>,
) {
    let mut scalars = |scalar: naga::Scalar, count: usize| {
        let scalar = match (scalar.kind, scalar.width) {
            (naga::ScalarKind::Uint, 4) => Scalar::U32,
            (naga::ScalarKind::Sint, 4) => Scalar::I32,
            (naga::ScalarKind::Float, 4) => Scalar::F32,
            _ => return,
        };
        words.extend((0..count).map(|at| Word { field: field.to_owned(), offset: offset + 4 * at, scalar }));
    };
    match &module.types[ty].inner {
        naga::TypeInner::Scalar(scalar) => scalars(*scalar, 1),
        naga::TypeInner::Vector { size, scalar } => scalars(*scalar, *size as usize),
        naga::TypeInner::Array { base, size: naga::ArraySize::Constant(count), stride } => {
            for at in 0..count.get() {
                declared_words(module, *base, field, offset + (at * stride) as usize, words);
            }
        }
        naga::TypeInner::Struct { members, .. } => {
            for member in members {
                let name = path(field, member.name.as_deref().unwrap_or_default());
                declared_words(module, member.ty, &name, offset + member.offset as usize, words);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WGSL: &str = "
        struct Scalars { alpha: f32, shift: i32 }
        struct Dims { scalars: Scalars, count: u32, width: f32, axes: array<vec4<u32>, 2>, last: u32 }
        @group(0) @binding(0) var<uniform> dims: Dims;
    ";

    fn check<D: Uniform>() -> Result<()> {
        let module = naga::front::wgsl::parse_str(WGSL).expect("valid WGSL");
        let (_, variable) = module.global_variables.iter().next().expect("the uniform");
        Declared::of(&module, variable.ty, 64).check::<D>("kernel")
    }

    uniform! { struct Scalars { alpha: f32, shift: i32 } struct Turned { shift: i32, alpha: f32 } }

    #[test]
    fn a_struct_passes_only_if_every_word_has_its_name_place_and_type() {
        /// Compares a struct `Dims` of these fields.
        macro_rules! check {
            ($($fields:tt)+) => {{
                uniform! { struct Dims { $($fields)+ } }
                check::<Dims>().map_err(|error| error.to_string())
            }};
        }
        let right = check!(scalars: Scalars, count: u32, width: f32, axes: [u32; 8], last: u32, unused: [u32; 3]);
        assert_eq!(right, Ok(()));
        for (wrong, said) in [
            (check!(scalars: Scalars, width: f32, count: u32, axes: [u32; 8], last: u32, unused: [u32; 3]), "`width`"),
            (check!(scalars: Scalars, total: u32, width: f32, axes: [u32; 8], last: u32, unused: [u32; 3]), "`total`"),
            (check!(scalars: Scalars, count: i32, width: f32, axes: [u32; 8], last: u32, unused: [u32; 3]), "I32"),
            (check!(scalars: Turned, count: u32, width: f32, axes: [u32; 8], last: u32, unused: [u32; 3]), ".shift`"),
            (check!(scalars: Scalars, count: u32, width: f32, axes: [u32; 7], last: u32, unused: [u32; 4]), "`axes`"),
            (check!(scalars: Scalars, count: u32, width: f32, last: u32, axes: [u32; 8], unused: [u32; 3]), "`last`"),
            (check!(scalars: Scalars, count: u32, width: f32, axes: [u32; 8], unused: [u32; 4]), "nothing in Rust"),
            (check!(scalars: Scalars, count: u32, width: f32, axes: [u32; 8], last: u32), "of 52 bytes"),
        ] {
            let message = wrong.expect_err(said);
            assert!(message.contains(said), "{message} names {said}");
        }
        assert!(check::<Scalars>().is_err_and(|error| error.to_string().contains("`Scalars`")));
    }
}
