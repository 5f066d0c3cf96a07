//! What the run came to, for programs as one JSON object and for people on the screen.

use std::io;

use serde::Serialize;

use super::plot;
use super::sample::Sample;
use crate::layout::{flow, labelled, whole};
use crate::output::{Screen, count};

/// The result of a run. Losses are in nats per token.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) model: String,
    pub(crate) held_out_loss_before: f64,
    pub(crate) held_out_loss_after: f64,
    /// From the start of the program to the end of the work.
    pub(crate) seconds: f64,
    /// While training.
    pub(crate) tokens_per_second: f64,
    /// Of each step, before it was taken.
    pub(crate) loss: Vec<f64>,
    pub(crate) prompts: Vec<String>,
    /// What followed each prompt.
    pub(crate) samples_before: Vec<Sample>,
    pub(crate) samples_after: Vec<Sample>,
    /// To train on from.
    pub(crate) checkpoint: String,
    /// To sample from.
    pub(crate) sampler_checkpoint: String,
    /// Where the embedded server keeps both; none without `--data-dir` and with a server elsewhere.
    pub(crate) data_dir: Option<String>,
    /// Whether both went with the run.
    #[serde(skip)]
    pub(crate) is_temporary: bool,
}

impl Report {
    /// Draws it.
    pub(crate) fn show(&self, screen: &Screen) -> io::Result<()> {
        let width = screen.width();
        screen.heading("Loss while training, in nats per token")?;
        match plot::curve(&self.loss, width) {
            Some(curve) => screen.line(curve)?,
            None => screen.line("  too little changed to draw")?,
        }
        screen.heading("The same prompts, before and after")?;
        let pairs = self.samples_before.iter().zip(&self.samples_after);
        for (prompt, (before, after)) in self.prompts.iter().zip(pairs) {
            screen.line(format_args!("  {}", screen.style(flow(prompt)).cyan()))?;
            let rows = [("before", before.to_string()), ("after", after.to_string())];
            screen.line(labelled(&rows, 4, width))?;
        }
        screen.heading("Result")?;
        screen.line(labelled(&self.figures(), 2, width))?;
        screen.heading("Checkpoints")?;
        if self.is_temporary {
            let text = "were saved, sampled from and removed; keep them with --data-dir DIR";
            return screen.line(labelled(&[("both", text.to_owned())], 2, width));
        }
        screen.line("  to train on from")?;
        screen.line(whole(&self.checkpoint, width))?;
        screen.line("  to sample from")?;
        screen.line(whole(&self.sampler_checkpoint, width))?;
        if let Some(dir) = &self.data_dir {
            screen.line("  kept in")?;
            screen.line(whole(dir, width))?;
        }
        Ok(())
    }

    fn figures(&self) -> [(&'static str, String); 2] {
        let (before, after) = (self.held_out_loss_before, self.held_out_loss_after);
        let change = self.change();
        let speed = count(self.tokens_per_second);
        [
            (
                "held-out loss",
                format!("{before:.3} before, {after:.3} after, in nats per token: {change}"),
            ),
            (
                "time",
                format!(
                    "{:.1} s in all; {speed} tokens/s while training",
                    self.seconds
                ),
            ),
        ]
    }

    fn change(&self) -> String {
        let part = 1.0 - self.held_out_loss_after / self.held_out_loss_before;
        let percent = (part * 100.0).abs();
        if percent < 0.05 {
            return "unchanged".to_owned();
        }
        let direction = if part > 0.0 { "lower" } else { "higher" };
        format!("{percent:.1} % {direction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            model: "tinkers/tiny".to_owned(),
            held_out_loss_before: 2.0,
            held_out_loss_after: 1.5,
            seconds: 10.0,
            tokens_per_second: 1000.0,
            loss: vec![2.0, 1.5],
            prompts: vec!["Light".to_owned()],
            samples_before: vec![Sample::new("and\u{1b}[31m\n lo".to_owned(), true)],
            samples_after: vec![Sample::new(" refracted".to_owned(), false)],
            checkpoint: "tinker://run/weights/quickstart".to_owned(),
            sampler_checkpoint: "tinker://run/sampler_weights/quickstart".to_owned(),
            data_dir: Some("dir".to_owned()),
            is_temporary: false,
        }
    }

    #[test]
    fn the_json_object_has_every_promised_field() {
        let json = serde_json::to_value(report()).unwrap();
        for number in [
            "held_out_loss_before",
            "held_out_loss_after",
            "seconds",
            "tokens_per_second",
        ] {
            assert!(json[number].is_f64(), "{number}");
        }
        for list in ["loss", "prompts", "samples_before", "samples_after"] {
            assert!(json[list].is_array(), "{list}");
        }
        assert!(json["loss"][0].is_f64());
        assert_eq!(json["samples_before"][0], "and\u{1b}[31m\n lo");
        assert_eq!(json["checkpoint"], "tinker://run/weights/quickstart");
    }

    #[test]
    fn the_change_is_said_with_its_direction() {
        let change = |after| {
            let mut report = report();
            report.held_out_loss_after = after;
            report.change()
        };
        assert_eq!(
            report().figures()[0].1,
            "2.000 before, 1.500 after, in nats per token: 25.0 % lower"
        );
        assert_eq!(change(3.0), "50.0 % higher");
        assert_eq!(change(2.0), "unchanged");
    }
}
