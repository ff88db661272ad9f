//! What the API's description says of every route alike: that it wants a token, and how it refuses.

use haas_api::problem::MEDIA_TYPE;
use utoipa::openapi::{
    Content, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder,
    path::Operation,
    schema::Components,
    security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};

const TOKEN: &str = "token";

/// Adds it. What a route says of its own answers stays.
pub(super) fn complete(document: &mut OpenApi) {
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = document.components.get_or_insert_with(Components::new);
    components.security_schemes.insert(TOKEN.to_owned(), RefOr::T(bearer));
    document.security = Some(vec![SecurityRequirement::new(TOKEN, [] as [&str; 0])]);
    for item in document.paths.paths.values_mut() {
        let PathItem { get, put, post, delete, patch, .. } = item;
        for operation in [get, put, post, delete, patch].into_iter().flatten() {
            refusals(operation);
        }
    }
}

fn refusals(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    for response in responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        let problems = response.content.iter().filter(|(_, content)| is_problem(content));
        let problems: Vec<_> = problems.map(|(kind, _)| kind.clone()).collect();
        for kind in problems {
            if let Some(content) = response.content.shift_remove(&kind) {
                response.content.insert(MEDIA_TYPE.to_owned(), content);
            }
        }
    }
    for (status, what) in [
        ("4XX", "Refused: wrong input, no or not enough rights, not there, in use, too often."),
        ("5XX", "Not now, or not at all: haasd's log says why."),
    ] {
        let refused = || RefOr::T(problem(what));
        responses.entry(status.to_owned()).or_insert_with(refused);
    }
}

fn problem(what: &str) -> Response {
    let content = Content::new(Some(Ref::from_schema_name("Problem")));
    ResponseBuilder::new().description(what).content(MEDIA_TYPE, content).build()
}

fn is_problem(content: &RefOr<Content>) -> bool {
    let RefOr::T(content) = content else { return false };
    let Some(RefOr::Ref(schema)) = &content.schema else { return false };
    schema.ref_location.ends_with("/Problem")
}
