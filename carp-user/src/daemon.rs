//! carpd from its command line to its exit code.

use std::{env, process::ExitCode};

use anyhow::{Context, Result};
use log::{error, info, warn};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tokio::runtime::Builder;

use crate::{
    agent::Agent,
    background,
    cli::Args,
    config::Settings,
    lock::Lock,
    logging::{self, Sink},
    net::{self, interface},
    privileges, title,
};

/// Exit code for a command line that cannot be understood, as with clap and most of Unix.
const USAGE: u8 = 2;

/// Runs carpd with the arguments of this process.
#[must_use]
pub fn carpd() -> ExitCode {
    let args = match Args::read(env::args_os()) {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            eprintln!("carpd: {}", one_line(&error));
            return ExitCode::from(USAGE);
        }
    };
    run(args).unwrap_or_else(|error| {
        eprintln!("carpd: {error:#}");
        ExitCode::FAILURE
    })
}

/// What is wrong with the command line, without clap's paragraphs about usage.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let first = first.join(" ");
    format!("{} (try --help)", first.strip_prefix("error: ").unwrap_or(&first))
}

/// An error is for the terminal; what goes wrong once there is a log has been logged.
fn run(args: Args) -> Result<ExitCode> {
    let hidden = args.visible_passphrase().map(|pass| title::hide(pass));
    let (debug, facility) = (args.debug(), args.facility());
    let in_background = args.daemonize();
    let settings = args.settings()?;
    privileges::check()?;

    let parent = if in_background { Some(background::detach()?) } else { None };
    let sink = if in_background && !logging::is_journal() { Sink::Syslog(facility) } else { Sink::stderr() };
    let _log = logging::start(sink, debug)?;
    if let Some(Err(error)) = hidden {
        warn!("cannot hide the passphrase from the process title: {error}; use --passfile");
    }
    // Kernels before 5.11 count BPF maps against this limit; later ones do not.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).ok();
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let Err(error) = runtime.block_on(serve(settings, parent)) else { return Ok(ExitCode::SUCCESS) };
    error!("{error:#}");
    match sink {
        Sink::Stderr | Sink::Journal => Ok(ExitCode::FAILURE),
        // The terminal has not seen it.
        Sink::Syslog(_) => Err(error),
    }
}

async fn serve(settings: Settings, parent: Option<background::Parent>) -> Result<()> {
    let interface = interface_of(&settings).await?;
    let _lock = Lock::take(&interface, settings.vhid.get())?;
    let agent = Agent::start(settings, interface).await?;
    if let Some(parent) = parent {
        parent.ready()?;
    }
    agent.run().await?;
    info!("stopped");
    Ok(())
}

/// The interface's name: given, or that of the source address, or of the route to the first VIP.
async fn interface_of(settings: &Settings) -> Result<String> {
    if let Some(name) = &settings.interface {
        return Ok(name.clone());
    }
    let handle = net::connect()?;
    Ok(match settings.source {
        Some(source) => interface::with_address(&handle, source).await?,
        None => interface::towards(&handle, settings.vips[0].address).await?,
    })
}
