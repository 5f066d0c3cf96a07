//! The forms of checkpoint paths of other servers.

use serde_json::Value;
use tinkers_wire::TinkerPath;

use super::state::State;
use super::table::Quirk;

/// The JSON fields that contain a path of a checkpoint.
const FIELDS: [&str; 3] = ["path", "tinker_path", "model_path"];

/// Returns the path of a checkpoint in the form of the server that `quirk` imitates. Returns `None` if the quirk is not about paths, or if
/// `path` is no path of this server.
fn foreign(quirk: Quirk, path: &TinkerPath) -> Option<String> {
    let (run, kind, name) = (path.run_id()?, path.kind()?.segment(), path.name());
    Some(match quirk {
        Quirk::PathCheckpoints => format!("tinker://{run}/checkpoints/{name}"),
        Quirk::PathTwinkle => format!("twinkle://{run}/{kind}/{name}"),
        Quirk::PathShort => format!("tinker://{run}-{kind}-{name}"),
        Quirk::PathFile => format!("/srv/checkpoints/{run}/{kind}/{name}"),
        Quirk::PathRelative => format!("sessions/{run}/{kind}/{name}"),
        Quirk::PathMint => format!("mint://{run}/{kind}/{name}"),
        Quirk::PathDeep => format!("tinker://{run}:train:0/{kind}/run/{name}"),
        _ => return None,
    })
}

/// Replaces all paths in a response body by paths in the form of `quirk`. Records what the new paths stand for.
pub(super) fn to_foreign(quirk: Quirk, body: &mut Value, state: &mut State) {
    match body {
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| to_foreign(quirk, item, state)),
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = value.as_str().filter(|_| FIELDS.contains(&name.as_str()));
                let path = path.and_then(|text| text.parse::<TinkerPath>().ok());
                match path.and_then(|path| Some((foreign(quirk, &path)?, path))) {
                    Some((alias, path)) => {
                        state.add_alias(alias.clone(), path.to_string());
                        *value = alias.into();
                    }
                    None => to_foreign(quirk, value, state),
                }
            }
        }
        _ => {}
    }
}
