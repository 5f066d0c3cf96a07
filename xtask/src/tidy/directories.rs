//! The rule that the name of each package determines its directory.

use super::Violation;
use crate::metadata::Package;

/// Finds packages that are not in the directory that their name determines, such as `tests/e2e` for
/// `tinkers-e2e`.
pub(crate) fn violations(packages: &[Package]) -> Vec<Violation> {
    let is_wrong = |package: &&Package| package.directory != expected(package);
    packages
        .iter()
        .filter(is_wrong)
        .map(|package| {
            let what = format!(
                "is in {}, expected {}",
                package.directory,
                expected(package)
            );
            Violation::new(&package.name, what)
        })
        .collect()
}

fn expected(package: &Package) -> String {
    let name = package.name.as_str();
    if name == "xtask" {
        return name.to_owned();
    }
    // Packages of tests, such as `tinkers-e2e`, are in directories such as `tests/e2e`.
    if !package.is_published
        && let Some(short) = name.strip_prefix("tinkers-")
    {
        return format!("tests/{short}");
    }
    format!("crates/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, directory: &str, is_published: bool) -> usize {
        violations(&[Package {
            name: name.to_owned(),
            directory: directory.to_owned(),
            is_published,
            ..Package::default()
        }])
        .len()
    }

    #[test]
    fn package_name_determines_the_directory() {
        assert_eq!(found("tinkers-wire", "crates/tinkers-wire", true), 0);
        assert_eq!(found("tinkers-wire", "crates/wire", true), 1);
        assert_eq!(found("tinkers-e2e", "tests/e2e", false), 0);
        assert_eq!(found("tinkers-e2e", "tests/whole", false), 1);
        assert_eq!(found("xtask", "xtask", false), 0);
        assert_eq!(found("xtask", "crates/xtask", false), 1);
    }
}
