//! `#[derive(Synapse)]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{
    Data, DeriveInput, Error, Field, Fields, Ident, LitInt, LitStr, Result, Token, Type, bracketed,
    ext::IdentExt as _, punctuated::Punctuated, spanned::Spanned,
};

use crate::{attributes::Container, py_str::check_hashed};

/// As in `schwann_synapse::synapse::BASE_FIELDS`.
const BASE_FIELDS: [&str; 7] =
    ["name", "timeout", "total_size", "header_size", "dendrite", "axon", "computed_body_hash"];

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(input.ident.span(), "a synapse is a struct"));
    };
    let fields = match &data.fields {
        Fields::Named(fields) => Some(&fields.named),
        Fields::Unit => None,
        Fields::Unnamed(fields) => {
            return Err(Error::new(fields.span(), "a synapse has named fields"));
        }
    };
    if !input.generics.params.is_empty() {
        return Err(Error::new(
            input.generics.span(),
            "a synapse is one class with one route, so it has no parameters",
        ));
    }
    let container = Container::read(&input.attrs)?;
    if let Some((span, name)) = container.reshaped {
        return Err(Error::new(
            span,
            format!("a synapse is sent as a dict of its fields, so it cannot be `{name}`"),
        ));
    }
    let Route { name, hash: listed } = Route::read(input)?;
    check_name(&name)?;

    let mut hashed = Vec::new();
    let mut required = TokenStream::new();
    let mut redefined = Vec::new();
    let mut by_name = Vec::new();
    for field in fields.into_iter().flatten() {
        let ident = field.ident.as_ref().expect("a named field");
        let names = container.field(field)?;
        let marks = Marks::read(field)?;
        if let Some(base) = BASE_FIELDS.iter().find(|base| **base == names.wire) {
            redefined.push(*base);
        }
        if let Some((span, position)) = marks.hash {
            check_hashed(&names)?;
            hashed.push((span, position, ident));
        }
        let need = marks.required.unwrap_or(!names.default && !is_option(&field.ty));
        if need && names.skip.is_none() && names.flatten.is_none() {
            let (wire, ty) = (&names.wire, &field.ty);
            // What `with` makes of a field is not known from its type.
            let kind = match names.with {
                Some(_) => quote!(::schwann_synapse::synapse::Placeholder::Dict),
                None => {
                    quote_spanned!(ty.span() => ::schwann_synapse::synapse::Placeholder::of_type::<#ty>())
                }
            };
            required.extend(quote!((#wire, #kind),));
        }
        by_name.push((ident, names));
    }

    let hashed = match listed {
        Some(list) => {
            if let Some((span, ..)) = hashed.first() {
                return Err(Error::new(*span, "the struct lists its hashed fields already"));
            }
            let mut order: Vec<&Ident> = Vec::new();
            for name in &list {
                let wanted = name.value();
                let found = by_name
                    .iter()
                    .find(|(ident, names)| ident.unraw() == wanted || names.wire == wanted);
                let (ident, names) = found.ok_or_else(|| {
                    Error::new(name.span(), format!("there is no field `{wanted}`"))
                })?;
                check_hashed(names)?;
                if order.contains(ident) {
                    return Err(Error::new(name.span(), format!("`{wanted}` is hashed already")));
                }
                order.push(ident);
            }
            order
        }
        None => in_order(hashed)?,
    };
    let hash_calls = hashed.iter().map(|ident| {
        let field = fields.into_iter().flatten().find(|field| field.ident.as_ref() == Some(*ident));
        let span = field.map_or_else(|| ident.span(), |field| field.ty.span());
        quote_spanned!(span => hasher.field(&self.#ident);)
    });
    let hash_calls: Vec<_> = hash_calls.collect();
    let hasher = if hash_calls.is_empty() { quote!(_hasher) } else { quote!(hasher) };

    let ident = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl ::schwann_synapse::synapse::Synapse for #ident {
            const NAME: &'static str = #name;

            const REDEFINED: &'static [&'static str] = &[#(#redefined),*];

            fn required() -> &'static [(&'static str, ::schwann_synapse::synapse::Placeholder)] {
                static REQUIRED: ::std::sync::LazyLock<
                    ::std::vec::Vec<(&'static str, ::schwann_synapse::synapse::Placeholder)>,
                > = ::std::sync::LazyLock::new(|| ::std::vec![#required]);
                &REQUIRED
            }

            fn hash_fields(&self, #hasher: &mut ::schwann_synapse::hash::BodyHasher) {
                #(#hash_calls)*
            }

            fn to_fields(
                &self,
            ) -> ::std::result::Result<
                ::schwann_synapse::python::Dict,
                ::schwann_synapse::python::ConvertError,
            > {
                ::schwann_synapse::synapse::fields_of(self)
            }

            fn from_fields(
                fields: ::schwann_synapse::python::Dict,
            ) -> ::std::result::Result<Self, ::schwann_synapse::python::ConvertError> {
                ::schwann_synapse::synapse::of_fields(fields)
            }

            fn placeholders(&self) -> ::std::vec::Vec<(::std::string::String, &'static str)> {
                ::schwann_synapse::synapse::placeholders_of(
                    self,
                    <Self as ::schwann_synapse::synapse::Synapse>::required(),
                )
            }
        }
    })
}

/// What `#[synapse(..)]` on the struct says.
struct Route {
    name: LitStr,
    hash: Option<Punctuated<LitStr, Token![,]>>,
}

impl Route {
    fn read(input: &DeriveInput) -> Result<Self> {
        let mut route = Self {
            name: LitStr::new(&input.ident.unraw().to_string(), input.ident.span()),
            hash: None,
        };
        for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("synapse"))
        {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("name") {
                    route.name = meta.value()?.parse()?;
                    Ok(())
                } else if meta.path.is_ident("hash") {
                    let list;
                    let value = meta.value()?;
                    bracketed!(list in value);
                    route.hash = Some(Punctuated::parse_terminated(&list)?);
                    Ok(())
                } else {
                    Err(meta.error("a synapse has `name = \"..\"` and `hash = [\"field\", ..]`"))
                }
            })?;
        }
        Ok(route)
    }
}

