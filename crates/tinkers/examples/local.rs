//! Trains and samples on the embedded server, without an API key or a network.

use tinkers::prelude::*;

#[expect(clippy::print_stdout, reason = "an example prints its results")]
fn main() -> Result<(), Error> {
    tinkers::block_on(async {
        let service = ServiceClient::local().await?;
        let training = service
            .create_lora_training_client("tinkers/tiny")
            .rank(8)
            .seed(1)
            .await?;
        let text: Vec<u32> = b"Whan that Aprille with his shoures soote"
            .iter()
            .map(|&b| b.into())
            .collect();
        for _ in 0..10 {
            let datum = Datum::next_token(&text, vec![1.0; text.len() - 1])?;
            let pass = training.forward_backward([datum], LossFn::CrossEntropy);
            let step = training.optim_step(AdamParams::new(0.01));
            println!("loss {:.3}", pass.await?.loss_sum().unwrap_or(f64::NAN));
            step.await?;
        }
        let sampler = training.save_weights_and_get_sampling_client().await?;
        let reply = sampler
            .sample(&text[..4])
            .max_tokens(36)
            .temperature(0.0)
            .await?;
        println!(
            "{}",
            reply.sequences[0]
                .tokens
                .iter()
                .map(|&t| t as u8 as char)
                .collect::<String>()
        );
        Ok(())
    })
}
