//! The report of a run, as a JSON object or as text.

use std::io;

use serde::Serialize;

use super::plot;
use super::sample::Sample;
use crate::layout::{indent_word, labelled, normalise_whitespace};
use crate::output::{Screen, count};

/// The report of a quickstart run. Losses are in nats per token.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) model: String,
    pub(crate) held_out_loss_before: f64,
    pub(crate) held_out_loss_after: f64,
    /// The duration of the whole run in seconds.
    pub(crate) seconds: f64,
    /// The number of tokens per second during training.
    pub(crate) tokens_per_second: f64,
    /// The loss of each step, measured before the weights were updated.
    pub(crate) loss: Vec<f64>,
    pub(crate) prompts: Vec<String>,
    /// The sample for each prompt, drawn before training. The next field contains the samples drawn after training.
    pub(crate) samples_before: Vec<Sample>,
    pub(crate) samples_after: Vec<Sample>,
    /// The path of the training checkpoint.
    pub(crate) checkpoint: String,
    /// The path of the sampler checkpoint.
    pub(crate) sampler_checkpoint: String,
    /// The directory in which the checkpoints remain. `None` if the directory was temporary or the server is remote.
    pub(crate) data_dir: Option<String>,
    /// Whether the checkpoints were removed at the end.
    #[serde(skip)]
    pub(crate) is_temporary: bool,
}

impl Report {
    /// Prints the report as text.
    pub(crate) fn show(&self, screen: &Screen) -> io::Result<()> {
        let width = screen.width();
        screen.heading("Loss while training, in nats per token")?;
        match plot::curve(&self.loss, width) {
            Some(curve) => screen.line(curve)?,
            None => screen.line("  not plotted: the loss hardly changed")?,
        }
        screen.heading("The same prompts, before and after")?;
        let pairs = self.samples_before.iter().zip(&self.samples_after);
        for (prompt, (before, after)) in self.prompts.iter().zip(pairs) {
            screen.line(format_args!(
                "  {}",
                screen.style(normalise_whitespace(prompt)).cyan()
            ))?;
            let rows = [("before", before.to_string()), ("after", after.to_string())];
            screen.line(labelled(&rows, 4, width))?;
        }
        screen.heading("Result")?;
        screen.line(labelled(&self.figures(), 2, width))?;
        screen.heading("Checkpoints")?;
        if self.is_temporary {
            let text = "removed with the temporary directory; set --data-dir DIR to keep them";
            return screen.line(labelled(&[("both", text.to_owned())], 2, width));
        }
        screen.line("  to continue training")?;
        screen.line(indent_word(&self.checkpoint, width))?;
        screen.line("  to sample from")?;
        screen.line(indent_word(&self.sampler_checkpoint, width))?;
        if let Some(dir) = &self.data_dir {
            screen.line("  stored in")?;
            screen.line(indent_word(dir, width))?;
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
                    "{:.1} s in total, {speed} tokens/s while training",
                    self.seconds
                ),
            ),
        ]
    }

    fn change(&self) -> String {
        let decrease = 1.0 - self.held_out_loss_after / self.held_out_loss_before;
        let percent = (decrease * 100.0).abs();
        if percent < 0.05 {
            return "unchanged".to_owned();
        }
        let direction = if decrease > 0.0 { "lower" } else { "higher" };
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
    fn json_report_has_every_documented_field() {
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
    fn report_shows_direction_and_percentage_of_loss_change() {
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
