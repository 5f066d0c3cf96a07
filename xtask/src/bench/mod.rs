//! `cargo xtask bench NAME`: which benchmarks there are. Each builds its program in release and prints a table.

mod limits;

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err("which one? there is: limits".to_owned());
    };
    match name.as_str() {
        "limits" => limits::run(rest),
        other => Err(format!("no benchmark `{other}`; there is: limits")),
    }
}
