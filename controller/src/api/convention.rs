//! What all routes have in common: pages of lists (`limit`, `page_token`), `ETag` and `If-Match`
//! (RFC 9110 sections 8.8.3 and 13.1.1), `Idempotency-Key`.

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use haas_api::List;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Fail;

/// The most entries of one page.
const MOST: usize = 1000;

/// Which part of a list. Without `limit` the list comes whole.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub(super) struct Page {
    /// At most this many entries, 1 to 1000.
    limit: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

impl Page {
    /// This part of `items`, whose order is fixed and of which each has its own `key`.
    pub(super) fn of<T>(&self, items: Vec<T>, key: impl Fn(&T) -> String) -> Result<List<T>, Fail> {
        let bad = |detail: &str| Fail::bad("bad-page", detail.to_owned());
        let limit = match self.limit {
            None => usize::MAX,
            Some(limit @ 1..=MOST) => limit,
            Some(_) => return Err(bad("limit must be from 1 to 1000")),
        };
        let from = match &self.page_token {
            None => 0,
            Some(token) => {
                let after = URL_SAFE_NO_PAD
                    .decode(token)
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .and_then(|after| items.iter().position(|item| key(item) == after));
                1 + after.ok_or_else(|| bad("the page token is not valid any more; begin again"))?
            }
        };
        let more = items.len().saturating_sub(from) > limit;
        let page: Vec<T> = items.into_iter().skip(from).take(limit).collect();
        let next_page_token =
            page.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(key(last)));
        Ok(List { items: page, next_page_token })
    }
}

/// One resource as JSON with its `ETag`.
#[derive(Debug)]
pub(super) struct Tagged<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let tag = HeaderValue::from_str(&etag(&self.0)).expect("hexadecimal digits in quotes");
        ([(header::ETAG, tag)], Json(self.0)).into_response()
    }
}

fn etag<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_vec(value).expect("wire types are plain data");
    format!("\"{}\"", &hex::encode(Sha256::digest(text))[..32])
}

/// The `If-Match` of a request: change this only if it is still as the caller saw it.
#[derive(Debug)]
pub(super) struct IfMatch(Option<String>);

impl IfMatch {
    /// Refuses when the caller has seen another state than `current`.
    pub(super) fn check<T: Serialize>(&self, current: &T) -> Result<(), Fail> {
        let matches = |wanted: &String| {
            let tag = etag(current);
            wanted.split(',').any(|one| matches!(one.trim(), "*") || one.trim() == tag)
        };
        if self.0.as_ref().is_none_or(matches) {
            return Ok(());
        }
        Err(Fail::new(
            StatusCode::PRECONDITION_FAILED,
            "changed-meanwhile",
            "it was changed since you read it; read it again",
        ))
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Fail> {
        header_text(parts, header::IF_MATCH.as_str()).map(Self)
    }
}

/// The `Idempotency-Key` of a request: a request that is sent again with it is done once.
#[derive(Debug)]
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Fail> {
        let key = header_text(parts, "idempotency-key")?;
        match &key {
            Some(key) if key.is_empty() || key.len() > 128 => {
                Err(Fail::bad("bad-header", "an Idempotency-Key has 1 to 128 characters"))
            }
            Some(_) | None => Ok(Self(key)),
        }
    }
}

fn header_text(parts: &Parts, name: &str) -> Result<Option<String>, Fail> {
    parts
        .headers
        .get(name)
        .map(|value| value.to_str().map(str::to_owned))
        .transpose()
        .map_err(|_| Fail::bad("bad-header", format!("the header {name} must be plain ASCII")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: Option<usize>, page_token: Option<String>) -> Page {
        Page { limit, page_token }
    }

    #[test]
    fn pages_join_to_the_whole_list() {
        let all: Vec<u32> = (0..7).collect();
        let mut seen = Vec::new();
        let mut token = None;
        loop {
            let part = page(Some(3), token).of(all.clone(), u32::to_string).unwrap();
            assert!(part.items.len() <= 3);
            seen.extend(part.items);
            token = part.next_page_token;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_page_that_cannot_be_is_refused() {
        assert!(page(Some(0), None).of(vec![1], i32::to_string).is_err());
        assert!(page(Some(1001), None).of(vec![1], i32::to_string).is_err());
        assert!(page(None, Some("%%%".into())).of(vec![1], i32::to_string).is_err());
        assert!(page(None, Some(URL_SAFE_NO_PAD.encode("9"))).of(vec![1], i32::to_string).is_err());
    }

    #[test]
    fn a_change_on_what_is_no_longer_so_is_refused() {
        assert!(IfMatch(None).check(&1).is_ok());
        assert!(IfMatch(Some(etag(&1))).check(&1).is_ok());
        assert!(IfMatch(Some(format!("\"x\", {}", etag(&1)))).check(&1).is_ok());
        assert!(IfMatch(Some("*".into())).check(&1).is_ok());
        assert!(IfMatch(Some(etag(&2))).check(&1).is_err());
    }
}
