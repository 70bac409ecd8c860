//! The OpenAPI document: what is the same for all operations, and its page.

use axum::Router;
use utoipa::{
    OpenApi, ToSchema as _,
    openapi::{
        self, ContentBuilder, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{Flow, HttpAuthScheme, HttpBuilder, OAuth2, Password, Scopes, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::problem::{FaultsBody, ProblemBody};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Schwann cards",
        description = "Books of code cards whose output streams and is never lost."
    ),
    components(schemas(ProblemBody, FaultsBody)),
    security(("OAuth2PasswordBearer" = []), ("token" = []))
)]
struct Base;

/// The document before any route.
pub(super) fn base() -> openapi::OpenApi {
    Base::openapi()
}

/// Adds to each operation the refusals that any such operation has, and how one signs in.
pub(super) fn complete(document: &mut openapi::OpenApi) {
    let components = document.components.get_or_insert_default();
    let password = Flow::Password(Password::new("/api/v1/login/access-token", Scopes::new()));
    components.add_security_scheme(
        "OAuth2PasswordBearer",
        SecurityScheme::OAuth2(OAuth2::new([password])),
    );
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API token, `cc_…`."))
        .build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    for (path, item) in &mut document.paths.paths {
        let operations =
            [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            refusals(path, operation);
        }
    }
}

fn refusals(path: &str, operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        // The specification wants one of each.
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = "Successful Response".to_owned();
        }
    }
    let open = operation.security.as_ref().is_some_and(|security| {
        security.iter().any(|one| *one == openapi::security::SecurityRequirement::default())
    });
    let mut add = |status: &str, description: &str| {
        let schema = if status == "422" { FaultsBody::name() } else { ProblemBody::name() };
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        let response =
            ResponseBuilder::new().description(description).content("application/json", content);
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert_with(|| RefOr::T(response.build()));
    };
    add("429", "Too often; `Retry-After` says when to try again.");
    add("503", "Something that is needed does not answer.");
    if !open {
        add("400", "The request cannot be served as sent.");
        add("401", "Nobody is signed in.");
        add("403", "The token is not good, or not for this.");
    }
    if path.contains('{') {
        add("404", "There is no such thing, or it is another's.");
    }
    if path.contains('{') || operation.parameters.is_some() || operation.request_body.is_some() {
        add("422", "What was sent is not what is asked for: all faults.");
    }
    if operation.request_body.is_some() {
        add("413", "The body is too large.");
        add("415", "The body is of another type.");
        add("507", "There is no room left to store it.");
    }
}

/// The page at `/docs`, from files that are built in.
pub(super) fn swagger<S: Clone + Send + Sync + 'static>() -> Router<S> {
    SwaggerUi::new("/docs")
        .config(Config::from("/api/v1/openapi.json").persist_authorization(false))
        .into()
}
