//! Prints the JSON body of a forward-backward pass, and the size of its protobuf body.

use tinkers_wire::{Datum, LossFn, PassMode, PassRequest};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let datum = Datum::next_token(&[72, 101, 108, 108, 111], vec![1.0; 4])?;
    let loss = LossFn::CrossEntropy.into();
    let pass = PassRequest {
        model_id: "m".into(),
        seq_id: 1,
        mode: PassMode::ForwardBackward,
        data: vec![datum],
        loss,
    };
    println!("{}", String::from_utf8_lossy(&pass.to_json()));
    println!("{} bytes of protobuf", pass.to_protobuf()?.len());
    Ok(())
}
