//! A live table: refreshed each second, and at once when something happens.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ratatui::{
    Frame,
    crossterm::event::{self, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize},
    text::Line,
    widgets::{Block, Paragraph, Row, Table, TableState},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use super::{
    connection::{CallError, ask},
    status,
};
use crate::control::protocol::{Event, Reply, Request, Status};

/// Time between two looks while nothing happens.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Time between two looks at the keyboard and at what has happened.
const TURN: Duration = Duration::from_millis(50);
/// Events that are kept: as many as carpd keeps.
const KEPT: usize = 1000;
/// Lines for them on the screen, with their border.
const EVENT_LINES: u16 = 10;

/// Shows how things stand until q, Escape, Ctrl-C, or a signal that ends programs.
pub(super) fn run(socket: &Path) -> Result<()> {
    ensure!(io::stdout().is_terminal(), "watch needs a terminal; `carpctl events --follow` does not");
    // Told in words while there still is a screen for them.
    let status = super::status(socket)?;
    // The terminal must be as it was before. SIGHUP kills, also where it was ignored: then it is gone, and crossterm would
    // read its end for ever.
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&is_over)).context("cannot receive signals")?;
    }
    flag::register_conditional_default(SIGHUP, Arc::new(AtomicBool::new(true))).context("cannot receive signals")?;
    let (news, newly) = sync_channel(KEPT);
    let (wake, woken) = sync_channel(1);
    // Not on this thread: a carpd that does not answer must not hold up the keyboard.
    let (path, of_status) = (socket.to_owned(), news.clone());
    thread::spawn(move || look(&path, &woken, &of_status));
    let path = socket.to_owned();
    thread::spawn(move || follow(&path, &wake, &news));
    let terminal = ratatui::try_init().context("cannot use this terminal")?;
    let shown = View::new(status).show(terminal, &newly, &is_over);
    ratatui::restore();
    shown
}

/// What there is to show.
enum News {
    Status(Box<Result<Status, CallError>>),
    Event(Event),
}

/// Asks how things stand each second, and when something has happened; ends with the screen.
fn look(socket: &Path, woken: &Receiver<()>, news: &SyncSender<News>) {
    while woken.recv_timeout(LOOK_AGAIN) != Err(RecvTimeoutError::Disconnected) {
        if news.send(News::Status(Box::new(super::status(socket)))).is_err() {
            return;
        }
    }
}

/// Follows what happens, also in a carpd that is started later; ends with the screen.
fn follow(socket: &Path, wake: &SyncSender<()>, news: &SyncSender<News>) {
    let mut known: VecDeque<Event> = VecDeque::new();
    loop {
        let mut answers = ask(socket, &Request::Events { follow: true });
        while let Ok(open) = &mut answers
            && open.be_patient().is_ok()
        {
            match open.next() {
                // After a new connection, those that are known come again.
                Ok(Some(Reply::Event(event))) if known.contains(&event) => {}
                Ok(Some(Reply::Event(event))) => {
                    known.push_back(event.clone());
                    if known.len() > KEPT {
                        known.pop_front();
                    }
                    if news.send(News::Event(event)).is_err() {
                        return;
                    }
                    // An error is that it is awake already.
                    wake.try_send(()).ok();
                }
                Ok(Some(_)) | Err(CallError::Refused(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        thread::sleep(LOOK_AGAIN);
    }
}

struct View {
    status: Result<Status, CallError>,
    /// Events, a line each.
    events: VecDeque<String>,
    table: TableState,
}

impl View {
    fn new(status: Status) -> Self {
        Self { status: Ok(status), events: VecDeque::new(), table: TableState::new() }
    }

    fn show(
        mut self,
        mut terminal: ratatui::DefaultTerminal,
        newly: &Receiver<News>,
        is_over: &AtomicBool,
    ) -> Result<()> {
        let mut has_changed = true;
        while !is_over.load(Ordering::Relaxed) {
            for news in newly.try_iter() {
                has_changed = true;
                match news {
                    News::Status(status) => self.status = *status,
                    News::Event(event) => self.events.push_back(status::line(&event)),
                }
            }
            let too_many = self.events.len().saturating_sub(KEPT);
            self.events.drain(..too_many);
            if has_changed {
                terminal.draw(|frame| self.draw(frame))?;
            }
            has_changed = event::poll(TURN)?;
            if has_changed && self.is_end(&event::read()?) {
                break;
            }
        }
        Ok(())
    }

    /// Scrolls; whether to end.
    fn is_end(&mut self, event: &event::Event) -> bool {
        let event::Event::Key(key) = event else { return false };
        if key.kind != KeyEventKind::Press {
            return false;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') => return key.modifiers.contains(KeyModifiers::CONTROL),
            KeyCode::Down | KeyCode::Char('j') => self.table.scroll_down_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.table.scroll_up_by(1),
            KeyCode::PageDown => self.table.scroll_down_by(20),
            KeyCode::PageUp => self.table.scroll_up_by(20),
            _ => {}
        }
        false
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [above, below, help] =
            Layout::vertical([Constraint::Fill(1), Constraint::Length(EVENT_LINES), Constraint::Length(1)])
                .areas(frame.area());
        match &self.status {
            Ok(status) => {
                let title = if status.maintenance { " carpd, in maintenance " } else { " carpd " };
                let rows = status::rows(status);
                let widths = status::widths(&rows).into_iter().map(|width| Constraint::Length(width as u16));
                let mut rows = rows.into_iter();
                let head = Row::new(rows.next().unwrap_or_default()).bold();
                let rows = rows
                    .zip(&status.virtual_hosts)
                    .map(|(cells, host)| Row::new(cells).style(colour(&host.state, host.troubles.is_empty())));
                let table = Table::new(rows, widths).header(head).column_spacing(2);
                let table = table.row_highlight_style(Style::new().reversed()).block(Block::bordered().title(title));
                frame.render_stateful_widget(table, above, &mut self.table);
            }
            Err(error) => {
                let words = Paragraph::new(error.to_string()).style(Color::Red);
                frame.render_widget(words.block(Block::bordered().title(" carpd ")), above);
            }
        }
        let room = usize::from(EVENT_LINES - 2);
        let last = self.events.iter().skip(self.events.len().saturating_sub(room));
        let last: Vec<Line<'_>> = last.map(|line| Line::raw(line.as_str())).collect();
        frame.render_widget(Paragraph::new(last).block(Block::bordered().title(" what has happened ")), below);
        frame.render_widget(Line::raw(" q ends, arrows scroll").dim(), help);
    }
}

fn colour(state: &str, is_well: bool) -> Style {
    match (state, is_well) {
        (_, false) | ("INIT", _) => Color::Red.into(),
        ("MASTER", _) => Color::Green.into(),
        _ => Style::new(),
    }
}
