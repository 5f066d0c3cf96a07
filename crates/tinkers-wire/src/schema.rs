//! JSON schemas of the types whose serde traits are not derived.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{Chunk, Stop, TensorData, TinkerPath};

impl JsonSchema for TinkerPath {
    fn schema_name() -> Cow<'static, str> {
        "TinkerPath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "The path of a checkpoint: tinker://RUN/weights/NAME for training weights, tinker://RUN/sampler_weights/NAME or tinker://RUN/NAME for sampler weights.",
        })
    }
}

impl JsonSchema for Stop {
    fn schema_name() -> Cow<'static, str> {
        "Stop".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "What ends a sample: a string, any of several strings, or any of several tokens.",
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" } },
                { "type": "array", "items": { "type": "integer", "minimum": 0 } },
            ],
        })
    }
}

impl JsonSchema for Chunk {
    fn schema_name() -> Cow<'static, str> {
        "ModelInputChunk".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let id = json_schema!({ "type": "integer", "minimum": 0 });
        let tokens = json_schema!({ "type": ["integer", "null"], "minimum": 0 });
        let text = json_schema!({ "type": "string" });
        let base64 = json_schema!({ "type": "string", "contentEncoding": "base64" });
        let known = ["encoded_text", "image", "image_asset_pointer", "dmel"];
        json_schema!({
            "description": "A chunk of a model input; text if `type` is missing.",
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "type": { "enum": ["encoded_text", null] },
                        "tokens": { "type": "array", "items": id },
                    },
                    "required": ["tokens"],
                },
                {
                    "type": "object",
                    "properties": {
                        "type": { "const": "image" },
                        "data": base64,
                        "format": text,
                        "expected_tokens": tokens,
                    },
                    "required": ["type", "data", "format"],
                },
                {
                    "type": "object",
                    "properties": {
                        "type": { "const": "image_asset_pointer" },
                        "location": text,
                        "format": text,
                        "expected_tokens": tokens,
                    },
                    "required": ["type", "location", "format"],
                },
                {
                    "type": "object",
                    "properties": { "type": { "const": "dmel" }, "dmel": base64 },
                    "required": ["type", "dmel"],
                },
                {
                    "description": "A chunk of a kind that this version does not know.",
                    "type": "object",
                    "properties": { "type": { "type": "string", "not": { "enum": known } } },
                    "required": ["type"],
                },
            ],
        })
    }
}

impl JsonSchema for TensorData {
    fn schema_name() -> Cow<'static, str> {
        "TensorData".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let sizes = json_schema!({
            "type": ["array", "null"],
            "items": { "type": "integer", "minimum": 0 },
        });
        let data =
            |kind: &str| json_schema!({ "type": "array", "items": { "type": [kind, "null"] } });
        json_schema!({
            "description": "A tensor in row-major order; for a sparse (CSR) tensor, `data` has the stored values only.",
            "type": "object",
            "properties": {
                "data": data("number"),
                "dtype": { "enum": ["float32", "int64", null] },
                "shape": sizes,
                "sparse_crow_indices": sizes,
                "sparse_col_indices": sizes,
            },
            "required": ["data"],
        })
    }
}
