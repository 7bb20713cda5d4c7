//! Real processes: built programs started on port 0, their ready lines read, stopped or killed by pid.
//!
//! Used by the real-model tests and by `benches`. Nothing here knows a protocol: it knows command lines and
//! JSON lines only, like a user.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// A 135M model loads in a few seconds; a busy machine may take many times that.
const READY_TIMEOUT: Duration = Duration::from_mins(2);

/// The built programs and the model that set-up fetched.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    workspace: PathBuf,
    /// Words before each program.
    before: Vec<OsString>,
}

/// The line a node prints when it serves.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// Its id, 64 hexadecimal digits.
    pub node: String,
    /// Where it listens, `ip:port`.
    pub listen: String,
    /// Its admin endpoint, `ip:port`.
    pub admin: String,
    /// The model's name.
    #[serde(default)]
    pub model: String,
    /// The model's id.
    #[serde(default)]
    pub model_id: String,
    /// Layers held, half-open.
    #[serde(default)]
    pub layers: [u32; 2],
}

impl Ready {
    /// `NODEID@host:port`, as `--bootstrap` takes it.
    pub fn target(&self) -> String {
        format!("{}@{}", self.node, self.listen)
    }
}

/// A running program. Dropping it kills its process group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: Receiver<Vec<u8>>,
    unread: Vec<u8>,
    log: PathBuf,
}

