//! QEMU's control socket: lines of JSON, a greeting, one answer per command, events in between.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects, trying again until `limit`, since QEMU may have just been started.
    pub(super) fn connect(socket: &Path, limit: Duration) -> Result<Qmp> {
        let end = Instant::now() + limit;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("no QEMU answers on {}", socket.display()));
                }
            }
        };
        stream.set_read_timeout(Some(limit))?;
        let mut qmp = Qmp { stream: BufReader::new(stream) };
        qmp.read()?.context("QEMU closed its control socket")?;
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    pub(super) fn execute(&mut self, command: &str) -> Result<()> {
        self.execute_with(command, &json!({}))
    }

    pub(super) fn execute_with(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let stream = self.stream.get_mut();
        let line = json!({ "execute": command, "arguments": arguments });
        stream.write_all(line.to_string().as_bytes())?;
        stream.write_all(b"\n")?;
        while let Some(answer) = self.read()? {
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
        }
        bail!("QEMU ended before it answered {command}")
    }

    /// Waits for QEMU to end and returns the last reason it gave for a shutdown, e.g. `guest-reset`.
    pub(super) fn shutdown_reason(mut self) -> Result<Option<String>> {
        self.stream.get_ref().set_read_timeout(None)?;
        let mut reason = None;
        // A killed QEMU resets the connection instead of closing it.
        while let Ok(Some(event)) = self.read() {
            if event["event"] == "SHUTDOWN" {
                reason = event["data"]["reason"].as_str().map(str::to_owned);
            }
        }
        Ok(reason)
    }

    fn read(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line)?))
    }
}
