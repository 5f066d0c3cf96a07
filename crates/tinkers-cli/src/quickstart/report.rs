//! What the run came to, for programs as one JSON object and for people on the screen.

use std::io;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::plot;
use crate::output::{Screen, one_line};

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
    pub(crate) samples_before: Vec<String>,
    pub(crate) samples_after: Vec<String>,
    /// To train on from.
    pub(crate) checkpoint: String,
    /// To sample from.
    pub(crate) sampler_checkpoint: String,
    /// Where the embedded server keeps both; none with a server elsewhere.
    pub(crate) data_dir: Option<String>,
}

impl Report {
    /// Draws it.
    pub(crate) fn show(&self, screen: &Screen) -> io::Result<()> {
        screen.heading("Loss while training, in nats per token")?;
        match plot::curve(&self.loss, screen.width()) {
            Some(curve) => screen.line(curve)?,
            None => screen.line("  too little changed to draw")?,
        }
        screen.heading("The same prompts, before and after")?;
        screen.line(self.samples(screen.width()))?;
        screen.heading("Result")?;
        screen.line(format_args!(
            "  held-out loss  {:.3} before, {:.3} after, in nats per token: {}",
            self.held_out_loss_before,
            self.held_out_loss_after,
            self.change()
        ))?;
        screen.line(format_args!(
            "  time           {:.1} s in all; {:.0} tokens/s while training",
            self.seconds, self.tokens_per_second
        ))?;
        screen.line(format_args!(
            "  checkpoint     {} (to train on from)",
            self.checkpoint
        ))?;
        screen.line(format_args!(
            "                 {} (to sample from)",
            self.sampler_checkpoint
        ))?;
        if let Some(dir) = &self.data_dir {
            screen.line(format_args!("  kept in        {dir}"))?;
        }
        Ok(())
    }

    fn samples(&self, width: usize) -> Table {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            // A width that is set is a promise; the library would take any that the content asks for.
            .set_width(u16::try_from(width).unwrap_or(u16::MAX))
            .set_header(["prompt", "before", "after"]);
        let pairs = self.samples_before.iter().zip(&self.samples_after);
        for (prompt, (before, after)) in self.prompts.iter().zip(pairs) {
            table.add_row([one_line(prompt), one_line(before), one_line(after)]);
        }
        table
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
            samples_before: vec!["and\u{1b}[31m\n lo".to_owned()],
            samples_after: vec![" refracted by the Prism".repeat(20)],
            checkpoint: "tinker://run/weights/quickstart".to_owned(),
            sampler_checkpoint: "tinker://run/sampler_weights/quickstart".to_owned(),
            data_dir: Some("dir".to_owned()),
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
        assert!(json["samples_before"][0].is_string());
        assert_eq!(json["checkpoint"], "tinker://run/weights/quickstart");
    }

    #[test]
    fn samples_stand_side_by_side_within_the_width_and_cannot_steer_the_terminal() {
        let table = report().samples(80).to_string();
        assert!(!table.contains('\u{1b}'), "{table:?}");
        assert!(
            table.lines().all(|line| line.chars().count() <= 80),
            "{table}"
        );
        let row = table.lines().find(|line| line.contains("Light")).unwrap();
        assert!(row.contains("and") && row.contains("refracted"), "{table}");
    }

    #[test]
    fn the_change_is_said_with_its_direction() {
        let change = |after| {
            let mut report = report();
            report.held_out_loss_after = after;
            report.change()
        };
        assert_eq!(change(1.5), "25.0 % lower");
        assert_eq!(change(3.0), "50.0 % higher");
        assert_eq!(change(2.0), "unchanged");
    }
}
