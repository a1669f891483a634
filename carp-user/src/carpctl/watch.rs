//! A live table: refreshed each second, and at once when something happens.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ratatui::{
    Frame,
    crossterm::event::{self, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize},
    text::Line,
    widgets::{Block, Paragraph, Row, Table, TableState},
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
/// Events that are kept to be shown.
const SHOWN: usize = 100;
/// Lines for them on the screen, with their border.
const EVENT_LINES: u16 = 10;

/// Shows how things stand until q, Escape or Ctrl-C.
pub(super) fn run(socket: &Path) -> Result<()> {
    ensure!(io::stdout().is_terminal(), "watch needs a terminal; `carpctl events --follow` does not");
    // Told in words while there still is a screen for them.
    super::status(socket)?;
    let (sender, events) = sync_channel(SHOWN);
    let path = socket.to_owned();
    thread::spawn(move || follow(&path, &sender));
    let terminal = ratatui::init();
    let shown = View::new(socket).show(terminal, &events);
    ratatui::restore();
    shown
}

/// Follows what happens, also in a carpd that is started later; ends with the screen.
fn follow(socket: &Path, events: &SyncSender<Event>) {
    let mut last = (String::new(), 0);
    loop {
        let mut answers = ask(socket, &Request::Events { follow: true });
        while let Ok(open) = &mut answers
            && open.be_patient().is_ok()
        {
            match open.next() {
                // After a new connection, those that are known come again.
                Ok(Some(Reply::Event(event))) => {
                    let this = (event.time.clone(), event.number);
                    if this > last && events.send(event).is_err() {
                        return;
                    }
                    last = this.max(last);
                }
                Ok(Some(_)) | Err(CallError::Refused(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        thread::sleep(LOOK_AGAIN);
    }
}

struct View {
    socket: PathBuf,
    status: Result<Status, CallError>,
    looked: Instant,
    events: VecDeque<String>,
    table: TableState,
}

impl View {
    fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            status: super::status(socket),
            looked: Instant::now(),
            events: VecDeque::new(),
            table: TableState::new(),
        }
    }

    fn show(mut self, mut terminal: ratatui::DefaultTerminal, events: &Receiver<Event>) -> Result<()> {
        loop {
            let happened = events.try_iter().map(|event| status::line(&event));
            let before = self.events.len();
            self.events.extend(happened);
            let has_news = self.events.len() > before;
            while self.events.len() > SHOWN {
                self.events.pop_front();
            }
            if has_news || self.looked.elapsed() >= LOOK_AGAIN {
                self.status = super::status(&self.socket);
                self.looked = Instant::now();
            }
            terminal.draw(|frame| self.draw(frame))?;
            if event::poll(TURN)? && self.is_end(&event::read()?) {
                return Ok(());
            }
        }
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
