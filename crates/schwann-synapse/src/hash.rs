//! The body hash: SHA3-256 over Python's `str()` of the hashed fields.
//!
//! Specification §5, the same in SDK 7.2 to 10.5: each hashed field is rendered as `str()` renders it and hashed; the
//! hexadecimal texts of these are joined and hashed again. Both ends must make the same texts, so a field is [`PyStr`]
//! only if its text can be made exactly.

use std::{borrow::Cow, collections::BTreeMap, fmt, rc::Rc, sync::Arc};

pub use schwann_synapse_derive::PyStr;
use sha3::{Digest as _, Sha3_256};

use crate::python::{Dict, Int, UnicodeVersion, Value, bool_text, write_float, write_str_repr};

/// The hash of a synapse's required hash fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BodyHash([u8; 32]);

impl BodyHash {
    /// The hash of a synapse without hashed fields: SHA3-256 of nothing.
    pub const EMPTY: Self = Self([
        0xa7, 0xff, 0xc6, 0xf8, 0xbf, 0x1e, 0xd7, 0x66, 0x51, 0xc1, 0x47, 0x56, 0xa0, 0x61, 0xd6,
        0x62, 0xf5, 0x80, 0xff, 0x4d, 0xe4, 0x3b, 0x49, 0xfa, 0x82, 0xd8, 0x0a, 0x4b, 0x80, 0xf8,
        0x43, 0x4a,
    ]);

    /// Hashes with what `fields` adds to the hasher, for a peer on CPython 3.11.
    pub fn of(fields: impl FnOnce(&mut BodyHasher)) -> Self {
        let mut hasher = BodyHasher::new();
        fields(&mut hasher);
        hasher.finish()
    }

    /// Whether `claimed`, a `computed_body_hash` header, is the hash of these fields on any Python the SDK runs on.
    ///
    /// Pythons differ in which characters `repr` escapes inside lists and dicts. The commonest is tried first, so an
    /// honest peer rarely costs more than one pass. The text is compared exactly: upper-case digits are refused, as the
    /// reference refuses them.
    pub fn agrees(claimed: &str, fields: impl Fn(&mut BodyHasher)) -> bool {
        UnicodeVersion::ALL.into_iter().any(|unicode| {
            let mut hasher = BodyHasher::with_unicode(unicode);
            fields(&mut hasher);
            hasher.finish().to_hex() == claimed.as_bytes()
        })
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn to_hex(self) -> [u8; 64] {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).expect("64 digits for 32 bytes");
        text
    }
}

/// Lower-case hexadecimal, as the header carries it.
impl fmt::Display for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_hex()).expect("hexadecimal digits"))
    }
}

impl fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Takes the hashed fields in their order and makes the [`BodyHash`].
#[derive(Clone, Debug, Default)]
pub struct BodyHasher {
    joined: Sha3_256,
    text: String,
    unicode: UnicodeVersion,
    any: bool,
}

impl BodyHasher {
    /// A hasher for a peer on CPython 3.11, or any other if no hashed container holds newly assigned characters.
    pub fn new() -> Self {
        Self::default()
    }

    /// A hasher for a peer whose Python has this Unicode version.
    pub fn with_unicode(unicode: UnicodeVersion) -> Self {
        Self { unicode, ..Self::default() }
    }

    /// Adds a field.
    pub fn field(&mut self, value: &(impl PyStr + ?Sized)) {
        self.text.clear();
        value.write_python(&mut self.text, Form { repr: false, unicode: self.unicode });
        self.add();
    }

    /// Adds a field whose value came from JSON.
    pub fn value(&mut self, value: &Value) {
        self.field(value);
    }

    /// The hash; [`BodyHash::EMPTY`] if nothing was added.
    pub fn finish(self) -> BodyHash {
        if !self.any {
            return BodyHash::EMPTY;
        }
        BodyHash(self.joined.finalize().into())
    }

    fn add(&mut self) {
        let field = BodyHash(Sha3_256::digest(self.text.as_bytes()).into());
        self.joined.update(field.to_hex());
        self.any = true;
    }
}

/// How a text is wanted: `str()` or `repr()`, and as which Unicode version.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form {
    /// `repr()`: what stands inside a container. Otherwise `str()`: what stands alone.
    pub repr: bool,
    /// Decides which characters of text in containers are escaped.
    pub unicode: UnicodeVersion,
}

impl Form {
    /// The form of what stands inside a container.
    #[must_use]
    pub fn inside(self) -> Self {
        Self { repr: true, ..self }
    }
}

