//! What texts of a request look like, for `/openapi.json`. `convert` is what checks them; a property-based test of the
//! running API holds the two together.
//!
//! Deliberately absent: what a schema cannot say, which the descriptions do. Lengths are counted in characters here and in
//! bytes by the store; a key that starts with `hf1.` has one spelling; a token is a real one.

use std::borrow::Cow;

use holdfast_client::keys::MAX_KEY_BYTES;
use utoipa::openapi::schema::{ArrayBuilder, ArrayItems, ObjectBuilder, Schema, Type};
use utoipa::openapi::{Object, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::limits;

/// One line of text that is not all blank: no control characters, and something that is no white space.
const LINE: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*\
                    [^\\u0000-\\u0020\\u007f-\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]\
                    [^\\u0000-\\u001f\\u007f-\\u009f]*$";
/// Base64 of the standard alphabet with padding, in its one spelling: the bits after the last byte are 0.
const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
/// A name of a header (RFC 9110 section 5.6.2); one that a request's line stands for begins with a colon.
const HEADER_NAME: &str = "^:?[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
const RESPONSE_HEADER_NAME: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
/// A header's value, one character a byte (RFC 9110 section 5.5).
const HEADER_VALUE: &str = "^[\\u0009\\u0020-\\u007e\\u0080-\\u00ff]*$";

/// A text of so many characters. `most` is 0 where the schema sets no bound.
fn text(pattern: &str, least: usize, most: usize) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
        .min_length((least > 0).then_some(least))
        .max_length((most > 0).then_some(most))
}

/// `[name, value]`.
fn header(name: &str) -> RefOr<Schema> {
    let pair = [text(name, 1, limits::MAX_HEADER_NAME_BYTES), text(HEADER_VALUE, 0, 0)];
    let pair = pair.map(|text| Schema::Object(text.build()));
    ArrayBuilder::new().prefix_items(pair).items(ArrayItems::False).min_items(Some(2)).build().into()
}

/// A position or an epoch: any `u64`, which is more than the format `int64` has room for.
fn unsigned() -> Object {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0_u64)).maximum(Some(u64::MAX)).build()
}

/// Names a shape. It has no values: a field's type is what serde reads, this is what the document says of it.
macro_rules! shape {
    ($name:ident, $schema:expr) => {
        pub(super) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    };
}

shape!(Tenant, text("^[A-Za-z0-9._-]+$", 1, limits::MAX_TENANT_BYTES).examples(["acme"]).build());
shape!(Key, text("^[!-~]+$", 1, MAX_KEY_BYTES).examples(["order-4711"]).build());
shape!(Token, text("^[!-~]+$", 1, limits::MAX_TOKEN_BYTES).build());
shape!(EndpointName, text("^[ -~]*$", 0, limits::MAX_ENDPOINT_BYTES).build());
shape!(ClientVersion, text("^[!-~]*$", 0, limits::MAX_CLIENT_VERSION_BYTES).build());
shape!(FingerprintHex, text("^([0-9A-Fa-f]{2})+$", 2, 2 * limits::MAX_FINGERPRINT_BYTES).build());
shape!(NonceHex, text("^([0-9A-Fa-f]{2})+$", 2, 2 * limits::MAX_NONCE_BYTES).build());
shape!(Method, text("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", 1, limits::MAX_ENDPOINT_BYTES).build());
shape!(Base64, text(BASE64, 0, 0).content_encoding("base64").build());
shape!(CheckpointName, text("^[^\\u0000-\\u001f\\u007f-\\u009f]+$", 1, limits::MAX_CHECKPOINT_NAME_BYTES).build());
shape!(Actor, text(LINE, 1, limits::MAX_ACTOR_BYTES).build());
shape!(Reason, text(LINE, 1, limits::MAX_REASON_BYTES).build());
shape!(RequestHeader, header(HEADER_NAME));
shape!(ResponseHeader, header(RESPONSE_HEADER_NAME));
shape!(Unsigned, unsigned());
