//! The API's description of itself.

use axum::{Json, Router, routing::get};
use utoipa::openapi::{
    Components, Content, InfoBuilder, KnownFormat, ObjectBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
    SchemaFormat, Type,
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_swagger_ui::SwaggerUi;

use super::v1;
use crate::state::AppState;

/// Media type of every file.
const FILE: &str = "application/octet-stream";

/// The OpenAPI document, made from the handlers and the wire types.
pub fn document() -> OpenApi {
    let (_, mut document) = v1::router().split_for_parts();
    document.info = InfoBuilder::new()
        .title("Barycenter")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Turns the checkpoints of a training run into one better model. \
             Errors are RFC 9457 problems; lists are cursor pages; every request refuses unknown fields.",
        ))
        .build();
    add_problems(&mut document);
    describe_files(&mut document);
    add_token(&mut document);
    document
}

/// Every operation may answer with a problem.
fn add_problems(document: &mut OpenApi) {
    let components = document.components.get_or_insert_with(Components::new);
    for (name, schema) in [
        (barycenter_api::Problem::name(), barycenter_api::Problem::schema()),
        (barycenter_api::FieldError::name(), barycenter_api::FieldError::schema()),
    ] {
        components.schemas.insert(name.into_owned(), schema);
    }
    let content = Content::new(Some(Ref::from_schema_name(barycenter_api::Problem::name())));
    let problem: RefOr<Response> =
        ResponseBuilder::new().description("A problem").content("application/problem+json", content).build().into();
    for path in document.paths.paths.values_mut() {
        let methods = [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch, &mut path.head];
        for operation in methods.into_iter().flatten() {
            operation.responses.responses.insert("default".into(), problem.clone());
        }
    }
}

/// A file is bytes: the derived schema of `Vec<u8>` would be an array of numbers.
fn describe_files(document: &mut OpenApi) {
    let bytes = || {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    };
    for path in document.paths.paths.values_mut() {
        for operation in [&mut path.get, &mut path.put, &mut path.post].into_iter().flatten() {
            let sent = operation.request_body.iter_mut().filter_map(|body| match body {
                RefOr::T(body) => body.content.get_mut(FILE),
                RefOr::Ref(_) => None,
            });
            let received = operation.responses.responses.values_mut().filter_map(|response| match response {
                RefOr::T(response) => response.content.get_mut(FILE),
                RefOr::Ref(_) => None,
            });
            for content in sent.chain(received) {
                if let RefOr::T(content) = content {
                    content.schema = Some(bytes());
                }
            }
        }
    }
}

fn add_token(document: &mut OpenApi) {
    let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    document.components.get_or_insert_with(Components::new).add_security_scheme("token", scheme);
    document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("token", [])]);
}

/// `/openapi.json` and the UI at `/docs`; the UI's files are part of the binary.
pub(super) fn router() -> Router<AppState> {
    let ui = SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::from("/openapi.json"));
    Router::new().route("/openapi.json", get(async || Json(document()))).merge(ui)
}