/// A running node.
#[derive(Debug)]
pub struct NodeProcess {
    running: Running,
    ready: Ready,
}

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: String,
    /// All of its stderr.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Programs {
    /// The programs beside this test or bench, and the workspace they were built in.
    pub fn built() -> Result<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let mut folder = std::env::current_exe().context("find our own program")?;
        folder.pop();
        if folder.ends_with("deps") {
            folder.pop();
        }
        for program in ["shard-node", "shard-node-engine", "router"] {
            let path = folder.join(program);
            ensure!(
                path.exists(),
                "{} is not built: run `cargo build --release -p shard-node -p shard-node-engine -p router`",
                path.display()
            );
        }
        Ok(Self { folder, workspace, before: Vec::new() })
    }

    /// The same, each started by a command that becomes the program: these words and then the program's own.
    #[must_use]
    pub fn behind(self, words: &[OsString]) -> Self {
        Self { before: words.to_vec(), ..self }
    }

    /// A program's path.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The default model's file.
    pub fn model(&self) -> Result<PathBuf> {
        let path = self.workspace.join("third_party/models/SmolLM2-135M-Instruct.Q4_1.gguf");
        ensure!(path.exists(), "{} is missing: run `cargo xtask setup`", path.display());
        Ok(path)
    }

    /// A command with an environment of its own: state, cache and configuration live in `home`.
    pub fn command(&self, name: &str, home: &Path) -> Command {
        let words = [&self.before[..], &[self.path(name).into()]].concat();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("XDG_STATE_HOME", home.join("state"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a program to its end, killing it after `timeout`.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        name: &str,
        home: &Path,
        arguments: &[A],
        timeout: Duration,
    ) -> Result<Finished> {
        let started = now();
        let mut command = self.command(name, home);
        command.args(arguments);
        let mut running = Running::start(command, &home.join(format!("{name}-{}.log", unique())))?;
        let status = running
            .wait(timeout)
            .with_context(|| format!("wait for {name}; stderr: {}", running.log_text()))?;
        let stdout = String::from_utf8_lossy(&running.unread).into_owned();
        Ok(Finished { status, stdout, stderr: running.log_text(), took: started.elapsed() })
    }

    /// Starts a node and waits until it is ready. `arguments` follow `serve`.
    pub fn node<A: AsRef<OsStr>>(&self, home: &Path, arguments: &[A]) -> Result<NodeProcess> {
        self.node_in(home, arguments, &[])
    }

    /// The same with further environment variables.
    pub fn node_in<A: AsRef<OsStr>>(
        &self,
        home: &Path,
        arguments: &[A],
        environment: &[(&str, &str)],
    ) -> Result<NodeProcess> {
        let home = home.join(format!("node-{}", unique()));
        std::fs::create_dir_all(&home)?;
        let mut command = self.command("shard-node", &home);
        command.arg("serve");
        command.args(arguments);
        if !arguments.iter().any(|argument| argument.as_ref() == "--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(["--admin", "127.0.0.1:0"]);
        command.arg("--state-dir").arg(home.join("state"));
        // One cache for all nodes of a test: the manifest is computed once.
        command.env("XDG_CACHE_HOME", home.with_file_name("cache"));
        command.envs(environment.iter().copied());
        let mut running = Running::start(command, &home.join("node.log"))?;
        let line = running.line(READY_TIMEOUT);
        let line =
            line.with_context(|| format!("wait for a node's ready line; its log: {}", running.log_text()))?;
        let ready: Ready =
            serde_json::from_str(&line).with_context(|| format!("read the ready line {line:?}"))?;
        Ok(NodeProcess { running, ready })
    }

    /// Starts `spans.len()` nodes with the default model, the first one being the others' bootstrap.
    pub fn swarm(&self, home: &Path, spans: &[&str], extra: &[&str]) -> Result<Vec<NodeProcess>> {
        let model = self.model()?;
        let mut nodes: Vec<NodeProcess> = Vec::new();
        for span in spans {
            let mut arguments: Vec<OsString> =
                vec!["--model".into(), model.clone().into(), "--layers".into(), span.into()];
            arguments.extend(extra.iter().map(OsString::from));
            if let Some(first) = nodes.first() {
                arguments.extend(["--bootstrap".into(), first.ready.target().into()]);
            }
            nodes.push(self.node(home, &arguments)?);
        }
        Ok(nodes)
    }

    /// Runs `router generate --json` and gives the object on its last line.
    pub fn generate(&self, home: &Path, bootstrap: &Ready, arguments: &[&str]) -> Result<Value> {
        let target = bootstrap.target();
        let mut all = vec!["generate", "--json", "--bootstrap", &target];
        all.extend(arguments);
        let finished = self.run("router", home, &all, Duration::from_mins(5))?;
        ensure!(finished.status.success(), "router generate failed: {}", finished.stderr);
        let last = finished.stdout.lines().last().context("router generate printed nothing")?;
        serde_json::from_str(last).with_context(|| format!("read {last:?}"))
    }
}

impl Running {
    /// Starts a command; its stdout is read line by line, its stderr goes into `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(file)
            // So that its end takes what it started with it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let mut stdout = child.stdout.take().context("stdout is piped")?;
        // A test that does not read makes the program wait, as a full terminal would.
        let (sender, output) = sync_channel(4096);
        std::thread::Builder::new().name("stdout".into()).spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { child, output, unread: Vec::new(), log: log.to_owned() })
    }

    /// The next line of stdout.
    pub fn line(&mut self, timeout: Duration) -> Result<String> {
        let started = now();
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let left = timeout.saturating_sub(started.elapsed());
            let more = self.output.recv_timeout(left).context("no further line came")?;
            self.unread.extend(more);
        }
    }

    /// Waits until at least `bytes` of stdout have come that `line` has not given.
    pub fn wait_for_output(&mut self, bytes: usize, timeout: Duration) -> Result<()> {
        let started = now();
        while self.unread.len() < bytes {
            let left = timeout.saturating_sub(started.elapsed());
            let more = self.output.recv_timeout(left).context("no further output came")?;
            self.unread.extend(more);
        }
        Ok(())
    }

    /// All that it wrote to stderr so far.
    pub fn log_text(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let started = now();
        loop {
            match self.output.recv_timeout(timeout.saturating_sub(started.elapsed())) {
                Ok(more) => self.unread.extend(more),
                Err(RecvTimeoutError::Disconnected) => return Ok(self.child.wait()?),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("process {} did not end within {timeout:?}", self.pid())
                }
            }
        }
    }

    /// Sends a signal by its `kill` name.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status()?;
        ensure!(status.success(), "kill -s {name} {} failed", self.pid());
        Ok(())
    }

    /// `kill -9`, and asserts that exactly this process ended by it.
    pub fn kill_hard(&mut self) -> Result<()> {
        self.signal("KILL")?;
        let status = self.child.wait()?;
        ensure!(status.signal() == Some(9), "process {} ended with {status}", self.pid());
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = Command::new("kill").args(["-s", "KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

impl NodeProcess {
    /// What it said when it was ready.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The process.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Its log so far.
    pub fn log_text(&self) -> String {
        self.running.log_text()
    }

    /// The value of a metric without labels, from its admin endpoint.
    pub fn metric(&self, name: &str) -> Result<f64> {
        metric(&self.ready.admin, name)
    }
}

/// The value of a metric without labels at an admin endpoint.
pub fn metric(admin: &str, name: &str) -> Result<f64> {
    let page = http_get(admin, "/metrics")?;
    let line = page
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))
        .with_context(|| format!("no metric {name} in {page}"))?;
    line.rsplit(' ').next().context("a metric line has a value")?.parse().context("read a metric")
}

/// One HTTP/1.0 GET; the body.
pub fn http_get(address: &str, path: &str) -> Result<String> {
    use std::io::Write as _;
    let mut stream =
        std::net::TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer has a head")?;
    ensure!(head.lines().next().is_some_and(|line| line.contains(" 200 ")), "{path}: {head}");
    Ok(body.to_owned())
}

#[expect(clippy::disallowed_methods, reason = "times real processes from outside")]
fn now() -> Instant {
    Instant::now()
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
