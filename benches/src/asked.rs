//! A measuring program that is asked line by line: one line in, one JSON object out.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A running program; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Asked {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Asked {
    /// Starts it. Its stderr is ours, for what it says when it fails.
    pub(crate) fn start(name: impl Into<String>, command: &mut Command) -> Result<Self> {
        let name = name.into();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        let output = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let input = child.stdin.take();
        Ok(Self { name, child, input, output })
    }

    /// The next object it prints by itself.
    pub(crate) fn told(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            bail!("{} ended with {status} without an answer", self.name);
        }
        serde_json::from_str(&line).with_context(|| format!("read {line:?} of {}", self.name))
    }

    /// Its answer to a line.
    pub(crate) fn ask(&mut self, line: &str) -> Result<Value> {
        let input = self.input.as_mut().context("stdin is open")?;
        writeln!(input, "{line}")
            .and_then(|()| input.flush())
            .with_context(|| format!("ask {} for {line}", self.name))?;
        self.told()
    }

    /// The number `key` of its answer.
    pub(crate) fn number(&mut self, line: &str, key: &str) -> Result<f64> {
        let answer = self.ask(line)?;
        answer[key].as_f64().with_context(|| format!("no {key} in {answer} of {}", self.name))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // It would end at the end of its input too, but not before it has computed what it was asked last.
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
