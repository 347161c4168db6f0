//! The OpenAPI 3.1 document of a service, generated from its routes.
//!
//! Invariant: a route is in the document because it is in the router; the checked-in copy is compared by a test.

use crate::http::error::{PROBLEM_JSON, Problem};
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, Info, OpenApi, OpenApiBuilder, Ref, Response, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

/// The tags of operations that need no key.
const OPEN_TAGS: [&str; 2] = ["probes", "unsubscribe"];

/// An empty document of a service with the API key's scheme in it (`bearer`).
pub fn document(title: &str, description: &str) -> OpenApi {
    let mut info = Info::new(title, env!("CARGO_PKG_VERSION"));
    info.description = Some(description.to_owned());
    let mut components = Components::new();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key names the organization.")).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// Adds to every operation what all have in common: the problem as its default answer, and the key unless it is open.
pub fn finish(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_default();
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            operation.responses.responses.insert("default".to_owned(), RefOr::T(problem()));
            let open = operation.tags.iter().flatten().any(|tag| OPEN_TAGS.contains(&tag.as_str()));
            operation.security = (!open).then(|| vec![SecurityRequirement::new("bearer", [] as [&str; 0])]);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.patch].into_iter().flatten()
}

fn problem() -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    ResponseBuilder::new().description("A problem; `code` tells which.").content(PROBLEM_JSON, content).build()
}

/// Writes a document as it is served and checked in.
pub fn write(document: &OpenApi) -> String {
    let mut text = document.to_pretty_json().expect("a document of strings serializes");
    text.push('\n');
    text
}

/// Compares a document with `docs/NAME`; with `POSTWARM_BLESS=1` it writes it.
#[cfg(test)]
pub fn check(name: &str, document: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("POSTWARM_BLESS").is_some() {
        std::fs::write(&path, document).expect("docs is writable");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == document, "docs/{name} is not what the routes say; run the tests once with POSTWARM_BLESS=1");
}

/// Every `METHOD /path` of a document.
#[cfg(test)]
pub fn routes(document: &str) -> Vec<String> {
    let document: serde_json::Value = serde_json::from_str(document).expect("our own JSON");
    let paths = document["paths"].as_object().expect("paths");
    let of = |(path, item): (&String, &serde_json::Value)| {
        let methods: Vec<String> = item.as_object().into_iter().flatten().map(|(m, _)| m.to_uppercase()).collect();
        methods.into_iter().map(|m| format!("{m} {path}")).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}
