//! How the demo is told: numbered steps with their time, the commands, and a tick or a cross for
//! each thing that was looked at.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::haasd::{Haasd, Output};

/// Prints a story to standard output, in colour on a terminal, and remembers what was not as it
/// should be.
#[derive(Debug)]
pub struct Story {
    start: Instant,
    steps: usize,
    total: usize,
    colour: bool,
    quiet: bool,
    wrong: Vec<String>,
}

impl Story {
    /// A story of `total` steps.
    pub fn new(title: &str, total: usize) -> Story {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let story = Story { total, colour, quiet: false, ..Story::untold() };
        story.line(&story.paint("1", title));
        story
    }

    /// A story that prints nothing, for a test.
    pub fn untold() -> Story {
        Story {
            start: Instant::now(),
            steps: 0,
            total: 0,
            colour: false,
            quiet: true,
            wrong: Vec::new(),
        }
    }

    /// Tells a step, does it, and tells how long it took or that it failed.
    pub fn step<T>(&mut self, what: &str, body: impl FnOnce(&mut Story) -> Result<T>) -> Result<T> {
        self.steps += 1;
        let number = format!("[{}/{}]", self.steps, self.total);
        self.line(&format!("\n{} {}", self.paint("1;34", &number), self.paint("1", what)));
        let begun = Instant::now();
        let result = body(self).with_context(|| format!("step {}, {what:?}", self.steps));
        let took = seconds(begun.elapsed());
        match &result {
            Ok(_) => self.line(&self.paint("2", &format!("      done in {took}"))),
            Err(_) => self.line(&self.paint("1;31", &format!("      failed after {took}"))),
        }
        result
    }

    /// Something that was looked at and is as it should be.
    pub fn tick(&self, what: impl Display) {
        self.line(&format!("      {} {what}", self.paint("32", "✓")));
    }

    /// Something that was looked at: a tick, or a cross with the reason. The story goes on, so that
    /// all that is wrong is told; [`Story::verdict`] is the error.
    pub fn check(&mut self, what: impl Display, result: Result<()>) {
        match result {
            Ok(()) => self.tick(what),
            Err(error) => {
                let text = format!("{what}: {error:#}");
                self.line(&format!("      {} {text}", self.paint("1;31", "✗")));
                self.wrong.push(text);
            }
        }
    }

    /// An error that lists what was not as it should be, if anything was.
    pub fn verdict(&self) -> Result<()> {
        if !self.wrong.is_empty() {
            bail!("{} checks failed:\n{}", self.wrong.len(), self.wrong.join("\n"));
        }
        Ok(())
    }

    /// What happens or was printed, indented; several lines are fine.
    pub fn say(&self, text: impl Display) {
        for line in text.to_string().lines() {
            self.line(&format!("      {line}"));
        }
    }

    /// A command that the reader could type.
    pub fn command(&self, command: impl Display) {
        for line in command.to_string().lines() {
            self.line(&format!("      {}", self.paint("36", &format!("$ {line}"))));
        }
    }

    /// Shows a `haasctl` command, runs it, and shows what it prints as it comes. It must succeed.
    pub fn haasctl(&self, haasd: &Haasd<'_>, args: &[&str]) -> Result<Output> {
        let line = format!("haasctl {}", args.join(" "));
        self.command(&line);
        self.stream(haasd.ctl_command()?.args(args)).and_then(Output::ok).context(line)
    }

    /// The last line.
    pub fn end(self, text: &str) {
        let took = seconds(self.start.elapsed());
        self.line(&format!("\n{} ({took})", self.paint("1;32", text)));
    }

    /// Runs a command; what it says on standard error is shown at once, on a terminal by itself.
    fn stream(&self, command: &mut Command) -> Result<Output> {
        let live = !self.quiet && io::stderr().is_terminal();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(if live { Stdio::inherit() } else { Stdio::piped() });
        let mut child = command.spawn().context("cannot be started")?;
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines() {
                let line = line?;
                self.say(self.paint("2", &line));
                said += &format!("{line}\n");
            }
        }
        let output = child.wait_with_output()?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        self.say(&stdout);
        Ok(Output { stdout, stderr: said, code: output.status.code() })
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, text: &str) {
        if self.quiet {
            return;
        }
        let mut out = io::stdout().lock();
        // A reader who has left (`| head`) is no reason to stop half way through a switch.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_names_all_that_was_wrong() {
        let mut story = Story::untold();
        story.check("one", Ok(()));
        story.verdict().expect("all was right");
        story.check("two", Err(anyhow::anyhow!("gone")));
        story.check("three", Err(anyhow::anyhow!("changed")));
        let verdict = format!("{:#}", story.verdict().expect_err("two were wrong"));
        assert_eq!(verdict, "2 checks failed:\ntwo: gone\nthree: changed");
    }
}
