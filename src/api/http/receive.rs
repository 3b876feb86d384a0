//! From an HTTP request to its typed body, with a refusal for everything that is in the way.

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::strict::Object;
use crate::api::body;
use crate::api::error::ApiError;
use crate::limits;

/// Bytes of a refused body that are read before the refusal is sent. A client that is still sending when its connection is
/// closed may never see why; one that sends more than this will not be waited for.
const DISCARDED_BYTES: usize = 2 * limits::MAX_HTTP_BODY_BYTES;

const TOO_LARGE: ApiError = ApiError::BodyTooLarge { most_bytes: limits::MAX_HTTP_BODY_BYTES };

/// Reads the whole body as a JSON object.
pub(super) async fn json<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let (head, mut incoming) = request.into_parts();
    match read(&head.headers, &mut incoming).await {
        Ok(text) => serde_json::from_slice::<Object<T>>(&text)
            .map(|object| object.0)
            .map_err(|error| ApiError::Body(explain(&error))),
        Err(refusal) => {
            discard(&head.headers, incoming).await;
            Err(refusal)
        }
    }
}

/// Reads what is left of a refused request's body and forgets it, within bounds of size and time.
pub(super) async fn discard(headers: &HeaderMap, mut incoming: Body) {
    if headers.contains_key(header::EXPECT) {
        // The client asks before it sends, and is told no.
        return;
    }
    let mut discarded = 0_usize;
    while let Some(Ok(frame)) = incoming.frame().await {
        discarded = discarded.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if discarded > DISCARDED_BYTES {
            return;
        }
    }
}

async fn read(headers: &HeaderMap, incoming: &mut Body) -> Result<Bytes, ApiError> {
    check_encoding(headers)?;
    check_content_type(headers)?;
    check_length(headers)?;
    let collected = Limited::new(incoming, limits::MAX_HTTP_BODY_BYTES).collect().await.map_err(|error| {
        if error.downcast_ref::<LengthLimitError>().is_some() { TOO_LARGE } else { body::refusal(error.as_ref()) }
    })?;
    Ok(collected.to_bytes())
}

/// A compressed body is refused unread: nobody has to bound what it would become.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    for coding in headers.get_all(header::CONTENT_ENCODING) {
        if !coding.as_bytes().eq_ignore_ascii_case(b"identity") {
            return Err(ApiError::Encoding { got: String::from_utf8_lossy(coding.as_bytes()).into_owned() });
        }
    }
    Ok(())
}

/// Asking for the type also keeps web pages out: a browser does not send JSON to another origin unasked.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let got = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let essence = got.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    Err(ApiError::ContentType { got: String::from_utf8_lossy(got).into_owned() })
}

/// Refuses what says of itself that it is too large, before it is sent.
fn check_length(headers: &HeaderMap) -> Result<(), ApiError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limits::MAX_HTTP_BODY_BYTES as u64) {
        return Err(TOO_LARGE);
    }
    Ok(())
}

fn explain(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Data => format!("the json is not what this path takes: {error}"),
        Category::Syntax => format!("the body is no json: {error}"),
        Category::Eof => format!("the json is cut short: {error}"),
        Category::Io => format!("the body cannot be read: {error}"),
    }
}
