//! Checks of arguments, before anything is sent.

use std::time::Duration;

use tinkers_core::{Error, Result};
use tinkers_wire::{TinkerPath, routes};

/// Checks that an id can be sent in a path.
pub(crate) fn id<'a>(field: &str, id: &'a str) -> Result<&'a str> {
    routes::check_id(field, id)?;
    Ok(id)
}

/// Parses a path of the form `tinker://<run>/<kind>/<name>`. Returns the id of the run and that of the checkpoint.
pub(crate) fn checkpoint(path: &str) -> Result<(TinkerPath, String, String)> {
    let invalid = || {
        let expected = format!(
            "tinker://<run>/<kind>/<name>, with the kind weights, sampler_weights or external_weights, got {path:?}"
        );
        Error::invalid("tinker_path", expected)
    };
    let parsed: TinkerPath = path.parse().map_err(|_| invalid())?;
    let run = parsed.run_id().ok_or_else(invalid)?.to_owned();
    let checkpoint = parsed.checkpoint_id().ok_or_else(invalid)?;
    // The short form `tinker://<run>/<name>` does not say the kind.
    if path != format!("tinker://{run}/{checkpoint}") {
        return Err(invalid());
    }
    Ok((parsed, run, checkpoint))
}

/// Returns a time to live in whole seconds.
pub(crate) fn ttl(ttl: Duration) -> Result<u64> {
    if ttl.subsec_nanos() != 0 {
        let expected = format!("whole seconds, got {ttl:?}");
        return Err(Error::invalid("ttl_seconds", expected));
    }
    Ok(ttl.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_paths_of_checkpoints_name_the_field() {
        for path in [
            "",
            "run/weights/a",
            "tinker://run",
            "tinker://run/x",
            "tinker://run/merged/a",
            "tinker://../weights/a",
        ] {
            assert_eq!(
                checkpoint(path).unwrap_err().field(),
                Some("tinker_path"),
                "{path}"
            );
        }
        let (_, run, id) = checkpoint("tinker://a:train:0/weights/w").unwrap();
        assert_eq!((run.as_str(), id.as_str()), ("a:train:0", "weights/w"));
    }

    #[test]
    fn fraction_of_a_second_is_no_ttl() {
        assert_eq!(
            ttl(Duration::from_millis(1500)).unwrap_err().field(),
            Some("ttl_seconds")
        );
        assert_eq!(ttl(Duration::from_secs(3600)).unwrap(), 3600);
    }
}
