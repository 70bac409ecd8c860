//! `#[derive(PyStr)]`: the text of a nested model is that of the dict it dumps to.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Error, Fields, Result, parse_quote, spanned::Spanned};

use crate::attributes::{Container, FieldNames};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let container = Container::read(&input.attrs)?;
    if let Some((span, name)) = container.reshaped {
        return Err(Error::new(
            span,
            format!("`{name}` makes something else of this struct than it hashes as"),
        ));
    }
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(
            input.ident.span(),
            "only structs are hashed like their Python models: the text of an enum differs between Python versions, \
             so give the field a `String`",
        ));
    };
    let body = match &data.fields {
        Fields::Named(fields) if !container.transparent => {
            let mut entries = TokenStream::new();
            for (position, field) in fields.named.iter().enumerate() {
                let names = container.field(field)?;
                check_hashed(&names)?;
                if let Some(span) = names.skip_serializing_if {
                    return Err(Error::new(
                        span,
                        "the peer dumps a nested model with all its fields, so none may be left out",
                    ));
                }
                let ident = field.ident.as_ref().expect("a named field");
                let separator = if position == 0 { "" } else { ", " };
                let wire = names.wire;
                entries.extend(quote_spanned! { field.ty.span() =>
                    out.push_str(#separator);
                    ::schwann_synapse::hash::PyStr::write_python(#wire, out, form);
                    out.push_str(": ");
                    ::schwann_synapse::hash::PyStr::write_python(&self.#ident, out, form);
                });
            }
            quote! {
                let form = form.inside();
                out.push('{');
                #entries
                out.push('}');
            }
        }
        // serde writes what is inside.
        fields if fields.len() == 1 => {
            let field = fields.iter().next().expect("one field");
            check_hashed(&container.field(field)?)?;
            let member = field.ident.as_ref().map_or_else(|| quote!(0), |ident| quote!(#ident));
            quote_spanned! { field.ty.span() =>
                ::schwann_synapse::hash::PyStr::write_python(&self.#member, out, form);
            }
        }
        fields => {
            return Err(Error::new(
                fields.span(),
                "a nested model has named fields, or wraps one value",
            ));
        }
    };
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::schwann_synapse::hash::PyStr));
    }
    let (implemented, types, conditions) = generics.split_for_impl();
    let ident = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl #implemented ::schwann_synapse::hash::PyStr for #ident #types #conditions {
            fn write_python(&self, out: &mut ::std::string::String, form: ::schwann_synapse::hash::Form) {
                #body
            }
        }
    })
}

/// Refuses what makes the wire carry something else than what is hashed.
pub(crate) fn check_hashed(names: &FieldNames) -> Result<()> {
    if let Some(span) = names.skip {
        return Err(Error::new(
            span,
            "a hashed field must be sent: the peer hashes what it receives",
        ));
    }
    if let Some(span) = names.with {
        return Err(Error::new(
            span,
            "a hashed field must be sent as it is: the peer hashes what it receives",
        ));
    }
    if let Some(span) = names.flatten {
        return Err(Error::new(span, "a flattened field has no text of its own to hash"));
    }
    Ok(())
}