/// What `#[synapse(..)]` on a field says.
#[derive(Default)]
struct Marks {
    hash: Option<(Span, Option<usize>)>,
    required: Option<bool>,
}

impl Marks {
    fn read(field: &Field) -> Result<Self> {
        let mut marks = Self::default();
        for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("synapse"))
        {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("hash") {
                    let position = if meta.input.peek(Token![=]) {
                        Some(meta.value()?.parse::<LitInt>()?.base10_parse()?)
                    } else {
                        None
                    };
                    marks.hash = Some((meta.path.span(), position));
                } else if meta.path.is_ident("required") {
                    marks.required = Some(true);
                } else if meta.path.is_ident("optional") {
                    marks.required = Some(false);
                } else {
                    return Err(
                        meta.error("a field can be `hash`, `hash = 1`, `required` or `optional`")
                    );
                }
                Ok(())
            })?;
        }
        Ok(marks)
    }
}

/// The hashed fields in the order their numbers say, or in that of the struct if they have none.
fn in_order(mut hashed: Vec<(Span, Option<usize>, &Ident)>) -> Result<Vec<&Ident>> {
    let numbered = hashed.iter().filter(|(_, position, _)| position.is_some()).count();
    if numbered > 0 {
        if let Some((span, ..)) = hashed.iter().find(|(_, position, _)| position.is_none()) {
            return Err(Error::new(*span, "either every hashed field has a number or none has"));
        }
        hashed.sort_by_key(|(_, position, _)| *position);
        if let Some(pair) = hashed.windows(2).find(|pair| pair[0].1 == pair[1].1) {
            return Err(Error::new(pair[1].0, "another hashed field has this number"));
        }
    }
    Ok(hashed.into_iter().map(|(_, _, ident)| ident).collect())
}

/// A route is one segment of a path.
fn check_name(name: &LitStr) -> Result<()> {
    let text = name.value();
    let fits = |c: char| c.is_alphanumeric() || c == '_';
    if text.is_empty() || !text.chars().all(fits) {
        return Err(Error::new(
            name.span(),
            "the route is the name of a Python class: letters, digits and `_`",
        ));
    }
    Ok(())
}

fn is_option(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == "Option"),
        Type::Group(group) => is_option(&group.elem),
        Type::Paren(paren) => is_option(&paren.elem),
        _ => false,
    }
}
