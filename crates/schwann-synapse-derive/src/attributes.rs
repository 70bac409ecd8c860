//! What serde's attributes say, as far as names on the wire and hashes depend on it.

use proc_macro2::Span;
use syn::{
    Attribute, Error, Expr, ExprLit, Field, Lit, Meta, Result, Token, meta::ParseNestedMeta,
    punctuated::Punctuated,
};

/// serde's attributes of a struct.
pub(crate) struct Container {
    rename_all: Option<Case>,
    /// `#[serde(default)]`: every field has a default.
    pub(crate) default: bool,
    pub(crate) transparent: bool,
    /// Attributes that make something else of the struct than a dict of its fields.
    pub(crate) reshaped: Option<(Span, &'static str)>,
}

/// serde's attributes of a field.
pub(crate) struct FieldNames {
    /// The name on the wire.
    pub(crate) wire: String,
    pub(crate) default: bool,
    pub(crate) skip: Option<Span>,
    pub(crate) skip_serializing_if: Option<Span>,
    /// `with`, `serialize_with`, `deserialize_with` or `getter`: the wire carries something else than the field.
    pub(crate) with: Option<Span>,
    pub(crate) flatten: Option<Span>,
}

impl Container {
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut container =
            Self { rename_all: None, default: false, transparent: false, reshaped: None };
        each_serde(attributes, |meta| {
            if meta.path.is_ident("rename_all") {
                let (rule, span) = serialized_name(meta)?;
                container.rename_all = match rule {
                    Some(rule) => Some(
                        Case::of(&rule)
                            .ok_or_else(|| Error::new(span, "serde has no such case"))?,
                    ),
                    None => None,
                };
            } else if meta.path.is_ident("default") {
                container.default = true;
                skip_value(meta)?;
            } else if meta.path.is_ident("transparent") {
                container.transparent = true;
            } else {
                let reshaping = ["into", "tag", "untagged", "remote"];
                if let Some(name) = reshaping.into_iter().find(|name| meta.path.is_ident(name)) {
                    container.reshaped = Some((meta.path.segments[0].ident.span(), name));
                }
                skip_value(meta)?;
            }
            Ok(())
        })?;
        Ok(container)
    }

    pub(crate) fn field(&self, field: &Field) -> Result<FieldNames> {
        let ident = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
        let ident = ident.strip_prefix("r#").unwrap_or(&ident).to_owned();
        let mut names = FieldNames {
            wire: self.rename_all.map_or_else(|| ident.clone(), |case| case.apply(&ident)),
            default: self.default,
            skip: None,
            skip_serializing_if: None,
            with: None,
            flatten: None,
        };
        each_serde(&field.attrs, |meta| {
            let span = meta.path.segments[0].ident.span();
            if meta.path.is_ident("rename") {
                if let (Some(name), _) = serialized_name(meta)? {
                    names.wire = name;
                }
                return Ok(());
            }
            if meta.path.is_ident("default") {
                names.default = true;
            } else if meta.path.is_ident("skip") || meta.path.is_ident("skip_serializing") {
                names.skip = Some(span);
            } else if meta.path.is_ident("skip_serializing_if") {
                names.skip_serializing_if = Some(span);
            } else if ["with", "serialize_with", "deserialize_with", "getter"]
                .iter()
                .any(|name| meta.path.is_ident(name))
            {
                names.with = Some(span);
            } else if meta.path.is_ident("flatten") {
                names.flatten = Some(span);
            }
            skip_value(meta)
        })?;
        Ok(names)
    }
}

fn each_serde(
    attributes: &[Attribute],
    mut each: impl FnMut(&ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| each(&meta))?;
    }
    Ok(())
}

/// Reads past `= value` or `(...)`, whichever follows.
fn skip_value(meta: &ParseNestedMeta<'_>) -> Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let inner;
        syn::parenthesized!(inner in meta.input);
        inner.parse::<proc_macro2::TokenStream>()?;
    }
    Ok(())
}

/// The name in `rename = "name"` or `rename(serialize = "name")`: the one that is written.
fn serialized_name(meta: &ParseNestedMeta<'_>) -> Result<(Option<String>, Span)> {
    if meta.input.peek(Token![=]) {
        let text: syn::LitStr = meta.value()?.parse()?;
        return Ok((Some(text.value()), text.span()));
    }
    let inner;
    syn::parenthesized!(inner in meta.input);
    for part in Punctuated::<Meta, Token![,]>::parse_terminated(&inner)? {
        if let Meta::NameValue(pair) = part
            && pair.path.is_ident("serialize")
            && let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = pair.value
        {
            return Ok((Some(text.value()), text.span()));
        }
    }
    Ok((None, Span::call_site()))
}

/// serde's `rename_all`, for fields: their names are snake case to begin with.
#[derive(Clone, Copy)]
enum Case {
    Unchanged,
    Upper,
    Pascal,
    Camel,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Case {
    fn of(rule: &str) -> Option<Self> {
        Some(match rule {
            "lowercase" | "snake_case" => Self::Unchanged,
            "UPPERCASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "SCREAMING_SNAKE_CASE" => Self::ScreamingSnake,
            "kebab-case" => Self::Kebab,
            "SCREAMING-KEBAB-CASE" => Self::ScreamingKebab,
            _ => return None,
        })
    }

    fn apply(self, field: &str) -> String {
        match self {
            Self::Unchanged => field.to_owned(),
            Self::Upper | Self::ScreamingSnake => field.to_ascii_uppercase(),
            Self::Kebab => field.replace('_', "-"),
            Self::ScreamingKebab => field.to_ascii_uppercase().replace('_', "-"),
            Self::Pascal | Self::Camel => {
                let mut name = String::new();
                let mut capital = matches!(self, Self::Pascal);
                for c in field.chars() {
                    if c == '_' {
                        capital = true;
                    } else if capital {
                        name.push(c.to_ascii_uppercase());
                        capital = false;
                    } else {
                        name.push(c);
                    }
                }
                if matches!(self, Self::Camel) && field.starts_with('_') {
                    name[..1].make_ascii_lowercase();
                }
                name
            }
        }
    }
}
