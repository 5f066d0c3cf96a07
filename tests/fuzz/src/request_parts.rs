//! Valid and invalid parts from which requests are generated.

use crate::fixtures::{FUTURE, SAMPLER, SESSION};

/// Valid and invalid ids to be used as path parameters of generated requests.
pub(crate) const IDS: [&str; 26] = [
    SESSION,
    "session-0000000000000001:train:0",
    "session-0000000000000001%3atrain%3A0",
    SAMPLER,
    FUTURE,
    "weights",
    "sampler_weights",
    "kept",
    "weights%2fkept",
    "weights%2F..%2f..%2fkept",
    "",
    ".",
    "..",
    "%2e%2e",
    "%",
    "%z",
    "%zz",
    "%ff",
    "%00",
    "%f0%9f",
    "%25%32%66",
    "\u{e9}",
    "a b",
    "{session_id}",
    "-1",
    "99999999999999999999",
];

pub(crate) const OTHER_PATHS: [&str; 18] = [
    "",
    "/",
    "*",
    "//",
    "/api/v1",
    "/api/v1/",
    "/API/V1/healthz",
    "/api/v2/healthz",
    "/api//v1/healthz",
    "/api/v1/%68ealthz",
    "/api/v1/../v1/healthz",
    "/openapi.json",
    "/openapi.json/",
    "/scripted/counts",
    "/faults/counts",
    "/api/v1/samplers",
    "http://tinker/api/v1/healthz",
    "tinker:443",
];

pub(crate) const QUERIES: [&str; 14] = [
    "",
    "limit=1&offset=0",
    "limit=0",
    "limit=18446744073709551615&offset=18446744073709551615",
    "limit=18446744073709551616",
    "offset=-1",
    "offset=1e3",
    "limit=%31",
    "limit=",
    "limit",
    "=&&=&?",
    "limit=1&limit=2&limit=x",
    "a[]=\u{e9}#limit=1",
    "offset=\u{0663}",
];

pub(crate) const METHODS: [&str; 12] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get",
    "P",
];

/// Names of headers that the server reads, each with valid and invalid values for generated
/// requests.
pub(crate) const HEADERS: [(&str, &[&str]); 14] = [
    (
        "content-type",
        &[
            "application/json",
            "application/json; charset=utf-8",
            "application/json; charset=\"utf-16\"; a=b",
            "application/x-protobuf",
            "application/x-protobuf; proto=tinker.Pass",
            "APPLICATION/X-PROTOBUF",
            "text/plain",
            "multipart/form-data; boundary=",
            "",
            ";",
        ],
    ),
    (
        "content-encoding",
        &[
            "zstd",
            "ZSTD",
            " zstd ",
            "zstd, zstd",
            "gzip, zstd",
            "gzip",
            "br",
            "identity",
            "",
            ",",
            "zstd;q=1",
        ],
    ),
    (
        "accept",
        &[
            "application/json",
            "application/x-protobuf",
            "application/x-protobuf;q=0, application/json;q=1",
            "*/*",
            "application/x-protobuf, */*;q=0.1",
            "application/*;q=2e9",
            "",
        ],
    ),
    (
        "accept-encoding",
        &["gzip", "zstd", "*;q=0", "identity;q=0"],
    ),
    (
        "x-api-key",
        &["tml-fuzz", "tml-fuz", "tml-fuzztml-fuzz", ""],
    ),
    (
        "authorization",
        &["Bearer tml-fuzz", "Basic dG1sOg==", "Bearer", ""],
    ),
    (
        "x-stainless-retry-count",
        &["0", "1", "-1", "18446744073709551616", "many"],
    ),
    ("x-stainless-read-timeout", &["60", "-1", "1e400", "NaN"]),
    (
        "x-idempotency-key",
        &["a", "", "00000000-0000-0000-0000-000000000000"],
    ),
    (
        "x-tinker-request-type",
        &["Sample", "", "ForwardBackward,Sample"],
    ),
    ("x-tinker-sampling-request-attempt", &["1", "0x1", "-0"]),
    (
        "transfer-encoding",
        &["chunked", "gzip, chunked", "identity"],
    ),
    ("expect", &["100-continue", "200-ok"]),
    (
        "connection",
        &["close", "keep-alive, upgrade", "content-length"],
    ),
];

/// JSON values of every type, including extreme numbers, for the bodies of generated requests.
pub(crate) const VALUES: [&str; 22] = [
    "null",
    "true",
    "{}",
    "[]",
    "[[]]",
    "\"\"",
    "\"..\"",
    "\"tinker://a/weights/b\"",
    "0",
    "-0.0",
    "-1",
    "1e-400",
    "1e308",
    "-1e308",
    "1e999",
    "255",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
];