/// A value whose Python `str()` is reproduced exactly, so that it can be a hashed field.
///
/// Derive it for nested structs with `#[derive(PyStr)]`: pydantic dumps a nested model to a dict of all its fields.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a hashed synapse field",
    label = "its Python `str()` cannot be reproduced",
    note = "the peer hashes Python's `str()` of the field. That is reproduced for bool, integers, f64, text, Option, \
            Vec, arrays, tuples, BTreeMap, `Int`, `Value` and `Dict`, and for structs with `#[derive(PyStr)]`",
    note = "an f32 prints other digits than Python's float: use f64; a HashMap has no order: use BTreeMap or `Dict`"
)]
pub trait PyStr {
    /// Appends the text in the form asked for.
    fn write_python(&self, out: &mut String, form: Form);

    /// Appends `str(self)` as CPython 3.11 writes it.
    fn py_str(&self, out: &mut String) {
        self.write_python(out, Form::default());
    }

    /// Appends `repr(self)` as CPython 3.11 writes it.
    fn py_repr(&self, out: &mut String) {
        self.write_python(out, Form::default().inside());
    }
}

impl PyStr for bool {
    fn write_python(&self, out: &mut String, _: Form) {
        out.push_str(bool_text(*self));
    }
}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl PyStr for $integer {
            fn write_python(&self, out: &mut String, _: Form) {
                use std::fmt::Write as _;
                write!(out, "{self}").expect("a `String` takes any text");
            }
        }
    )*};
}
integers!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize Int);

impl PyStr for f64 {
    fn write_python(&self, out: &mut String, _: Form) {
        write_float(*self, out);
    }
}

impl PyStr for str {
    fn write_python(&self, out: &mut String, form: Form) {
        if form.repr {
            write_str_repr(self, out, form.unicode);
        } else {
            out.push_str(self);
        }
    }
}

impl PyStr for String {
    fn write_python(&self, out: &mut String, form: Form) {
        self.as_str().write_python(out, form);
    }
}

impl PyStr for char {
    fn write_python(&self, out: &mut String, form: Form) {
        self.encode_utf8(&mut [0; 4]).write_python(out, form);
    }
}

impl PyStr for Value {
    fn write_python(&self, out: &mut String, form: Form) {
        if form.repr {
            self.write_repr(out, form.unicode);
        } else {
            self.write_str(out, form.unicode);
        }
    }
}

impl PyStr for Dict {
    fn write_python(&self, out: &mut String, form: Form) {
        self.write_repr(out, form.unicode);
    }
}

impl<T: PyStr> PyStr for Option<T> {
    fn write_python(&self, out: &mut String, form: Form) {
        match self {
            Some(value) => value.write_python(out, form),
            None => out.push_str("None"),
        }
    }
}

macro_rules! pointers {
    ($($pointer:ty),*) => {$(
        impl<T: PyStr + ?Sized> PyStr for $pointer {
            fn write_python(&self, out: &mut String, form: Form) {
                (**self).write_python(out, form);
            }
        }
    )*};
}
pointers!(&T, Box<T>, Arc<T>, Rc<T>);

impl<T: PyStr + ToOwned + ?Sized> PyStr for Cow<'_, T> {
    fn write_python(&self, out: &mut String, form: Form) {
        (**self).write_python(out, form);
    }
}

impl<T: PyStr> PyStr for [T] {
    fn write_python(&self, out: &mut String, form: Form) {
        out.push('[');
        for (index, item) in self.iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            item.write_python(out, form.inside());
        }
        out.push(']');
    }
}

impl<T: PyStr> PyStr for Vec<T> {
    fn write_python(&self, out: &mut String, form: Form) {
        self.as_slice().write_python(out, form);
    }
}

/// A list: Python has no array, and JSON carries a list.
impl<T: PyStr, const N: usize> PyStr for [T; N] {
    fn write_python(&self, out: &mut String, form: Form) {
        self.as_slice().write_python(out, form);
    }
}

macro_rules! tuples {
    ($(($($item:ident $at:tt),*))*) => {$(
        /// A tuple, which the peer's class must declare as `Tuple[..]`: it hashes as one, not as a list.
        impl<$($item: PyStr),*> PyStr for ($($item,)*) {
            fn write_python(&self, out: &mut String, form: Form) {
                let mut count = 0;
                out.push('(');
                $(
                    if count > 0 {
                        out.push_str(", ");
                    }
                    count += 1;
                    self.$at.write_python(out, form.inside());
                )*
                out.push_str(if count == 1 { ",)" } else { ")" });
            }
        }
    )*};
}
tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
}

/// A dict in the order of the keys, which is the order they are sent in. Integer keys hash as integers: the peer's class
/// must declare `Dict[int, ..]`.
impl<K: PyStr, V: PyStr> PyStr for BTreeMap<K, V> {
    fn write_python(&self, out: &mut String, form: Form) {
        out.push('{');
        for (index, (key, value)) in self.iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            key.write_python(out, form.inside());
            out.push_str(": ");
            value.write_python(out, form.inside());
        }
        out.push('}');
    }
}
