//! `carpctl watch` on a terminal.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, ensure};
use carp_tests::configured::{folder, start, virtual_host, wait_for_change, write};
use carp_tests::{LONG, Lab, VIP, carpd_path, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs a program on a terminal, as nohup does, tells its number first, and how the terminal is after it.
const ON_A_TERMINAL: &str = "stty rows 40 columns 200; \
    sh -c 'trap \"\" HUP; echo pid=$$; exec CARPCTL --socket SOCKET watch'; echo code=$?; stty -a";

/// carpctl on a terminal of its own.
struct Screen {
    script: Child,
    shown: Arc<Mutex<String>>,
}

impl Screen {
    fn open(socket: &Path) -> Result<Self> {
        let carpctl = carpd_path()?.with_file_name("carpctl");
        let words = ON_A_TERMINAL.replace("CARPCTL", &carpctl.display().to_string());
        let words = words.replace("SOCKET", &socket.display().to_string());
        let mut script = Command::new("script");
        script.args(["--quiet", "--command", &words, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/sh");
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting script(1)")?;
        let mut output = script.stdout.take().context("no output")?;
        let shown = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&shown);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Ok(Self { script, shown })
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// The process id of carpctl.
    fn pid(&self) -> Result<Pid> {
        let shown = self.shown();
        let number = shown.split_once("pid=").and_then(|(_, rest)| rest.split_whitespace().next());
        Ok(Pid::from_raw(number.context("no number")?.parse().context("no number")?))
    }

    fn wait_for(&self, text: &str) -> Result<()> {
        eventually(&format!("{text:?} is shown"), LONG, || Ok(self.shown().contains(text))).with_context(|| {
            let shown = self.shown();
            format!(
                "the last that was shown: {:?}",
                &shown[shown.floor_char_boundary(shown.len().saturating_sub(2000))..]
            )
        })
    }

    fn press(&mut self, key: u8) -> Result<()> {
        let keyboard = self.script.stdin.as_mut().context("no keyboard")?;
        keyboard.write_all(&[key]).and_then(|()| keyboard.flush()).context("pressing a key")
    }

    /// Waits until carpctl has ended well, and the terminal is as before.
    fn wait_for_end(&self) -> Result<()> {
        self.wait_for("code=")?;
        self.wait_for("icanon")?;
        let shown = self.shown();
        let (screen, after) = shown.split_once("code=").context("no end")?;
        ensure!(after.starts_with('0'), "exit code {after}");
        ensure!(screen.contains("\x1b[?1049l"), "the screen from before is not shown again: {screen:?}");
        ensure!(!after.contains("-icanon") && !after.contains("-echo "), "the terminal is not as before: {after}");
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.script.kill().ok();
        self.script.wait().ok();
    }
}

#[test]
fn it_shows_states_and_what_happens_and_leaves_the_terminal_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = folder()?;
    write(&folder, &[virtual_host(1, VIP, "")])?;
    let mut agent = start(&host, &folder)?;
    let socket = folder.path().join("socket");
    wait_for_change(&agent, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let mut screen = Screen::open(&socket)?;
    // Words apart: between them, the cursor may be moved.
    for word in ["INTERFACE", "10.77.0.100/32", "MASTER,"] {
        screen.wait_for(word)?;
    }
    agent.kill()?;
    screen.wait_for("nobody")?;
    let again = start(&host, &folder)?;
    wait_for_change(&again, "eth0 vhid 1", "BACKUP -> MASTER")?;
    screen.press(b'q')?;
    screen.wait_for_end()?;

    let screen = Screen::open(&socket)?;
    screen.wait_for("INTERFACE")?;
    kill(screen.pid()?, Signal::SIGTERM).context("ending carpctl")?;
    screen.wait_for_end()?;

    let screen = Screen::open(&socket)?;
    screen.wait_for("INTERFACE")?;
    let carpctl = screen.pid()?;
    drop(screen);
    eventually("it ends with its terminal", LONG, || Ok(kill(carpctl, None).is_err()))
}

#[test]
fn a_carpd_that_does_not_answer_does_not_hold_up_the_keyboard() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = folder()?;
    write(&folder, &[virtual_host(1, VIP, "")])?;
    let agent = start(&host, &folder)?;
    wait_for_change(&agent, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let mut screen = Screen::open(&folder.path().join("socket"))?;
    screen.wait_for("INTERFACE")?;
    agent.signal(Signal::SIGSTOP)?;
    screen.press(b'q')?;
    screen.wait_for_end()?;
    agent.signal(Signal::SIGCONT)
}
