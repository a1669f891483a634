//! Reading the configuration again: as carpctl or SIGHUP asks.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use log::{error, info, warn};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

use super::{Applied, Command, Commands, ask};
use crate::{
    config::file::{self, Configuration},
    realtime,
    systemd::{self, Notice},
};

/// How long reading the file, and those that it names, may take.
const READ: Duration = Duration::from_secs(30);

/// The loop's thread is this one, too.
fn in_real_time(mut applied: Applied, on: bool) -> Applied {
    applied.troubles.extend(realtime::set(on).err().map(|error| format!("{error:#}")));
    applied
}

/// Reads the file, and hands it to the loop. Clones take turns.
#[derive(Clone)]
pub(crate) struct Reload {
    file: Option<PathBuf>,
    commands: Commands,
    turn: Arc<Mutex<()>>,
}

impl Reload {
    /// Of this file, if there is one.
    pub(crate) fn new(file: Option<PathBuf>, commands: Commands) -> Self {
        Self { file, commands, turn: Arc::default() }
    }

    /// The file.
    pub(crate) const fn file(&self) -> Option<&PathBuf> {
        self.file.as_ref()
    }

    /// Applies what is different in the file now, as `who` asks; what has changed, or why not, or not all of it. Both are
    /// logged.
    pub(crate) async fn run(&self, who: &str) -> Result<String, String> {
        let Some(file) = self.file.clone() else {
            return Err("this carpd serves a virtual host from its command line: there is no file to read".to_owned());
        };
        // A later one reads the file later.
        let _turn = self.turn.lock().await;
        systemd::notify(Notice::Reloading);
        let path = file.display().to_string();
        // A file system that hangs must not end all reloads.
        let read = timeout(READ, spawn_blocking(move || file::read(&file))).await;
        let done = match read.map_err(io::Error::from).and_then(|read| read.map_err(io::Error::other)) {
            Ok(Ok(Configuration { hosts, realtime, warnings, .. })) => {
                warnings.iter().for_each(|warning| warn!("{warning}"));
                let applied = ask(&self.commands, |reply| Command::Apply { hosts, reply }).await.flatten();
                applied.map(|applied| in_real_time(applied, realtime))
            }
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(error) => Err(format!("{path}: {error}")),
        };
        systemd::notify(Notice::Ready);
        match done {
            Ok(Applied { changes, troubles }) => {
                info!("reloaded {path} as {who} asked: {changes}");
                troubles.iter().for_each(|trouble| error!("{trouble}"));
                let troubles = troubles.iter().fold(String::new(), |told, trouble| told + "\n" + trouble);
                if troubles.is_empty() { Ok(changes) } else { Err(format!("{changes}, but:{troubles}")) }
            }
            Err(why) => {
                why.lines().for_each(|line| error!("not reloaded as {who} asked, nothing has changed: {line}"));
                Err(why)
            }
        }
    }
}
