//! What signals ask for.

use std::io;

use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
};

/// What a signal asks for.
pub(crate) enum SignalInput {
    /// TERM, INT, QUIT: end.
    Stop,
    /// USR2: let another be master for a while.
    StepDown,
    /// USR1: a line about the state in the log.
    LogState,
    /// HUP: the configuration file has changed, or, where there is none, the terminal is gone.
    Hangup,
}

/// ucarp's signals: TERM, INT, QUIT and HUP end the agent (HUP not where there is a
/// configuration file: then it is read again), USR1 logs the state, USR2 steps a master down.
pub(crate) struct Signals {
    end: [Signal; 3],
    hangup: Signal,
    log_state: Signal,
    step_down: Signal,
}

impl Signals {
    /// From here on, signals are kept until [`Self::next`].
    pub(crate) fn new() -> io::Result<Self> {
        let [terminate, interrupt, quit, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::hangup()].map(signal);
        Ok(Self {
            end: [terminate?, interrupt?, quit?],
            hangup: hangup?,
            log_state: signal(SignalKind::user_defined1())?,
            step_down: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> SignalInput {
        let [terminate, interrupt, quit] = &mut self.end;
        select! {
            _ = terminate.recv() => SignalInput::Stop,
            _ = interrupt.recv() => SignalInput::Stop,
            _ = quit.recv() => SignalInput::Stop,
            _ = self.hangup.recv() => SignalInput::Hangup,
            _ = self.log_state.recv() => SignalInput::LogState,
            _ = self.step_down.recv() => SignalInput::StepDown,
        }
    }
}
