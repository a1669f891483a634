//! carpd from its command line to its exit code.

use std::{
    env, ffi::OsString, mem, net::SocketAddr, path::PathBuf, pin::pin, process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use log::{error, info, warn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{runtime::Builder, select, time::sleep};

use crate::{
    agent::{Agent, Before, End, SignalInput, Signals},
    background,
    cli::Args,
    config::{Settings, file::Configuration},
    control::{self, Desk, Reload},
    datapath::{self, pins::BPFFS},
    from_ucarp,
    history::History,
    logging::{self, Sink},
    maintenance,
    metrics::{self, Metrics},
    net::{
        Netlink,
        interface::{self, LOOK_AGAIN},
    },
    privileges, realtime,
    systemd::{self, Notice},
    title,
    upgrade::{self, About, Legacy, Successor},
};

/// Exit code for a command line or a configuration that is wrong, as clap has it, and for privileges that are missing: the
/// unit does not start it again.
const USAGE: u8 = 2;
/// How long carpd waits to end, under a service manager that would start it again at once, when it cannot even begin:
/// something else must change first, and the log is to stay readable.
const GIVE_UP: Duration = Duration::from_secs(1);

/// As many as the largest configuration takes, with room to spare.
const DESCRIPTORS: u64 = 8192;

/// Runs carpd with the arguments of this process.
#[must_use]
pub fn carpd() -> ExitCode {
    // As long as a passphrase among them is not masked.
    let arguments: Vec<OsString> = env::args_os().collect();
    let args = match Args::read(arguments.iter().cloned()) {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            logging::tell(format!("carpd: {}", one_line(&error)));
            return ExitCode::from(USAGE);
        }
    };
    run(args, arguments).unwrap_or_else(|error| {
        logging::tell(format!("carpd: {error:#}"));
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
fn run(args: Args, arguments: Vec<OsString>) -> Result<ExitCode> {
    let hidden = title::hide_passphrases();
    if let Some(file) = args.translates() {
        from_ucarp::print(file)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (debug, facility) = (args.debug(), args.facility());
    let (in_background, is_upgrade_check) = (args.daemonize(), args.is_upgrade_check());
    let (file, ends) = (args.file()?, Ends { socket: args.socket(), metrics: args.metrics() });
    let bpffs = args.bpffs();
    let Configuration { hosts, realtime, bpffs: in_file, warnings } = match args.configuration() {
        Ok(configuration) => configuration,
        Err(error) => {
            logging::tell(format!("carpd: {error:#}"));
            return Ok(ExitCode::from(USAGE));
        }
    };
    if let Err(error) = privileges::check(hosts.iter().any(|settings| settings.datapath.needs_xdp())) {
        logging::tell(format!("carpd: {error:#}"));
        return Ok(ExitCode::from(USAGE));
    }

    let bpffs = bpffs.or(in_file).unwrap_or_else(|| PathBuf::from(BPFFS));
    if is_upgrade_check {
        datapath::try_load(hosts.iter().map(|settings| settings.datapath)).map_err(anyhow::Error::msg)?;
        println!("{}", serde_json::to_string(&About::this(&hosts, &bpffs))?);
        return Ok(ExitCode::SUCCESS);
    }

    let successor = Arc::new(Successor::new(arguments)?);
    let legacy = Legacy::take();
    let parent = match (in_background, &legacy) {
        (true, None) => Some(background::detach()?),
        // There already.
        (true, Some(_)) => env::set_current_dir("/").context("cannot change to /").map(|()| None)?,
        (false, _) => None,
    };
    let sink = if in_background && !logging::is_journal() { Sink::Syslog(facility) } else { Sink::stderr() };
    let history = History::new();
    let log = logging::start(sink, debug, history.clone())?;
    systemd::start()?;
    warnings.iter().for_each(|warning| warn!("{warning}"));
    if let Err(error) = hidden {
        warn!("cannot hide a passphrase from the process title: {error}; use --passfile");
    }
    // A lock is a descriptor, and a virtual host has one.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(DESCRIPTORS), hard).ok();
    }
    realtime::enlist();
    if realtime && let Err(error) = realtime::set(true) {
        // Better late than never.
        error!("{error:#}; going on as an ordinary program");
    }
    if legacy.is_some() {
        info!("going on as carpd {}", env!("CARGO_PKG_VERSION"));
        upgrade::adopt_children()
            .unwrap_or_else(|error| warn!("cannot wait for the former program's children: {error}"));
    }
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let start = Start { bpffs, legacy: legacy.unwrap_or_default(), successor: Arc::clone(&successor) };
    let served = runtime.block_on(serve(hosts, file, ends, history, parent, start));
    // Not waiting for a script that cannot even be started.
    runtime.shutdown_background();
    let error = match served {
        Ok(End::Stopped) => return Ok(ExitCode::SUCCESS),
        Ok(End::Upgrade(legacy)) => {
            // What it has to say comes first.
            drop(log);
            return Err(successor.execute(&legacy));
        }
        Err(error) => error,
    };
    error!("{error:#}");
    match sink {
        Sink::Stderr | Sink::Journal => Ok(ExitCode::FAILURE),
        // The terminal has not seen it.
        Sink::Syslog(_) => Err(error),
    }
}

/// What the agent begins with, and what comes after it.
struct Start {
    bpffs: PathBuf,
    legacy: Legacy,
    successor: Arc<Successor>,
}

/// Where others may ask.
struct Ends {
    socket: Option<PathBuf>,
    metrics: Option<SocketAddr>,
}

async fn serve(
    hosts: Vec<Settings>,
    file: Option<PathBuf>,
    Ends { socket, metrics }: Ends,
    history: History,
    mut parent: Option<background::Parent>,
    start: Start,
) -> Result<End> {
    let mut signals = Signals::new().context("cannot receive signals")?;
    let mut is_up = || {
        systemd::notify(Notice::Ready);
        parent.take().map_or(Ok(()), background::Parent::ready)
    };
    let mut named = vec![];
    for settings in hosts {
        let Some(interface) = interface_of(&settings, &mut signals, &mut is_up).await? else {
            info!("stopped");
            return Ok(End::Stopped);
        };
        named.push((interface, settings));
    }
    let (commands, orders) = control::commands();
    let desk = Desk {
        reload: Reload::new(file, commands.clone()),
        commands,
        history,
        maintenance: Arc::default(),
        successor: start.successor,
    };
    let in_maintenance = socket.is_some() && maintenance::is_on();
    let counted = Metrics::new();
    let before = Before { in_maintenance, bpffs: start.bpffs, legacy: start.legacy };
    // Before the first state is told: whoever reads of it may ask at once, and is answered when the agent runs.
    let listening = socket.map(|path| control::listen(&path, desk.clone())).transpose();
    // The virtual hosts are served all the same.
    let _socket = listening.unwrap_or_else(|error| {
        warn!("carpctl cannot reach this carpd: {error:#}");
        None
    });
    let started = Agent::start(named, desk.clone(), orders, signals, counted.clone(), before).await;
    let agent = match started {
        Err(error) if systemd::is_there() => {
            sleep(GIVE_UP).await;
            return Err(error);
        }
        started => started?,
    };
    give_back_memory();
    if let Some(address) = metrics {
        tokio::spawn(metrics::serve(address, counted, desk.commands));
    }
    is_up()?;
    let end = agent.run().await?;
    if matches!(end, End::Stopped) {
        info!("stopped");
    }
    Ok(end)
}

/// Loading the XDP program takes 20 MB for a moment, of which the allocator would keep two.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and locks what other threads may be allocating from.
    unsafe {
        nix::libc::malloc_trim(0)
    };
}

/// The interface's name: given, or found, which at boot can take a while. `None` if a signal came first.
async fn interface_of(
    settings: &Settings,
    signals: &mut Signals,
    is_up: &mut impl FnMut() -> Result<()>,
) -> Result<Option<String>> {
    if settings.interface.is_some() {
        return Ok(settings.interface.clone());
    }
    let netlink = Netlink::connect()?;
    // Before the first look, so that nothing is missed between them.
    let mut changes = pin!(interface::changes()?);
    let mut is_told = false;
    let mut last_error = String::new();
    loop {
        match interface::find(&netlink, settings).await {
            Ok(Some(name)) => return Ok(Some(name)),
            Ok(None) => {}
            Err(error) if !is_told => return Err(error.into()),
            // It may be the moment's: out of memory, say.
            Err(error) => {
                let error = error.to_string();
                if error != last_error {
                    warn!("vhid {}: {error}", settings.vhid.get());
                }
                last_error = error;
            }
        }
        let missing = match settings.sources.first() {
            Some(source) => format!("no interface has the address {source}"),
            None => format!("no interface is in the network of {}", settings.vips[0].address),
        };
        let tell =
            || info!("vhid {}: INIT: {missing}; waiting for it (or name one with --interface)", settings.vhid.get());
        if !mem::replace(&mut is_told, true) {
            tell();
            is_up()?;
        }
        select! {
            input = signals.next() => match input {
                SignalInput::Stop | SignalInput::Hangup => return Ok(None),
                SignalInput::StepDown => {}
                SignalInput::LogState => tell(),
            },
            Some(_) = changes.next() => {}
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}
