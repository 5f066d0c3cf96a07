//! Management of checkpoints: expiry, copies, search, exported files and uploads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::nulls::null_is_default;
use crate::search::{check_limit, default_limit};
use crate::weights::check_ttl;
use crate::{
    Checkpoint, CheckpointKind, InvalidInput, LoraConfig, OwnerFilter, SearchCursor, SignedUrl,
};

/// `PUT /training_runs/{run}/checkpoints/{checkpoint}/ttl`: sets the time after which the server deletes a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SetCheckpointTtl {
    /// The time in seconds, counted from this request; `None` (null) means that the checkpoint is not deleted. The field must be sent.
    // Without this attribute, a missing field would be decoded as `None`, and clear the time by mistake.
    #[serde(deserialize_with = "Option::deserialize")]
    pub ttl_seconds: Option<u64>,
}

impl SetCheckpointTtl {
    /// Checks that the time is between one hour and ten years.
    ///
    /// # Errors
    /// The error names the field `ttl_seconds`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        check_ttl(self.ttl_seconds)
    }
}

/// `POST /copy_weights`: copies a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CopyWeights {
    /// The path of the checkpoint to copy.
    pub source_path: String,
    /// The id of the project that the copy belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_project_id: Option<String>,
    /// The time in seconds after which the server deletes the copy. `None` means that the copy is not deleted, even if the source is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

impl CopyWeights {
    /// Checks that the time after which the copy is deleted is between one hour and ten years.
    ///
    /// # Errors
    /// The error names the field `ttl_seconds`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        check_ttl(self.ttl_seconds)
    }
}

/// The path of a new checkpoint, the response to a copy or to the end of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NewCheckpoint {
    /// The path of the checkpoint.
    pub tinker_path: String,
}

impl NewCheckpoint {
    /// Creates the response with this path.
    pub fn new(tinker_path: impl Into<String>) -> Self {
        Self {
            tinker_path: tinker_path.into(),
        }
    }
}

/// The addresses of the files of an external checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ExternalWeightsUrls {
    /// The address of each file, by the relative path of the file. Check the paths before you write files: the server chose them.
    pub urls: BTreeMap<String, SignedUrl>,
    /// The time at which the addresses expire, an RFC 3339 string.
    #[serde(default, deserialize_with = "null_is_default")]
    pub expires: String,
}

/// `POST /external_weights_upload_start`: begins an upload of weights from outside of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StartExternalUpload {
    /// The name of the base model.
    pub base_model: String,
    /// The configuration of the adapter.
    pub lora_config: LoraConfig,
    /// The id of the project that the checkpoint belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_project_id: Option<String>,
}

/// An upload that has begun: put each file to its address, then finish the upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ExternalUpload {
    /// The id of the upload.
    pub upload_id: String,
    /// The address of each file, by the name of the file, for a `PUT` request without a credential.
    pub urls: BTreeMap<String, SignedUrl>,
    /// The time at which the addresses expire, an RFC 3339 string.
    #[serde(default, deserialize_with = "null_is_default")]
    pub expires: String,
}

/// `POST /external_weights_upload_finish`: turns uploaded files into a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FinishExternalUpload {
    /// The id of the upload.
    pub upload_id: String,
}

/// `POST /checkpoints/search`: searches checkpoints. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CheckpointSearch {
    /// The projects of the checkpoints; all projects that the user may list if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_ids: Option<Vec<String>>,
    /// Pairs that the metadata of the checkpoints must contain.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user_metadata: BTreeMap<String, String>,
    /// The purpose of the checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_type: Option<CheckpointKind>,
    /// The owners of the checkpoints.
    #[serde(default)]
    pub owner: OwnerFilter,
    /// The base models of the checkpoints. An empty list matches no checkpoint; `None` matches all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_models: Option<Vec<String>>,
    /// The number of checkpoints per page, 1 to 200.
    #[serde(default = "default_limit")]
    pub limit: u64,
    /// The cursor of the previous page, or `None` for the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<SearchCursor>,
}

impl Default for CheckpointSearch {
    fn default() -> Self {
        Self {
            project_ids: None,
            user_metadata: BTreeMap::new(),
            checkpoint_type: None,
            owner: OwnerFilter::Own,
            base_models: None,
            limit: default_limit(),
            cursor: None,
        }
    }
}

impl CheckpointSearch {
    /// Checks the conditions.
    ///
    /// # Errors
    /// The error names the field `limit` or `owner.owner_urns`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        check_limit(self.limit)?;
        self.owner.validate()
    }
}

/// A page of a search for checkpoints, the newest checkpoint first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CheckpointSearchPage {
    /// The checkpoints of this page.
    #[serde(default, deserialize_with = "null_is_default")]
    pub checkpoints: Vec<Checkpoint>,
    /// The cursor of the next page, or `None` at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<SearchCursor>,
}

impl CheckpointSearchPage {
    /// Creates a page.
    pub fn new(checkpoints: Vec<Checkpoint>, next_cursor: Option<SearchCursor>) -> Self {
        Self {
            checkpoints,
            next_cursor,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ttl_is_cleared_by_null_and_limited_to_ten_years() {
        let clear = SetCheckpointTtl { ttl_seconds: None };
        assert_eq!(
            serde_json::to_value(clear).unwrap(),
            json!({"ttl_seconds": null})
        );
        clear.validate().unwrap();
        let decode = serde_json::from_value::<SetCheckpointTtl>;
        assert_eq!(decode(json!({"ttl_seconds": null})).unwrap(), clear);
        let missing = decode(json!({})).unwrap_err();
        assert!(missing.to_string().contains("ttl_seconds"), "{missing}");
        for seconds in [0, 3599, 315_360_001] {
            let ttl = SetCheckpointTtl {
                ttl_seconds: Some(seconds),
            };
            assert_eq!(ttl.validate().unwrap_err().field(), "ttl_seconds");
        }
    }

    #[test]
    fn addresses_of_files_do_not_occur_in_debug_output() {
        let urls =
            json!({"urls": {"a/b.bin": "https://h/b?sig=s3cret"}, "expires": null, "more": 1});
        let urls: ExternalWeightsUrls = serde_json::from_value(urls).unwrap();
        let shown = format!("{urls:?}");
        assert!(
            shown.contains("a/b.bin") && !shown.contains("s3cret"),
            "{shown}"
        );
    }

    #[test]
    fn checkpoint_search_sends_an_empty_list_of_base_models() {
        let any = serde_json::to_value(CheckpointSearch::default()).unwrap();
        assert_eq!(any.get("base_models"), None);
        let none = CheckpointSearch {
            base_models: Some(Vec::new()),
            ..CheckpointSearch::default()
        };
        assert_eq!(
            serde_json::to_value(none).unwrap()["base_models"],
            json!([])
        );
    }
}
